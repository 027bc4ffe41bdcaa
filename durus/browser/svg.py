"""Pieces of SVG. All text is escaped here."""

from html import escape
from typing import NamedTuple

Number = int | float


def tag(name: str, content: str = "", **attributes: object) -> str:
    """Return an element; `_` in a name of an attribute stands for `-`, and one at its end for nothing.

    `content` is SVG already.
    """
    given = "".join(f' {key.rstrip("_").replace("_", "-")}="{_text(value)}"' for key, value in attributes.items())
    return f"<{name}{given}>{content}</{name}>" if content else f"<{name}{given}/>"


def text(content: str, x: Number, y: Number, **attributes: object) -> str:
    """Return a line of text."""
    return tag("text", escape(content) or " ", x=x, y=y, **attributes)


def picture(label: str, width: int, height: int, /, *parts: str, role: str = "img", **attributes: object) -> str:
    """Return a picture; `label` is the text for screen readers."""
    return tag(
        "svg",
        "".join(parts),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        role=role,
        aria_label=label,
        **attributes,
    )


class Picture(NamedTuple):
    """A picture that can also be a part of another one."""

    label: str
    """What it is read as."""
    width: int
    height: int
    parts: list[str]
    look: str
    """The name of its style."""

    def svg(self, **attributes: Number) -> str:
        """Return it as SVG; `attributes` say where it stands inside of another one."""
        return picture(self.label, self.width, self.height, *self.parts, role="img", class_=self.look, **attributes)


def _text(value: object) -> str:
    return escape(f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value))

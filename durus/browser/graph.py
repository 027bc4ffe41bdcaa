"""An object and its neighbours as SVG: what refers to it on the left, and what it refers to on the right."""

from collections.abc import Sequence
from typing import NamedTuple

from durus.browser import svg
from durus.browser.values import class_title

STYLE = """
.graph .box { fill: none; stroke: var(--faint); } .graph .self { stroke: var(--first); stroke-width: 2.5; }
.graph .edge { fill: none; stroke: var(--faint); } .graph .head { fill: var(--faint); }
.graph a:hover .box, .graph a:focus .box { stroke: var(--first); stroke-width: 2.5; }
"""

_MAX_NEIGHBOURS = 10
"""How many neighbours are drawn on each side."""
_WIDTH, _HEIGHT, _GAP, _BETWEEN = 196, 30, 10, 60
_MAX_LABEL = 25


class Neighbour(NamedTuple):
    """An object of the graph."""

    oid: int
    class_name: str


def around(base: str, centre: Neighbour, referrers: Sequence[Neighbour], refs: Sequence[Neighbour]) -> str:
    """Return the graph; the links of it begin with `base`. Only the first neighbours are drawn."""
    sides = [referrers[:_MAX_NEIGHBOURS], refs[:_MAX_NEIGHBOURS]]
    rows = max(1, *map(len, sides))
    height = rows * (_HEIGHT + _GAP)
    middle = height / 2 - _HEIGHT / 2
    left, right = _WIDTH + _BETWEEN, 2 * (_WIDTH + _BETWEEN)
    parts = []
    for column, side in zip((0, right), sides, strict=True):
        top = (height - len(side) * (_HEIGHT + _GAP)) / 2 + _GAP / 2
        for number, each in enumerate(side):
            y = top + number * (_HEIGHT + _GAP)
            ends = (y, middle) if column == 0 else (middle, y)
            parts.append(_edge(column + _WIDTH if column == 0 else left + _WIDTH, *ends))
            parts.append(svg.tag("a", _box(each, column, y), href=f"{base}/object/{each.oid}"))
    parts.append(_box(centre, left, middle, "box self"))
    label = f"{_label(centre)} with {len(sides[0])} objects that refer to it and {len(sides[1])} that it refers to"
    return svg.picture(label, right + _WIDTH, height, *parts, role="group", class_="plot graph")


def _edge(x: int, y: float, y_end: float) -> str:
    y, y_end, end, half = y + _HEIGHT / 2, y_end + _HEIGHT / 2, x + _BETWEEN - 7, x + _BETWEEN / 2
    curve = f"M{x} {y:.1f}C{half} {y:.1f} {half} {y_end:.1f} {end} {y_end:.1f}"
    head = f"M{end} {y_end - 4:.1f}l7 4l-7 4z"
    return svg.tag("path", class_="edge", d=curve) + svg.tag("path", class_="head", d=head)


def _box(shown: Neighbour, x: float, y: float, kind: str = "box") -> str:
    box = svg.tag("rect", class_=kind, x=x + 1.0, y=y, width=_WIDTH - 2, height=_HEIGHT, rx=6)
    return box + svg.text(_label(shown), x + _WIDTH / 2, y + 20, class_="middle")


def _label(shown: Neighbour) -> str:
    name, number = class_title(shown.class_name), str(shown.oid)
    room = _MAX_LABEL - len(number) - 1
    return f"{name if len(name) <= room else name[: max(3, room - 1)] + '…'} {number}"

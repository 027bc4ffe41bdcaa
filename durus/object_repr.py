"""What the repr of an object shows: its class, its oid and its first attributes or items. Statement OBJ-92.

Everything here reads what is in memory: nothing is loaded, and nothing counts as an access.
"""

from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar, copy_context
from itertools import islice
from typing import Any, NamedTuple

from durus.text import printable

MAX_WIDTH = 80
"""How many characters a repr has, at most."""
MAX_SHOWN = MAX_WIDTH // 3
"""How many items are examined: more do not fit."""
_MAX_VALUE = 40
_MAX_LEVELS = 3
_MAX_BITS = 256

GAP = object()
"""Stands for items that are not in memory."""
Kind = type[dict[Any, Any]] | type[list[Any]] | type[tuple[Any, ...]] | type[set[Any]] | type[frozenset[Any]]
_BRACKETS: dict[type, tuple[str, str]] = {
    dict: ("{", "}"),
    list: ("[", "]"),
    tuple: ("(", ")"),
    set: ("{", "}"),
    frozenset: ("frozenset({", "})"),
}

_is_nested: ContextVar[bool] = ContextVar("durus_repr_is_nested", default=False)
"""True inside of another repr, so that cycles end."""


class Items(NamedTuple):
    """The items of a container, as far as its repr shows them."""

    attribute: str
    """The attribute that holds them."""
    kind: "Kind"
    """dict, list or set: the kind of brackets around the items."""
    first: list[object]
    """The first items: pairs in a dict, GAP for items that are not in memory."""
    number: int | None
    """How many items there are, None if that is not known."""
    known: int
    """How many are in memory."""

    @classmethod
    def of(cls, attribute: str, data: dict[object, object] | list[object] | set[object]) -> "Items":
        """Return the items of a plain container in an attribute."""
        first = islice(data.items() if isinstance(data, dict) else data, MAX_SHOWN)
        kind: Kind = dict if isinstance(data, dict) else list if isinstance(data, list) else set
        return cls(attribute, kind, list(first), len(data), len(data))

    def heading(self) -> str:
        if self.number is None:
            return f"with more than {self.known} items" if self.known else "with items that are not loaded"
        return f"with {self.number} {'item' if self.number == 1 else 'items'}"


class ReprWriter:
    """Writes the reprs of objects.

    Args:
        label_of: returns a short text for a value inside of another one, None for a plain value.
    """

    def __init__(self, label_of: Callable[[object], str | None]) -> None:
        self._label_of = label_of

    def write(self, label: str, attributes: Iterable[tuple[str, object]], items: Items | None) -> str:
        """Return the repr of a loaded object, in one line of at most MAX_WIDTH characters. [OBJ-92]"""
        if _is_nested.get():
            return f"<{label}>"
        # In a context of its own, which ends with the call, whatever interrupts it.
        return copy_context().run(self._write, label, attributes, items)

    def _write(self, label: str, attributes: Iterable[tuple[str, object]], items: Items | None) -> str:
        _is_nested.set(True)
        text = f"<{label}"
        for name, value in attributes:
            text += f" {_cut(name, _MAX_VALUE)}={self._value(value, _MAX_LEVELS)}"
            if len(text) > MAX_WIDTH:
                break
        if items is not None:
            text += f" {items.heading()}"
            if items.first:
                room = MAX_WIDTH - len(text) - len(": >")
                text += f": {self._container(items.kind, items.first, items.number, _MAX_LEVELS, room)}"
        text = printable(_cut(text, MAX_WIDTH))
        return f"{text}>" if len(text) < MAX_WIDTH else f"{text[: MAX_WIDTH - 4]}...>"

    def _value(self, value: object, levels: int) -> str:
        label = self._label_of(value)
        if label is not None:
            return f"<{label}>"
        kind = type(value)
        if isinstance(value, str | bytes) and kind in (str, bytes):
            shown = repr(value[:_MAX_VALUE])
            return shown if len(value) <= _MAX_VALUE else f"{shown}..."
        if isinstance(value, int) and kind is int and value.bit_length() > _MAX_BITS:
            return f"<int of {value.bit_length()} bits>"
        if isinstance(value, dict | list | tuple | set | frozenset) and kind in _BRACKETS:
            first: list[object] = list(islice(value.items() if isinstance(value, dict) else value, MAX_SHOWN))
            return self._container(kind, first, len(value), levels, _MAX_VALUE)
        try:
            return _cut(repr(value), _MAX_VALUE)
        except Exception:  # of an application's class; the repr of its container must not fail for that
            return f"<{_cut(kind.__name__, _MAX_VALUE)}>"

    def _container(self, kind: type, first: list[object], count: int | None, levels: int, room: int) -> str:
        start, end = _BRACKETS[kind]
        if not first and kind in (set, frozenset):
            return f"{kind.__name__}()"
        if first and not levels:
            return f"{start}...{end}"
        shown = list(_fitting(self._parts(kind, first, levels - 1), room - len(start) - len(end) - len("..., ")))
        if (count is None or len(shown) < count) and shown[-1:] != ["..."]:
            shown.append("...")
        return f"{start}{', '.join(shown)}{',' if kind is tuple and count == 1 else ''}{end}"

    def _parts(self, kind: type, first: list[object], levels: int) -> Iterator[str]:
        for item in first:
            if item is GAP:
                yield "..."
            elif kind is dict and isinstance(item, tuple):
                yield f"{self._value(item[0], levels)}: {self._value(item[1], levels)}"
            else:
                yield self._value(item, levels)


def _fitting(parts: Iterator[str], room: int) -> Iterator[str]:
    """Yield as many of the first parts as fit, and at least one."""
    used = 0
    for number, part in enumerate(parts):
        used += len(part) + len(", ")
        if number and used > room:
            return
        yield part


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."

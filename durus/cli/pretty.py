"""`pp` in the shell: pprint that looks into persistent containers. Statement CMD-32."""

import pprint
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from durus.btree import BTree
from durus.persistent import PersistentObject, told_apart
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.persistent_set import PersistentSet

_DEPTH = 5
_ITEMS = 100


def pp(value: object, *, depth: int = _DEPTH, items: int = _ITEMS, **options: Any) -> None:
    """Print a value, `depth` containers deep and with up to `items` items of each.

    A PersistentDict and a BTree are shown as a dict, a PersistentList as a list, a PersistentSet as a set.
    The value itself is loaded if it is a ghost; objects in it are not, except for containers.
    `options` are those of pprint.pprint(). [CMD-32]
    """
    if isinstance(value, PersistentObject) and value._p_is_ghost():
        value._p_load_state()
    pprint.pprint(_View(items).of(value, depth), **{"sort_dicts": False, **options})


class _Text:
    """A placeholder in the printed value."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


_MORE = _Text("...")


class _View:
    """Makes plain containers of persistent ones."""

    def __init__(self, items: int) -> None:
        self._items = items
        self._inside: set[int] = set()
        """The containers whose items are being converted."""

    def of(self, value: object, depth: int) -> object:
        """Return a value to print, with containers converted up to this depth."""
        if not _is_container(value):
            return value
        if depth <= 0:
            return _MORE
        if id(value) in self._inside:
            shown = told_apart(value) if isinstance(value, PersistentObject) else f"<{type(value).__name__}>"
            return _Text(f"{shown[:-1]} again>")
        self._inside.add(id(value))
        try:
            return self._look_into(value, depth - 1)
        finally:
            self._inside.discard(id(value))

    def _look_into(self, value: object, depth: int) -> object:
        if isinstance(value, BTree):
            return self._dict(value.iteritems(), depth)
        if isinstance(value, PersistentDict | dict):
            return self._dict(value.items() if isinstance(value, dict) else value.iteritems(), depth)
        if isinstance(value, PersistentList | list):
            return list(self._list(value, depth))
        if isinstance(value, tuple):
            return tuple(self._list(value, depth))
        if isinstance(value, PersistentSet | set):
            return set(self._first(value))
        return value

    def _dict(self, items: Iterable[tuple[object, object]], depth: int) -> dict[object, object]:
        shown: dict[object, object] = {}
        for number, (key, value) in enumerate(items):
            if number == self._items:
                shown[_MORE] = _MORE
                break
            shown[key] = self.of(value, depth)
        return shown

    def _list(self, values: Iterable[object], depth: int) -> Iterator[object]:
        return (each if each is _MORE else self.of(each, depth) for each in self._first(values))

    def _first(self, values: Iterable[object]) -> Iterator[object]:
        remaining = iter(values)
        yield from islice(remaining, self._items)
        for _ in remaining:
            yield _MORE
            break


def _is_container(value: object) -> bool:
    persistent = isinstance(value, PersistentDict | PersistentList | PersistentSet | BTree)
    return persistent or type(value) in (dict, list, tuple, set)  # a namedtuple and the like have a repr of their own

"""The items of a BTree, some at a time, without its classes. Statement CMD-53.

A place is the position of an item: in each node on the way to it, 2 i for the child i, and 2 i + 1 for the item i. So
places have the order of the items. A tree can be hostile: it may have no end, and lead back to itself.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple, TypeAlias

from durus.error import RecordError
from durus.oid import format_oid, oid_from_int
from durus.records.plain_forms import Form, Plain, target_of
from durus.tools.exported import Exported

Place: TypeAlias = tuple[int, ...]
Read: TypeAlias = Callable[[bytes], Exported | None]

_MAX_DEPTH = 40
_MAX_NODES = 2000
"""How many nodes may be read for one page."""


class Item(NamedTuple):
    """An item, and its place."""

    place: Place
    key: Plain
    value: Plain


class _Node(NamedTuple):
    items: list[tuple[Plain, Plain]]
    children: list[bytes]

    @property
    def size(self) -> int:
        """How many indexes there are in it."""
        return 2 * len(self.items) + 1


class Tree:
    """A BTree; reading more than it should have is a RecordError."""

    def __init__(self, root: bytes, read: Read) -> None:
        self._root = root
        self._read = read
        self._left = _MAX_NODES

    def items_from(self, place: Place, count: int) -> list[Item]:
        """Return items from a place on."""
        return list(islice(self._forward(self._root, (), place), count))

    def items_before(self, place: Place, count: int) -> list[Item]:
        """Return items before a place."""
        return list(islice(self._backward(self._root, (), place), count))[::-1]

    def place_of(self, key: str | float) -> Place:
        """Return the place of the first item whose key is not less; RecordError if keys are of other types."""
        place: Place = ()
        node = self._node(self._root, place)
        while True:
            keys = [each for each, _ in node.items]
            index = next((number for number, each in enumerate(keys) if not _is_less(each, key)), len(keys))
            if not node.children or (index < len(keys) and keys[index] == key):
                return (*place, 2 * index + 1)
            place = (*place, 2 * index)
            node = self._node(node.children[index], place)

    def _forward(self, oid: bytes, before: Place, start: Place) -> Iterator[Item]:
        node = self._node(oid, before)
        first = start[0] if start else 0
        for index in range(first, node.size):
            if index % 2:
                yield Item((*before, index), *node.items[index // 2])
            elif node.children:
                rest = start[1:] if index == first else ()
                yield from self._forward(node.children[index // 2], (*before, index), rest)

    def _backward(self, oid: bytes, before: Place, end: Place) -> Iterator[Item]:
        node = self._node(oid, before)
        last = min(end[0], node.size) if end else node.size
        if len(end) > 1 and node.children and last < node.size and not last % 2:
            yield from self._backward(node.children[last // 2], (*before, last), end[1:])
        for index in range(last - 1, -1, -1):
            if index % 2:
                yield Item((*before, index), *node.items[index // 2])
            elif node.children:
                yield from self._backward(node.children[index // 2], (*before, index), ())

    def _node(self, oid: bytes, place: Place) -> _Node:
        self._left -= 1
        if len(place) > _MAX_DEPTH or self._left < 0:
            raise RecordError(f"the BTree is deeper than {_MAX_DEPTH} levels, or has {_MAX_NODES} nodes without items")
        found = self._read(oid)
        node = None if found is None or found.state is None else _node_in(found.state.state)
        if node is None:
            raise RecordError(f"oid {format_oid(oid)} is not a node of a BTree, as its place requires")
        return node


def tree_in(state: Plain, read: Read) -> Tree | None:
    """Return the BTree whose state this is; None if it is that of something else."""
    root = _reference(state["root"]) if isinstance(state, dict) and state.keys() == {"root"} else None
    if root is None:
        return None
    found = read(root)
    is_tree = found is not None and found.state is not None and _node_in(found.state.state) is not None
    return Tree(root, read) if is_tree else None


def _node_in(state: Plain) -> _Node | None:
    match state:
        case {"items": list() as items, "nodes": (None | list()) as nodes}:
            pairs = [pair for each in items if (pair := _pair(each)) is not None]
            children = [oid for each in nodes or () if (oid := _reference(each)) is not None]
            if len(pairs) == len(items) and len(children) == (0 if nodes is None else len(items) + 1):
                return _Node(pairs, children)
    return None


def _pair(value: Plain) -> tuple[Plain, Plain] | None:
    match value:
        case {"$tuple": [key, item]} | {"$id": _, "$value": {"$tuple": [key, item]}}:
            return key, item
    return None


def _reference(value: Plain) -> bytes | None:
    return oid_from_int(target_of(value)[0]) if isinstance(value, Form) and "$ref" in value else None


def _is_less(key: Plain, other: str | float) -> bool:
    if isinstance(key, str) and isinstance(other, str):
        return key < other
    if isinstance(key, int | float) and isinstance(other, int | float):
        return key < other
    raise RecordError("the keys of this BTree are not of that type")

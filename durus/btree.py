"""BTree: a sorted mapping whose items are spread over persistent nodes, so that a large one is never loaded whole.

What is stored is OBJ-30 to OBJ-33.  Which nodes an operation reads and writes decides which
transactions conflict:

    lookup, first step of an iteration     reads the nodes on the way from the root to one leaf
    iteration                              reads the nodes that it passes
    setting a key that is there            writes the node that has it
    inserting                              writes one leaf; if that is full, it is split, which writes its parent too,
                                           and so on up; a new root writes the BTree itself
    deleting                               writes the node that has the key and one leaf; if that gets too small, its
                                           parent and a sibling too, and so on up
    len()                                  counts as reading all nodes, though it loads them only the first time,
                                           and again when another client has changed one of them or an abort did

So two clients that insert into different leaves conflict only where one of them splits a leaf, and
the other one has read that leaf's parent; on average that is once in as many inserts as a leaf has items.
"""

import warnings
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from itertools import pairwise
from operator import itemgetter
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar, cast, overload

from durus.error import StateError
from durus.persistent import ConnectionBase, PersistentObject, get_slot, implementation, set_slot

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")

_MISSING: Any = object()
_STATE_OF_A_NODE = {"items", "nodes"}
_key_of = itemgetter(0)


class BNode(PersistentObject, Generic[K, V]):
    """A node: its items in the order of their keys and, unless it is a leaf, one more child than it has items.

    A node other than the root has minimum_degree - 1 to 2 * minimum_degree - 1 items.  The keys of
    nodes[i] lie between those of items[i - 1] and items[i].
    """

    __slots__ = ("items", "nodes")

    minimum_degree: ClassVar[int] = 2

    items: list[tuple[K, V]]
    nodes: "list[BNode[K, V]] | None"

    def __init__(self) -> None:
        self.items = []
        self.nodes = None

    def __setstate__(self, state: dict[str, Any] | None) -> None:
        if state is not None and state.keys() == _STATE_OF_A_NODE and not type(self).__dictoffset__:
            set_slot(self, "items", state["items"])
            set_slot(self, "nodes", state["nodes"])
            return
        # A later version of Durus than 4.3 stores a count, which is of no use here.
        super().__setstate__({name: value for name, value in (state or {}).items() if name != "_count"})

    def is_leaf(self) -> bool:
        return self.nodes is None

    def is_full(self) -> bool:
        """Tell if there is no room for one more item."""
        return len(self.items) >= 2 * self.minimum_degree - 1


class BNode4(BNode[K, V]):
    __slots__ = ()
    minimum_degree = 4


class BNode8(BNode[K, V]):
    __slots__ = ()
    minimum_degree = 8


class BNode16(BNode[K, V]):
    __slots__ = ()
    minimum_degree = 16


class BNode32(BNode[K, V]):
    __slots__ = ()
    minimum_degree = 32


class BNode64(BNode[K, V]):
    __slots__ = ()
    minimum_degree = 64


class BNode128(BNode[K, V]):
    __slots__ = ()
    minimum_degree = 128


class BNode256(BNode[K, V]):
    __slots__ = ()
    minimum_degree = 256


class BNode512(BNode[K, V]):
    __slots__ = ()
    minimum_degree = 512


_NODE_CLASSES: dict[int, type[BNode[Any, Any]]] = {
    cls.minimum_degree: cls for cls in (BNode, BNode4, BNode8, BNode16, BNode32, BNode64, BNode128, BNode256, BNode512)
}


class _Cut(NamedTuple):
    """A place between items, or at an end of them."""

    bisect: Callable[..., int]
    key: Any

    def place(self, items: list[tuple[Any, Any]]) -> int:
        return self.bisect(items, self.key, key=_key_of)


def _before(key: Any) -> _Cut:
    return _Cut(bisect_left, key)


def _behind(key: Any) -> _Cut:
    return _Cut(bisect_right, key)


_FIRST = _Cut(lambda items, none, key: 0, None)
_LAST = _Cut(lambda items, none, key: len(items), None)

_Way = list[tuple[BNode[Any, Any], int]]
"""The nodes from the root to a key, each with the place in it to go on at."""


def find_item(node: BNode[K, V], key: Any) -> tuple[K, V] | None:
    """Return the item of a key at or below a node, None if there is none; TypeError if it can't be compared."""
    while True:
        items, nodes = node.items, node.nodes
        place = bisect_left(items, key, key=_key_of)
        if place < len(items) and not key < items[place][0]:
            return items[place]
        if nodes is None:
            return None
        node = nodes[place]


def way_to(node: BNode[K, V], key: Any) -> tuple[_Way, bool]:
    """Return the way from a node to the place of a key, and tell if it is there: if not, the way ends in a leaf."""
    way: _Way = []
    while True:
        items, nodes = node.items, node.nodes
        place = bisect_left(items, key, key=_key_of)
        way.append((node, place))
        if place < len(items) and not key < items[place][0]:
            return way, True
        if nodes is None:
            return way, False
        node = nodes[place]


if not TYPE_CHECKING and implementation == "C":
    from durus import _persistent

    find_item = _persistent.find_item
    way_to = _persistent.way_to


class _Count:
    """The number of items in a tree, and the objects that it was found in."""

    def __init__(self, connection: ConnectionBase | None) -> None:
        self.value = 0
        self._connection = connection
        self._watch = None if connection is None else connection.watch()
        self._oids: set[bytes] = set()
        self._new: list[PersistentObject] = []
        """Objects that had no oid yet when they were noted."""
        self._read_in = 0
        """The number of the transaction that counts as having read them."""

    def note(self, obj: PersistentObject) -> None:
        """Take note of an object that belongs to the tree."""
        if obj._p_oid is None:
            self._new.append(obj)
        else:
            self._oids.add(obj._p_oid)

    def forget(self, obj: PersistentObject) -> None:
        """Take note that an object no longer belongs to the tree."""
        self._new = [each for each in self._new if each is not obj]
        self._oids.discard(obj._p_oid or b"")

    def use(self, connection: ConnectionBase | None) -> bool:
        """Count as reading all objects of the tree, if they are as they were, apart from what this tree did itself.

        Return if that is so.
        """
        if connection is not self._connection:
            return False
        if connection is None or self._watch is None:
            return True
        new, self._new = self._new, []
        for obj in new:
            self.note(obj)
        if self._watch.is_lost or not self._watch.dropped.isdisjoint(self._oids):
            return False
        self._watch.dropped.clear()
        if self._read_in != connection.transaction_serial:
            self._read_in = connection.transaction_serial
            connection.note_reads(self._oids)
        return True


class BTree(PersistentObject, MutableMapping[K, V]):
    """A mapping that is sorted by its keys, which must be orderable among one another.

    `node_constructor` is the class of its nodes, BNode4 to BNode512: small nodes make short records and
    few conflicts, large ones short ways.  The tree may change during an iteration, and transactions end: it gives
    the items of a leaf as they are when it comes there, and then looks for the key behind the last one.
    """

    __slots__ = ("_p_count", "root")
    __hash__ = None  # type: ignore[assignment]  # mutable, like dict

    root: BNode[K, V]
    _p_count: _Count | None

    def __init__(self, node_constructor: type[BNode[K, V]] = BNode16) -> None:
        if not (isinstance(node_constructor, type) and issubclass(node_constructor, BNode)):
            raise TypeError(f"a BTree takes the class of its nodes, such as BNode16, not {node_constructor!r}")
        self.root = node_constructor()

    @classmethod
    def from_sorted(cls, items: Iterable[tuple[K, V]], node_constructor: type[BNode[K, V]] = BNode16) -> "BTree[K, V]":
        """Return a tree of items that come in ascending order of their keys, in linear time.

        ValueError if a key is not greater than the one before it.
        """
        found = list(items)
        for key, _ in found[:1]:
            _check_orderable(key)
        for (before, _), (after, _) in pairwise(found):
            if not _is_less(before, after):
                raise ValueError(f"the key {after!r} does not come behind {before!r}: the items are not sorted")
        tree = cls(node_constructor)
        tree.root = _build(found, node_constructor)
        return tree

    def __copy__(self) -> "BTree[K, V]":
        return self._p_copy(root=_build(self.items(), type(self.root)))

    # Reading

    def __getitem__(self, key: K) -> V:
        found = self._find(key)
        if found is None:
            raise KeyError(key)
        return found[1]

    @overload
    def get(self, key: K, /) -> V | None: ...
    @overload
    def get(self, key: K, default: V | D, /) -> V | D: ...
    def get(self, key: K, default: Any = None) -> Any:
        found = self._find(key)
        return default if found is None else found[1]

    def __contains__(self, key: object) -> bool:
        return self._find(key) is not None

    def has_key(self, key: K) -> bool:
        warnings.warn("has_key() is deprecated: use the operator `in`", DeprecationWarning, stacklevel=2)
        return key in self

    def __len__(self) -> int:
        """Return the number of items, which is kept in memory when they have been counted. [OBJ-34]"""
        count = self._kept_count()
        if count is None or not count.use(self._p_connection):
            count = _Count(self._p_connection)
            count.note(self)
            for node in self._nodes():
                count.value += len(node.items)
                count.note(node)
            self._keep_count(count)
        return count.value

    def _kept_count(self) -> _Count | None:
        try:
            return cast("_Count | None", get_slot(self, "_p_count"))  # past a __getattr__() of a subclass
        except AttributeError:
            return None

    def _keep_count(self, count: _Count | None) -> None:
        set_slot(self, "_p_count", count)

    def _note_size(self, change: int) -> None:
        count = self._kept_count()
        if count is not None:
            count.value += change

    def __bool__(self) -> bool:
        return bool(self.root.items)

    def __iter__(self) -> Iterator[K]:
        return (key for key, _ in self.iteritems())

    def __reversed__(self) -> Iterator[K]:
        return (key for key, _ in self.items_backward())

    iterkeys = __iter__

    def itervalues(self) -> Iterator[V]:
        return (value for _, value in self.iteritems())

    def iteritems(self) -> Iterator[tuple[K, V]]:
        """Yield (key, value) for all items, in ascending order."""
        return self._gen(_FIRST, _LAST)

    def items_backward(self) -> Iterator[tuple[K, V]]:
        """Yield (key, value) for all items, in descending order."""
        return self._gen(_LAST, _FIRST, backward=True)

    def keys(self) -> list[K]:  # type: ignore[override]  # a list, as Durus has always had it
        return list(self)

    def values(self) -> list[V]:  # type: ignore[override]  # likewise
        return list(self.itervalues())

    def items(self) -> list[tuple[K, V]]:  # type: ignore[override]  # likewise
        return list(self.iteritems())

    def get_min_item(self) -> tuple[K, V]:
        """Return the item with the least key; KeyError if there is none."""
        return self._end_item(self.iteritems())

    def get_max_item(self) -> tuple[K, V]:
        """Return the item with the greatest key; KeyError if there is none."""
        return self._end_item(self.items_backward())

    def _end_item(self, items: Iterator[tuple[K, V]]) -> tuple[K, V]:
        for item in items:
            return item
        raise KeyError("the tree is empty")

    def items_from(self, key: K, closed: bool = True) -> Iterator[tuple[K, V]]:
        """Yield (key, value) in ascending order, from this key on; not with it unless `closed`."""
        return self._gen(_before(key) if closed else _behind(key), _LAST)

    def items_backward_from(self, key: K, closed: bool = False) -> Iterator[tuple[K, V]]:
        """Yield (key, value) in descending order, from this key on; not with it unless `closed`."""
        return self._gen(_behind(key) if closed else _before(key), _FIRST, backward=True)

    def items_range(
        self, start: K, end: K, closed_start: bool = True, closed_end: bool = False
    ) -> Iterator[tuple[K, V]]:
        """Yield (key, value) from `start` to `end`: in descending order if `end` is less than `start`.

        Each of the two belongs to the range if it is closed there.
        """
        if _is_less(end, start):
            first = _behind(start) if closed_start else _before(start)
            return self._gen(first, _before(end) if closed_end else _behind(end), backward=True)
        first = _before(start) if closed_start else _behind(start)
        return self._gen(first, _behind(end) if closed_end else _before(end))

    def irange(
        self,
        minimum: K | None = None,
        maximum: K | None = None,
        inclusive: tuple[bool, bool] = (True, True),
        reverse: bool = False,
    ) -> Iterator[K]:
        """Yield the keys from `minimum` to `maximum`, each of which None leaves open; descending if `reverse`.

        `inclusive` tells of each of the two if it belongs to the range.
        """
        start = _FIRST if minimum is None else (_before if inclusive[0] else _behind)(minimum)
        end = _LAST if maximum is None else (_behind if inclusive[1] else _before)(maximum)
        found = self._gen(end, start, backward=True) if reverse else self._gen(start, end)
        return (key for key, _ in found)

    def get_depth(self) -> int:
        """Return how many nodes stand on the way from the root to a leaf, both included."""
        depth, node = 1, self.root
        while node.nodes is not None:
            depth, node = depth + 1, node.nodes[0]
        return depth

    def get_node_count(self) -> int:
        return sum(1 for _ in self._nodes())

    def _nodes(self) -> Iterator[BNode[K, V]]:
        """Yield all nodes; those that it loads leave memory again where the cache is too small for them."""
        pending = [self.root]
        while pending:
            node = pending.pop()
            was_ghost = node._p_is_ghost()
            yield node
            pending.extend(node.nodes or ())
            if was_ghost:
                _let_go(node)

    def _find(self, key: object) -> tuple[K, V] | None:
        """Return the item of a key, None if there is none."""
        try:
            return find_item(self.root, key) if key == key else None  # a NaN is nowhere in an order
        except TypeError:
            self._check_comparable(key)
            raise

    def _way_to(self, key: object) -> tuple["_Way", bool]:
        """Return the way to the place of a key, and tell if it is there: if not, the way ends in a leaf."""
        try:
            way, is_there = way_to(self.root, key)
        except TypeError:
            self._check_comparable(key)
            raise
        return way, is_there and bool(key == key)

    def _check_comparable(self, key: Any) -> None:
        """Raise a TypeError that tells with which of the keys on the way to it this key can't be compared."""
        node: BNode[K, V] | None = self.root
        while node is not None:
            for other, _ in node.items:
                _is_less(other, key)
                _is_less(key, other)
            place = bisect_left(node.items, key, key=_key_of)
            node = None if node.nodes is None else node.nodes[place]

    def _gen(self, start: _Cut, end: _Cut, backward: bool = False) -> Iterator[tuple[K, V]]:
        """Yield the items from one place to another, a leaf at a time; each leaf is looked for anew."""
        try:
            while run := self._run(start, backward):
                stop = end.place(run)
                if backward:
                    yield from reversed(run[stop:])
                    if stop > 0:
                        return
                    start = _before(run[0][0])
                else:
                    yield from run[:stop]
                    if stop < len(run):
                        return
                    start = _behind(run[-1][0])
        except TypeError:
            for cut in start, end:
                if cut is not _FIRST and cut is not _LAST:
                    self._check_comparable(cut.key)
            raise

    def _run(self, start: _Cut, backward: bool) -> list[tuple[K, V]]:
        """Return the items next to a place: those in one leaf, and the one behind them in the nodes above it."""
        above: list[tuple[K, V]] = []
        bisect, key = start
        node = self.root
        while True:
            items, nodes = node.items, node.nodes
            place = bisect(items, key, key=_key_of)
            if nodes is None:
                return above + items[:place] if backward else items[place:] + above
            above = (items[max(place - 1, 0) : place] if backward else items[place : place + 1]) or above
            node = nodes[place]

    # Writing

    def __setitem__(self, key: K, value: V) -> None:
        way, is_there = self._way_to(key)
        node, place = way[-1]
        if is_there:
            node._p_note_change()
            node.items[place] = (node.items[place][0], value)
            return
        _check_orderable(key)
        node._p_note_change()
        items = node.items
        items.insert(place, (key, value))
        self._note_size(1)
        if len(items) >= 2 * node.minimum_degree:
            self._split(way)

    def setdefault(self, key: K, value: V = None) -> V:  # type: ignore[assignment]  # None, as dict has it
        """Return the value of a key, which is set to this one if it has none."""
        return super().setdefault(key, value)

    def add(self, key: K, value: V = True) -> None:  # type: ignore[assignment]  # for trees that are used as sets
        """Set the value of a key, True if it does not matter."""
        self[key] = value

    def __delitem__(self, key: K) -> None:
        way, is_there = self._way_to(key)
        if not is_there:
            raise KeyError(key)
        node, place = way[-1]
        node._p_note_change()
        if node.nodes is None:
            del node.items[place]
        else:
            leaf = self._go_to_last_leaf(node.nodes[place], way)
            leaf._p_note_change()
            node.items[place] = leaf.items.pop()
        self._note_size(-1)
        self._fill_up(way)

    def clear(self) -> None:
        """Remove all items; the tree gets a new root."""
        if self.root.items:
            self.root = type(self.root)()
            self._keep_count(None)

    def note_change_of_bnode_containing_key(self, key: K) -> None:
        """Have the next commit store the node of a key, whose value was changed in place. KeyError if it has none."""
        way, is_there = self._way_to(key)
        if not is_there:
            raise KeyError(key)
        way[-1][0]._p_note_change()

    def set_bnode_minimum_degree(self, degree: int) -> bool:
        """Build the tree anew of nodes of this degree; False if it has that, or there are no such nodes."""
        cls = _NODE_CLASSES.get(degree)
        if cls is None or type(self.root) is cls:
            return False
        self.root = _build(self.items(), cls)
        self._keep_count(None)
        return True

    def _go_to_last_leaf(self, node: BNode[K, V], way: _Way) -> BNode[K, V]:
        """Return the last leaf below a node, with the steps to it added to the way."""
        while True:
            way.append((node, len(node.items)))
            if node.nodes is None:
                return node
            node = node.nodes[-1]

    def _split(self, way: _Way) -> None:
        """Split the last node of the way if it has one item too many, then the one above it, and so on."""
        while way:
            node, _ = way.pop()
            if len(node.items) < 2 * node.minimum_degree:
                return
            middle = len(node.items) // 2
            separator = node.items[middle]
            right = self._new_node(node)
            right.items = node.items[middle + 1 :]
            del node.items[middle:]
            if node.nodes is not None:
                right.nodes = node.nodes[middle + 1 :]
                del node.nodes[middle + 1 :]
            if way:
                parent, place = way[-1]
                parent._p_note_change()
                parent.items.insert(place, separator)
                _children(parent).insert(place + 1, right)
            else:
                root = self._new_node(node)
                root.items, root.nodes = [separator], [node, right]
                self.root = root

    def _new_node(self, node: BNode[K, V]) -> BNode[K, V]:
        """Return a new node of the same class as this one."""
        new = type(node)()
        count = self._kept_count()
        if count is not None:
            count.note(new)
        return new

    def _forget_node(self, node: BNode[K, V]) -> None:
        count = self._kept_count()
        if count is not None:
            count.forget(node)

    def _fill_up(self, way: _Way) -> None:
        """Give the last node of the way what it lacks, then the one above it, and so on."""
        while len(way) > 1:
            node, _ = way.pop()
            if len(node.items) >= node.minimum_degree - 1:
                return
            parent, place = way[-1]
            parent._p_note_change()
            node._p_note_change()
            siblings = _children(parent)
            left = siblings[place - 1] if place > 0 else None
            right = siblings[place + 1] if place < len(parent.items) else None
            if left is not None and len(left.items) >= left.minimum_degree:
                left._p_note_change()
                node.items.insert(0, parent.items[place - 1])
                parent.items[place - 1] = left.items.pop()
                if node.nodes is not None:
                    node.nodes.insert(0, _children(left).pop())
            elif right is not None and len(right.items) >= right.minimum_degree:
                right._p_note_change()
                node.items.append(parent.items[place])
                parent.items[place] = right.items.pop(0)
                if node.nodes is not None:
                    node.nodes.append(_children(right).pop(0))
            else:
                self._forget_node(_merge(parent, place if left is None else place - 1))
        if not self.root.items and self.root.nodes is not None:
            self._forget_node(self.root)
            self.root = self.root.nodes[0]

    def check(self) -> None:
        """Raise StateError unless all nodes are as BNode says, their keys are in order and all leaves equally deep."""
        depth = self.get_depth()
        previous: list[K] = []
        pending: list[tuple[BNode[K, V] | tuple[K, V], int]] = [(self.root, 1)]
        while pending:
            part, level = pending.pop()
            if isinstance(part, tuple):
                if previous and not _is_less(previous[-1], part[0]):
                    raise StateError(f"{self!r}: the key {part[0]!r} comes behind {previous[-1]!r}")
                previous = [part[0]]
                continue
            was_ghost = part._p_is_ghost()
            least = 0 if part is self.root else part.minimum_degree - 1
            if not least <= len(part.items) < 2 * part.minimum_degree:
                raise StateError(f"{self!r}: {part!r} has {len(part.items)} items")
            if (part.nodes is None) != (level == depth):
                raise StateError(f"{self!r}: {part!r} is on level {level} of {depth}, and that is wrong for it")
            if part.nodes is not None and len(part.nodes) != len(part.items) + 1:
                raise StateError(f"{self!r}: {part!r} has {len(part.items)} items and {len(part.nodes)} children")
            parts: list[BNode[K, V] | tuple[K, V]] = [*part.items]
            for place, child in enumerate(part.nodes or ()):
                parts.insert(2 * place, child)
            pending.extend((each, level + 1) for each in reversed(parts))
            if was_ghost:
                _let_go(part)


def _is_less(one: Any, other: Any) -> bool:
    try:
        return bool(one < other)
    except TypeError as error:
        raise TypeError(f"the keys {one!r} and {other!r} can't be ordered: {error}") from error


def _check_orderable(key: Any) -> None:
    if _is_less(key, key) or key != key:
        raise TypeError(f"the key {key!r} is not equal to itself, so it has no place in an order")


def _children(node: BNode[K, V]) -> "list[BNode[K, V]]":
    if node.nodes is None:
        raise StateError(f"{node!r} is a leaf, where a node with children belongs")
    return node.nodes


def _let_go(node: BNode[Any, Any]) -> None:
    connection = node._p_connection
    if connection is not None:
        connection.let_go(node)


def _merge(parent: BNode[K, V], place: int) -> BNode[K, V]:
    """Put the child behind a place, and the item between the two, into the one ahead of it; return that child."""
    children = _children(parent)
    left, right = children[place], children[place + 1]
    left._p_note_change()
    left.items += [parent.items.pop(place), *right.items]
    if left.nodes is not None:
        left.nodes += _children(right)
    del children[place + 1]
    return right


def _build(items: list[tuple[K, V]], cls: type[BNode[K, V]]) -> BNode[K, V]:
    """Return the root of a tree of these items, whose nodes are as full as that goes."""
    children: list[BNode[K, V]] = []
    while True:
        count = -(-(len(items) + 1) // (2 * cls.minimum_degree))
        nodes: list[BNode[K, V]] = []
        separators: list[tuple[K, V]] = []
        for number in range(count):
            # The items and one place for a separator behind the last are dealt out evenly.
            start, end = ((len(items) + 1) * n // count for n in (number, number + 1))
            node = cls()
            node.items = items[start : end - 1]
            node.nodes = children[start:end] if children else None
            nodes.append(node)
            separators += items[end - 1 : end]
        if count == 1:
            return nodes[0]
        items, children = separators, nodes

"""BTree: a sorted mapping whose items are spread over persistent nodes, so that a large one is never loaded as a whole.

What is stored is OBJ-30 to OBJ-33. The nodes that an operation reads and writes decide which transactions conflict:

    lookup, first step of an iteration     reads the nodes on the path from the root to one leaf
    iteration                              reads the nodes that it passes
    setting an existing key                writes the node that has it
    inserting                              writes one leaf; if that is full, it is split, which writes its parent too,
                                           and so on up; a new root writes the BTree itself
    deleting                               writes the node that has the key and one leaf; if that gets too small, its
                                           parent and a sibling too, and so on up
    len()                                  counts as reading all nodes, though it loads them only the first time,
                                           and again after another client or an abort has changed one of them

So two clients that insert into different leaves conflict only if one of them splits a leaf, and the other one has read
the parent of that leaf; on average that is once in as many inserts as a leaf has items.
"""

import sys
import warnings
from bisect import bisect_left
from collections.abc import Iterable, Iterator, MutableMapping
from datetime import date, datetime, time, timedelta
from itertools import pairwise
from operator import itemgetter
from reprlib import Repr
from sys import _getframe
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar, cast, overload

from durus.error import ArgumentError, StateError
from durus.object_repr import GAP, MAX_SHOWN, Items
from durus.pairs import HasItems, HasKeys, Pairs, pairs_of
from durus.persistent import GHOST, ConnectionBase, PersistentObject, get_slot, implementation, set_slot, told_apart

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")

_MAX_STEPS = 1000
"""How many nodes a repr examines."""
_STATE_OF_A_NODE = {"items", "nodes"}
_key_of = itemgetter(0)
_shortener = Repr()
_shortener.maxother = _shortener.maxstring = 80
_short = _shortener.repr


class BNode(PersistentObject, Generic[K, V]):
    """A node: its items in the order of their keys and, unless it is a leaf, one more child than it has items.

    A node other than the root has minimum_degree - 1 to 2 * minimum_degree - 1 items. The keys of nodes[i] lie between
    those of items[i - 1] and items[i].
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
        # A later version of Durus than 4.3 stores a count, which is not used here.
        super().__setstate__({name: value for name, value in (state or {}).items() if name != "_count"})


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


# Keys
#
# Durus 4.3 searches linearly for the first key that is >= the given one, and so reads trees whose keys have no total
# order, such as frozensets. Bisection finds the same in an ordered tree, and serves for keys of the types below, until
# a key turns up that has no order with them; then, and for keys of other types, the search goes as in 4.3. [OBJ-51]

ORDERED_TYPES: set[type] = {bool, bytes, date, datetime, float, int, str, time, timedelta}
"""Types all of whose values have an order among one another, but for NaN; those below join when a key has them."""
_MORE_ORDERED_TYPES = {"decimal": "Decimal", "fractions": "Fraction", "uuid": "UUID"}
"""More such types, by their modules, which take long to import."""
_EQUAL_TO_THEMSELVES = frozenset({int, str, bytes, bool})

_Items = list[tuple[Any, Any]]
_NodeClass = type[BNode[Any, Any]] | None
_Path = list[tuple[BNode[Any, Any], int]]
"""The nodes from the root to a key, each with the index at which the path continues."""


def _is_plain(key: object, ordered: set[type]) -> bool:
    """Return whether a key is of an ordered type, or a tuple of such keys."""
    return type(key) in ordered or (type(key) is tuple and all(_is_plain(each, ordered) for each in key))


def _learn_types(key: object) -> bool:
    """Take the types of a key into ORDERED_TYPES that belong there; return True if there was a new one."""
    kind = type(key)
    if type(key) is tuple:
        return max(map(_learn_types, key), default=False)
    if kind in ORDERED_TYPES:
        return False
    for module, name in _MORE_ORDERED_TYPES.items():
        if getattr(sys.modules.get(module), name, None) is kind:
            ORDERED_TYPES.add(kind)
            return True
    return False


def _is_ordered(key: object) -> bool:
    """Return whether a key is of a type in ORDERED_TYPES, or of one that belongs there."""
    return _is_plain(key, ORDERED_TYPES) or (_learn_types(key) and _is_plain(key, ORDERED_TYPES))


def _search(items: _Items, key: Any) -> tuple[int, bool | None]:
    """Return the index of a key, and whether it is there; None if it has no order with the key at that index."""
    index = bisect_left(items, key, key=_key_of)
    if index == len(items) or key < items[index][0]:
        return index, False
    return index, bool(items[index][0] == key) or None


def find_item(node: BNode[K, V], key: Any, ordered: set[type]) -> Any:
    """Return the item of a key at or below a node, None if there is none.

    Returns:
        The item, or NotImplemented if the key, or one that it meets, may have no order with the others.

    Raises:
        TypeError: the key can't be compared.
    """
    if not _is_plain(key, ordered):
        return NotImplemented
    while True:
        items, nodes = node.items, node.nodes
        index, is_there = _search(items, key)
        if is_there is None:
            return NotImplemented
        if is_there:
            return items[index]
        if nodes is None:
            return None
        node = nodes[index]


def path_to(node: BNode[K, V], key: Any, ordered: set[type]) -> Any:
    """Return the path from a node to the index of a key, and whether the key is there; if not, the path ends in a leaf.

    Returns:
        Path and truth value, or NotImplemented like find_item().
    """
    if not _is_plain(key, ordered):
        return NotImplemented
    path: _Path = []
    while True:
        items, nodes = node.items, node.nodes
        index, is_there = _search(items, key)
        if is_there is None:
            return NotImplemented
        path.append((node, index))
        if is_there or nodes is None:
            return path, is_there
        node = nodes[index]


def _index_of(items: _Items, key: Any) -> tuple[int, bool]:
    """Return the index of a key, and whether it is there, as Durus 4.3 finds it."""
    if _is_ordered(key):
        index, is_there = _search(items, key)
        if is_there is not None:
            return index, is_there
    for index, (other, _) in enumerate(items):
        if _is_not_less(other, key):
            return index, bool(other == key)
    return len(items), False


def _is_not_less(one: Any, other: Any) -> bool:
    try:
        return bool(one >= other)
    except TypeError:
        return not one < other  # of a class without >=, which can't be in a tree of 4.3


def _path_without_order(node: BNode[K, V], key: Any) -> tuple[_Path, bool]:
    """Do what path_to() does, in a tree whose keys may have no order."""
    path: _Path = []
    while True:
        index, is_there = _index_of(node.items, key)
        path.append((node, index))
        if is_there or node.nodes is None:
            return path, is_there
        node = node.nodes[index]


_FIRST_PLACE, _BEFORE, _AFTER, _LAST_PLACE = range(4)


class _Boundary(NamedTuple):
    """A boundary between items, or at either end of them."""

    place: int
    key: Any = None

    def index_in(self, items: _Items) -> int:
        """Return the index of the first item after it."""
        if self.place == _FIRST_PLACE:
            return 0
        if self.place == _LAST_PLACE:
            return len(items)
        index, is_there = _index_of(items, self.key)
        return index + (is_there and self.place == _AFTER)


def _before(key: Any) -> _Boundary:
    return _Boundary(_BEFORE, key)


def _after(key: Any) -> _Boundary:
    return _Boundary(_AFTER, key)


_FIRST = _Boundary(_FIRST_PLACE)
_LAST = _Boundary(_LAST_PLACE)


_Change = tuple[BNode[Any, Any], _Items, list[BNode[Any, Any]] | None]
"""A node, and the items and children that it is to hold."""


class _Page:
    """The future contents of a node, in a change of several nodes."""

    def __init__(self, node: BNode[Any, Any]) -> None:
        self.node = node
        self.items = node.items.copy()
        self.nodes: list[BNode[Any, Any]] | None = None if node.nodes is None else node.nodes.copy()

    @property
    def children(self) -> list[BNode[Any, Any]]:
        if self.nodes is None:
            raise StateError(f"{told_apart(self.node)} is a leaf; expected a node with children")
        return self.nodes

    def is_changed(self) -> bool:
        return any(
            len(new) != len(old) or any(one is not other for one, other in zip(new, old, strict=True))
            for new, old in ((self.items, self.node.items), (self.nodes or [], self.node.nodes or []))
        )

    def fill(self, node: BNode[Any, Any]) -> None:
        """Put the contents of the page into a node."""
        node.items = self.items
        node.nodes = self.nodes


class _Count:
    """The number of items in a tree, and the objects in which they were counted."""

    def __init__(self, connection: ConnectionBase | None) -> None:
        self.value = 0
        self._connection = connection
        self._watch = None if connection is None else connection.watch()
        self._oids: set[bytes] = set()
        self._new: list[PersistentObject] = []
        """Objects that had no oid when they were noted."""
        self._read_in = 0
        """The number of the transaction that has noted them as read."""

    def note(self, obj: PersistentObject) -> None:
        """Note an object that belongs to the tree."""
        if obj._p_oid is None:
            self._new.append(obj)
        else:
            self._oids.add(obj._p_oid)

    def forget(self, obj: PersistentObject) -> None:
        """Note that an object no longer belongs to the tree."""
        self._new = [each for each in self._new if each is not obj]
        self._oids.discard(obj._p_oid or b"")

    def is_current(self, connection: ConnectionBase | None) -> bool:
        """Return whether the number is still right, as far as is known here."""
        if connection is not self._connection or self._watch is None:
            return connection is self._connection
        oids = {obj._p_oid for obj in self._new} if self._new else ()
        return not self._watch.overflowed and all(map(self._watch.dropped.isdisjoint, (self._oids, oids)))

    def use(self, connection: ConnectionBase | None) -> bool:
        """Note all objects of the tree as read, if they are unchanged except by this tree itself.

        Return whether that is so.
        """
        if connection is not self._connection:
            return False
        if connection is None or self._watch is None:
            return True
        self._oids.update(obj._p_oid for obj in self._new if obj._p_oid is not None)
        self._new = [obj for obj in self._new if obj._p_oid is None]
        if self._watch.overflowed or not self._watch.dropped.isdisjoint(self._oids):
            return False
        self._watch.dropped.clear()
        if self._read_in != connection.transaction_serial:
            connection.note_reads(self._oids)
            self._read_in = connection.transaction_serial
        return True


class BTree(PersistentObject, MutableMapping[K, V]):
    """A mapping that is sorted by its keys, which must have a total order.

    keys(), values() and items() make lists. For a large tree use iterkeys(), itervalues() and iteritems(), or
    items_range() and similar methods: they load one node after the other, as they reach it. [OBJ-95]

    The tree may change during an iteration, and transactions may end: an iteration yields the items of a leaf as they
    are when it reaches the leaf, and then looks for the key after the last one.

    Args:
        items: a mapping, or pairs of key and value; or the class of the nodes, as in Durus 4.3.
        node_constructor: the class of the nodes, BNode4 to BNode512, BNode16 by default. Small nodes make small records
            and few conflicts, large ones short paths.
        values: further items.

    Raises:
        TypeError: an argument is none of these, or keys can't be ordered. [OBJ-93]
    """

    __slots__ = ("_p_count", "root")
    __hash__ = None  # type: ignore[assignment]  # mutable, like dict

    root: BNode[K, V]
    _p_count: _Count | None

    @overload
    def __init__(self, node_constructor: type[BNode[Any, Any]] = BNode16, /) -> None: ...
    @overload
    def __init__(self, items: HasItems[K, V], /, *, node_constructor: _NodeClass = None) -> None: ...
    @overload
    def __init__(self, items: HasKeys[K, V], /, *, node_constructor: _NodeClass = None) -> None: ...
    @overload
    def __init__(self, items: Iterable[tuple[K, V]] = (), /, *, node_constructor: _NodeClass = None) -> None: ...
    @overload
    def __init__(
        self: "BTree[str, V]", items: HasItems[str, V], /, *, node_constructor: _NodeClass = None, **values: V
    ) -> None: ...
    @overload
    def __init__(
        self: "BTree[str, V]",
        items: Iterable[tuple[str, V]] = (),
        /,
        *,
        node_constructor: _NodeClass = None,
        **values: V,
    ) -> None: ...
    def __init__(self, items: Any = (), /, *, node_constructor: Any = None, **values: Any) -> None:
        if isinstance(items, type) and node_constructor is None:
            node_constructor, items = items, ()
        elif node_constructor is None:
            node_constructor = BNode16
        if not (isinstance(node_constructor, type) and issubclass(node_constructor, BNode)):
            raise TypeError(f"a BTree takes the class of its nodes, such as BNode16, not {node_constructor!r}")
        self.root = node_constructor()
        self.update(items, **values)

    @classmethod
    def from_sorted(cls, items: Iterable[tuple[K, V]], node_constructor: type[BNode[K, V]] = BNode16) -> "BTree[K, V]":
        """Return a tree of sorted items, in linear time.

        Args:
            items: pairs of key and value, in ascending order of the keys.
            node_constructor: the class of the nodes.

        Raises:
            ArgumentError: a key is not greater than the one before it.
        """
        tree: BTree[K, V] = cls(node_constructor)
        tree.root = _build(_in_order(list(items)), node_constructor)
        return tree

    def __copy__(self) -> "BTree[K, V]":
        return self._p_copy(root=_build(_in_order(self.items()), type(self.root)))

    def _p_get_items(self) -> Items:
        """Return what is known of the items without loading a node."""
        found: list[object] = []
        known = steps = 0
        is_whole = True
        pending: list[object] = [get_slot(self, "root")]
        while pending:
            part = pending.pop()
            if isinstance(part, BNode) and get_slot(part, "_p_status") != GHOST and steps < _MAX_STEPS:
                steps += 1
                items, nodes = get_slot(part, "items"), get_slot(part, "nodes")
                known += len(items)
                # Each child comes before the item with its index, and the last one after all items.
                for place in range(len(items), -1, -1):
                    pending += items[place : place + 1] if len(found) < MAX_SHOWN else ()
                    pending += () if nodes is None else nodes[place : place + 1]
            elif isinstance(part, BNode):
                is_whole = False
                found += () if found[-1:] == [GAP] else (GAP,)
            elif len(found) < MAX_SHOWN:
                found.append(part)
        count = self._kept_count()
        is_counted = count is not None and count.is_current(get_slot(self, "_p_connection"))
        number = count.value if count is not None and is_counted else known if is_whole else None
        return Items("root", dict, [] if found == [GAP] else found, number, known)

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
        warnings.warn("has_key() is deprecated; use the operator `in`", DeprecationWarning, stacklevel=2)
        return key in self

    def __len__(self) -> int:
        """Return the number of items, which stays in memory after it was counted. [OBJ-34]"""
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
            return cast("_Count | None", get_slot(self, "_p_count"))  # bypasses a __getattr__() of a subclass
        except AttributeError:
            return None

    def _keep_count(self, count: _Count | None) -> None:
        set_slot(self, "_p_count", count)

    def _take_count(self) -> _Count | None:
        """Return the count, and drop it until the coming change is complete, because that may be interrupted."""
        count = self._kept_count()
        if count is not None:
            self._keep_count(None)
        return count

    def _give_count_back(self, count: _Count | None, change: int) -> None:
        if count is not None:
            count.value += change
            self._keep_count(count)

    def __bool__(self) -> bool:
        return bool(self.root.items)

    def __iter__(self) -> Iterator[K]:
        return _keys_of(self.iteritems())

    def __reversed__(self) -> Iterator[K]:
        return _keys_of(self.items_backward())

    iterkeys = __iter__

    def itervalues(self) -> Iterator[V]:
        return _values_of(self.iteritems())

    def iteritems(self) -> Iterator[tuple[K, V]]:
        """Yield (key, value) for all items, in ascending order."""
        return self._gen(_FIRST, _LAST)

    def items_backward(self) -> Iterator[tuple[K, V]]:
        """Yield (key, value) for all items, in descending order."""
        return self._gen(_LAST, _FIRST, True)

    # Lists, as Durus has always had them; the iterators above load only the nodes that they reach. [OBJ-95]

    def keys(self) -> list[K]:  # type: ignore[override]  # a list, as Durus has always had it
        return list(self)

    def values(self) -> list[V]:  # type: ignore[override]  # as above
        return list(self.itervalues())

    def items(self) -> list[tuple[K, V]]:  # type: ignore[override]  # as above
        return list(self.iteritems())

    def get_min_item(self) -> tuple[K, V]:
        """Return the item with the smallest key; KeyError if there is none."""
        return self._end_item(self.iteritems())

    def get_max_item(self) -> tuple[K, V]:
        """Return the item with the greatest key; KeyError if there is none."""
        return self._end_item(self.items_backward())

    def _end_item(self, items: Iterator[tuple[K, V]]) -> tuple[K, V]:
        for item in items:
            return item
        raise KeyError("the tree is empty")

    def items_from(self, key: K, closed: bool = True) -> Iterator[tuple[K, V]]:
        """Yield (key, value) in ascending order, from `key` on, with `key` itself if `closed`."""
        return self._gen(_before(key) if closed else _after(key), _LAST)

    def items_backward_from(self, key: K, closed: bool = False) -> Iterator[tuple[K, V]]:
        """Yield (key, value) in descending order, from `key` on, with `key` itself if `closed`."""
        return self._gen(_after(key) if closed else _before(key), _FIRST, True)

    def items_range(
        self, start: K, end: K, closed_start: bool = True, closed_end: bool = False
    ) -> Iterator[tuple[K, V]]:
        """Yield (key, value) from one key to another, in descending order if `end` is less than `start`.

        Args:
            start: the first key of the range.
            end: the last key of the range.
            closed_start: whether `start` belongs to the range.
            closed_end: whether `end` belongs to the range.
        """
        return self._range(start, end, closed_start, closed_end)

    def _range(self, start: K, end: K, closed_start: bool, closed_end: bool) -> Iterator[tuple[K, V]]:
        _learn_types((start, end))
        if not (_is_ordered(start) and _is_ordered(end)):
            return self._range_without_order(start, end, closed_start, closed_end)
        if _is_less(end, start):
            first = _after(start) if closed_start else _before(start)
            return self._gen(first, _before(end) if closed_end else _after(end), True)
        first = _before(start) if closed_start else _after(start)
        return self._gen(first, _after(end) if closed_end else _before(end))

    def _range_without_order(self, start: Any, end: Any, closed_start: bool, closed_end: bool) -> Iterator[tuple[K, V]]:
        """Yield the items of a range as Durus 4.3 does, for keys that may have no order with others."""
        if _is_less(end, start):
            for item in self.items_backward_from(start, closed_start):
                if _is_less(item[0], end):
                    return
                if closed_end or _is_less(end, item[0]):
                    yield item
        else:
            for item in self.items_from(start, closed_start):
                if _is_less(end, item[0]):
                    return
                if closed_end or _is_less(item[0], end):
                    yield item

    def irange(
        self,
        minimum: K | None = None,
        maximum: K | None = None,
        inclusive: tuple[bool, bool] = (True, True),
        reverse: bool = False,
    ) -> Iterator[K]:
        """Yield the keys of a range, in ascending order.

        Args:
            minimum: the smallest key of the range, None for no limit.
            maximum: the greatest key of the range, None for no limit.
            inclusive: whether `minimum` and `maximum` belong to the range.
            reverse: yield the keys in descending order.
        """
        start = _FIRST if minimum is None else (_before if inclusive[0] else _after)(minimum)
        end = _LAST if maximum is None else (_after if inclusive[1] else _before)(maximum)
        return _keys_of(self._gen(end, start, True) if reverse else self._gen(start, end))

    def get_depth(self) -> int:
        """Return how many nodes are on the path from the root to a leaf, including both."""
        depth, node = 1, self.root
        while node.nodes is not None:
            depth, node = depth + 1, node.nodes[0]
        return depth

    def get_node_count(self) -> int:
        """Return how many nodes the tree has."""
        return sum(1 for _ in self._nodes())

    def _nodes(self) -> Iterator[BNode[K, V]]:
        """Yield all nodes; those that it loads are evicted again if the cache is too small for them."""
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
            found: tuple[K, V] | None = find_item(self.root, key, ORDERED_TYPES)
            if found is NotImplemented and _learn_types(key):
                found = find_item(self.root, key, ORDERED_TYPES)
            if found is NotImplemented:
                path, is_there = _path_without_order(self.root, key)
                node, index = path[-1]
                return node.items[index] if is_there else None
        except (TypeError, ArithmeticError) as error:
            self._explain(key, error)
            return None
        return found

    def _path_to(self, key: object) -> tuple[_Path, bool]:
        """Return the path to the index of a key, and whether it is there; if not, the path ends in a leaf."""
        try:
            found: tuple[_Path, bool] = path_to(self.root, key, ORDERED_TYPES)
            if found is NotImplemented and _learn_types(key):
                found = path_to(self.root, key, ORDERED_TYPES)
            if found is NotImplemented:
                found = _path_without_order(self.root, key)
        except (TypeError, ArithmeticError) as error:
            self._explain(key, error)
            return [], False
        return found

    def _path_for_change(self, key: Any) -> tuple[_Path, bool]:
        """Do what _path_to() does; TypeError if the key has no total order with those on the path. [OBJ-50]"""
        if type(key) not in _EQUAL_TO_THEMSELVES:
            _check_orderable(key)
        try:
            found: tuple[_Path, bool] = path_to(self.root, key, ORDERED_TYPES)
            if found is NotImplemented and _learn_types(key):
                found = path_to(self.root, key, ORDERED_TYPES)
            if found is not NotImplemented:
                return found
            path, is_there = _path_without_order(self.root, key)
            for node, index in path:
                bisected = bisect_left(node.items, key, key=_key_of)
                for other, _ in node.items[max(index - 1, 0) : index + 1 + is_there]:
                    _check_order(other, key)
                if bisected != index:
                    raise _no_order(node.items[min(bisected, index)][0], key)
        except TypeError:
            self._check_comparable(key)
            raise
        return path, is_there

    def _explain(self, key: Any, error: Exception) -> None:
        """Raise the error of a comparison, with the keys in question; none if the key is a NaN."""
        if isinstance(error, ArithmeticError) and key != key:
            return
        if isinstance(error, TypeError):
            self._check_comparable(key)
        raise error

    def _check_comparable(self, key: Any) -> None:
        """Raise a TypeError that names the key on the path with which this key can't be compared."""
        node: BNode[K, V] | None = self.root
        while node is not None:
            for other, _ in node.items:
                _is_less(other, key)
                _is_less(key, other)
            index = bisect_left(node.items, key, key=_key_of)
            node = None if node.nodes is None else node.nodes[index]

    def _gen(self, start: _Boundary, end: _Boundary, backward: bool = False) -> Iterator[tuple[K, V]]:
        """Yield the items from one boundary to another, one leaf at a time.

        The iteration continues at the item after a leaf; if that is gone, it searches for the next one.
        """
        try:
            path = self._path_of(start)
            while True:
                run = _leaf_run(path, backward)
                stop = end.index_in(run)
                if backward:
                    yield from reversed(run[stop:])
                    if stop > 0 or not path:
                        return
                    path = self._path_past(path, run[0], backward) or self._path_of(_before(run[0][0]))
                else:
                    yield from run[:stop]
                    if stop < len(run) or not path:
                        return
                    path = self._path_past(path, run[-1], backward) or self._path_of(_after(run[-1][0]))
        except TypeError:
            for boundary in start, end:
                if boundary.place in (_BEFORE, _AFTER):
                    self._check_comparable(boundary.key)
            raise

    def _path_of(self, boundary: _Boundary) -> _Path:
        """Return the path to a boundary in a leaf."""
        path: _Path = []
        node: BNode[K, V] | None = self.root
        while node is not None:
            index = boundary.index_in(node.items)
            path.append((node, index))
            node = None if node.nodes is None else node.nodes[index]
        return path

    def _path_past(self, path: _Path, item: tuple[K, V], backward: bool) -> _Path | None:
        """Return the path to the leaf next to the item at the end of another path; None if the nodes have changed."""
        node = self.root
        for step, (known, index) in enumerate(path, 1):
            if node is not known or node.nodes is None or index > len(node.items):
                return None
            if step < len(path):
                node = node.nodes[index]
                continue
            at = index - 1 if backward else index
            if not 0 <= at < len(node.items) or not (node.items[at][0] is item[0] or node.items[at][0] == item[0]):
                return None
            path = [*path[:-1], (node, at if backward else at + 1)]
        while node.nodes is not None:
            node = node.nodes[path[-1][1]]
            path.append((node, len(node.items) if backward else 0))
        return path

    # Writing

    def __setitem__(self, key: K, value: V) -> None:
        path, is_there = self._path_for_change(key)
        node, index = path[-1]
        items = node.items
        if is_there:
            node._p_note_change()
            items[index] = (items[index][0], value)
            return
        if len(items) >= 2 * node.minimum_degree - 1:
            self._insert_and_split(path, (key, value))
            return
        node._p_note_change()
        count = self._take_count()
        items.insert(index, (key, value))
        if count is not None:
            self._give_count_back(count, 1)

    @overload
    def update(self, other: Pairs[K, V] = (), /) -> None: ...
    @overload
    def update(self: "BTree[str, V]", other: HasItems[str, V], /, **values: V) -> None: ...
    @overload
    def update(self: "BTree[str, V]", other: Iterable[tuple[str, V]] = (), /, **values: V) -> None: ...
    def update(self, other: Any = (), /, **values: Any) -> None:
        """Set the items of a mapping or of pairs, then the keywords, one after the other. [OBJ-94]

        Args:
            other: a mapping, or pairs of key and value.
            values: further items.

        Raises:
            TypeError: a key can't be ordered with the others; the items before it are set.
        """
        for key, value in pairs_of(other):
            self[key] = value
        for name, value in values.items():
            self[cast("K", name)] = value

    def setdefault(self, key: K, value: V = None) -> V:  # type: ignore[assignment]  # None, as dict has it
        """Return the value of `key`; if there is none, set it to `value`."""
        return super().setdefault(key, value)

    def add(self, key: K, value: V = True) -> None:  # type: ignore[assignment]  # for trees that are used as sets
        """Set the value of `key`; True is for trees that are used as sets.

        Args:
            key: the key.
            value: its value.
        """
        self[key] = value

    def __delitem__(self, key: K) -> None:
        path, is_there = self._path_to(key)
        if not is_there:
            raise KeyError(key)
        node, index = path[-1]
        if node.nodes is None and (len(path) == 1 or len(node.items) >= node.minimum_degree):
            node._p_note_change()
            count = self._take_count()
            del node.items[index]
            self._give_count_back(count, -1)
        else:
            self._delete_and_rebalance(path)

    def clear(self) -> None:
        """Remove all items; the tree gets a new root."""
        if self.root.items:
            self._take_count()
            self.root = type(self.root)()

    def note_change_of_bnode_containing_key(self, key: K) -> None:
        """Make the next commit store the node of `key`, whose value was changed in place; KeyError if there is none."""
        self._note_change_of_node(key)

    def _note_change_of_node(self, key: K) -> None:
        path, is_there = self._path_to(key)
        if not is_there:
            raise KeyError(key)
        path[-1][0]._p_note_change()

    def set_bnode_minimum_degree(self, degree: int) -> bool:
        """Rebuild the tree with nodes of another size.

        Args:
            degree: the minimum degree of the nodes.

        Returns:
            False if the nodes have this degree already, or if there are no such nodes.
        """
        cls = _NODE_CLASSES.get(degree)
        if cls is None or type(self.root) is cls:
            return False
        root = _build(_in_order(self.items()), cls)
        self._take_count()
        self.root = root
        return True

    # A change of several nodes is made on pages, which are copies of their contents, and put into the nodes at the end.

    def _insert_and_split(self, path: _Path, item: tuple[K, V]) -> None:
        """Insert an item into the full leaf at the end of a path, and split nodes that get too large."""
        pages: list[_Page] = []
        new: list[BNode[K, V]] = []
        for node, index in reversed(path):
            page = _Page(node)
            pages.append(page)
            page.items.insert(index, item)
            if new:
                page.children.insert(index + 1, new[-1])
            if len(page.items) < 2 * node.minimum_degree:
                self._put(path, pages, new, [], 1)
                return
            middle = len(page.items) // 2
            item = page.items[middle]
            right = type(node)()
            right.items, page.items = page.items[middle + 1 :], page.items[:middle]
            if page.nodes is not None:
                right.nodes, page.nodes = page.nodes[middle + 1 :], page.nodes[: middle + 1]
            new.append(right)
        root = type(self.root)()
        root.items, root.nodes = [item], [self.root, new[-1]]
        new.append(root)
        self._put(path, pages, new, [], 1, root)

    def _delete_and_rebalance(self, path: _Path) -> None:
        """Delete the item at the end of a path, and refill the nodes on the path that get too small."""
        pages = {id(node): _Page(node) for node, _ in path}
        gone: list[BNode[K, V]] = []
        root: BNode[K, V] | None = None

        def page_of(node: BNode[K, V]) -> _Page:
            if id(node) not in pages:
                pages[id(node)] = _Page(node)
            return pages[id(node)]

        node, index = path[-1]
        if node.nodes is None:
            del page_of(node).items[index]
        else:
            leaf = node.nodes[index]
            while leaf.nodes is not None:
                path.append((leaf, len(leaf.items)))
                leaf = leaf.nodes[-1]
            path.append((leaf, len(leaf.items)))
            page_of(node).items[index] = page_of(leaf).items.pop()
        for (above, index), (below, _) in zip(path[-2::-1], path[:0:-1], strict=True):
            parent, child = page_of(above), page_of(below)
            if len(child.items) >= below.minimum_degree - 1:
                break
            left = page_of(parent.children[index - 1]) if index > 0 else None
            if left is not None and len(left.items) >= below.minimum_degree:
                child.items.insert(0, parent.items[index - 1])
                parent.items[index - 1] = left.items.pop()
                if child.nodes is not None:
                    child.nodes.insert(0, left.children.pop())
                continue
            right = page_of(parent.children[index + 1]) if index < len(parent.items) else None
            if right is not None and len(right.items) >= below.minimum_degree:
                child.items.append(parent.items[index])
                parent.items[index] = right.items.pop(0)
                if child.nodes is not None:
                    child.nodes.append(right.children.pop(0))
            elif left is not None:
                gone.append(_merge(parent, index - 1, left, child))
            elif right is not None:
                gone.append(_merge(parent, index, child, right))
        top = page_of(self.root)
        if not top.items and top.nodes is not None:
            gone.append(self.root)
            root = top.nodes[0]
        self._put(path, list(pages.values()), [], gone, -1, root)

    def _put(
        self,
        path: _Path,
        pages: list[_Page],
        new: list[BNode[K, V]],
        gone: list[BNode[K, V]],
        change: int,
        root: BNode[K, V] | None = None,
    ) -> None:
        """Put pages into their nodes, and a new root into the tree, so that an interrupt is noticed. [OBJ-55]"""
        count = self._take_count()
        if self._p_connection is None:
            top = root or self.root
            copied = {id(page.node): page for page in pages}
            for node in (top, *(node for node, _ in path), *new):
                if id(node) not in copied:
                    copied[id(node)] = _Page(node)
            self.root = _copied(top, copied)
        else:
            pages = [page for page in pages if page.node not in gone and page.is_changed()]
            _fill(self, [(page.node, page.items, page.nodes) for page in pages], root)
        if count is not None:
            for node in new:
                count.note(node)
            for node in gone:
                count.forget(node)
            self._give_count_back(count, change)

    def check(self) -> None:
        """Raise StateError unless all nodes have the form of a BNode, keys are in order and all leaves equally deep."""
        depth = self.get_depth()
        tree = told_apart(self)
        previous: list[K] = []
        pending: list[tuple[BNode[K, V] | tuple[K, V], int]] = [(self.root, 1)]
        while pending:
            part, level = pending.pop()
            if isinstance(part, tuple):
                if previous and not _is_less(previous[-1], part[0]):
                    raise StateError(f"{tree}: the key {part[0]!r} comes after {previous[-1]!r}")
                previous = [part[0]]
                continue
            was_ghost = part._p_is_ghost()
            node = told_apart(part)
            least = 0 if part is self.root else part.minimum_degree - 1
            if not least <= len(part.items) < 2 * part.minimum_degree:
                raise StateError(f"{tree}: {node} has {len(part.items)} items")
            if (part.nodes is None) != (level == depth):
                raise StateError(f"{tree}: {node} is on level {level} of {depth}, where it does not belong")
            if part.nodes is not None and len(part.nodes) != len(part.items) + 1:
                raise StateError(f"{tree}: {node} has {len(part.items)} items and {len(part.nodes)} children")
            parts: list[BNode[K, V] | tuple[K, V]] = [*part.items]
            for index, child in enumerate(part.nodes or ()):
                parts.insert(2 * index, child)
            pending.extend((each, level + 1) for each in reversed(parts))
            if was_ghost:
                _let_go(part)


def _fill(tree: BTree[K, V], changes: list[_Change], root: BNode[K, V] | None) -> None:
    """Have nodes of a stored tree hold other items and nodes, and the tree a new root, so that an interrupt is noticed.

    The C extension calls this where a __setattr__() of a subclass may run in between.
    """
    connection = tree._p_connection
    if connection is None:
        raise StateError(f"{told_apart(tree)} was detached from its connection while it was being changed")
    is_first = connection.begin_steps(_getframe())
    for node, items, nodes in changes:
        node.items = items
        node.nodes = nodes
    if root is not None:
        tree.root = root
    connection.end_steps(is_first)


def _keys_of(items: Iterator[tuple[K, V]]) -> Iterator[K]:
    return (key for key, _ in items)


def _values_of(items: Iterator[tuple[K, V]]) -> Iterator[V]:
    return (value for _, value in items)


def _leaf_run(path: _Path, backward: bool) -> _Items:
    """Return the items next to the end of a path: those in one leaf, and the one after them in the nodes above it.

    The path is cut off after the node that has that item; it is empty if there is none.
    """
    node, index = path.pop()
    run = node.items[:index] if backward else node.items[index:]
    while path:
        node, index = path[-1]
        if backward and index > 0:
            return [node.items[index - 1], *run]
        if not backward and index < len(node.items):
            return [*run, node.items[index]]
        path.pop()
    return run


def _merge(parent: _Page, index: int, left: _Page, right: _Page) -> BNode[Any, Any]:
    """Put the item at an index, and the child after it, into the child before it; return the empty child."""
    left.items += [parent.items.pop(index), *right.items]
    if left.nodes is not None:
        left.nodes += right.children
    del parent.children[index + 1]
    return right.node


def _copied(node: BNode[K, V], pages: dict[int, _Page]) -> BNode[K, V]:
    """Return a new node for one that has a page, and for those below it that have one.

    Thus nodes that are in a tree stay unchanged, and the tree gets the whole change at once, with its new root.
    """
    page, new = pages[id(node)], type(node)()
    if page.nodes is not None:
        page.nodes = [_copied(child, pages) if id(child) in pages else child for child in page.nodes]
    page.fill(new)
    return new


def _is_less(one: Any, other: Any) -> bool:
    try:
        return bool(one < other)
    except TypeError as error:
        raise TypeError(f"the keys {_short(one)} and {_short(other)} can't be ordered: {error}") from error


def _check_order(one: Any, other: Any) -> None:
    """Raise TypeError unless exactly one of two keys is less than the other, or they are equal. [OBJ-50]"""
    if _is_less(one, other) + _is_less(other, one) + bool(one == other) != 1:
        raise _no_order(one, other)


def _no_order(one: Any, other: Any) -> TypeError:
    return TypeError(
        f"the keys {_short(one)} and {_short(other)} have no order; of two keys of a BTree, "
        "one must be less than the other, or they must be equal"
    )


def _check_orderable(key: Any) -> None:
    """Raise TypeError if a key has no order with itself, such as a NaN. [OBJ-52]"""
    _check_equal_to_itself(key, key)
    if _is_less(key, key):
        raise _no_order(key, key)


def _check_equal_to_itself(part: Any, key: Any) -> None:
    if type(part) is tuple:  # a tuple counts a NaN in it as equal to itself, but not to the same NaN after loading
        for each in part:
            _check_equal_to_itself(each, key)
    elif part != part:
        raise TypeError(f"the key {_short(key)} is not equal to itself, so it can't be ordered")


def _ascends(items: list[tuple[K, V]]) -> bool:
    """Return True if it is quickly known that items have keys of one simple type, and that these ascend.

    The C extension has one that goes through them: here the checks that all items need do the same.
    """
    return False


def _in_order(items: list[tuple[K, V]]) -> list[tuple[K, V]]:
    """Return items if their keys ascend; ArgumentError if not, TypeError if they have no order. [OBJ-50]"""
    for key, _ in items[:1]:
        _check_orderable(key)
    if _ascends(items):
        return items
    for (before, _), (after, _) in pairwise(items):
        if type(after) not in _EQUAL_TO_THEMSELVES:
            _check_orderable(after)
        if not _is_ordered(after) or not _is_less(before, after):
            _check_order(before, after)
            if not _is_less(before, after):
                keys = f"the key {_short(after)} does not come after {_short(before)}"
                raise ArgumentError(f"{keys}: the items are not sorted")
    return items


def _let_go(node: BNode[Any, Any]) -> None:
    connection = node._p_connection
    if connection is not None:
        connection.release(node)


def _build(items: list[tuple[K, V]], cls: type[BNode[K, V]]) -> BNode[K, V]:
    """Return the root of a tree of these items, with nodes that are as full as possible."""
    children: list[BNode[K, V]] = []
    while True:
        count = -(-(len(items) + 1) // (2 * cls.minimum_degree))
        nodes: list[BNode[K, V]] = []
        separators: list[tuple[K, V]] = []
        for number in range(count):
            # The items, and one separator after the last, are distributed evenly.
            start, end = ((len(items) + 1) * n // count for n in (number, number + 1))
            node = cls()
            node.items = items[start : end - 1]
            node.nodes = children[start:end] if children else None
            nodes.append(node)
            separators += items[end - 1 : end]
        if count == 1:
            return nodes[0]
        items, children = separators, nodes


if not TYPE_CHECKING and implementation == "C":
    from durus import _persistent

    _persistent.join_btree(globals())
    _keys_of = _persistent.keys_of
    _values_of = _persistent.values_of
    _ascends = _persistent.ascends

    class BTree(_persistent.BTreeBase, BTree[K, V]):
        __slots__ = ()
        __doc__ = BTree.__doc__

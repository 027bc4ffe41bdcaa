"""An interrupt at every line of every changing method of every collection: before it, after it, or a refused commit.

An exception is raised at the n-th line that runs in the package, for every n, as a signal handler may do it. What a
change does to one node after the other is interrupted at the first two of them, except in the profile `deep`.
"""

import math
import os
from collections.abc import Callable
from typing import Any

import pytest

from durus.btree import BNode, BTree
from durus.connection import Connection
from durus.persistent import ComputedAttribute, Persistent, PersistentObject, implementation
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.persistent_set import PersistentSet
from durus.shared_storage import SharedStorage
from durus.storage import MemoryStorage
from tests.interrupts import commits, interrupted_at

pytestmark = pytest.mark.filterwarnings(  # an interrupt while a generator ends is reported in this way
    "ignore::pytest.PytestUnraisableExceptionWarning"
)

MAX_VISITS = math.inf if os.environ.get("HYPOTHESIS_PROFILE") == "deep" else 2
Change = Callable[[Any], object]


def tree_of(*keys: int) -> BTree[int, int]:
    tree: BTree[int, int] = BTree(BNode)
    for key in keys:
        tree[key] = -key
    return tree


def three_levels() -> BTree[int, int]:
    """Return a tree whose nodes are all as full as they get, in the middle, and as empty as they get at the ends."""
    tree = tree_of(*range(0, 60, 2), *range(21, 40, 2))
    tree.check()
    assert tree.get_depth() >= 3
    return tree


def inserting(key: int) -> Change:
    return lambda tree: tree.__setitem__(key, 1)


def deleting(key: int) -> Change:
    return lambda tree: tree.__delitem__(key)


TREE_CHANGES: dict[str, Change] = {
    **{f"insert {n}": inserting(n) for n in (-1, 19, 41, 61)},
    **{f"delete {n}": deleting(n) for n in (0, 14, 22, 30, 39, 58)},
    "delete the root's": lambda tree: tree.__delitem__(tree.root.items[0][0]),
    "delete all": lambda tree: [tree.__delitem__(key) for key in list(tree)],
    "insert many": lambda tree: [tree.__setitem__(key, key) for key in range(100, 130)],
    "pop": lambda tree: tree.pop(4),
    "popitem": BTree.popitem,
    "setdefault": lambda tree: tree.setdefault(5, 5),
    "add": lambda tree: tree.add(7),
    "update": lambda tree: tree.update({1: 1, 3: 3, 5: 5}),
    "clear": BTree.clear,
    "set_bnode_minimum_degree": lambda tree: tree.set_bnode_minimum_degree(4),
    "note_change": lambda tree: tree.note_change_of_bnode_containing_key(22),
}
SINGLE = sorted(name for name in TREE_CHANGES if "all" not in name and "many" not in name and name != "update")
"""The changes that are done as a whole, or not at all."""

OTHERS: dict[str, tuple[Callable[[], Any], dict[str, Change]]] = {
    "dict": (
        lambda: PersistentDict({1: "a", 2: "b"}),
        {
            "set": lambda it: it.__setitem__(3, "c"),
            "replace": lambda it: it.__setitem__(1, "c"),
            "delete": lambda it: it.__delitem__(1),
            "pop": lambda it: it.pop(1),
            "popitem": PersistentDict.popitem,
            "clear": PersistentDict.clear,
            "update": lambda it: it.update({2: "x", 5: "y"}),
            "setdefault": lambda it: it.setdefault(7, "z"),
            "|=": lambda it: it.__ior__({8: "8"}),
        },
    ),
    "list": (
        lambda: PersistentList([3, 1, 2]),
        {
            "set": lambda it: it.__setitem__(0, 9),
            "set slice": lambda it: it.__setitem__(slice(0, 2), [7, 8, 9]),
            "delete": lambda it: it.__delitem__(0),
            "delete slice": lambda it: it.__delitem__(slice(1, 3)),
            "insert": lambda it: it.insert(1, 5),
            "append": lambda it: it.append(5),
            "extend": lambda it: it.extend([5, 6]),
            "+=": lambda it: it.__iadd__([5, 6]),
            "*=": lambda it: it.__imul__(2),
            "pop": lambda it: it.pop(),
            "remove": lambda it: it.remove(1),
            "reverse": PersistentList.reverse,
            "sort": PersistentList.sort,
            "clear": PersistentList.clear,
        },
    ),
    "set": (
        lambda: PersistentSet([1, 2, 3]),
        {
            "add": lambda it: it.add(4),
            "discard": lambda it: it.discard(1),
            "remove": lambda it: it.remove(1),
            "pop": PersistentSet.pop,
            "clear": PersistentSet.clear,
            "update": lambda it: it.update([4, 5]),
            "intersection_update": lambda it: it.intersection_update([1, 2]),
            "difference_update": lambda it: it.difference_update([1, 2]),
            "symmetric_difference_update": lambda it: it.symmetric_difference_update([1, 4]),
            "|=": lambda it: it.__ior__({4}),
            "&=": lambda it: it.__iand__({1}),
            "-=": lambda it: it.__isub__({1}),
            "^=": lambda it: it.__ixor__({1, 4}),
        },
    ),
}


def contents(obj: Any) -> object:
    if isinstance(obj, BTree):
        return obj.items()
    return (
        list(obj.data)
        if isinstance(obj, PersistentList)
        else dict(obj)
        if isinstance(obj, PersistentDict)
        else obj.s.copy()
    )


_records: dict[Callable[[], Any], dict[bytes, bytes]] = {}


def records_of(make: Callable[[], Any]) -> dict[bytes, bytes]:
    """Return the records of a storage with the object, which are made once."""
    if make not in _records:
        storage = MemoryStorage()
        with Connection(storage) as writer:
            writer.get_root()["it"] = make()
            writer.commit()
        _records[make] = storage._records
    return _records[make]


def stored(make: Callable[[], Any]) -> tuple[SharedStorage, Connection, Any]:
    """Return a storage with the object, and a client that has loaded nothing of it yet."""
    below = MemoryStorage()
    below._records = dict(records_of(make))
    below._next_oid = len(below._records)
    storage = SharedStorage(below)
    connection = Connection(storage.new_client())
    return storage, connection, connection.get_root()["it"]


def seen_by_another(storage: SharedStorage) -> Any:
    return Connection(storage.new_client()).get_root()["it"]


def check_stored(make: Callable[[], Any], change: Change, is_loaded: bool, is_single: bool) -> int:
    """Interrupt a change of a stored object at every line, and see what abort() and commit() make of it."""
    before = contents(make())
    changed = make()
    change(changed)
    after = contents(changed)
    number = 0
    while True:
        for end in ("abort", "commit") if number % 8 == 0 else ("commit",):
            storage, connection, obj = stored(make)
            if is_loaded:
                contents(obj)
                len(obj)
            where = interrupted_at(number, change, obj, most_visits=MAX_VISITS)
            if where is None:
                return number
            if end == "abort":
                connection.abort()
                assert contents(obj) == before, where
                assert len(obj) == len(before), where  # type: ignore[arg-type]  # all are sized
                change(obj)
                connection.commit()
                assert contents(seen_by_another(storage)) == after, where
                continue
            is_refused = not commits(connection)
            found = seen_by_another(storage)
            assert contents(found) == contents(obj), where
            assert len(found) == len(obj), where
            if is_refused or is_single:
                assert contents(found) in ([before] if is_refused else [before, after]), where
            for each in found, obj:
                if isinstance(each, BTree):
                    each.check()
        number += 1


def check_new(make: Callable[[], Any], change: Change, is_counted: bool, is_single: bool) -> int:
    """Interrupt a change of an object that was never stored: it is as it was before, or as it is afterwards."""
    before = contents(make())
    changed = make()
    change(changed)
    after = contents(changed)
    number = 0
    while True:
        obj = make()
        if is_counted:
            len(obj)
        where = interrupted_at(number, change, obj, most_visits=MAX_VISITS)
        if where is None:
            return number
        if is_single:
            assert contents(obj) in (before, after), where
        assert len(obj) == len(contents(obj)), where  # type: ignore[arg-type]  # all are sized
        if isinstance(obj, BTree):
            obj.check()
        connection = Connection(MemoryStorage())
        connection.get_root()["it"] = obj
        connection.commit()
        number += 1


@pytest.mark.spec("OBJ-54", "OBJ-55")
@pytest.mark.parametrize("is_loaded", [False, True], ids=["ghost", "loaded"])
@pytest.mark.parametrize("name", SINGLE)
def test_an_interrupt_of_a_change_of_a_stored_tree_stores_nothing_wrong(name: str, is_loaded: bool) -> None:
    assert check_stored(three_levels, TREE_CHANGES[name], is_loaded, name in SINGLE) > 0 or implementation == "C"


@pytest.mark.spec("OBJ-54")
@pytest.mark.parametrize("is_counted", [False, True], ids=["not counted", "counted"])
@pytest.mark.parametrize("name", TREE_CHANGES)
def test_an_interrupt_of_a_change_of_a_new_tree_leaves_it_sound(name: str, is_counted: bool) -> None:
    assert check_new(three_levels, TREE_CHANGES[name], is_counted, name in SINGLE) > 0 or implementation == "C"


@pytest.mark.spec("OBJ-54")
@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in OTHERS for name in OTHERS[kind][1]])
def test_an_interrupt_of_a_change_of_another_collection_leaves_it_sound(kind: str, name: str) -> None:
    make, changes = OTHERS[kind]
    assert check_stored(make, changes[name], is_loaded=False, is_single=True) > 0
    assert check_new(make, changes[name], is_counted=False, is_single=True) > 0


@pytest.mark.spec("OBJ-54")
def test_an_interrupt_of_a_computed_attribute_leaves_no_value_that_is_out_of_date() -> None:
    number = 0
    while True:
        connection = Connection(MemoryStorage())
        root: Any = connection.get_root()
        root["value"], root["total"] = 1, ComputedAttribute()
        connection.commit()
        assert root["total"].get(lambda root=root: root["value"]) == 1

        def change(root: Any = root) -> None:
            root["total"].invalidate()
            root["value"] = 2
            root["total"].get(lambda: root["value"])

        where = interrupted_at(number, change)
        commits(connection)
        assert root["total"].get(lambda root=root: root["value"]) == root["value"], where
        if where is None:
            return
        number += 1


class Account(Persistent):
    def __init__(self) -> None:
        self.owner, self.seen = "owner", 0


class SlottedAccount(Persistent):
    __slots__ = ("owner", "seen")

    def __init__(self) -> None:
        self.owner, self.seen = "owner", 0


@pytest.mark.spec("OBJ-56")
@pytest.mark.parametrize("cls", [Account, SlottedAccount, PersistentDict, BTree])
def test_an_interrupt_while_a_state_is_dropped_or_loaded_leaves_no_object_without_it(cls: type[Any]) -> None:
    def read(obj: Any) -> object:
        return contents(obj) if isinstance(obj, PersistentDict | BTree) else (obj.owner, obj.seen)

    for action in "drop", "load":
        number = 0
        while True:
            _, connection, obj = stored(cls)
            expected = read(obj)
            if action == "load":
                obj._p_set_status_ghost()
                connection.abort()
            where = interrupted_at(number, PersistentObject._p_set_status_ghost if action == "drop" else read, obj)
            assert obj._p_connection is connection, where
            if connection._guard.is_interrupted:
                assert not commits(connection), where
            assert read(obj) == expected, where
            assert obj._p_oid in connection.accessed, where
            if where is None:
                break
            number += 1


@pytest.mark.spec("OBJ-56")
def test_a_finalizer_that_runs_while_a_state_is_dropped_sees_the_whole_of_it() -> None:
    seen = []

    class Part:
        owner: Any = None

        def __del__(self) -> None:
            if self.owner is not None:
                seen.append((self.owner.owner, self.owner.seen))

    for cls in Account, SlottedAccount:
        _, _, obj = stored(cls)
        obj.owner  # noqa: B018 (this loads it)
        part = Part()
        part.owner = obj
        persistent_set(obj, part)
        del part
        obj._p_set_status_ghost()
    assert seen == [("owner", 0), ("owner", 0)]
    assert (obj.owner, obj.seen) == ("owner", 0)


def persistent_set(obj: Any, value: object) -> None:
    object.__setattr__(obj, "owner", value)


@pytest.mark.spec("OBJ-56")
def test_an_access_is_noted_before_the_object_counts_as_accessed() -> None:
    number = 0
    while True:
        _, connection, obj = stored(Account)
        obj.owner  # noqa: B018 (this loads it)
        connection.abort()
        where = interrupted_at(number, getattr, obj, "owner")
        obj.owner  # noqa: B018 (and this must be noted)
        assert obj._p_oid in connection.accessed, where
        if where is None:
            return
        number += 1

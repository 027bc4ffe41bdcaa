"""What the reprs of objects show. Statement OBJ-92."""

import threading
from typing import Any

import pytest

from durus.btree import BNode4, BTree
from durus.connection import Connection
from durus.object_repr import MAX_WIDTH
from durus.persistent import ComputedAttribute, Persistent, PersistentObject, set_slot
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.persistent_set import PersistentSet
from durus.storage import MemoryStorage


class Thing(Persistent):
    def __init__(self, **attributes: object) -> None:
        self.__dict__.update(attributes)


class Slotted(PersistentObject):
    __slots__ = ("empty", "x")

    def __init__(self, x: object) -> None:
        self.x = x


class NamedDict(PersistentDict[str, int]):
    name = "a default is not shown"


class Raising:
    def __repr__(self) -> str:
        raise ValueError("no")


class Wrapping:
    """Shows what holds it, twice, so that a repr which went on would never end."""

    def __init__(self) -> None:
        self.owner: object = None
        self.calls = 0

    def __repr__(self) -> str:
        self.calls += 1
        if self.calls > 10:
            pytest.fail("a repr goes round in circles")  # no Exception, which a repr would not let out
        return f"{self.owner!r}{self.owner!r}"


def stored(obj: PersistentObject) -> tuple[Connection, str]:
    """Return a connection that has stored an object, and the oid that its repr shows."""
    connection = Connection(MemoryStorage())
    connection.get_root()["x"] = obj
    connection.commit()
    return connection, obj._p_format_oid()


@pytest.mark.spec("OBJ-92")
@pytest.mark.parametrize(
    ("obj", "shown"),
    [
        (Thing(), "<Thing 1>"),
        (Thing(name="Ann", n=1.5), "<Thing 1 name='Ann' n=1.5>"),
        (Thing(_p_other_state=1), "<Thing 1>"),
        (Slotted([1, {2: ()}]), "<Slotted 1 x=[1, {2: ()}]>"),
        (ComputedAttribute(), "<ComputedAttribute 1>"),
        (PersistentDict(a=1), "<PersistentDict 1 with 1 item: {'a': 1}>"),
        (PersistentDict(), "<PersistentDict 1 with 0 items>"),
        (PersistentList([1, "b", None]), "<PersistentList 1 with 3 items: [1, 'b', None]>"),
        (PersistentList(range(1000)), "<PersistentList 1 with 1000 items: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, ...]>"),
        (PersistentSet([5]), "<PersistentSet 1 with 1 item: {5}>"),
        (BTree({1: "a", 2: "b"}), "<BTree 1 with 2 items: {1: 'a', 2: 'b'}>"),
        (BTree(), "<BTree 1 with 0 items>"),
        (PersistentList([(1,), set(), frozenset({2}), b"x"]), "[(1,), set(), frozenset({2}), b'x']>"),
        (PersistentList([[[[[1]]]]]), "[[[[...]]]]>"),
        (PersistentList([10**10_000]), "[<int of 33220 bits>]>"),
        (Thing(text="x" * 1000), "<Thing 1 text='" + "x" * 40 + "'...>"),
        (Thing(evil="\x1b[2J\n"), r"<Thing 1 evil='\x1b[2J\n'>"),
        (Thing(**{"a\x1bb": 1}), r"<Thing 1 a\x1bb=1>"),
        (Thing(broken=Raising(), after=1), "<Thing 1 broken=<Raising> after=1>"),
        (Thing(module=threading), "module=<module 'threading' from"),
    ],
)
def test_class_oid_and_the_first_of_what_it_holds(obj: PersistentObject, shown: str) -> None:
    set_slot(obj, "_p_oid", (1).to_bytes(8, "big"))
    assert shown in repr(obj)
    assert len(repr(obj)) <= MAX_WIDTH
    assert repr(obj).isprintable()
    assert repr(obj).endswith(">")


@pytest.mark.spec("OBJ-92")
def test_the_attributes_of_a_collection_are_shown_too() -> None:
    named = NamedDict(a=1)
    named.name = "mine"
    assert repr(named).endswith(" name='mine' with 1 item: {'a': 1}>")


@pytest.mark.spec("OBJ-92")
def test_cycles_come_to_an_end() -> None:
    ann, ben, wrapping = Thing(), Thing(), Wrapping()
    ann.__dict__.update(friend=ben, me=[ann], wrapping=wrapping)
    ben.__dict__.update(friend=ann)
    wrapping.owner = ann
    short = f"<Thing {ben._p_format_oid()}>"
    assert f"friend={short}" in repr(ann)
    assert repr(ben).endswith(f"friend=<Thing {ann._p_format_oid()}>>")
    assert "friend" in repr(ann)  # the previous one left nothing


@pytest.mark.spec("OBJ-92")
def test_a_ghost_says_so_and_nothing_is_loaded_or_accessed() -> None:
    ann = Thing(name="Ann")
    people = PersistentList([ann])
    connection, oid = stored(people)
    ann._p_set_status_ghost()
    connection.accessed.clear()
    assert repr(people) == f"<PersistentList {oid} with 1 item: [<Thing {ann._p_format_oid()}>]>"
    people._p_set_status_ghost()
    assert repr(people) == f"<PersistentList {oid} ghost>"
    assert repr(ann) == f"<Thing {ann._p_format_oid()} ghost>"
    assert connection.get_load_count() == 0
    assert not connection.accessed


@pytest.mark.spec("OBJ-92")
def test_a_tree_shows_what_is_in_memory_of_it() -> None:
    tree: BTree[int, int] = BTree(node_constructor=BNode4)
    for number in range(500):
        tree[number] = number
    connection, oid = stored(tree)
    assert repr(tree) == f"<BTree {oid} with 500 items: {{0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6, ...}}>"
    storage = connection.get_storage()
    connection.close()
    connection = Connection(storage)
    tree = connection.get_root()["x"]
    assert repr(tree) == f"<BTree {oid} ghost>"
    tree._p_load_state()
    assert repr(tree) == f"<BTree {oid} with items that are not loaded>"
    assert tree[0] == 0
    assert repr(tree).startswith(f"<BTree {oid} with more than ")
    assert ": {0: 0, 1: 1, " in repr(tree)
    count = connection.get_load_count()
    assert repr(tree)
    assert connection.get_load_count() == count
    connection.set_cache_size(5)
    assert len(tree) == 500
    connection.commit()
    connection.shrink_cache()
    tree._p_load_state()
    assert repr(tree).startswith(f"<BTree {oid} with 500 items")


@pytest.mark.spec("OBJ-92")
def test_the_number_of_items_is_not_told_from_a_count_that_is_out_of_date() -> None:
    tree: BTree[int, int] = BTree({number: number for number in range(200)})
    connection, _ = stored(tree)
    assert len(tree) == 200
    for number in range(200, 300):
        tree[number] = number
    assert len(tree) == 300
    connection.abort()
    tree[0]
    assert "with 300 items" not in repr(tree)


@pytest.mark.spec("OBJ-92")
def test_what_is_broken_has_a_class_and_an_oid_still() -> None:
    for cls in (PersistentDict, PersistentList, PersistentSet, BTree):
        obj: Any = cls.__new__(cls)
        assert repr(obj) == f"<{cls.__name__} {obj._p_format_oid()}>"
    wrong: Any = PersistentDict()
    wrong.data = 5
    assert repr(wrong) == f"<PersistentDict {wrong._p_format_oid()}>"


@pytest.mark.spec("OBJ-92")
def test_an_exception_from_outside_comes_through() -> None:
    class Interrupting:
        def __repr__(self) -> str:
            raise KeyboardInterrupt

    thing = Thing(value=Interrupting())
    with pytest.raises(KeyboardInterrupt):
        repr(thing)
    assert repr(Thing(n=1)).endswith(" n=1>")

"""From what a BTree and a PersistentDict are made and updated, and how to iterate over a BTree."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any

import pytest

from durus.btree import BNode4, BNode16, BTree
from durus.connection import Connection
from durus.persistent_dict import PersistentDict
from durus.storage import MemoryStorage


class OnlyKeys:
    def keys(self) -> list[str]:
        return ["a", "b"]

    def __getitem__(self, key: str) -> int:
        return {"a": 1, "b": 2}[key]


class OnlyItems:
    def items(self) -> list[tuple[str, int]]:
        return [("a", 1), ("b", 2)]


class OnlyIteritems:
    def iteritems(self) -> Iterator[tuple[str, int]]:
        return iter([("a", 1), ("b", 2)])


SOURCES: list[Callable[[], Any]] = [
    lambda: {"b": 2, "a": 1},
    lambda: [("b", 2), ("a", 1)],
    lambda: (pair for pair in (["b", 2], ["a", 1])),
    lambda: {("a", 1), ("b", 2)},
    lambda: OrderedDict(b=2, a=1),
    lambda: MappingProxyType({"a": 1, "b": 2}),
    lambda: PersistentDict(a=1, b=2),
    lambda: BTree(a=1, b=2),
    OnlyKeys,
    OnlyItems,
    OnlyIteritems,
]


@pytest.mark.spec("OBJ-93", "OBJ-94")
@pytest.mark.parametrize("cls", [BTree, PersistentDict])
@pytest.mark.parametrize("source", SOURCES)
def test_all_that_gives_pairs_makes_and_updates_a_mapping(cls: type[Any], source: Callable[[], Any]) -> None:
    assert sorted(cls(source()).items()) == [("a", 1), ("b", 2)]
    assert sorted(cls(source(), b=3, c=4).items()) == [("a", 1), ("b", 3), ("c", 4)]
    mapping = cls(a=0, z=0)
    mapping.update(source(), c=4)
    assert sorted(mapping.items()) == [("a", 1), ("b", 2), ("c", 4), ("z", 0)]
    mapping.update()
    mapping.update(self=1, other=2, items=3)
    assert mapping["self"] + mapping["other"] + mapping["items"] == 6


@pytest.mark.spec("OBJ-93")
def test_the_class_of_the_nodes_is_a_keyword_or_the_only_argument() -> None:
    for tree in (BTree[int, int](BNode4), BTree({1: 1}, node_constructor=BNode4), BTree(node_constructor=BNode4)):
        assert type(tree.root) is BNode4
    assert type(BTree({1: 1}).root) is BNode16
    tree = BTree(((number, number) for number in range(1000)), node_constructor=BNode4)
    tree.check()
    assert len(tree) == 1000


@pytest.mark.spec("OBJ-93", "OBJ-94")
@pytest.mark.parametrize("cls", [BTree, PersistentDict])
@pytest.mark.parametrize("wrong", [5, [5], [(1, 2, 3)], None])
def test_what_gives_no_pairs_is_refused(cls: type[Any], wrong: object) -> None:
    mapping = cls(a=1)
    attempts: list[Callable[[], object]] = [
        lambda: cls(wrong),
        lambda: mapping.update(wrong),
        lambda: mapping.update({}, {}),
    ]
    for attempt in attempts:
        with pytest.raises((TypeError, ValueError)):
            attempt()
    assert mapping.items() == [("a", 1)]


@pytest.mark.spec("OBJ-93")
@pytest.mark.parametrize("wrong", [dict, int])
def test_a_class_that_is_none_of_nodes_is_refused(wrong: Any) -> None:
    attempts: list[Callable[[], object]] = [lambda: BTree(wrong), lambda: BTree({}, node_constructor=wrong)]
    for attempt in attempts:
        with pytest.raises(TypeError, match="class of its nodes"):
            attempt()
    with pytest.raises(TypeError):
        BTree(BNode4, node_constructor=BNode4)  # type: ignore[call-overload]  # that is the point


@pytest.mark.spec("OBJ-95")
@pytest.mark.parametrize("name", ["iterkeys", "itervalues", "iteritems", "__iter__"])
def test_an_iterator_of_a_tree_loads_the_nodes_that_it_comes_to(name: str) -> None:
    storage = MemoryStorage()
    connection = Connection(storage)
    connection.get_root()["tree"] = BTree({number: number for number in range(10_000)})
    connection.commit()
    connection.close()
    connection = Connection(storage)
    tree: BTree[int, int] = connection.get_root()["tree"]
    found = getattr(tree, name)()
    assert [next(found) for _ in range(10)][-1] in (9, (9, 9))
    first = connection.get_load_count()
    assert first <= 2 + tree.get_depth()
    assert len(list(found)) == 9_990
    assert connection.get_load_count() > 300

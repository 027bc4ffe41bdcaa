"""What type checkers see of the containers. mypy reads this file; running it only makes sure that it runs."""

from typing import assert_type

from durus.btree import BNode4, BTree
from durus.connection import Connection, gen_every_instance
from durus.persistent import ComputedAttribute, Persistent
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.persistent_set import PersistentSet
from durus.storage import MemoryStorage


class Person(Persistent):
    def __init__(self, name: str) -> None:
        self.name = name


def test_containers_are_generic() -> None:
    names: PersistentDict[int, str] = PersistentDict({1: "a"})
    assert_type(names[1], str)
    assert_type(names.get(1), str | None)
    assert_type(names.get(1, 0), str | int)
    assert_type(names.pop(5, None), str | None)
    assert_type(names.setdefault(1, "b"), str)
    assert_type(names.items(), list[tuple[int, str]])
    assert_type(PersistentDict(a=1)["a"], int)
    people = PersistentList([Person("Ann")])
    assert_type(people[0], Person)
    assert_type(people[0:1], list[Person])
    assert_type([person.name for person in people], list[str])
    assert_type(people + people, PersistentList[Person])
    assert_type(names | {2: "b"}, PersistentDict[int, str])
    numbers = PersistentSet([1, 2])
    assert_type(numbers | {"a"}, PersistentSet[int | str])
    assert_type(numbers - {1}, PersistentSet[int])
    assert_type(list(numbers), list[int])
    tree: BTree[int, str] = BTree(BNode4)
    tree[1] = "a"
    assert_type(tree[1], str)
    assert_type(tree.get(1), str | None)
    assert_type(tree.items(), list[tuple[int, str]])
    assert_type(list(tree.irange(0, 5)), list[int])
    assert_type(BTree.from_sorted([(1, "a")]), BTree[int, str])


def test_other_results_have_their_types() -> None:
    connection = Connection(MemoryStorage())
    assert_type(list(gen_every_instance(connection, Person)), list[Person])
    assert_type(ComputedAttribute().get(lambda: 5), int)

"""Programs that are right: mypy --strict and pyright must report no line of this file. [OBJ-90] [OBJ-91]"""

from dataclasses import dataclass, field
from typing import Any, assert_type

from durus.btree import BNode4, BTree
from durus.connection import Connection, gen_every_instance
from durus.database import Database
from durus.opening import open as open_database
from durus.persistent import ComputedAttribute, Persistent, PersistentObject
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.persistent_set import PersistentSet
from durus.storage import MemoryStorage


class Person(Persistent):
    city = "unknown"
    age: int | None = None

    def __init__(self, name: str) -> None:
        self.name = name
        self.friends: PersistentList[Person] = PersistentList()
        self.initials = ComputedAttribute()

    def greet(self) -> str:
        return f"I am {self.name} of {self.city}"

    def get_initials(self) -> str:
        return self.initials.get(lambda: self.name[:1])


class Plain(Persistent):
    pass


class Point(PersistentObject):
    __slots__ = ("x", "y")

    def __init__(self, x: float, y: float) -> None:
        self.x = x
        self.y = y


@dataclass
class Issue(Persistent):
    title: str
    votes: int = 0
    tags: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Fixed(Persistent):
    number: int


class Tracker(Persistent):
    def __init__(self) -> None:
        self.issues: BTree[int, Issue] = BTree()


def use_attributes() -> None:
    ann = Person("Ann")
    ann.city = "Utrecht"
    ann.age = 5
    del ann.age
    ann.friends.append(Person("Ben"))
    ann._p_note_change()
    ann.initials.invalidate()
    assert_type(ann.friends[0].greet(), str)
    assert_type(ann.get_initials(), str)
    assert_type(ComputedAttribute().get(lambda: 5), int)
    Plain()
    assert_type(Point(1, 2).x, float)
    issue = Issue("It breaks", tags=["ui"])
    issue.votes += 1
    assert_type(issue.tags, list[str])
    assert_type(Fixed(1).number, int)


def use_roots() -> None:
    connection = Connection(MemoryStorage())
    assert_type(connection, Connection[PersistentDict[str, Any]])
    root = connection.get_root()
    root["anything"] = Person("Ann")
    root["anything"].friends.clear()
    with connection.transaction() as same:
        same["more"] = 5
    named: Connection = connection
    named.commit()
    database: Database = open_database("memory:")
    assert_type(database.run(lambda root: root["anything"]), Any)

    tracker: Connection[Tracker] = Connection(MemoryStorage(), root_class=Tracker)
    assert_type(tracker.get_root().issues[1], Issue)
    assert_type(tracker.root, Tracker)
    with tracker.transaction() as root_of_tracker:
        root_of_tracker.issues[2] = Issue("Another")
    with Connection(MemoryStorage(), 1000, Tracker) as third:
        assert_type(third.root, Tracker)
    any_root: Connection[PersistentObject] = tracker
    assert_type(list(gen_every_instance(any_root, Issue)), list[Issue])


def use_collections() -> None:
    ages: PersistentDict[str, int] = PersistentDict(ann=5)
    ages.update({"ben": 6}, eve=7)
    ages.update([("bob", 8)])
    assert_type(ages["ann"], int)
    assert_type(PersistentDict({1: "a"})[1], str)
    people = PersistentList([Person("Ann")])
    people[0:0] = [Person("Ben")]
    people.sort(key=lambda person: person.name)
    assert_type(people[0].name, str)
    assert_type(PersistentSet([1]) | {2}, PersistentSet[int])

    tree: BTree[int, str] = BTree(BNode4)
    tree.update({1: "a"})
    tree.update(PersistentDict({2: "b"}))
    tree.update(tree)
    assert_type(BTree({1: "a"}), BTree[int, str])
    of_pairs: BTree[int, str] = BTree([(1, "a")], node_constructor=BNode4)
    assert_type(of_pairs.get(1), str | None)
    assert_type(BTree(a=1), BTree[str, int])
    assert_type(next(tree.iteritems()), tuple[int, str])
    assert_type(list(tree.itervalues()), list[str])
    assert_type(tree.items(), list[tuple[int, str]])

"""Programs that are wrong: mypy --strict and pyright must report the lines with `# wrong`, and no other. [OBJ-90]

Nobody runs this file.
"""

from dataclasses import dataclass

from durus.btree import BNode4, BTree
from durus.connection import Connection
from durus.database import Database
from durus.opening import open as open_database
from durus.persistent import ComputedAttribute, Persistent, PersistentObject
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.persistent_set import PersistentSet
from durus.storage import MemoryStorage


class Person(Persistent):
    city = "unknown"

    def __init__(self, name: str) -> None:
        self.name = name
        self.initials = ComputedAttribute()

    def greet(self) -> str:
        return self.nmae  # wrong

    def get_initials(self) -> str:
        return self.initials.get(lambda: 5)  # wrong


class Plain(Persistent):
    pass


class Point(PersistentObject):
    __slots__ = ("x",)

    def __init__(self, x: float) -> None:
        self.x = x


@dataclass
class Issue(Persistent):
    title: str
    votes: int = 0


class Tracker(Persistent):
    def __init__(self) -> None:
        self.issues: BTree[int, Issue] = BTree()


def misspell() -> None:
    ann = Person("Ann")
    print(ann.nmae)  # wrong
    ann.nmae = "Ann"  # wrong
    del ann.nmae  # wrong
    ann.gret()  # wrong
    ann._p_note_chnage()  # wrong
    ann.city = 5  # wrong
    ann.name = None  # wrong
    ann.initials.invaldate()  # wrong
    print(Point(1).y)  # wrong
    print(PersistentDict(a=1).lenght)  # wrong
    PersistentList([1]).apend(2)  # wrong
    PersistentSet([1]).ad(2)  # wrong
    BTree({1: "a"}).iteritms()  # wrong
    print(BTree({1: "a"}).root.itms)  # wrong


def make() -> None:
    Person()  # wrong
    Person(5)  # wrong
    Plain(5)  # wrong
    Plain(name="x")  # wrong
    Issue("It breaks", vote=1)  # wrong
    Issue("It breaks").title = 5  # wrong


def take_the_wrong_root() -> None:
    connection = Connection(MemoryStorage())
    connection.get_root()[5] = "x"  # wrong
    print(connection.get_root().issues)  # wrong
    connection.comit()  # wrong
    tracker = Connection(MemoryStorage(), root_class=Tracker)
    tracker.get_root()["issues"]  # wrong
    print(tracker.root.isues)  # wrong
    with tracker.transaction() as root:
        root.isues.clear()  # wrong
    database: Database = open_database("memory:", root_class=Tracker)  # wrong
    database.run(lambda root: root["issues"], tries="5")  # wrong
    other: Connection[Tracker] = Connection(MemoryStorage())  # wrong
    other.commit()
    third: Connection[PersistentDict[str, int]] = tracker  # wrong
    third.commit()
    Connection(MemoryStorage(), root_class=dict)  # wrong


def put_in_the_wrong_thing() -> None:
    ages: PersistentDict[str, int] = PersistentDict()
    ages["ann"] = "five"  # wrong
    ages.update({"ann": "five"})  # wrong
    people: PersistentList[Person] = PersistentList()
    people[0] = "Ann"  # wrong
    people.append("Ann")  # wrong
    tree: BTree[int, str] = BTree(BNode4)
    tree["a"] = "b"  # wrong
    tree.update({"a": "b"})  # wrong
    BTree(5)  # wrong
    BTree({1: "a"}, node_constructor=dict)  # wrong

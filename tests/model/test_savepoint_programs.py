"""Random programs with nested savepoints, compared with an oracle that keeps deep copies.

A program is a list of steps on the objects that can be reached from the root; a step may be a block, which completes or
fails. After each block and each transaction, these objects must equal those of the oracle.
"""

import copy
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durus.btree import BNode, BTree
from durus.connection import Connection
from durus.persistent import Persistent
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.persistent_set import PersistentSet
from durus.shared_storage import SharedStorage
from durus.storage import MemoryStorage

KINDS = ("plain", "dict", "list", "set", "tree")
KEYS = 12


class Plain(Persistent):
    def __init__(self) -> None:
        self.values: dict[int, object] = {}
        """A plain container, whose changes the program notes itself."""


class Failed(Exception):
    """Ends a block."""


@dataclass(frozen=True)
class Ref:
    """A reference to an object of the oracle."""

    number: int


@dataclass
class Model:
    """The objects that can be reached from the root: kinds and contents, by number."""

    kinds: dict[int, str]
    contents: dict[int, dict[int, Any]]

    def reached(self) -> list[int]:
        found, pending = [0], [0]
        while pending:
            for value in self.contents[pending.pop()].values():
                if isinstance(value, Ref) and value.number not in found:
                    found.append(value.number)
                    pending.append(value.number)
        return found


@dataclass
class Block:
    steps: list[Any]
    fails: bool
    notes_first: bool


Step = tuple[str, int, int, int] | Block

changes = st.tuples(
    st.sampled_from(("set", "set", "delete", "new", "link", "commit", "abort", "evict")),
    st.integers(0, 30),
    st.integers(0, KEYS - 1),
    st.integers(0, 30),
)
programs: st.SearchStrategy[list[Any]] = st.recursive(
    st.lists(changes, max_size=8),
    lambda steps: st.lists(changes | st.builds(Block, steps, st.booleans(), st.booleans()), max_size=8),
    max_leaves=12,
)


class World:
    """A connection and its oracle."""

    def __init__(self) -> None:
        shared = SharedStorage(MemoryStorage())
        self.connection, self.other = Connection(shared.new_client(), cache_size=3), Connection(shared.new_client())
        self.model = self.committed = Model({0: "dict"}, {0: {}})
        self.objects: dict[int, Any] = {0: self.connection.get_root()}
        self.depth = 0

    def run(self, steps: list[Any]) -> None:
        for step in steps:
            if isinstance(step, Block):
                self.run_block(step)
            else:
                self.run_step(*step)

    def run_block(self, block: Block) -> None:
        before = copy.deepcopy(self.model)
        if block.notes_first:
            for number in self.model.reached():
                self.objects[number]._p_note_change()
        self.depth += 1
        try:
            with self.connection.savepoint():
                self.run(block.steps)
                if block.fails:
                    raise Failed
        except Failed:
            self.model = before
        self.depth -= 1
        self.check(self.connection)

    def run_step(self, what: str, where: int, key: int, value: int) -> None:
        if what in ("commit", "abort", "evict"):
            if what == "evict":
                self.connection.shrink_cache()
            elif self.depth == 0:
                self.end_transaction(what)
            return
        reached = self.model.reached()
        number = reached[where % len(reached)]
        kind, contents = self.model.kinds[number], self.model.contents[number]
        if what == "new" and kind != "set":
            new = max(self.objects) + 1
            self.model.kinds[new], self.model.contents[new] = KINDS[value % len(KINDS)], {}
            self.objects[new] = make(self.model.kinds[new])
            put(kind, contents, self.objects[number], key, Ref(new), self.objects[new])
        elif what == "link" and kind != "set":
            target = reached[value % len(reached)]
            put(kind, contents, self.objects[number], key, Ref(target), self.objects[target])
        elif what == "set":
            put(kind, contents, self.objects[number], key, value, value)
        elif what == "delete":
            remove(kind, contents, self.objects[number], key)

    def end_transaction(self, what: str) -> None:
        if what == "commit":
            self.connection.commit()
            self.committed = copy.deepcopy(self.model)
            self.other.abort()
            self.check(self.other)
        else:
            self.connection.abort()
            self.model = copy.deepcopy(self.committed)
        self.check(self.connection)

    def check(self, connection: Connection) -> None:
        """Compare the objects that can be reached from the root of a connection with the oracle."""
        objects: dict[int, Any] = {0: connection.get_root()}
        pending = [0]
        while pending:
            number = pending.pop()
            kind, wanted = self.model.kinds[number], self.model.contents[number]
            found = contents_of(kind, objects[number])
            assert found.keys() == wanted.keys()
            for key, value in wanted.items():
                if not isinstance(value, Ref):
                    assert found[key] == value
                elif value.number in objects:
                    assert found[key] is objects[value.number]
                else:
                    objects[value.number] = found[key]
                    pending.append(value.number)
        if connection is self.connection:
            assert all(obj is self.objects[number] for number, obj in objects.items())


def make(kind: str) -> Any:
    if kind == "tree":
        return BTree(BNode)
    return {"plain": Plain, "dict": PersistentDict, "list": PersistentList, "set": PersistentSet}[kind]()


def put(kind: str, contents: dict[int, Any], obj: Any, key: int, wanted: Any, value: Any) -> None:
    if kind == "plain":
        obj._p_note_change()
        obj.values[key] = value
    elif kind == "list":
        key = min(key, len(obj))
        obj[key : key + 1] = [value]
    elif kind == "set":
        wanted = None
        obj.add(key)
    else:
        obj[key] = value
    contents[key] = wanted


def remove(kind: str, contents: dict[int, Any], obj: Any, key: int) -> None:
    if kind == "list":
        if contents:
            obj.pop()
            del contents[len(contents) - 1]
    elif key in contents:
        del contents[key]
        if kind == "plain":
            obj._p_note_change()
            del obj.values[key]
        elif kind == "set":
            obj.remove(key)
        else:
            del obj[key]


def contents_of(kind: str, obj: Any) -> dict[int, Any]:
    if kind == "tree":
        obj.check()
        assert len(obj) == len(list(obj))
        return dict(obj.items())
    if kind == "set":
        return dict.fromkeys(obj)
    return dict(obj.values if kind == "plain" else enumerate(obj) if kind == "list" else obj.items())


@pytest.mark.spec("TXN-50", "TXN-51")
@given(programs)
def test_random_savepoints_go_back_to_what_was_there(steps: list[Any]) -> None:
    world = World()
    for key, kind in enumerate(KINDS):
        world.run_step("new", 0, key, key)
        for n in range(6 if kind == "tree" else 1):
            world.run_step("set", key + 1, n, n)
    world.end_transaction("commit")
    world.run(steps)
    world.end_transaction("commit")

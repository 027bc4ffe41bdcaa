"""A stored BTree of any degree against a plain dict, with commits, aborts, evictions and reopening in between."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from durus.btree import BNode, BNode4, BNode8, BNode16, BTree
from durus.connection import Connection
from durus.file_storage import FileStorage

keys = st.integers(0, 60)
values = st.integers(0, 9)


class BTreeMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())

    @initialize(cls=st.sampled_from([BNode, BNode4, BNode8, BNode16]), cache_size=st.sampled_from([1, 3, 100]))
    def start(self, cls: type[BNode[int, int]], cache_size: int) -> None:
        self.cache_size = cache_size
        self.connection = self.open()
        self.tree: BTree[int, int] = BTree(cls)
        self.connection.get_root()["tree"] = self.tree
        self.connection.commit()
        self.model: dict[int, int] = {}
        self.committed: dict[int, int] = {}

    def open(self) -> Connection:
        return Connection(FileStorage(self.directory / "f", durability="os"), cache_size=self.cache_size)

    @rule(found=st.lists(st.tuples(keys, values), min_size=1, max_size=30))
    def insert(self, found: list[tuple[int, int]]) -> None:
        for key, value in found:
            self.tree[key] = value
            self.model[key] = value

    @rule(found=st.lists(keys, min_size=1, max_size=30))
    def delete(self, found: list[int]) -> None:
        for key in found:
            if key in self.model:
                del self.tree[key], self.model[key]
            else:
                with pytest.raises(KeyError):
                    del self.tree[key]

    @rule(start=keys, count=st.integers(0, 40))
    def delete_a_run(self, start: int, count: int) -> None:
        self.delete(list(range(start, start + count)))

    @rule(key=keys, value=values)
    def use_as_a_mapping(self, key: int, value: int) -> None:
        assert self.tree.get(key, -1) == self.model.get(key, -1)
        assert (key in self.tree) == (key in self.model)
        assert self.tree.setdefault(key, value) == self.model.setdefault(key, value)
        assert self.tree.pop(key + 1, None) == self.model.pop(key + 1, None)

    @rule(start=keys, end=keys, closed=st.tuples(st.booleans(), st.booleans()))
    def range(self, start: int, end: int, closed: tuple[bool, bool]) -> None:
        def is_in(key: int, low: int, high: int, closed_low: bool, closed_high: bool) -> bool:
            return (low < key or (closed_low and key == low)) and (key < high or (closed_high and key == high))

        found = list(self.tree.items_range(start, end, *closed))
        if end < start:
            assert found == sorted(
                (pair for pair in self.model.items() if is_in(pair[0], end, start, closed[1], closed[0])), reverse=True
            )
        else:
            assert found == sorted(pair for pair in self.model.items() if is_in(pair[0], start, end, *closed))
        assert list(self.tree.irange(start, end, closed)) == sorted(
            key for key in self.model if is_in(key, start, end, *closed)
        )
        assert list(self.tree.irange(start, end, closed, reverse=True)) == sorted(
            (key for key in self.model if is_in(key, start, end, *closed)), reverse=True
        )
        assert [key for key, _ in self.tree.items_backward_from(start, closed[0])] == sorted(
            (key for key in self.model if key < start or (closed[0] and key == start)), reverse=True
        )

    @rule(degree=st.sampled_from([2, 4, 8, 16]))
    def build_anew(self, degree: int) -> None:
        self.tree.set_bnode_minimum_degree(degree)
        assert self.tree.root.minimum_degree == degree

    @rule()
    def clear(self) -> None:
        self.tree.clear()
        self.model.clear()

    @rule()
    def commit(self) -> None:
        self.connection.commit()
        self.committed = dict(self.model)

    @rule()
    def abort(self) -> None:
        self.connection.abort()
        self.model = dict(self.committed)

    @rule()
    def evict(self) -> None:
        for obj in self.connection.cache.loaded_objects():
            if obj._p_is_saved() and obj._p_oid is not None:
                self.connection.cache.make_ghost(obj._p_oid)

    @rule()
    def reopen(self) -> None:
        self.connection.close()
        self.connection = self.open()
        tree: Any = self.connection.get_root()["tree"]
        self.tree = tree
        self.model = dict(self.committed)

    @invariant()
    def is_like_the_model(self) -> None:
        self.tree.check()
        assert self.tree.items() == sorted(self.model.items())
        assert list(self.tree.items_backward()) == sorted(self.model.items(), reverse=True)
        assert len(self.tree) == len(self.model)
        assert bool(self.tree) == bool(self.model)

    def teardown(self) -> None:
        self.connection.close()
        shutil.rmtree(self.directory)


TestBTree = pytest.mark.spec("OBJ-30", "OBJ-31")(BTreeMachine.TestCase)
TestBTree.settings = settings(max_examples=2 * settings().max_examples, stateful_step_count=40)

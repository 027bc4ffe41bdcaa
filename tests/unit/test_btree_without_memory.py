"""The BTree of the C extension where memory runs out: each allocation of a call fails once."""

from collections.abc import Callable

import pytest

from durus.btree import BNode, BTree
from durus.connection import Connection
from durus.persistent import implementation
from durus.storage import MemoryStorage
from tests.no_memory import NO_MEMORY, call_without_memory, in_a_process_alone

pytestmark = pytest.mark.skipif(implementation != "C", reason="it is about the C extension")

CALLS: dict[str, Callable[[BTree[int, int]], object]] = {
    "insert and split": lambda tree: tree.__setitem__(19, 1),
    "insert": lambda tree: tree.__setitem__(41, 1),
    "replace": lambda tree: tree.__setitem__(22, 1),
    "delete and merge": lambda tree: tree.__delitem__(0),
    "delete": lambda tree: tree.__delitem__(30),
    "delete in the root": lambda tree: tree.__delitem__(tree.root.items[0][0]),
    "look up": lambda tree: (tree[22], tree.get(23), 24 in tree),
    "iterate": lambda tree: (tree.items(), list(reversed(tree))),
    "range": lambda tree: list(tree.items_range(5, 50)),
}
FIRST = 40
"""So many allocations fail at least: one that Python itself can do without does not end the test."""


def tree_of_three_levels(is_stored: bool) -> tuple[BTree[int, int], Connection | None]:
    tree: BTree[int, int] = BTree(BNode)
    for key in [*range(0, 60, 2), *range(21, 40, 2)]:
        tree[key] = -key
    connection = None
    if is_stored:
        connection = Connection(MemoryStorage())
        connection.get_root()["tree"] = tree
        connection.commit()
    assert len(tree) == len(tree.items())
    return tree, connection


@pytest.mark.spec("OBJ-54", "OBJ-55")
@pytest.mark.parametrize("is_stored", [False, True], ids=["new", "stored"])
@pytest.mark.parametrize("name", CALLS)
@in_a_process_alone
def test_a_call_without_memory_changes_all_or_nothing(name: str, is_stored: bool) -> None:
    call = CALLS[name]
    changed, _ = tree_of_three_levels(False)
    before = changed.items()
    call(changed)
    number, has_failed = 0, True
    while has_failed or number < FIRST:
        tree, connection = tree_of_three_levels(is_stored)
        has_failed = call_without_memory(number, call, tree) is NO_MEMORY
        if connection is None or not connection._guard.is_interrupted:
            tree.check()
            assert tree.items() in ([before, changed.items()] if has_failed else [changed.items()])
            assert len(tree) == len(tree.items())
        number += 1

"""BTree: what a sorted mapping does, and what of it is stored."""

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from durus import btree, persistent
from durus.btree import BNode, BNode4, BNode16, BTree
from durus.connection import Connection
from durus.error import ArgumentError, StateError, WriteConflictError
from durus.persistent import Persistent, PersistentObject
from durus.serialize import RecordConnection
from durus.shared_storage import SharedStorage
from durus.storage import MemoryStorage

ALL_CLASSES = [cls for cls in vars(btree).values() if isinstance(cls, type) and issubclass(cls, BNode)]


def tree_of(*keys: int, cls: type[BNode[int, str]] = BNode) -> BTree[int, str]:
    tree: BTree[int, str] = BTree(cls)
    for key in keys:
        tree[key] = str(key)
    return tree


def test_it_is_a_mapping_that_is_sorted() -> None:
    tree = tree_of(5, 1, 9, 3)
    assert tree.keys() == [1, 3, 5, 9]
    assert tree.values() == ["1", "3", "5", "9"]
    assert tree.items() == [(1, "1"), (3, "3"), (5, "5"), (9, "9")]
    assert list(reversed(tree)) == [9, 5, 3, 1]
    assert (len(tree), bool(tree), bool(tree_of())) == (4, True, False)
    assert 3 in tree
    assert 4 not in tree
    assert tree.get(4) is None
    assert tree.get(4, "none") == "none"
    assert tree == {1: "1", 3: "3", 5: "5", 9: "9"}
    assert tree.get_min_item() == (1, "1")
    assert tree.get_max_item() == (9, "9")
    assert tree.setdefault(3, "other") == "3"
    assert tree.pop(3) == "3"
    assert tree.popitem() == (1, "1")
    tree.update({7: "7"})
    marks: BTree[int, object] = BTree()
    marks.add(8)
    assert marks[8] is True
    tree.clear()
    assert tree.items() == []
    for call in (tree.get_min_item, tree.get_max_item, lambda: tree[5], lambda: tree.__delitem__(5)):
        with pytest.raises(KeyError):
            call()


def test_ranges_go_forwards_and_backwards_with_open_or_closed_ends() -> None:
    tree = tree_of(*range(0, 100, 10))

    def keys(items: object) -> list[int]:
        return [key for key, _ in items]  # type: ignore[attr-defined]  # an iterator of pairs

    assert keys(tree.items_from(30))[:2] == [30, 40]
    assert keys(tree.items_from(30, closed=False))[:2] == [40, 50]
    assert keys(tree.items_from(35))[:2] == [40, 50]
    assert keys(tree.items_backward_from(30))[:2] == [20, 10]
    assert keys(tree.items_backward_from(30, closed=True))[:2] == [30, 20]
    assert keys(tree.items_backward_from(1000))[:1] == [90]
    assert keys(tree.items_range(20, 50)) == [20, 30, 40]
    assert keys(tree.items_range(20, 50, closed_start=False, closed_end=True)) == [30, 40, 50]
    assert keys(tree.items_range(50, 20)) == [50, 40, 30]
    assert keys(tree.items_range(50, 20, closed_start=False, closed_end=True)) == [40, 30, 20]
    assert keys(tree.items_range(20, 20, closed_end=True)) == [20]
    assert keys(tree.items_range(20, 20)) == []
    assert list(tree.irange(20, 50)) == [20, 30, 40, 50]
    assert list(tree.irange(20, 50, (False, False))) == [30, 40]
    assert list(tree.irange(20, 50, (True, False), reverse=True)) == [40, 30, 20]
    assert list(tree.irange(maximum=15)) == [0, 10]
    assert list(tree.irange(75)) == [80, 90]
    assert list(tree.irange(reverse=True)) == keys(tree.items_backward())


@pytest.mark.spec("OBJ-31")
@pytest.mark.parametrize("cls", [BNode, BNode4, BNode16])
def test_a_tree_built_of_sorted_items_is_sound_for_every_number_of_them(cls: type[BNode[int, int]]) -> None:
    for count in [*range(200), 5000]:
        tree = BTree.from_sorted(((n, -n) for n in range(count)), cls)
        tree.check()
        assert tree.items() == [(n, -n) for n in range(count)]
    with pytest.raises(ArgumentError, match="the key 2 does not come after 3"):
        BTree.from_sorted([(1, 0), (3, 0), (2, 0)], cls)
    with pytest.raises(ArgumentError, match="the key 1 does not come after 1"):
        BTree.from_sorted([(1, 0), (1, 0)], cls)


def test_an_iteration_goes_on_though_the_tree_changes() -> None:
    tree = tree_of(*range(0, 1000, 2))
    seen = []
    for key in tree:
        seen.append(key)
        if key % 4 == 0:
            del tree[key]
            tree[key + 1] = "new"
            tree[key + 501] = "new"
    assert seen == sorted(set(seen))
    assert set(range(0, 1000, 2)) <= set(seen)
    assert set(range(601, 1000, 4)) <= set(seen)
    tree.check()


@pytest.mark.parametrize("is_backward", [False, True])
def test_an_iteration_goes_on_past_an_item_that_is_deleted(is_backward: bool) -> None:
    """An item that separates two nodes is replaced by the one before it, which may not have come yet."""
    for number in range(60):
        tree = tree_of(*range(60))
        keys = reversed(tree) if is_backward else iter(tree)
        seen = [next(keys) for _ in range(number + 1)]
        del tree[seen[-1]]
        assert [*seen, *keys] == sorted(range(60), reverse=is_backward)


def test_an_iteration_can_be_closed() -> None:
    tree = tree_of(*range(50))
    for make in (tree.iteritems, tree.itervalues, tree.items_backward, lambda: iter(tree), lambda: tree.irange(3)):
        items: Any = make()
        next(items)
        items.close()
        items.close()
        assert list(items) == []


def test_an_iteration_that_raised_is_at_its_end() -> None:
    items = tree_of(*range(50)).items_from("x")  # type: ignore[arg-type]  # that is the point
    with pytest.raises(TypeError):
        next(items)
    assert list(items) == []


@pytest.mark.spec("OBJ-33")
def test_a_key_that_has_no_order_with_the_others_is_refused() -> None:
    tree = tree_of(*range(50))
    before = tree.items()
    for call in (
        lambda: tree.__setitem__("x", ""),  # type: ignore[index]  # that is the point
        lambda: tree["x"],  # type: ignore[index]
        lambda: tree.__contains__("x"),
        lambda: tree.__delitem__("x"),  # type: ignore[arg-type]
        lambda: list(tree.items_from("x")),  # type: ignore[arg-type]
        lambda: list(tree.items_range(1, "x")),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError, match=r"the keys .*\d+.* can't be ordered"):
            call()
    assert tree.items() == before
    with pytest.raises(TypeError, match="not equal to itself"):
        BTree[float, int]()[float("nan")] = 1


@pytest.mark.spec("OBJ-30", "OBJ-31")
def test_check_finds_what_is_wrong() -> None:
    def spoil(what: str) -> BTree[int, str]:
        tree = tree_of(*range(20), cls=BNode)
        root = tree.root
        assert root.nodes is not None
        match what:
            case "order":
                root.nodes[0].items.reverse()
            case "few":
                root.nodes[0].items.clear()
            case "many":
                root.nodes[-1].items.extend((n, "") for n in range(100, 110))
            case "depth":
                root.nodes[1].nodes = None
            case "children":
                root.nodes.pop()
        return tree

    tree_of(*range(20)).check()
    assert all(BTree(cls).root.minimum_degree == int(cls.__name__[5:] or 2) for cls in ALL_CLASSES)
    assert len(ALL_CLASSES) == 9
    for what in ("order", "few", "many", "depth", "children"):
        with pytest.raises(StateError):
            spoil(what).check()


def test_the_degree_of_nodes_can_be_changed() -> None:
    tree = tree_of(*range(100), cls=BNode16)
    assert tree.set_bnode_minimum_degree(4)
    assert type(tree.root) is BNode4
    assert tree.keys() == list(range(100))
    tree.check()
    assert tree.get_depth() == 2 or tree.get_depth() == 3
    assert tree.get_node_count() > 10
    assert not tree.set_bnode_minimum_degree(4)
    assert not tree.set_bnode_minimum_degree(5)
    with pytest.raises(TypeError, match="class of its nodes"):
        BTree(dict)  # type: ignore[arg-type]  # that is the point


@pytest.mark.spec("OBJ-30", "OBJ-32")
def test_a_count_in_the_state_of_a_node_is_left_out() -> None:
    node: BNode[int, int] = BNode()
    node.__setstate__({"items": [(1, 2)], "nodes": None, "_count": 1})
    assert PersistentObject.__getstate__(node) == {"items": [(1, 2)], "nodes": None}
    assert PersistentObject.__getstate__(BTree()).keys() == {"root"}


def test_a_stored_tree_outlives_the_cache_and_the_process(tmp_path: Path) -> None:
    keys = list(range(3000))
    random.Random(1).shuffle(keys)
    with Connection(tmp_path / "f", cache_size=20) as connection:
        tree: BTree[int, int] = BTree(BNode4)
        connection.get_root()["tree"] = tree
        for number, key in enumerate(keys):
            tree[key] = -key
            if number % 100 == 0:
                connection.commit()
        connection.commit()
        assert connection.cache.get_loaded_count() <= 20
        for number, (key, value) in enumerate(tree.iteritems()):
            assert (key, value) == (number, -number)
            if number % 100 == 0:
                connection.commit()
                assert connection.cache.get_loaded_count() <= 20
    with Connection(tmp_path / "f") as connection:
        found: BTree[int, int] = connection.get_root()["tree"]
        found.check()
        assert found.items() == [(n, -n) for n in range(3000)]


@pytest.mark.spec("OBJ-24")
@pytest.mark.parametrize("walk", [BTree.check, BTree.get_node_count, BTree.__len__])
def test_a_walk_over_all_nodes_keeps_to_the_cache_size_and_counts_as_reading_them(
    walk: Callable[[BTree[int, int]], object],
) -> None:
    server = SharedStorage(MemoryStorage())
    one, two = Connection(server.new_client(), cache_size=20), Connection(server.new_client())
    tree: BTree[int, int] = BTree.from_sorted(((n, n) for n in range(3000)), BNode4)
    one.get_root()["tree"] = tree
    one.commit()
    tree[0] = -1
    walk(tree)
    assert one.cache.get_loaded_count() <= 30  # with those that the application itself has used
    assert tree[0] == -1
    two.abort()
    two.get_root()["tree"][2999] = -1
    two.commit()
    with pytest.raises(WriteConflictError):
        one.commit()


@pytest.mark.spec("OBJ-8")
@pytest.mark.parametrize("cls", [BNode, BNode4])
@pytest.mark.parametrize("seed", [1, 2])
def test_what_a_call_changes_in_any_node_outlives_an_eviction(cls: type[BNode[int, str]], seed: int) -> None:
    keys = list(range(100))
    random.Random(seed).shuffle(keys)
    connection = Connection(MemoryStorage())
    tree: BTree[int, str] = BTree(cls)
    connection.get_root()["tree"] = tree
    expected: dict[int, str] = {}

    def evict_compare_and_commit() -> None:
        for obj in connection.cache.loaded_objects():
            if obj._p_is_saved() and obj._p_oid is not None:
                connection.cache.make_ghost(obj._p_oid)
        tree.check()
        assert tree.items() == sorted(expected.items())
        connection.commit()

    connection.commit()
    for key in keys:
        tree[key] = expected[key] = "set"
        evict_compare_and_commit()
    for key in keys[::10]:
        tree[key] = expected[key] = "changed"
        evict_compare_and_commit()
    for key in sorted(keys, key=lambda key: (key * 37) % 101):
        del tree[key], expected[key]
        evict_compare_and_commit()


def test_a_copy_has_nodes_of_its_own() -> None:
    tree = tree_of(1, 2, 3)
    copied = copy.copy(tree)
    for key in range(10, 50):
        copied[key] = str(key)
    assert tree.keys() == [1, 2, 3]
    assert type(copied.root) is type(tree.root)


def test_only_what_is_changed_is_stored() -> None:
    connection = Connection(MemoryStorage())
    tree = BTree.from_sorted(((2 * n, []) for n in range(1000)), BNode16)
    connection.get_root()["tree"] = tree
    connection.commit()
    tree[501] = []
    assert [type(obj) for obj in connection.changed.values()] == [BNode16, BNode16] or len(connection.changed) <= 2
    connection.commit()
    tree[500].append(1)
    assert connection.changed == {}
    tree.note_change_of_bnode_containing_key(500)
    assert len(connection.changed) == 1
    connection.abort()
    del tree[501]
    tree[0] = tree[0]
    assert len(connection.changed) <= 3
    with pytest.raises(KeyError):
        tree.note_change_of_bnode_containing_key(-1)


def test_clients_that_insert_into_different_leaves_do_not_conflict() -> None:
    storage = SharedStorage(MemoryStorage())
    one, two = Connection(storage.new_client()), Connection(storage.new_client())
    one.get_root()["tree"] = BTree.from_sorted(((10 * n, n) for n in range(40)), BNode16)
    one.commit()
    one.get_root()["tree"][1] = 1
    one.get_root()["tree"][391] = 1
    one.commit()
    two.abort()
    one.get_root()["tree"][2] = 2
    two.get_root()["tree"][392] = 2
    one.commit()
    two.commit()
    one.get_root()["tree"][3] = 3
    two.get_root()["tree"][4] = 4
    one.commit()
    with pytest.raises(WriteConflictError):
        two.commit()


def stored_tree(storage: SharedStorage, *keys: int) -> tuple[Connection, BTree[int, str]]:
    """Return a client of the storage and the tree that it has stored."""
    connection = Connection(storage.new_client())
    tree = tree_of(*keys)
    connection.get_root()["tree"] = tree
    connection.commit()
    return connection, tree


def tree_in(connection: Connection) -> BTree[int, str]:
    tree = connection.get_root()["tree"]
    assert isinstance(tree, BTree)
    return tree


@pytest.mark.spec("OBJ-34")
def test_a_length_is_counted_once() -> None:
    connection, tree = stored_tree(SharedStorage(MemoryStorage()), *range(100))
    assert len(tree) == 100
    connection.commit()
    for obj in connection.cache.loaded_objects():
        obj._p_set_status_ghost()
    before = connection.get_load_count()
    assert len(tree) == 100
    assert connection.get_load_count() == before + 1  # the tree itself, and none of its nodes
    for key in range(50, 300):
        tree[key] = "new"
    for key in range(0, 120, 2):
        del tree[key]
    assert len(tree) == 240
    connection.commit()
    before = connection.get_load_count()
    assert len(tree) == 240
    assert connection.get_load_count() == before
    assert "_p_count" not in tree.__getstate__()


@pytest.mark.spec("OBJ-34")
def test_a_length_that_is_kept_counts_as_reading_all_nodes() -> None:
    storage = SharedStorage(MemoryStorage())
    connection, tree = stored_tree(storage, *range(100))
    assert len(tree) == 100
    connection.commit()
    second_client = Connection(storage.new_client())
    assert len(tree) == 100
    connection.get_root()["length"] = len(tree)
    del tree_in(second_client)[50]
    second_client.commit()
    with pytest.raises(WriteConflictError):
        connection.commit()
    connection.abort()
    assert len(tree) == 99


@pytest.mark.spec("OBJ-34")
def test_a_length_is_counted_anew_when_others_change_nodes_that_came_since() -> None:
    storage = SharedStorage(MemoryStorage())
    connection, tree = stored_tree(storage, *range(10))
    assert len(tree) == 10
    for key in range(10, 40):  # makes new nodes
        tree[key] = "new"
    connection.commit()
    second_client = Connection(storage.new_client())
    tree_in(second_client)[1000] = "last"
    second_client.commit()
    connection.abort()
    assert 1000 in tree  # which loads the node
    assert len(tree) == 41
    connection.commit()
    second_client.abort()
    second_client.get_root()["other"] = 1
    second_client.commit()
    before = connection.get_load_count()
    connection.abort()
    assert len(tree) == 41
    assert connection.get_load_count() == before


@pytest.mark.spec("OBJ-34")
def test_a_length_is_right_after_an_abort_and_after_clearing() -> None:
    connection, tree = stored_tree(SharedStorage(MemoryStorage()), *range(100))
    assert len(tree) == 100
    connection.commit()
    del tree[0]
    tree[200] = "new"
    tree[201] = "new"
    assert len(tree) == 101
    connection.abort()
    assert len(tree) == 100
    tree.set_bnode_minimum_degree(16)
    assert len(tree) == 100
    tree.clear()
    assert len(tree) == 0
    connection.abort()
    assert len(tree) == 100
    assert len(copy.copy(tree)) == 100


@pytest.mark.spec("OBJ-34")
def test_a_length_is_counted_anew_after_more_changes_than_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persistent, "_MAX_DROPPED", 1)
    storage = SharedStorage(MemoryStorage())
    connection, tree = stored_tree(storage, *range(10))
    assert len(tree) == 10
    second_client = Connection(storage.new_client())
    second_client.get_root()["other"] = [Persistent(), Persistent()]
    tree_in(second_client)[10] = "new"
    second_client.commit()
    connection.abort()
    assert len(tree) == 11


def test_the_length_of_a_tree_that_is_not_stored_follows_its_changes() -> None:
    tree = tree_of(*range(50))
    assert len(tree) == 50
    del tree[7]
    assert len(tree) == 49


@pytest.mark.spec("OBJ-34")
def test_nodes_that_were_merged_away_count_no_longer_as_read() -> None:
    storage = SharedStorage(MemoryStorage())
    connection, tree = stored_tree(storage, *range(50))
    assert len(tree) == 50
    for key in range(5, 50):
        del tree[key]
    connection.commit()
    connection.get_root()["length"] = len(tree)
    Connection(storage.new_client()).pack()
    connection.commit()
    assert len(tree) == 5


@pytest.mark.parametrize("key", [None, float("nan"), 1j])
def test_a_key_that_has_no_place_in_an_order_is_refused_by_an_empty_tree(key: object) -> None:
    tree: BTree[object, int] = BTree()
    for insert in (lambda: tree.__setitem__(key, 1), lambda: BTree.from_sorted([(key, 1)])):
        with pytest.raises(TypeError, match=r"None|nan|1j"):
            insert()
    assert not tree


@pytest.mark.spec("OBJ-30")
def test_a_nan_is_no_key() -> None:
    tree: BTree[float, int] = BTree(BNode4)
    for number in range(100):
        tree[float(number)] = number
    nan = float("nan")
    assert nan not in tree
    assert tree.get(nan) is None
    with pytest.raises(TypeError, match="not equal to itself"):
        tree[nan] = 1
    with pytest.raises(KeyError):
        del tree[nan]
    assert list(tree.values()) == list(range(100))


class DescribedNode(BNode4[int, str]):
    """Has a __dict__, unlike its nodes."""


@pytest.mark.spec("OBJ-12", "OBJ-32")
def test_a_node_takes_over_a_state_and_nothing_else_remains() -> None:
    for cls in (BNode4, DescribedNode):
        node: BNode[int, str] = cls()
        if cls is DescribedNode:
            node.__dict__["note"] = "gone when it is loaded"
        for state in ({"items": [(1, "a")], "nodes": None}, {"items": [(2, "b")], "nodes": None, "_count": 1}):
            node.__setstate__(state)
            assert node.__getstate__() == {"items": state["items"], "nodes": None}
        node.__setstate__({"items": []})
        assert node.__getstate__() == {"items": []}


def test_a_tree_can_be_walked_where_a_commit_or_a_savepoint_looks_at_its_states() -> None:
    storage = MemoryStorage()
    connection = Connection(storage)
    connection.get_root()["tree"] = tree = BTree({number: number for number in range(1000)})
    connection.commit()
    apart = RecordConnection({}, storage.load).get(tree._p_oid or b"")
    assert isinstance(apart, BTree)
    assert len(apart) == 1000
    apart.check()

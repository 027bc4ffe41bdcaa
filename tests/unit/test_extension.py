"""The C extension and the pure Python that it stands for: which is in use, and that neither leaks.

All other tests run on both, since tox has an environment for each.
"""

import abc
import contextlib
import gc
import inspect
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from durus import persistent
from durus.btree import BNode, BTree
from durus.connection import Connection
from durus.persistent import ConnectionBase, Persistent, PersistentBase
from durus.storage import MemoryStorage

ROUNDS = 200


class Node(Persistent):
    def __init__(self) -> None:
        self.other: Node | None = None


class Abstract(Persistent):
    @property
    def broken(self) -> int:
        raise ValueError("broken")


def told_by_a_new_process(**environment: str) -> str:
    code = "import durus.persistent; print(durus.persistent.implementation)"
    variables = {name: value for name, value in os.environ.items() if name != "DURUS_PURE_PYTHON"} | environment
    return subprocess.run(
        [sys.executable, "-P", "-c", code], env=variables, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_the_environment_turns_the_extension_off() -> None:
    assert told_by_a_new_process(DURUS_PURE_PYTHON="1") == "Python"


def test_the_extension_is_used_where_it_was_built() -> None:
    pytest.importorskip("durus._persistent", reason="the extension was not built")
    assert told_by_a_new_process() == told_by_a_new_process(DURUS_PURE_PYTHON="0") == "C"


def test_the_extension_never_runs_without_the_gil() -> None:
    """A free-threaded build of Python turns the lock on for it, and warns; other builds have nothing else."""
    pytest.importorskip("durus._persistent", reason="the extension was not built")
    code = "import sys, durus._persistent; print(getattr(sys, '_is_gil_enabled', lambda: True)())"
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "True\n"


def use_everything() -> None:
    connection = Connection(MemoryStorage())
    root = connection.get_root()
    node = root["x"] = Node()
    node.other = Node()
    node.other.other = node
    connection.commit()
    connection.cache.make_ghost(node._p_oid or b"")
    assert node.other is not None
    node.other = None
    del node.other
    connection.abort()
    assert node.other is not None
    node._p_note_change()
    connection.commit()
    connection.close()


def fail_everywhere() -> None:
    obj = Abstract()
    for fail, error in FAILURES:
        with pytest.raises(error):
            fail(obj)


FAILURES: list[tuple[Callable[[Abstract], object], type[Exception]]] = [
    (lambda obj: obj.broken, ValueError),
    (lambda obj: getattr(obj, "nothing"), AttributeError),  # noqa: B009  # mypy would see it
    (lambda obj: delattr(obj, "nothing"), AttributeError),
    (lambda obj: setattr(obj, "broken", 1), AttributeError),
    (lambda obj: Persistent(1), TypeError),  # type: ignore[call-arg]  # that is the point
    (lambda obj: ConnectionBase().load_state(obj), NotImplementedError),
    (lambda obj: getattr(ghost_of_nothing(), "anything"), NotImplementedError),  # noqa: B009  # mypy would see it
]


def ghost_of_nothing() -> Node:
    return persistent.new_ghost(Node, bytes(8), ConnectionBase())


def use_trees() -> None:
    connection = Connection(MemoryStorage())
    root = connection.get_root()
    for tree in (BTree[Any, Any](BNode), BTree[Any, Any](BNode)):
        for key in [*range(0, 60, 2), *range(1, 60, 2), "a", (1, 2), 2.5]:
            with contextlib.suppress(TypeError):
                tree[key] = Node()
        assert (len(tree), 7 in tree, tree.get(-1), tree.get(-1, 3)) == (61, True, None, 3)
        assert tree.get(-1, default=3) == 3  # type: ignore[call-overload]  # as a dict does not, and 4.3 does
        root["tree"] = tree  # the second one in place of the first
        connection.commit()
    connection.cache.make_ghost(tree.root._p_oid or b"")
    begun = [tree.iteritems(), reversed(tree), tree.items_range(50, 7), tree.items_from(6), tree.irange(3, 9)]
    for items in begun[1:]:
        next(items)
    for key in list(tree)[::2]:
        del tree[key]
    for items in begun[2:]:
        assert list(items)
    for wrong in "a", None, float("nan"), 1j, (1, "a"):
        assert not isinstance(wrong, int)
        for call in tree.__getitem__, tree.__contains__, tree.__delitem__, tree.items_from, tree.get:
            with contextlib.suppress(TypeError, KeyError):
                for _ in call(wrong) or ():  # type: ignore[union-attr]  # of some an iterator
                    pass
    tree.note_change_of_bnode_containing_key(tree.get_min_item()[0])
    while tree:
        tree.popitem()
    connection.abort()
    assert BTree.from_sorted(tree.items()).keys() == list(tree)
    connection.close()


@pytest.mark.parametrize("work", [use_everything, fail_everywhere, use_trees])
def test_nothing_is_left_behind(work: Callable[[], None]) -> None:
    counts = []
    for _ in range(4):
        for _ in range(ROUNDS):
            work()
        gc.collect()
        counts.append((sys.getallocatedblocks(), sys.getrefcount(None), len(gc.get_objects())))
    blocks, nones, objects = (last - before for before, last in zip(counts[-2], counts[-1], strict=True))
    assert max(blocks, nones, objects) < ROUNDS / 2, counts


@pytest.mark.parametrize("name", ["x", "_p", "_p_x", "__class__", "__repr__", "__setstate__", "ä", "_pä"])
def test_only_some_names_are_no_access(name: str) -> None:
    obj = ghost_of_nothing()
    if name.startswith("_p_") or name in ("__class__", "__repr__", "__setstate__"):
        getattr(obj, name, None)
    else:
        with pytest.raises(NotImplementedError):
            getattr(obj, name, None)


def test_a_connection_that_is_in_the_ring_with_its_objects_is_collected() -> None:
    connection = ConnectionBase()
    obj = Node()
    obj._p_connection = connection
    connection.__dict__["obj"] = obj
    del obj, connection
    assert gc.collect() >= 2


class Shape(abc.ABC, Persistent):
    @abc.abstractmethod
    def area(self) -> int: ...


@pytest.mark.spec("OBJ-67")
def test_an_abstract_class_has_ghosts_and_stays_abstract() -> None:
    ghost = persistent.new_ghost(Shape, bytes(8), ConnectionBase())  # type: ignore[type-abstract]  # on purpose
    assert (type(ghost), ghost._p_status) == (Shape, persistent.GHOST)
    with pytest.raises(TypeError, match="abstract"):
        Shape()  # type: ignore[abstract]  # on purpose


@pytest.mark.spec("TXN-2")
def test_an_access_is_noted_in_a_set_only() -> None:
    obj = Node()
    connection = obj._p_connection = ConnectionBase()
    obj._p_oid, connection.transaction_serial = bytes(8), 1
    assert obj.other is None
    assert set(connection.accessed) == {bytes(8)}
    connection.transaction_serial = 2
    with pytest.raises((TypeError, AttributeError)):
        _put_and_read(connection, obj)


def _put_and_read(connection: ConnectionBase, obj: Node) -> None:
    connection.accessed = ()  # type: ignore[assignment]  # which C refuses here, and Python below
    assert obj.other is None


def test_an_oid_in_c_is_8_bytes_or_none() -> None:
    if persistent.implementation != "C":
        pytest.skip("in Python it is whatever somebody has put there")
    obj = Node()
    for oid in (bytes(8), b"\xff" * 8, b"\x01\x02\x03\x04\x05\x06\x07\x08", None):
        obj._p_oid = oid
        assert obj._p_oid == oid
    for wrong in (b"", bytes(7), bytes(9), bytearray(8), 1, "12345678"):
        with pytest.raises(TypeError, match="must be 8 bytes or None, not"):
            obj._p_oid = wrong  # type: ignore[assignment]  # on purpose
        assert obj._p_oid is None
    obj._p_oid = bytes(8)
    del obj._p_oid
    assert obj._p_oid is None


@pytest.mark.spec("OBJ-8", "OBJ-60")
@pytest.mark.parametrize("name", ["_p_x", "_p_\u4e2d"])
def test_names_of_this_library_are_no_change_whatever_letters_follow(name: str) -> None:
    obj = persistent.new_ghost(Node, bytes(8), ConnectionBase())
    with pytest.raises(AttributeError, match="belong to Durus"):
        setattr(obj, name, 1)
    with pytest.raises(AttributeError):
        delattr(obj, name)
    obj._p_serial = 7
    assert (obj._p_is_ghost(), obj._p_serial) == (True, 7)


def test_both_tell_the_arguments_of_a_class_in_the_same_way() -> None:
    assert list(inspect.signature(Persistent).parameters) == ["args", "kwargs"]


@pytest.mark.spec("OBJ-14")
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_makes_a_new_object_by_each_protocol(protocol: int) -> None:
    node = Node()
    copied = pickle.loads(pickle.dumps(node, protocol))
    assert copied is not node
    assert copied.other is None
    assert copied._p_connection is None
    assert copied._p_is_unsaved()


class Telling(Persistent):
    """Tells when it is changed."""

    changes = 0

    def _p_note_change(self) -> None:
        Telling.changes += 1
        super()._p_note_change()


class TellingConnection(ConnectionBase):
    def __init__(self) -> None:
        super().__init__()
        self.told: list[PersistentBase] = []

    def note_change(self, obj: PersistentBase) -> None:
        self.told.append(obj)
        super().note_change(obj)


@pytest.mark.spec("OBJ-8")
def test_a_subclass_may_do_more_when_a_change_is_noted() -> None:
    connection = TellingConnection()
    obj: Any = Telling()
    obj._p_oid, obj._p_connection, obj._p_status = bytes(8), connection, persistent.SAVED
    before = Telling.changes
    obj.x = 1
    obj.x = 2
    assert Telling.changes == before + 1
    assert connection.told == [obj]
    assert connection.changed == {bytes(8): obj}


class Rounded(Persistent):
    __slots__ = ("side",)

    side: int

    @property
    def area(self) -> int:
        raise ValueError("computed")


@pytest.mark.spec("OBJ-12")
def test_names_that_the_class_has_a_meaning_for_are_stored_attributes_like_others() -> None:
    state = {"side": 1, "area": 2, "n": 3, "_p_oid": b"none"}
    obj = persistent.new_ghost(Rounded, bytes(8), ConnectionBase())
    persistent.take_state(obj, state, persistent.has_plain_state(Rounded))
    assert obj._p_is_saved()
    assert obj._p_oid == bytes(8)
    obj._p_connection = None
    assert obj.side == 1
    assert obj.__dict__ == {"area": 2, "n": 3, "_p_oid": b"none"}


def test_base_class_alone_tracks_too() -> None:
    obj: Any = persistent.new_ghost(PersistentBase, bytes(8), ConnectionBase())
    for use in (lambda: obj.x, lambda: setattr(obj, "x", 1), lambda: delattr(obj, "x")):
        with pytest.raises(NotImplementedError):
            use()

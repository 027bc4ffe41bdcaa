"""One connection to one storage, with calls in any order, compared with the graph that it must hold."""

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import Any
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from durus import progress
from durus.connection import Connection
from durus.error import (
    DurusWarning,
    ReadConflictError,
    TransactionError,
    UnsoundTailError,
    UnstorableError,
    WriteConflictError,
)
from durus.file_storage import FileStorage
from durus.files.file import File, Mode, OperatingSystem, OperatingSystemFile
from durus.persistent import Persistent, PersistentObject
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.progress import Progress
from durus.records.record import split_oids, unpack_record
from durus.shared_storage import SharedStorage
from durus.storage import MemoryStorage, Storage
from tests.model.graph import ROOT, UNSTORABLE, Contents, Graph, Kind, Ref, Value, reached, refs

NAMES = ("a", "b", "c")
LOCK = Lock()


class Free(Persistent):
    pass


class Slotted(PersistentObject):
    __slots__ = NAMES


CLASSES: dict[Kind, type[PersistentObject]] = {
    "persistent": Free,
    "slots": Slotted,
    "dict": PersistentDict,
    "list": PersistentList,
}

KINDS = tuple(CLASSES)

Edit = tuple[str, int, int, int]
"""What to do, to which node, at which of its places, and with what."""

picks = st.integers(0, 63)
"""Choose one of however many there are, by the remainder."""
places = st.integers(0, len(NAMES) - 1)
cache_sizes = st.sampled_from([100, 1, 2, 4])
edits = st.lists(
    st.tuples(
        st.sampled_from(["change", "attach", "attach", "create", "share", "share two", "delete", "hold", "let go"]),
        picks,
        places,
        picks,
    ),
    min_size=1,
    max_size=8,
)


def contents_of(obj: Any) -> dict[str | int, object]:
    """Return everything that an object holds, read as applications read it."""
    if isinstance(obj, PersistentDict):
        return dict(obj.items())
    if isinstance(obj, PersistentList):
        return dict(enumerate(obj))
    if isinstance(obj, Free):
        return {name: value for name, value in vars(obj).items()}  # noqa: C416 (dict() would have another type)
    found: dict[str | int, object] = {}
    found.update((name, getattr(obj, name)) for name in NAMES if hasattr(obj, name))
    return found


def set_in(obj: Any, key: str | int, value: object) -> None:
    if isinstance(obj, PersistentList) and key == len(obj):
        obj.append(value)
    elif isinstance(obj, PersistentList):
        obj[int(key)] = value
    elif isinstance(obj, PersistentDict):
        obj[key] = value
    else:
        setattr(obj, str(key), value)


def delete_in(obj: Any, key: str | int) -> None:
    if isinstance(obj, PersistentList):
        del obj[int(key)]
    elif isinstance(obj, PersistentDict):
        del obj[key]
    else:
        delattr(obj, str(key))


def compare(
    graph: Graph, states: dict[int, Contents], objects: dict[int, Any], closed: set[int] | None = None
) -> dict[int, Any]:
    """Walk from `objects` along the graph; each node must be one object, which holds what `states` has.

    Return the object of each node. Those of `closed` are not looked into.
    """
    found = dict(objects)
    pending = list(objects)

    def same(value: object, expected: Value) -> bool:
        if expected is UNSTORABLE:
            return value is LOCK
        if isinstance(expected, tuple):
            return isinstance(value, tuple) and all(map(same, value, expected)) and len(value) == len(expected)
        if isinstance(expected, Ref):
            if expected.node not in found:
                found[expected.node] = value
                pending.append(expected.node)
            return found[expected.node] is value
        return value == expected

    while pending:
        node = pending.pop()
        if closed and node in closed:
            continue
        obj, expected = found[node], states[node]
        assert type(obj) is CLASSES[graph.kinds[node]]
        contents = contents_of(obj)
        assert contents.keys() == expected.keys(), (node, contents, expected)
        for key, value in contents.items():
            assert same(value, expected[key]), (node, key, value, expected[key])
    assert len({id(obj) for obj in found.values()}) == len(found), "two nodes are one object"
    return found


def check_references(storage: Storage) -> int:
    """Return how many records there are, all of whose references lead to a record."""
    references = {oid: split_oids(unpack_record(record)[2]) for oid, record in storage.gen_oid_record()}
    for oid, found in references.items():
        assert references.keys() >= set(found), f"oid {oid.hex()} refers to what is not there"
    return len(references)


class ConnectionMachine(RuleBasedStateMachine):
    """The rules that hold over any storage."""

    storage: Storage
    connection: Connection

    def __init__(self) -> None:
        super().__init__()
        self.graph = Graph()
        self.held: dict[int, Any] = {}
        """Objects to which the application keeps references, by node; all others may leave memory."""
        self.walks_always = True

    def open(self) -> None:
        raise NotImplementedError

    def reader(self) -> Storage:
        """Return a storage through which another client sees the committed state."""
        raise NotImplementedError

    @initialize(walks_always=st.booleans(), cache_size=cache_sizes)
    def begin(self, walks_always: bool, cache_size: int) -> None:
        self.walks_always = walks_always
        self.open()
        self.connection.set_cache_size(cache_size)

    # Finding nodes and their objects

    def usable(self) -> list[int]:
        """Return the nodes whose objects an application can reach."""
        return sorted(reached(self.graph.working, [ROOT, *self.held], outside=self.graph.removed))

    def choose(self, pick: int) -> int:
        usable = self.usable()
        return usable[pick % len(usable)]

    def object_of(self, node: int) -> Any:
        """Return the object of a node, along a shortest path from the held objects, and load nothing else."""
        ways: dict[int, Any] = {ROOT: self.connection.get_root(), **self.held}
        generation = [start for start in ways if start not in self.graph.removed]
        while node not in ways:
            assert generation, f"node {node} is out of reach"
            following = []
            for start in generation:
                for key, value in self.graph.working[start].items():
                    targets = value if isinstance(value, tuple) else (value,)
                    for position, target in enumerate(targets):
                        if isinstance(target, Ref) and target.node not in ways:
                            ways[target.node] = (start, key, position if isinstance(value, tuple) else None)
                            following.append(target.node)
            generation = [start for start in following if start not in self.graph.removed]
        return self._follow(ways, node)

    def _follow(self, ways: dict[int, Any], node: int) -> Any:
        way = ways[node]
        if not isinstance(way, tuple):
            return way
        start, key, position = way
        obj = self._follow(ways, start)
        value = getattr(obj, key) if isinstance(obj, Free | Slotted) else obj[key]
        return value if position is None else value[position]

    def write(self, node: int, place: int, value: Value, python_value: object) -> None:
        key: str | int = NAMES[place]
        if self.graph.kinds[node] == "list":
            key = min(place, len(self.graph.working[node]))
        set_in(self.object_of(node), key, python_value)
        self.graph.write(node, key, value)

    # Rules

    @rule(edits=edits, ending=st.sampled_from(["stay", "commit", "abort"]))
    def edit(self, edits: list[Edit], ending: str) -> None:
        for edit in edits:
            self.apply(edit)
        if ending == "commit":
            self.commit(repairs=False)
        elif ending == "abort":
            self.abort()

    @rule(edits=edits)
    def edit_and_commit(self, edits: list[Edit]) -> None:
        self.edit(edits, "commit")

    @rule(pick=picks, key=picks)
    def detach_and_hold(self, pick: int, key: int) -> None:
        """Turn objects that the application still holds into garbage."""
        live = sorted(reached(self.graph.working, [ROOT], outside=self.graph.removed))
        owners = [node for node in live if refs(self.graph.working[node])]
        if owners:
            owner = owners[pick % len(owners)]
            for node in refs(self.graph.working[owner]):
                self.held[node] = self.object_of(node)
            self.delete(owner, key)
            self.commit(repairs=False)

    @rule(pick=picks, place=places, garbage=picks)
    def attach_garbage(self, pick: int, place: int, garbage: int) -> None:
        """Make garbage reachable again, with all that it refers to."""
        live = sorted(reached(self.graph.working, [ROOT], outside=self.graph.removed))
        lost = [node for node in self.usable() if node in self.graph.stored and node not in live]
        if lost:
            node = lost[garbage % len(lost)]
            self.write(live[pick % len(live)], place, Ref(node), self.object_of(node))
            self.commit(repairs=False)

    def apply(self, edit: Edit) -> None:
        action, pick, place, other = edit
        node = self.choose(pick)
        kind = KINDS[other % len(KINDS)]
        if action == "create":
            self.held[self.graph.create(kind)] = CLASSES[kind]()
        elif action == "attach":
            self.write(node, place, Ref(self.graph.create(kind)), CLASSES[kind]())
        elif action == "change":
            value: int | str = "worth compressing " * 50 if other == 63 else other
            self.write(node, place, value, value)
        elif action == "share":
            shared = self.choose(other)
            self.write(node, place, Ref(shared), self.object_of(shared))
        elif action == "share two":
            both = [self.choose(other), self.choose(other + 1)]
            self.write(node, place, tuple(map(Ref, both)), tuple(map(self.object_of, both)))
        elif action == "delete":
            self.delete(node, other)
        elif action == "hold":
            self.held[node] = self.object_of(node)
        elif self.held:
            del self.held[sorted(self.held)[pick % len(self.held)]]

    def delete(self, node: int, pick: int) -> None:
        keys = list(self.graph.working[node])
        if keys:
            key = len(keys) - 1 if self.graph.kinds[node] == "list" else keys[pick % len(keys)]
            delete_in(self.object_of(node), key)
            self.graph.delete(node, key)

    @rule(repairs=st.booleans())
    def commit(self, repairs: bool) -> None:
        self.try_commit()
        if self.graph.outcome() == "unstorable" and repairs:
            for node in self.graph.to_store().intersection(self.usable()):
                for key in [key for key, value in self.graph.working[node].items() if value is UNSTORABLE]:
                    set_in(self.object_of(node), key, 0)
                    self.graph.write(node, key, 0)
            self.try_commit()
        if self.graph.changed:
            self.abort()
        self.compare_with_reader()

    def try_commit(self) -> None:
        """Commit if possible; otherwise check that nothing is stored and the transaction stays open."""
        outcome = self.graph.outcome()
        before = dict(self.storage.gen_oid_record())
        known = self.graph.stored.keys() | self.graph.removed
        new = [obj for node, obj in self.held.items() if node not in known]
        if outcome == "stored":
            try:
                self.connection.commit()
            except WriteConflictError:
                # Of what a pack removed during this transaction, reading alone may be a conflict. [TXN-13]
                assert self.graph.removed
            else:
                self.graph.commit()
                self.check_that_removed_objects_have_no_state()
                return
        else:
            with pytest.raises(UnstorableError if outcome == "unstorable" else WriteConflictError):
                self.connection.commit()
        assert dict(self.storage.gen_oid_record()) == before
        assert all(obj._p_oid is None for obj in new)
        self.walk()

    @rule(pick=picks, place=places, edits=edits, repairs=st.booleans())
    def commit_what_is_unstorable(self, pick: int, place: int, edits: list[Edit], repairs: bool) -> None:
        self.write(self.choose(pick), place, UNSTORABLE, LOCK)
        self.edit(edits, "stay")
        self.commit(repairs)

    @rule()
    def abort(self) -> None:
        self.connection.abort()
        self.graph.abort()
        self.check_that_removed_objects_have_no_state()

    @rule(edits=edits, size=cache_sizes, drop=st.sampled_from(["none", "one", "all"]), pick=picks)
    def evict(self, edits: list[Edit], size: int, drop: str, pick: int) -> None:
        self.edit(edits, "stay")
        cache = self.connection.get_cache()
        self.connection.set_cache_size(size)
        self.connection.shrink_cache()
        saved = [obj for obj in cache.loaded_objects() if obj._p_is_saved()]
        for obj in {"none": [], "one": saved[pick : pick + 1], "all": saved}[drop]:
            assert obj._p_oid is not None
            cache.make_ghost(obj._p_oid)
        self.walk()

    @rule(batch_size=st.integers(1, 5))
    def crawl(self, batch_size: int) -> None:
        found = list(self.connection.get_crawler(batch_size=batch_size))
        assert len(found) == len(reached(self.graph.stored, [ROOT]))

    @precondition(lambda self: self.graph.packing is None)
    @rule(within_a_transaction=st.booleans())
    def pack(self, within_a_transaction: bool) -> None:
        if within_a_transaction:
            self.storage.pack()
        else:
            if self.connection.changed:
                with pytest.raises(TransactionError, match="not committed"):
                    self.connection.pack()
                self.connection.abort()
            self.connection.pack()
            self.graph.abort()
        self.graph.begin_pack()
        self.graph.end_pack()
        if not within_a_transaction:
            self.check_that_removed_objects_have_no_state()
        self.compare_with_reader()

    @precondition(lambda self: self.graph.removed & self.held.keys())
    @rule(node=picks, pick=picks, place=places)
    def use_what_a_pack_removed(self, node: int, pick: int, place: int) -> None:
        """It can't be read, and nothing that refers to it can be stored."""
        nodes = sorted(self.graph.removed & self.held.keys())
        removed = nodes[node % len(nodes)]
        if self.held[removed]._p_is_ghost():
            with pytest.raises(ReadConflictError):
                contents_of(self.held[removed])
        self.write(self.choose(pick), place, Ref(removed), self.held[removed])
        self.commit(repairs=False)

    # What holds after every step

    @invariant()
    def objects_are_as_the_graph_has_them(self) -> None:
        if self.walks_always:
            self.walk()

    @invariant()
    def stored_records_are_those_of_the_graph(self) -> None:
        assert check_references(self.storage) == len(self.graph.stored)

    def check_that_removed_objects_have_no_state(self) -> None:
        assert all(self.held[node]._p_is_ghost() for node in self.graph.removed & self.held.keys())

    def walk(self) -> None:
        objects = {ROOT: self.connection.get_root(), **self.held}
        found = compare(self.graph, self.graph.working, objects, self.graph.removed)
        for node, obj in found.items():
            assert (obj._p_oid is None) == (node not in self.graph.stored and node not in self.graph.removed)

    def compare_with_reader(self) -> None:
        reader = self.reader()
        compare(self.graph, self.graph.stored, {ROOT: Connection(SharedStorage(reader).new_client()).get_root()})
        if reader is not self.storage:
            reader.close()


class MemoryMachine(ConnectionMachine):
    """Over a MemoryStorage."""

    def open(self) -> None:
        self.storage = MemoryStorage()
        self.connection = Connection(self.storage)

    def reader(self) -> Storage:
        return self.storage


class NotingFile(OperatingSystemFile):
    """A file that remembers the length to which it was made durable."""

    def sync(self) -> None:
        super().sync()
        NotingFileSystem.durable.append(self.size())


class NotingFileSystem(OperatingSystem):
    """The operating system, with a list of the lengths at which files were synced."""

    durable: list[int] = []  # noqa: RUF012 (one for all, emptied before use)

    def open(self, path: str, mode: Mode) -> File:
        return NotingFile(path, mode)


class FileMachine(ConnectionMachine):
    """Over a FileStorage, which is also packed in steps, closed, and left by crashes."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="durus-machine-"))
        self.path = self.directory / "0" / "f.durus"
        self.path.parent.mkdir()
        self.packer: Iterator[Progress] | None = None
        self.small_steps = mock.patch.object(progress, "STEP_RECORDS", 1)
        self.small_steps.start()

    def teardown(self) -> None:
        self.close()
        self.small_steps.stop()
        shutil.rmtree(self.directory)

    def open(self, repair: bool = False) -> None:
        self.storage = FileStorage(self.path, repair=repair, file_system=NotingFileSystem())
        self.connection = Connection(self.storage)

    def reader(self) -> Storage:
        return FileStorage(self.path, readonly=True)

    def close(self) -> None:
        if hasattr(self, "connection"):
            if self.packer is not None:
                self.packer.close()  # type: ignore[attr-defined]  # it is a generator
                self.packer = None
            self.connection.close()
            self.held.clear()

    @rule(steps=st.lists(edits, min_size=1, max_size=4))
    def step_the_pack(self, steps: list[list[Edit]]) -> None:
        for edits in steps:
            self.step()
            self.edit(edits, "commit")

    def step(self) -> None:
        if self.packer is None:
            self.packer = self.storage.get_packer()
            self.graph.begin_pack()
        if next(self.packer, None) is None:
            self.packer = None
            self.graph.end_pack()
            assert {path.name for path in self.path.parent.iterdir()} >= {"f.durus", "f.durus.prepack"}
            assert not Path(f"{self.path}.pack").exists()
        else:
            with pytest.raises(TransactionError):
                self.storage.pack()

    @rule(pick=picks, key=picks, place=places, garbage=picks)
    def attach_during_a_pack_what_was_garbage_before(self, pick: int, key: int, place: int, garbage: int) -> None:
        self.detach_and_hold(pick, key)
        self.step()
        self.attach_garbage(pick, place, garbage)
        while self.packer is not None:
            self.step()

    @precondition(lambda self: self.packer is not None)
    @rule()
    def give_up_the_pack(self) -> None:
        assert self.packer is not None
        self.packer.close()  # type: ignore[attr-defined]  # it is a generator
        self.packer = None
        self.graph.packing = None
        assert not Path(f"{self.path}.pack").exists()

    @rule(cache_size=cache_sizes)
    def close_and_reopen(self, cache_size: int) -> None:
        self.close()
        self.graph.reopen(self.graph.stored)
        self.open()
        self.connection.set_cache_size(cache_size)
        self.compare_with_reader()

    @rule(
        stage=picks,
        cut=st.integers(0, 4000),
        filling=st.sampled_from(["nothing", "zeros after", "zeros before", "zeros within"]),
        edits=edits,
    )
    def crash_and_reopen(self, stage: int, cut: int, filling: str, edits: list[Edit]) -> None:
        """Leave the file as a crash during the commit would: copy the directory, and cut the file in its last write."""
        self.edit(edits, "stay")
        before = {node: dict(contents) for node, contents in self.graph.stored.items()}
        old = self.path.read_bytes()
        crashed = self.directory / str(int(self.path.parent.name) + 1)
        shutil.copytree(self.path.parent, crashed)
        NotingFileSystem.durable.clear()
        if self.graph.outcome() == "stored":
            self.try_commit()
        new = self.path.read_bytes()
        assert new.startswith(old)
        image = torn(old, new, NotingFileSystem.durable, stage, cut, filling)
        after = self.graph.stored if image == new else before
        self.close()
        self.path = crashed / self.path.name
        self.path.write_bytes(image)
        self.graph.reopen(after)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DurusWarning)
            self.compare_with_reader()
        try:
            self.open()
        except UnsoundTailError:
            with pytest.warns(DurusWarning, match="cut off"):
                self.open(repair=True)
        self.compare_with_reader()


def torn(old: bytes, new: bytes, durable: list[int], stage: int, cut: int, filling: str) -> bytes:
    """Return what a crash may leave of the writes that turned `old`, which was durable, into `new`.

    `stage` chooses one of the writes, each of which ended in a sync at one of the `durable` lengths.
    """
    ends = [end for end in durable if len(old) < end <= len(new)]
    if not ends:
        return old
    number = stage % len(ends)
    start, end = [len(old), *ends][number], ends[number]
    place = start + cut % (end - start + 1)
    if filling == "zeros before":
        return new[:start] + bytes(place - start) + new[place:end]
    if filling == "zeros within":
        return new[:place] + bytes(min(16, end - place)) + new[place + 16 : end]
    if filling == "zeros after":
        return new[:place] + bytes(end - place)
    return new[:place]


TestOverMemory = MemoryMachine.TestCase
TestOverFile = FileMachine.TestCase
TestOverMemory.settings = settings(TestOverMemory.settings, max_examples=4 * settings().max_examples)
TestOverFile.settings = settings(TestOverFile.settings, max_examples=4 * settings().max_examples)

"""Up to five clients of one server, with calls in any order, and an oracle that knows every version.

The test runs the whole stack: Connection, ClientStorage with its prefetch, the wire protocol, the session core and the
storage, but no sockets, clocks or threads. The oracle knows when each client has synced. This determines what each
client may see, and which conflicts must occur.
"""

import contextlib
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from durus.connection import Connection
from durus.error import ConflictError, DisconnectedError, ReadConflictError, WriteConflictError
from durus.file_storage import FileStorage
from durus.files.file import OperatingSystem
from durus.files.shelf.inspection import ShelfInspection
from durus.persistent import Persistent, get_slot
from durus.storage import MemoryStorage, Storage
from tests.in_memory_server import InMemoryServer

NAMES = ("a", "b", "c")
ROOT = 0

Label = int
"""The oracle's name for an object, whether it has an oid or not."""


@dataclass(frozen=True)
class Ref:
    """A reference to an object, as a value of an attribute."""

    label: Label


Value = int | Ref
State = dict[str, Value]


class Item(Persistent):
    pass


Edit = tuple[str, int, str, int]
"""What to do, with which object and attribute, and with which other object or number."""

edits = st.lists(
    st.tuples(
        st.sampled_from(["read", "read", "read", "number", "number", "reference", "delete", "create", "let go"]),
        st.integers(0, 63),
        st.sampled_from(NAMES),
        st.integers(0, 63),
    ),
    max_size=8,
)
ends = st.sampled_from(["continue", "continue", "continue", "commit", "commit", "abort"])


def refs(state: State) -> set[Label]:
    return {value.label for value in state.values() if isinstance(value, Ref)}


@dataclass
class Version:
    number: int
    """The index of the commit in the order of all commits and packs."""
    writer: "Client | None"
    state: State


class History:
    """All versions of all objects, and the objects that packs removed."""

    def __init__(self) -> None:
        self.number = 0
        self.versions: dict[Label, list[Version]] = {}
        self.removed: dict[Label, int] = {}
        """When a pack removed it."""

    def commit(self, writer: "Client | None", states: dict[Label, State]) -> None:
        self.number += 1
        for label, state in states.items():
            self.versions.setdefault(label, []).append(Version(self.number, writer, dict(state)))

    def state(self, label: Label, number: int) -> State | None:
        """Return the state after the commit of this number; None if there was none, or it was removed."""
        if label in self.removed and self.removed[label] <= number:
            return None
        found = [version.state for version in self.versions[label] if version.number <= number]
        return found[-1] if found else None

    def changed_for(self, client: "Client", since: int) -> set[Label]:
        """Return the objects that others committed, or a pack removed, since then."""
        changed = {
            label
            for label, versions in self.versions.items()
            if any(version.number > since and version.writer is not client for version in versions)
        }
        return changed | {label for label, number in self.removed.items() if number > since}

    def existing(self, number: int) -> set[Label]:
        return {label for label in self.versions if self.state(label, number) is not None}

    def reached(self, start: Iterable[Label], number: int, within: set[Label] | None = None) -> set[Label]:
        found: set[Label] = set()
        pending = list(start)
        while pending:
            label = pending.pop()
            if label not in found and (within is None or label in within):
                found.add(label)
                pending.extend(refs(self.state(label, number) or {}))
        return found

    def garbage_of_pack(self, began: int) -> set[Label]:
        """Return what a pack that began then removes now: what was garbage then and was not brought back since."""
        garbage = self.existing(began) - self.reached([ROOT], began)
        later = {
            label: [version.state for version in versions if version.number > began]
            for label, versions in self.versions.items()
        }
        written = {label for label, states in later.items() if states}
        referred = {ref for states in later.values() for state in states for ref in refs(state)}
        return garbage - written - self.reached(referred - written, began, within=garbage - written)

    def remove(self, labels: set[Label]) -> None:
        self.number += 1
        for label in labels:
            self.removed[label] = self.number


@dataclass(eq=False)
class Client:
    """A client, and what the oracle knows about it."""

    name: int
    connection: Connection[Item]
    view: int
    """It sees the state after the commit of this number, with its own changes."""
    synced: int
    """The server has told it of all changes up to this number."""
    stuck: set[Label] = field(default_factory=set)
    """Objects of whose changes it learnt in a conflict."""
    accessed: set[Label] = field(default_factory=set)
    changed: dict[Label, State] = field(default_factory=dict)
    """The uncommitted states of objects that it changed or made."""
    new: set[Label] = field(default_factory=set)
    held: dict[Label, Item] = field(default_factory=dict)
    """The objects in its variables."""


class Conflict(Exception):
    """The oracle expects a conflict."""


@contextlib.contextmanager
def conflict_on(oid: bytes | None, is_expected: bool) -> Iterator[None]:
    """A read conflict on this oid must occur in the block if `is_expected`, and none otherwise."""
    if not is_expected:
        yield
        return
    with pytest.raises(ReadConflictError) as raised:
        yield
    assert raised.value.oids == [oid]


class ClientsMachine(RuleBasedStateMachine):
    """Runs each step on the program and on the oracle."""

    makes_files = True

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory() if self.makes_files else None
        self.history = History()
        self.oids: dict[Label, bytes] = {ROOT: bytes(8)}
        self.label_count = 1
        self.client_count = 0
        self.clients: list[Client] = []
        self.pack_began: int | None = None

    def open_storage(self) -> Storage:
        if self.directory is None:
            return MemoryStorage()
        return FileStorage(Path(self.directory.name, "f"), durability="os")

    @initialize(
        count=st.integers(2, 5),
        prefetch=st.sampled_from([0, 1, 3, 100]),
        protocols=st.sampled_from([(1,), (2,), (1, 2), (2, 1)]),
    )
    def start(self, count: int, prefetch: int, protocols: tuple[int, ...]) -> None:
        self.prefetch, self.protocols = prefetch, protocols
        self.server = InMemoryServer(self.open_storage(), packs_at_once=False)
        self.history.commit(None, {ROOT: {}})
        for _ in range(count):
            self.clients.append(self.new_client())
        for name in NAMES:
            self.create_siblings(0, name, 3)
        self.commit(0)

    @rule(who=st.integers(0, 4), edits=edits, end=ends)
    def work(self, who: int, edits: list[Edit], end: str) -> None:
        """The operations of a program in a transaction, or in part of one."""
        for edit, what, name, which in edits:
            match edit:
                case "read":
                    self.read(who, what, name)
                case "number":
                    self.write_a_number(who, what, name, which)
                case "reference":
                    self.write_a_reference(who, what, name, which)
                case "delete":
                    self.delete(who, what, name)
                case "create":
                    self.create(who, what, name, which % 3 + 1)
                case "let go":
                    self.let_go(who)
        match end:
            case "commit":
                self.commit(who)
            case "abort":
                self.abort(who)

    @rule(who=st.integers(0, 4), edits=edits, end=ends)
    def work_on(self, who: int, edits: list[Edit], end: str) -> None:
        """The same, so that most steps are work."""
        self.work(who, edits, end)

    @rule(what=st.sampled_from(["evict", "evict", "crash", "restart", "siblings"]), who=st.integers(0, 4))
    def disturb(self, what: str, who: int) -> None:
        match what:
            case "evict":
                self.evict(who)
            case "crash":
                self.crash_a_client(who)
            case "restart" if self.makes_files:
                self.restart()
            case "siblings":
                self.create_siblings(who, NAMES[who % 3], who % 3 + 1)

    def new_client(self) -> Client:
        self.client_count += 1
        protocol = self.protocols[self.client_count % len(self.protocols)]
        connection = Connection(self.server.new_client(self.prefetch, protocol), root_class=Item)
        now = self.history.number
        return Client(self.client_count, connection, now, now)

    def pick(self, number: int) -> Client:
        return self.clients[number % len(self.clients)]

    def label_for(self, client: Client, number: int) -> Label:
        labels = sorted(self.oids.keys() | client.new)
        return labels[number % len(labels)]

    # What the oracle expects

    def expect_sync(self, client: Client) -> None:
        client.stuck |= self.history.changed_for(client, client.synced)
        client.synced = self.history.number

    def expect_validation(self, client: Client) -> None:
        """The client learns of all changes: a conflict, or it sees them from now on."""
        self.expect_sync(client)
        if client.stuck & client.accessed:
            raise Conflict(sorted(client.stuck & client.accessed))
        client.view, client.stuck = client.synced, set()

    def expect_record(self, client: Client, label: Label) -> State | None:
        """The client asks its storage for the record of an object."""
        if label in client.stuck:
            raise Conflict
        came_along = self.oids[label] in client.connection.storage._dialog.prefetch._records  # type: ignore[attr-defined]
        if not came_along and label in self.history.changed_for(client, client.synced):
            self.expect_validation(client)
        return self.history.state(label, client.view)

    def seen_by(self, client: Client, label: Label) -> State | None:
        return client.changed[label] if label in client.changed else self.history.state(label, client.view)

    def expect_use(self, client: Client, label: Label, obj: Item) -> State:
        """The client reads or writes an attribute."""
        if label in client.new:
            return client.changed[label]
        if obj._p_is_ghost() and self.expect_record(client, label) is None:
            raise Conflict
        client.accessed.add(label)
        state = self.seen_by(client, label)
        assert state is not None
        return state

    # What the program does, compared with the oracle

    def obtain(self, client: Client, label: Label) -> Item | None:
        """Let the client hold the object; None if it can't be reached."""
        if label not in client.held:
            connection, oid = client.connection, self.oids[label]
            expected: State | str | None
            try:
                expected = {} if connection.cache.get(oid) is not None else self.expect_record(client, label)
            except Conflict:
                expected = "conflict"
            with conflict_on(oid, expected == "conflict"):
                found = connection.get(oid)
            if expected == "conflict":
                return None
            assert (found is None) == (expected is None)
            if found is None:
                return None
            assert isinstance(found, Item)
            client.held[label] = found
        return client.held[label]

    def use(self, client: Client, label: Label) -> tuple[Item, State] | None:
        """Let the client access the object; return it and its expected state, or None after a conflict."""
        obj = self.obtain(client, label)
        if obj is None:
            return None
        expected: State | None
        try:
            expected = self.expect_use(client, label, obj)
        except Conflict:
            expected = None
        with conflict_on(self.oids.get(label), expected is None):
            assert not hasattr(obj, "touched")  # an access
        return None if expected is None else (obj, expected)

    def read(self, who: int, what: int, name: str) -> None:
        client = self.pick(who)
        used = self.use(client, self.label_for(client, what))
        if used is not None:
            obj, state = used
            assert hasattr(obj, name) == (name in state)
            if name in state:
                self.same(client, getattr(obj, name), state[name])

    def same(self, client: Client, found: object, expected: Value) -> None:
        if isinstance(expected, Ref):
            assert isinstance(found, Item)
            if expected.label in client.new:
                assert found is client.held[expected.label]
            else:
                assert found._p_oid == self.oids[expected.label]
                assert client.held.setdefault(expected.label, found) is found
        else:
            assert found == expected

    def write_a_number(self, who: int, what: int, name: str, value: int) -> None:
        """Write without a read before it; a write is an access too."""
        client = self.pick(who)
        self.write(client, self.label_for(client, what), name, value)

    def write(self, client: Client, label: Label, name: str, value: Value | None) -> None:
        obj = self.obtain(client, label)
        if obj is None:
            return
        expected: State | None
        try:
            expected = self.expect_use(client, label, obj)
        except Conflict:
            expected = None
        if value is None and expected is not None and name not in expected:
            assert not hasattr(obj, name)  # there is nothing to delete
            return
        with conflict_on(self.oids.get(label), expected is None):
            if value is None:
                delattr(obj, name)
            else:
                setattr(obj, name, client.held[value.label] if isinstance(value, Ref) else value)
        if expected is None:
            return
        state = client.changed.setdefault(label, dict(expected))
        if value is None:
            del state[name]
        else:
            state[name] = value

    def write_a_reference(self, who: int, what: int, name: str, which: int) -> None:
        client = self.pick(who)
        referred = self.label_for(client, which)
        if self.obtain(client, referred) is not None:
            self.write(client, self.label_for(client, what), name, Ref(referred))

    def create(self, who: int, what: int, name: str, count: int) -> None:
        """Make a chain of new objects; an existing object refers to the first one."""
        client = self.pick(who)
        referrer = self.label_for(client, what)
        for _ in range(count):
            label, self.label_count = self.label_count, self.label_count + 1
            client.held[label], client.changed[label] = Item(), {}
            client.new.add(label)
            self.write(client, label, "b", label)
            self.write(client, referrer, name, Ref(label))
            referrer = label

    def create_siblings(self, who: int, name: str, count: int) -> None:
        """Make objects to which the root refers through one other object."""
        client = self.pick(who)
        self.create(who, 0, name, 1)
        parent = max(client.new)
        for name in NAMES[:count]:
            label, self.label_count = self.label_count, self.label_count + 1
            client.held[label], client.changed[label] = Item(), {}
            client.new.add(label)
            self.write(client, parent, name, Ref(label))

    def delete(self, who: int, what: int, name: str) -> None:
        client = self.pick(who)
        self.write(client, self.label_for(client, what), name, None)

    def let_go(self, who: int) -> None:
        client = self.pick(who)
        client.held = {label: obj for label, obj in client.held.items() if label in client.new}

    def evict(self, who: int) -> None:
        """The cache drops the states of all objects that were not changed."""
        cache = self.pick(who).connection.cache
        for obj in cache.loaded_objects():
            if obj._p_is_saved() and obj._p_oid is not None:
                cache.make_ghost(obj._p_oid)

    # Transactions

    def abort(self, who: int) -> None:
        client = self.pick(who)
        client.connection.abort()
        for label in client.new:
            del client.held[label]
        client.changed, client.new = {}, set()
        self.begin_next(client)

    def begin_next(self, client: Client) -> None:
        client.accessed, client.stuck = set(), set()
        client.view = client.synced = self.history.number

    def commit(self, who: int) -> None:
        client = self.pick(who)
        stored = self.stored_by(client)
        expected: list[Label] | None = None
        if stored:
            try:
                self.expect_commit(client, stored)
            except Conflict as conflict:
                (expected,) = conflict.args
        if expected is not None:
            with pytest.raises(WriteConflictError) as raised:
                client.connection.commit()
            assert raised.value.oids == sorted(self.oids[label] for label in expected)
            return
        client.connection.commit()
        for label in stored.keys() & client.new:
            oid = client.held[label]._p_oid
            assert oid is not None
            assert oid not in self.oids.values(), "an oid that was given before"
            self.oids[label] = oid
        if stored:
            self.history.commit(client, stored)
        client.new -= stored.keys()
        client.changed = {label: client.changed[label] for label in client.new}
        self.begin_next(client)

    def stored_by(self, client: Client) -> dict[Label, State]:
        """Return what a commit stores: the changed objects, and the new ones that these reach."""
        stored: dict[Label, State] = {}
        pending = list(client.changed.keys() - client.new)
        while pending:
            label = pending.pop()
            if label not in stored:
                stored[label] = client.changed[label]
                pending.extend(refs(stored[label]) & client.new)
        return stored

    def expect_commit(self, client: Client, stored: dict[Label, State]) -> None:
        if client.stuck & client.accessed:
            raise Conflict(sorted(client.stuck & client.accessed))
        self.expect_validation(client)
        existing = self.history.existing(self.history.number)
        missing = {ref for state in stored.values() for ref in refs(state)} - existing - client.new
        if missing:
            raise Conflict(sorted(missing))

    def crash_a_client(self, who: int) -> None:
        """Its connection is lost in the middle of a commit; nothing of the commit is stored."""
        stream = self.server.connect()
        stream.sendall(b"M\x02C")
        stream.sendall(b"\0\0\0\x64\0\0\0\x15" + bytes(16))
        stream.close()
        client = self.pick(who)
        client.connection.storage.close()
        self.clients[self.clients.index(client)] = self.new_client()

    # The server

    @rule()
    @precondition(lambda self: self.pack_began is None)
    def begin_to_pack(self) -> None:
        self.server.packing = self.server.core.gen_pack()
        self.pack_began = self.history.number
        self.pack_a_step()

    @rule(steps=st.integers(1, 8))
    @precondition(lambda self: self.pack_began is not None)
    def pack(self, steps: int) -> None:
        for _ in range(steps):
            self.pack_a_step()

    def pack_a_step(self) -> None:
        self.server.pack_a_step()
        if self.server.packing is None and self.pack_began is not None:
            self.end_pack(self.history.garbage_of_pack(self.pack_began))

    def end_pack(self, garbage: set[Label]) -> None:
        note(f"the pack has removed {sorted(garbage)}")
        self.history.remove(garbage)
        self.pack_began = None

    def restart(self) -> None:
        count = len(self.clients)
        for connection in self.server.connections:
            connection.conversation.finish()
        for client in self.clients:
            with pytest.raises((DisconnectedError, ConflictError)):
                client.connection.abort()
        self.server.storage.close()
        self.server = InMemoryServer(self.open_storage(), packs_at_once=False)
        self.pack_began = None
        for label in self.history.removed:  # their oids may be given out again from now on
            del self.history.versions[label], self.oids[label]
        self.history.removed.clear()
        self.clients = [self.new_client() for _ in range(count)]

    # What must hold after each step

    @invariant()
    def each_client_has_states_of_its_view(self) -> None:
        labels = {oid: label for label, oid in self.oids.items()}
        for client in self.clients:
            for obj in client.connection.cache.loaded_objects():
                label = labels[obj._p_oid or b""]
                state = self.seen_by(client, label)
                assert state is not None, f"client {client.name} sees {label}, which is not there"
                found = {
                    name: value if isinstance(value, int) else value._p_oid
                    for name, value in get_slot(obj, "__dict__").items()
                }
                assert found == {
                    name: value if isinstance(value, int) else self.oids.get(value.label)
                    for name, value in state.items()
                }, f"client {client.name} sees another version of {label}"

    @invariant()
    def a_new_client_sees_what_is_committed(self) -> None:
        if not self.clients:
            return
        connection = self.server.connect()
        connection.sendall(b"S.")
        assert bytes(connection.received) == bytes(4)

    def teardown(self) -> None:
        if not self.clients:
            return
        client = self.new_client()
        for label in self.history.reached([ROOT], client.view):
            used = self.use(client, label)
            assert used is not None
            for name, value in used[1].items():
                self.same(client, getattr(used[0], name), value)
        self.server.storage.close()
        if self.directory is not None:
            file = OperatingSystem().open(str(Path(self.directory.name, "f")), "read")
            assert list(ShelfInspection(file).findings()) == []
            file.close()
            self.directory.cleanup()


class MemoryClientsMachine(ClientsMachine):
    """The same on MemoryStorage."""

    makes_files = False


SETTINGS = settings(max_examples=4 * settings().max_examples, stateful_step_count=50, report_multiple_bugs=False)

TestClientsOfAFile = pytest.mark.spec("TXN-20", "TXN-21", "TXN-22", "TXN-24", "TXN-25", "TXN-26", "TXN-27")(
    ClientsMachine.TestCase
)
TestClientsOfAFile.settings = SETTINGS

TestClientsOfMemory = MemoryClientsMachine.TestCase
TestClientsOfMemory.settings = SETTINGS

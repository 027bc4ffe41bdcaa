"""Up to five sessions of one core, with single steps in any order, and an oracle that keeps every version.

The oracle numbers commits and packs in their order, and knows up to which number each client has synced. This
determines the answer to each call. The core chooses when a turn is passed on, and whether it still knows changes beyond
its limit. The oracle follows these choices, and checks their consequences.
"""

import errno
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from durus import progress
from durus.error import (
    ClosedError,
    DurusError,
    DurusKeyError,
    FileError,
    LimitError,
    ProtocolError,
    RecordError,
    TransactionError,
    WriteConflictError,
)
from durus.file_storage import FileStorage
from durus.files.file import File, Mode, OperatingSystem, OperatingSystemFile
from durus.progress import Progress
from durus.records.record import pack_record
from durus.sharing.session import Session, SessionCore
from durus.sharing.write import Write
from durus.storage import MemoryStorage, Storage

ROOT = bytes(8)
NEVER_GIVEN = (1 << 30).to_bytes(8, "big")
MAX_CLIENTS = 5
MAX_UNUSED_OIDS = 6
MAX_CHANGES = 12
"""The number of changes that are kept for clients that have not been told of them."""
MERGED = 4
"""The maximum number of oldest changes that are dropped at once when there are more."""
ENOUGH_PACK_STEPS = 100

Outcome = DurusError | None
State = Literal["ready", "writing", "stored", "failed", "refused"]
Fault = Literal["append", "sync", None]


class Record(NamedTuple):
    """A record as the storage has it, and what it refers to."""

    data: bytes
    refs: frozenset[bytes]


Records = dict[bytes, Record]


def refs(records: Records) -> set[bytes]:
    return {ref for record in records.values() for ref in record.refs}


def reached(records: Records, start: bytes) -> set[bytes]:
    """Return the oids of the records that can be reached from `start`."""
    found: set[bytes] = set()
    pending = [start]
    while pending:
        oid = pending.pop()
        if oid in records and oid not in found:
            found.add(oid)
            pending.extend(records[oid].refs)
    return found


# The oracle


@dataclass(eq=False)
class Client:
    session: Session
    synced: int
    """The number of the last change of which this client was told."""
    given: set[bytes] = field(default_factory=set)
    """Oids that it may commit as new."""
    turn: int | None = None
    """The number of the last change when it got its turn; None if it does not have the turn."""
    staged: Records = field(default_factory=dict)
    """The records that it has given for its commit so far."""
    conflicts: set[bytes] = field(default_factory=set)
    """The oids of these records that were a conflict when they were given."""
    commit: "Commit | None" = None
    """Its accepted commit, which has no outcome yet."""
    grant_count: int = 0
    """How many times it must have been granted its turn."""
    granted: list[list[bytes] | None] = field(default_factory=list)
    """What it was given with each turn."""
    told: list[Outcome] = field(default_factory=list)
    """What it was told about its last commit."""
    has_given: bool = False
    """It has given a record in this turn."""
    has_lost_turn: bool = False
    """Another commit was accepted since it got its turn."""
    has_lost_track: bool = False
    """Any oid may be invalid for it."""
    times_abandoned: int = 0
    """How many times it was told that it has lost its turn, or its place in the queue."""


@dataclass(eq=False)
class Commit:
    """An accepted commit."""

    place: int
    writer: Client
    records: Records
    told: list[Outcome]
    state: State = "ready"
    error: Outcome = None
    """Why it failed."""
    lost: set[bytes] = field(default_factory=set)
    """Why it was refused: the oids that it needs, but that a pack removed or a failed commit did not store."""


class Version(NamedTuple):
    """A version of an object that a commit made; without a record, its removal by a pack."""

    place: int
    commit: Commit | None
    record: Record | None


class Pack:
    """A pack in progress: what the root did not reach when it began, and which of these objects came back."""

    def __init__(self, records: Records) -> None:
        live = reached(records, ROOT)
        self.garbage = {oid: record for oid, record in records.items() if oid not in live}
        self.kept: set[bytes] = set()

    def note(self, transaction: Records) -> None:
        """Keep what a transaction stores, and the garbage to which it leads. [SHELF-35]"""
        self.kept |= transaction.keys()
        pending = refs(transaction)
        while pending:
            oid = pending.pop()
            if oid in self.garbage and oid not in self.kept:
                self.kept.add(oid)
                pending |= self.garbage[oid].refs

    def removed(self) -> set[bytes]:
        return self.garbage.keys() - self.kept


class History:
    """Every version of every object, and the order of the turns."""

    def __init__(self, records: Records, shows_writes: bool, clients: list[Client]) -> None:
        self.place = 0
        self.clients = clients
        self.shows_writes = shows_writes
        """True if the storage has the records of a commit from the beginning of its write, not only from the end."""
        self.versions = {oid: [Version(0, None, record)] for oid, record in records.items()}
        self.commits: list[Commit] = []
        self.line: list[Client] = []
        """The clients that wait for the turn."""
        self.holder: Client | None = None
        """The client whose turn is exclusive."""
        self.whole: list[Client] = []
        """Clients whose turn was passed on, and whose complete commit waits; the last one is examined first."""

    # What there is

    def is_stored(self, version: Version) -> bool:
        states = ("writing", "stored") if self.shows_writes else ("stored",)
        return version.commit is None or version.commit.state in states

    def records(self) -> Records:
        """Return the current records of the storage."""
        found = {}
        for oid, versions in self.versions.items():
            record = next((version.record for version in reversed(versions) if self.is_stored(version)), None)
            if record is not None:
                found[oid] = record
        return found

    def undurable(self) -> set[bytes]:
        return {oid for commit in self.commits if commit.state in ("ready", "writing") for oid in commit.records}

    def existing(self) -> set[bytes]:
        """Return the oids that have a record, durable or being written."""
        return self.records().keys() | self.undurable()

    def removed(self, since: int = -1) -> set[bytes]:
        """Return the oids that packs removed after a number in the order."""
        return {
            oid
            for oid, versions in self.versions.items()
            if any(version.record is None and version.place > since for version in versions)
        }

    # What a client knows

    def invalid(self, client: Client) -> set[bytes]:
        """Return the oids that others changed, or a pack removed, since the client synced. [TXN-12]"""
        return {
            oid
            for oid, versions in self.versions.items()
            if any(version.place > client.synced and not is_by(client, version) for version in versions)
        }

    def seen(self, client: Client, oid: bytes) -> Record | None:
        """Return the record that belongs to the last sync of the client, or to its own commit since."""
        for version in reversed(self.versions.get(oid, [])):
            if self.is_stored(version) and (version.place <= client.synced or is_by(client, version)):
                return version.record
        return None

    def check_sync(self, client: Client, told: list[bytes] | None) -> None:
        """The client must have been told what is invalid for it, or that any oid may be, if there are too many."""
        invalid = self.invalid(client)
        if told is None:
            assert client.has_lost_track or self.changes_since(client) > MAX_CHANGES - MERGED
        else:
            assert told == sorted(invalid)
            assert not client.has_lost_track
            assert len(invalid) <= MAX_CHANGES
        client.synced, client.has_lost_track = self.place, False

    def changes_since(self, client: Client) -> int:
        """Return the number of changes since the client synced, including its own."""
        return sum(version.place > client.synced for versions in self.versions.values() for version in versions)

    def note_root(self, client: Client) -> None:
        """If there is a root, the client now knows it, and can't make it any more. [TXN-24]"""
        if ROOT in self.existing():
            client.given.discard(ROOT)

    # Turns

    def give_up(self, client: Client) -> None:
        if client.turn is not None and client not in self.whole:
            self.note_root(client)
        self.leave(client)

    def leave(self, client: Client) -> None:
        client.turn, client.staged, client.conflicts = None, {}, set()
        client.has_given = client.has_lost_turn = False
        if client is self.holder:
            self.holder = None
        for waiting in self.line, self.whole:
            if client in waiting:
                waiting.remove(client)

    def follow(self, turn: Session | None) -> None:
        """Give the turn to the client that the core chose: the holder, or one that waited."""
        if self.holder is not None and self.holder.session is turn:
            return
        assert self.holder is None or self.line or self.whole, "a turn was passed on, and nobody waited for it"
        self.holder = None
        while self.whole:
            self.settle(self.whole[-1])
        while self.line and (self.holder is None or self.holder.session is not turn):
            self.holder = first = self.line.pop(0)
            first.turn = self.place
            first.grant_count += 1
            assert len(first.granted) == first.grant_count
            self.check_sync(first, first.granted[-1])
        assert (self.holder and self.holder.session) is turn

    def settle(self, client: Client) -> None:
        """Accept or refuse the complete commit of a client."""
        told = client.told
        if client.has_lost_turn and client.has_given:
            self.note_root(client)
            assert oids_of_conflict(told) == []
        else:
            conflicts, gives_up = self.conflicts(client), not client.staged
            self.note_root(client)
            if conflicts:
                assert oids_of_conflict(told) == conflicts
            elif gives_up:
                assert told == [None]
            else:
                self.take(client, told)
        self.leave(client)

    # Commits

    def is_refused(self, client: Client, oid: bytes) -> bool:
        """Return whether no honest client gives a record of this oid now."""
        assert client.turn is not None
        known = self.records().keys() | client.given | self.removed(since=client.turn) | (self.undurable() & {ROOT})
        return not client.has_lost_turn and (oid not in known or oid in client.staged)

    def stage(self, client: Client, records: Records) -> None:
        client.has_given = client.has_given or bool(records)
        if client.has_lost_turn:
            return
        existing = self.existing()
        client.conflicts |= records.keys() - existing - client.given
        if ROOT in client.given or ROOT not in self.records():  # another one has made it, or is about to [TXN-24]
            client.conflicts |= {ROOT} & records.keys() & existing
        client.staged |= records

    def conflicts(self, client: Client) -> list[bytes]:
        """Return the oids that the client must be told if its commit ends now."""
        assert client.turn is not None
        own, existing = client.staged.keys(), self.existing()
        missing = (own & self.removed(since=client.turn) | refs(client.staged) - own) - existing
        return sorted(client.conflicts | missing)

    def take(self, client: Client, told: list[Outcome]) -> None:
        self.place += 1
        for other in self.clients:
            if other is not client and other.turn is not None:
                other.has_lost_turn, other.staged, other.conflicts = True, {}, set()
        commit = Commit(self.place, client, client.staged, told)
        client.commit = commit
        self.commits.append(commit)
        for oid, record in commit.records.items():
            self.versions.setdefault(oid, []).append(Version(self.place, commit, record))

    def in_state(self, state: str) -> list[Commit]:
        return [commit for commit in self.commits if commit.state == state]

    def begin_write(self) -> None:
        for commit in self.in_state("ready"):
            commit.state = "writing"

    def refuse(self, lost: set[bytes]) -> None:
        """Refuse the ready commits that need an oid without a record: one that was lost, or was never stored."""
        refused: list[Commit] = []
        while True:
            failed = [each for each in self.commits if each.state in ("refused", "failed")]
            lost = lost | {oid for commit in failed for oid in commit.records} - self.existing()
            needing = [each for each in self.in_state("ready") if lost & (each.records.keys() | refs(each.records))]
            for commit in refused:
                commit.lost = lost & (commit.records.keys() | refs(commit.records))
            if not needing:
                return
            for commit in needing:
                self.end(commit, "refused")
            refused += needing

    def finish(self, error: Outcome) -> Records:
        """End the write, and return the commits that it has stored."""
        stored: Records = {}
        for commit in self.in_state("writing"):
            commit.error = error
            self.end(commit, "failed" if error else "stored")
            if error is None:
                stored.update(commit.records)
                commit.writer.given -= commit.records.keys()
        return stored

    def start_anew(self) -> None:
        """Commits that wait for the disk are refused, all turns end, and no client knows what is invalid."""
        for commit in self.in_state("ready"):
            commit.lost = set(commit.records)
            self.end(commit, "refused")
        for client in self.clients:
            client.has_lost_track = True
            if client in self.whole:
                assert oids_of_conflict(client.told) == []
            elif client.turn is not None or client in self.line:
                client.times_abandoned += 1
            self.leave(client)

    def end(self, commit: Commit, state: State) -> None:
        commit.state = state
        commit.writer.commit = None

    def remove(self, oids: set[bytes]) -> None:
        self.place += 1
        for oid in oids:
            self.versions[oid].append(Version(self.place, None, None))


def is_by(client: Client, version: Version) -> bool:
    return version.commit is not None and version.commit.writer is client


# The machine


class Disk(OperatingSystem):
    """The operating system's files; the next append or sync fails on request."""

    fails_at: Fault = None

    def open(self, path: str, mode: Mode) -> File:
        return DiskFile(path, mode, self)

    def sync_directory(self, path: str) -> None:
        pass  # no machine goes down here, so what is written counts as durable

    def check(self, operation: str, path: str) -> None:
        if self.fails_at == operation:
            self.fails_at = None
            raise FileError(errno.ENOSPC if operation == "append" else errno.EIO, "the disk fails", path)


class DiskFile(OperatingSystemFile):
    def __init__(self, path: str, mode: Mode, disk: Disk) -> None:
        super().__init__(path, mode)
        self._disk = disk

    def append(self, data: bytes, end: int | None = None) -> None:
        if self._disk.fails_at == "append":
            super().append(data[: len(data) // 2])
        self._disk.check("append", self.path)
        super().append(data)

    def sync(self) -> None:
        self._disk.check("sync", self.path)


picks = st.integers(0, 63)
"""Choose one of however many there are, by the remainder."""

Target = tuple[str, int]
"""Which kind of oid, and which of that kind."""

Edit = tuple[Target, bool, list[Target]]
"""The object to store, whether it keeps its references, and the references that are added."""

targets = st.tuples(st.sampled_from(["old", "new", "undurable", "garbage"] * 3 + ["removed", "never given"]), picks)
edits = st.lists(
    st.tuples(
        st.tuples(st.sampled_from(["old", "new", "root", "undurable", "garbage"] * 2 + ["just removed"]), picks),
        st.booleans(),
        st.lists(targets, max_size=2),
    ),
    min_size=1,
    max_size=4,
)

UNSOUND = ("another oid", "a reserved oid", "no data", "half a reference")
flaws = st.sampled_from(["none"] * 20 + ["others'", "removed", "removed", "never given", "again", *UNSOUND])
"""What is wrong with one of the records of a commit: the kind of its oid, or the record itself."""

faults: st.SearchStrategy[Fault] = st.sampled_from([None, None, None, None, None, "append", "append", "sync"])


T = TypeVar("T")


def choose(found: Sequence[T], pick: int) -> T:
    return found[pick % len(found)]


def oids_of_conflict(told: list[Outcome]) -> list[bytes]:
    """Return the oids of the write conflict that must have been told, and nothing else."""
    (error,) = told
    assert isinstance(error, WriteConflictError)
    return error.oids


class SessionMachine(RuleBasedStateMachine):
    """Over a MemoryStorage, which never fails and can't be reopened."""

    has_disk = False

    def __init__(self) -> None:
        super().__init__()
        self.limits = [
            mock.patch("durus.sharing.session.MAX_UNUSED_OIDS", MAX_UNUSED_OIDS),
            mock.patch("durus.sharing.change_log.MAX_CHANGES", MAX_CHANGES),
            mock.patch("durus.sharing.change_log._MAX_MERGED", MERGED),
            mock.patch("durus.sharing.change_log._TRIM_SLACK", 1),
        ]
        for limit in self.limits:
            limit.start()
        self.now = 0.0
        self.disk = Disk()
        self.number = 0

    def teardown(self) -> None:
        self.storage.close()
        for limit in self.limits:
            limit.stop()

    def open(self) -> Storage:
        return MemoryStorage()

    def start(self, records: Records) -> None:
        """Begin with a storage that has these records."""
        self.storage = self.open()
        self.core = SessionCore(self.storage, lambda: self.now)
        self.clients: list[Client] = []
        self.abandoned: list[Client] = []
        self.history = History(records, not self.has_disk, self.clients)
        self.gone: list[Client] = []
        self.handed_out: set[bytes] = set()
        self.write: Write | None = None
        self.is_written = False
        self.error: Outcome = None
        self.is_broken = False
        self.packing: Iterator[Progress] | None = None
        self.pack: Pack | None = None
        self.sleepers: list[int] = []
        self.woken: list[int] = []

    @initialize(is_empty=st.booleans(), clients=st.integers(2, 4))
    def begin(self, is_empty: bool, clients: int) -> None:
        """Begin with nothing, or with a tree and a separate chain of garbage."""
        self.start({})
        for _ in range(clients):
            self.connect()
            if is_empty:
                self.take_oids(self.clients[-1], 2)
        if not is_empty:
            client = self.clients[0]
            root, a, b, c, d, e = self.take_oids(client, 6)
            self.ask(client)
            links = {root: [a, b], a: [c], b: [], c: [], d: [e], e: []}
            self.give(client, {oid: self.new_record(oid, refs) for oid, refs in links.items()})
            self.write_on(3, None)

    def new_record(self, oid: bytes, refs: Iterable[bytes]) -> Record:
        self.number += 1
        found = frozenset(refs) - {oid}
        return Record(pack_record(oid, b"%d" % self.number, b"".join(sorted(found))), found)

    # Clients in a given state

    def quiet(self) -> list[Client]:
        """Return the clients that are not involved in a commit."""
        return [each for each in self.clients if each not in self.asking() and each.commit is None]

    def asking(self) -> list[Client]:
        """Return the clients that wait for their turn, or have it."""
        return [each for each in self.clients if each.turn is not None or each in self.history.line]

    def in_turn(self) -> list[Client]:
        """Return the clients that may give records, whether their turn is exclusive or was passed on."""
        return [each for each in self.clients if each.turn is not None and each not in self.history.whole]

    def not_in_turn(self) -> list[Client]:
        return self.quiet() + self.history.line

    def follow(self) -> None:
        self.history.follow(self.core.turn)

    def collectors(self) -> list[Client]:
        """Return the clients that may ask for one more oid."""
        return [each for each in self.clients if each.commit is None and len(each.given) < MAX_UNUSED_OIDS]

    # Clients come and go

    @precondition(lambda self: len(self.clients) < MAX_CLIENTS and len(self.gone) < 3 + self.history.place)
    @rule()
    def connect(self) -> None:
        self.clients.append(Client(self.core.connect(), self.history.place))

    @precondition(lambda self: len(self.clients) > 1)
    @rule(pick=picks)
    def close(self, pick: int) -> None:
        client = self.clients.pop(pick % len(self.clients))
        self.gone.append(client)
        self.history.leave(client)
        client.session.close()
        self.follow()

    # What takes no turn

    @precondition(lambda self: self.collectors())
    @rule(pick=picks, number=st.integers(0, 3))
    def ask_for_oids(self, pick: int, number: int) -> None:
        client = choose(self.collectors(), pick)
        if len(client.given) + number > MAX_UNUSED_OIDS:
            with pytest.raises(LimitError):
                client.session.new_oids(number)
        else:
            self.take_oids(client, number)

    def take_oids(self, client: Client, number: int) -> list[bytes]:
        oids = client.session.new_oids(number)
        makes_root = number > 0 and ROOT not in self.history.existing() | client.given
        assert len(set(oids)) == len(oids) == number
        assert oids[:1] == [ROOT] if makes_root else ROOT not in oids
        new = set(oids) - {ROOT}
        assert not new & (self.handed_out | self.history.existing() | self.history.removed())
        self.handed_out |= new
        client.given |= set(oids)
        return oids

    @precondition(lambda self: any(self.history.invalid(each) or each.has_lost_track for each in self.not_in_turn()))
    @rule(pick=picks)
    def sync(self, pick: int) -> None:
        self.sync_client(choose(self.not_in_turn(), pick))

    def sync_client(self, client: Client) -> None:
        self.history.note_root(client)
        self.history.check_sync(client, client.session.sync())

    @precondition(lambda self: len(self.sleepers) < 3 and self.history.undurable())
    @rule()
    def wait_for_the_disk(self) -> None:
        self.number += 1
        sleeper = self.number
        self.sleepers.append(sleeper)
        self.core.when_written(lambda: self.woken.append(sleeper))

    # Commits

    @precondition(lambda self: self.quiet())
    @rule(pick=picks, is_hasty=st.booleans())
    def ask_for_the_turn(self, pick: int, is_hasty: bool) -> None:
        client = choose(self.quiet(), pick)
        if is_hasty:
            self.give_out_of_turn(client)
        self.ask(client)
        if is_hasty and client.turn is None:
            self.give_out_of_turn(client)

    def ask(self, client: Client) -> None:
        if self.is_broken:
            with pytest.raises(ClosedError):
                client.session.begin_commit(client.granted.append)
        else:
            self.history.line.append(client)
            client.session.begin_commit(client.granted.append, lambda: self.abandoned.append(client))
            self.follow()

    def give_out_of_turn(self, client: Client) -> None:
        told: list[Outcome] = []
        for records in {}, {ROOT: self.new_record(ROOT, []).data}:
            with pytest.raises(ProtocolError):
                client.session.commit(records, told.append)
        assert told == []

    @precondition(lambda self: self.in_turn())
    @rule(edits=edits, flaw=flaws, pick=picks, is_first=st.booleans())
    def give_records(self, edits: list[Edit], flaw: str, pick: int, is_first: bool) -> None:
        client = choose(self.in_turn(), pick)
        records = self.records_of(client, edits)
        if flaw in UNSOUND:
            self.give_unsound(client, {oid: record.data for oid, record in records.items()}, flaw)
        else:
            oids = self.oids_of(client, flaw)
            other = {oid: self.new_record(oid, []) for oid in oids if oid == choose(oids, pick)}
            self.give(client, {**other, **records} if is_first else {**records, **other})

    @precondition(lambda self: self.in_turn())
    @rule(edits=edits, pick=picks)
    def give_some_records_ahead(self, edits: list[Edit], pick: int) -> None:
        client = choose(self.in_turn(), pick)
        durable = self.history.records().keys()
        for oid, record in self.records_of(client, edits).items():
            if oid in durable | client.given:
                self.history.stage(client, {oid: record})
                client.session.store(oid, record.data)

    @precondition(lambda self: self.quiet() and not self.is_broken)
    @rule(pick=picks, edits=edits)
    def ask_and_give_records_if_granted(self, pick: int, edits: list[Edit]) -> None:
        client = choose(self.quiet(), pick)
        self.ask(client)
        if client.turn is not None:
            self.give(client, self.records_of(client, edits))

    @precondition(lambda self: self.asking())
    @rule(pick=picks, by_giving_nothing=st.booleans())
    def give_up(self, pick: int, by_giving_nothing: bool) -> None:
        client = choose(self.asking(), pick)
        if by_giving_nothing and client in self.in_turn() and not client.staged:
            self.give(client, {})
        else:
            self.history.give_up(client)
            client.session.give_up_commit()
            self.follow()

    @precondition(lambda self: self.asking())
    @rule(
        seconds=st.sampled_from([0.05, 0.1, 0.25, 0.25, 0.25, 3, 20]), pick=picks, size=st.sampled_from([0, 1, 1 << 20])
    )
    def let_time_pass(self, seconds: float, pick: int, size: int) -> None:
        """An unused turn is passed on, and incoming data makes it last longer."""
        choose(self.asking(), pick).session.note_received(size)
        self.now += seconds
        self.core.pass_turn_on()
        self.follow()

    @precondition(lambda self: len(self.quiet()) > 1 and not self.history.line and not self.is_broken)
    @rule(pick=picks, edits=edits, others=edits, order=st.integers(0, 3))
    def pass_a_turn_on(self, pick: int, edits: list[Edit], others: list[Edit], order: int) -> None:
        """A client stalls, another one gets the turn, and both continue in either order."""
        slow = choose(self.quiet(), pick)
        self.ask(slow)
        other = choose(self.quiet(), pick)
        self.ask(other)
        self.now += 0.25
        self.core.pass_turn_on()
        self.follow()
        for client in [[slow, other], [other, slow], [slow], [other]][order]:
            if client in self.in_turn():
                self.give(client, self.records_of(client, edits if client is slow else others))

    @precondition(lambda self: self.asking())
    @rule(really=st.sampled_from([False, False, True]))
    def start_the_core_anew(self, really: bool) -> None:
        """Reset the core, as after an interrupt, which may have come at any point."""
        if really:
            before = {client: client.times_abandoned for client in self.clients}
            self.core.start_anew(is_write_lost=False)
            self.history.start_anew()
            told = [client for client in self.clients if client.times_abandoned > before[client]]
            assert sorted(map(id, self.abandoned)) == sorted(map(id, told))
            self.abandoned.clear()
            assert self.woken == self.sleepers
            self.sleepers, self.woken = [], []
            self.follow()

    @precondition(lambda self: any(each.commit for each in self.clients))
    @rule(pick=picks)
    def take_back(self, pick: int) -> None:
        client = choose([each for each in self.clients if each.commit], pick)
        commit = client.commit
        assert commit is not None
        if commit.state == "writing":
            assert not client.session.withdraw_commit()
        else:
            self.history.end(commit, "failed")
            self.history.refuse(set())
            assert client.session.withdraw_commit()
            (commit.error,) = commit.told
            assert isinstance(commit.error, TransactionError)

    def give(self, client: Client, records: Records) -> None:
        """Let the client whose turn it is give these records as the last ones of its commit."""
        history = self.history
        client.told = told = []
        data = {oid: record.data for oid, record in records.items()}

        def done(error: Outcome) -> None:
            told.append(error)
            if error is None:
                self.the_storage_has_what_is_durable()

        if any(history.is_refused(client, oid) for oid in records):
            history.give_up(client)
            with pytest.raises(ProtocolError):
                client.session.commit(data, done)
            assert told == []
            self.follow()
            return
        history.stage(client, records)
        must_wait = client is not history.holder and not client.has_lost_turn and bool(client.staged)
        client.session.commit(data, done)
        if must_wait:
            history.whole.append(client)
        else:
            history.settle(client)
        self.follow()

    def give_unsound(self, client: Client, records: dict[bytes, bytes], flaw: str) -> None:
        oid = next(iter(records), ROOT)
        reserved = b"\xff" * 8
        comes_last = flaw == "a reserved oid" and any(self.history.is_refused(client, each) for each in records)
        records |= {
            "another oid": {oid: pack_record(NEVER_GIVEN, b"data", b"")},
            "a reserved oid": {reserved: pack_record(reserved, b"data", b"")},
            "no data": {oid: pack_record(oid, b"", b"")},
            "half a reference": {oid: pack_record(oid, b"data", b"half")},
        }[flaw]
        told: list[Outcome] = []
        has_lost_turn = client.has_lost_turn
        self.history.give_up(client)
        if has_lost_turn:
            client.session.commit(records, told.append)
            assert oids_of_conflict(told) == []
        else:
            with pytest.raises(ProtocolError if comes_last else RecordError):
                client.session.commit(records, told.append)
            assert told == []
        self.follow()

    def oids_of(self, client: Client, kind: str) -> list[bytes]:
        assert client.turn is not None
        existing = self.history.existing()
        match kind:
            case "old":
                found = existing
            case "new":
                found = client.given - existing
            case "undurable":
                found = self.history.undurable()
            case "garbage":
                found = set(Pack(self.history.records()).garbage)
            case "just removed":
                found = self.history.removed(since=client.turn)
            case "removed":
                found = self.history.removed()
            case "others'":
                found = set().union(*(each.given for each in self.clients)) - client.given - existing
            case "root":
                found = {ROOT} & (existing | client.given)
            case "again":
                found = set(client.staged)
            case "never given":
                found = {NEVER_GIVEN}
            case _:
                found = set()
        return sorted(found)

    def records_of(self, client: Client, edits: list[Edit]) -> Records:
        """Return the records that these edits make; "new" in their references means what they store as new."""
        existing = self.history.existing()
        stored = self.history.records()
        made: dict[bytes, tuple[bool, list[Target]]] = {}
        for (kind, pick), keeps, targets in edits:
            oids = [oid for oid in self.oids_of(client, kind) if oid not in made and oid not in client.staged]
            if kind == "new" and not oids and len(client.given) < MAX_UNUSED_OIDS:
                oids = self.take_oids(client, 1)
            if oids:
                made[choose(oids, pick)] = keeps, targets
        links: dict[bytes, list[bytes]] = {}
        for oid, (keeps, targets) in made.items():
            links[oid] = list(stored[oid].refs) if keeps and oid in stored else []
            for kind, pick in targets:
                oids = sorted(made.keys() - existing) if kind == "new" else self.oids_of(client, kind)
                links[oid] += [choose(oids, pick)] if oids else []
        return {oid: self.new_record(oid, found) for oid, found in links.items()}

    # Writing

    @precondition(lambda self: self.write is not None or self.history.in_state("ready"))
    @rule(steps=st.sampled_from([1, 1, 1, 3]), fault=faults)
    def write_on(self, steps: int, fault: Fault) -> None:
        for _ in range(steps):
            if self.write is None and not self.history.in_state("ready"):
                return
            if self.write is None:
                self.begin_write()
            elif not self.is_written:
                self.write_out(self.write, fault)
            else:
                self.finish(self.write)

    def begin_write(self) -> None:
        self.history.begin_write()
        self.write = self.core.begin_write()
        self.is_written, self.error = False, None

    def write_out(self, write: Write, fault: Fault) -> None:
        if self.has_disk and not self.is_broken and self.history.in_state("writing"):
            self.disk.fails_at = fault
            self.is_broken = fault == "sync"
        must_fail = self.is_broken or self.disk.fails_at is not None
        try:
            write.write()
        except (FileError, ClosedError) as error:
            self.error = error
        assert (self.error is not None) == must_fail
        assert self.disk.fails_at is None
        self.is_written = True

    def finish(self, write: Write) -> None:
        stored = self.history.finish(self.error)
        self.history.refuse(set())
        if self.pack is not None:
            self.pack.note(stored)
        write.finish(self.error)
        self.write = None
        assert self.woken == self.sleepers
        self.sleepers, self.woken = [], []

    # Packing

    @precondition(lambda self: self.packing is not None or bool(Pack(self.history.records()).garbage))
    @rule(steps=st.sampled_from([1, 1, 1, 3, 3, ENOUGH_PACK_STEPS, ENOUGH_PACK_STEPS]), fault=faults)
    def pack_on(self, steps: int, fault: Fault) -> None:
        self.step_the_pack(fault)
        for _ in range(steps - 1):
            if self.packing is not None:
                self.step_the_pack(None)
        assert steps < ENOUGH_PACK_STEPS or self.packing is None or self.write is not None

    @precondition(lambda self: self.packing is not None and self.quiet() and not self.is_broken)
    @rule(pick=picks, commits=st.lists(edits, min_size=2, max_size=5))
    def commit_between_steps_of_the_pack(self, pick: int, commits: list[list[Edit]]) -> None:
        for edits in commits:
            if self.packing is not None and self.quiet():
                self.ask_and_give_records_if_granted(pick, edits)
                self.write_on(3, None)
                self.step_the_pack(None)

    def step_the_pack(self, fault: Fault) -> None:
        if self.packing is None:
            self.packing = self.core.gen_pack()
        if self.pack is None and self.write is None:  # a pack does not begin while commits are being written
            self.pack = Pack(self.history.records())
        self.disk.fails_at = armed = fault if self.has_disk else None
        has_ended = has_failed = False
        try:
            next(self.packing)
        except StopIteration:
            has_ended = True
        except (FileError, ClosedError):
            has_failed = True
        if self.is_broken:  # it notices that at its next step or the one after it
            assert not has_ended
        else:
            assert has_failed == (self.disk.fails_at != armed)
        self.disk.fails_at = None
        if has_ended:
            assert self.pack is not None
            removed = self.pack.removed()
            self.history.remove(removed)
            self.history.refuse(removed)
        if has_ended or has_failed:
            self.packing = self.pack = None

    @precondition(lambda self: self.packing is not None)
    @rule(really=st.sampled_from([False, False, False, True]))
    def give_up_the_pack(self, really: bool) -> None:
        if really and self.packing is not None:
            self.packing.close()  # type: ignore[attr-defined]  # it is a generator
            self.packing = self.pack = None

    # What holds after every step

    @invariant()
    def turns_come_in_order(self) -> None:
        assert self.core.turn is (self.history.holder and self.history.holder.session)
        for client in self.clients + self.gone:
            assert len(client.granted) == client.grant_count
        for client in self.clients:
            assert client.session.is_in_line == (client in self.asking())
            assert client.session.has_turn == (client in self.in_turn())

    @invariant()
    def commits_have_been_told_their_outcome_once(self) -> None:
        for commit in self.history.commits:
            if commit.state in ("ready", "writing"):
                assert commit.told == []
            elif commit.state == "refused":
                oids = set(oids_of_conflict(commit.told))
                assert oids
                assert oids <= commit.lost
            else:
                assert commit.told == [commit.error]

    @invariant()
    def writes_come_one_at_a_time(self) -> None:
        assert self.core.is_writing == (self.write is not None)
        assert self.core.has_ready_commits == (self.write is None and bool(self.history.in_state("ready")))

    @invariant()
    def waiters_are_woken_when_a_write_ends(self) -> None:
        assert self.woken == []

    @invariant()
    def the_storage_has_what_is_durable(self) -> None:
        expected = {oid: record.data for oid, record in self.history.records().items()}
        assert dict(self.storage.gen_oid_record()) == expected

    @invariant()
    def clients_see_what_belongs_to_their_last_sync(self) -> None:
        known = {ROOT, NEVER_GIVEN, *self.history.versions}
        undurable = self.history.undurable()
        for client in self.clients:
            invalid = self.history.invalid(client)
            if client.session.has_lost_track:
                assert client.has_lost_track or self.history.changes_since(client) > MAX_CHANGES - MERGED
                invalid = known
            for oid in known:
                must_wait = oid in undurable and oid not in invalid
                assert client.session.must_wait(oid) == must_wait
                if not must_wait:
                    record = self.history.seen(client, oid)
                    expected = None if oid in invalid else record.data if record else "nothing"
                    assert load(client.session, oid) == expected


def load(session: Session, oid: bytes) -> bytes | str | None:
    try:
        return session.load(oid)
    except DurusKeyError:
        return "nothing"


class FileMachine(SessionMachine):
    """Over a FileStorage whose disk fails from time to time, and which is closed and opened again."""

    has_disk = True

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="durus-machine-"))
        self.small_steps = mock.patch.object(progress, "STEP_RECORDS", 2)
        self.small_steps.start()

    def teardown(self) -> None:
        super().teardown()
        self.small_steps.stop()
        shutil.rmtree(self.directory)

    def open(self) -> Storage:
        return FileStorage(self.directory / "f.durus", file_system=self.disk)

    @precondition(lambda self: self.is_broken or self.history.place > 5)
    @rule()
    def restart(self) -> None:
        """Every acknowledged commit is stored, and of the others only those that were written completely."""
        if self.write is not None and self.is_written:
            self.history.finish(self.error)
        self.storage.close()
        self.start(self.history.records())


EXAMPLES = 4 * settings().max_examples
STEPS = 80

TestOverMemory = SessionMachine.TestCase
TestOverFile = pytest.mark.spec(
    "TXN-10", "TXN-12", "TXN-20", "TXN-21", "TXN-22", "TXN-23", "TXN-24", "TXN-25", "TXN-27"
)(FileMachine.TestCase)
TestOverMemory.settings = settings(TestOverMemory.settings, max_examples=EXAMPLES, stateful_step_count=STEPS)
TestOverFile.settings = settings(TestOverFile.settings, max_examples=EXAMPLES, stateful_step_count=STEPS)

"""Snapshots of one storage, with commits, packs and interrupts in any order, and an oracle that copies each state.

For each snapshot the oracle keeps a dict of everything that was stored when the snapshot was taken. From the numbers of
commits it knows which versions a snapshot can still ask for: only these may be kept.
"""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from durus.error import DurusKeyError
from durus.file_storage import FileStorage
from durus.oid import oid_from_int
from durus.records.record import pack_record, refs_of
from durus.sharing import versions as versions_module
from durus.sharing.versions import Snapshot, Versions
from durus.storage import MemoryStorage, StagedCommit, Storage

ROOT = bytes(8)
OIDS = [oid_from_int(number) for number in range(6)]
State = dict[bytes, bytes]


class Held:
    """A held snapshot, and the state that it must show."""

    def __init__(self, snapshot: Snapshot, state: State, serial: int, era: int) -> None:
        self.snapshot = snapshot
        self.state = state
        self.serial = serial
        self.era = era


class SnapshotMachine(RuleBasedStateMachine):
    """Over a file."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp(prefix="durus-")
        self.storage = self.new_storage()
        self.versions = Versions(self.storage)
        self.state: State = {}
        """What is stored."""
        self.serial = 0
        self.era = 0
        """How many packs have begun."""
        self.replaced: dict[int, dict[bytes, list[tuple[int, int, bytes | None]]]] = {0: {}}
        """The numbers between which a record was current, and the record, by era and oid."""
        self.held: list[Held] = []
        self.staged: tuple[StagedCommit, State] | None = None
        self.number = 0
        self.has_failed = False
        """The versions that a failed commit would have replaced may be kept for longer."""
        self.commit({ROOT: frozenset()})

    def new_storage(self) -> Storage:
        return FileStorage(Path(self.folder) / "f", durability="os")

    def commit(self, refs: dict[bytes, frozenset[bytes]]) -> None:
        self.stage(refs)
        self.finish(is_lost=False)

    def stage(self, refs: dict[bytes, frozenset[bytes]]) -> None:
        self.number += 1
        data = b"%d" % self.number
        records = {
            oid: pack_record(oid, data, b"".join(ref for ref in sorted(found) if ref in self.state or ref in refs))
            for oid, found in refs.items()
        }
        self.staged = self.versions.stage_commit(records), records

    def finish(self, is_lost: bool) -> None:
        assert self.staged is not None
        (write, accept), records = self.staged
        self.staged = None
        write()
        if is_lost:
            accept = self.lost
        accept()
        self.serial += 1
        era = self.replaced[self.era]
        for oid in records:
            since = era[oid][-1][1] if oid in era else 0
            era.setdefault(oid, []).append((since, self.serial, self.state.get(oid)))
        self.state = {**self.state, **records}

    def lost(self) -> None:
        """The writing thread was interrupted before accept(): the next thread finds this state."""
        self.versions.start_anew()
        self.versions.sync()

    @precondition(lambda self: self.staged is None)
    @rule(
        refs=st.dictionaries(st.sampled_from(OIDS), st.frozensets(st.sampled_from(OIDS), max_size=3), min_size=1),
        is_staged_only=st.booleans(),
    )
    def commit_some(self, refs: dict[bytes, frozenset[bytes]], is_staged_only: bool) -> None:
        self.stage(refs)
        if not is_staged_only:
            self.finish(is_lost=False)

    @precondition(lambda self: self.staged is not None)
    @rule(is_lost=st.booleans())
    def finish_commit(self, is_lost: bool) -> None:
        self.finish(is_lost)

    @precondition(lambda self: self.staged is not None)
    @rule()
    def fail_commit(self) -> None:
        self.staged = None
        self.has_failed = True

    @rule()
    def take(self) -> None:
        snapshot = self.versions.take_snapshot()
        is_known = any(held.snapshot is snapshot for held in self.held)
        assert is_known == any((held.serial, held.era) == (self.serial, self.era) for held in self.held)
        self.held.append(Held(snapshot, dict(self.state), self.serial, self.era))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        del self.held[data.draw(st.integers(0, len(self.held) - 1))]

    @precondition(lambda self: self.staged is None)
    @rule()
    def pack(self) -> None:
        live, pending = set(), [ROOT]
        while pending:
            oid = pending.pop()
            if oid not in live:
                live.add(oid)
                pending += refs_of(self.state[oid])
        if any(held.era == self.era for held in self.held):
            self.era += 1
            self.replaced[self.era] = {}
        for _ in self.versions.get_packer():
            pass
        self.versions.sync()
        self.state = {oid: record for oid, record in self.state.items() if oid in live}

    @precondition(lambda self: self.staged is None)
    @rule()
    def start_anew(self) -> None:
        self.versions.start_anew()
        if not self.has_failed:
            assert self.versions.kept_bytes == self.needed_bytes()

    @precondition(lambda self: self.staged is not None)
    @rule()
    def start_anew_while_a_commit_is_written(self) -> None:
        self.versions.start_anew()

    @invariant()
    def each_snapshot_shows_its_state(self) -> None:
        for held in self.held:
            for oid in OIDS:
                assert held.snapshot.has_record(oid) == (oid in held.state)
                try:
                    assert held.snapshot.load(oid) == held.state.get(oid)
                except DurusKeyError:
                    assert oid not in held.state

    @precondition(lambda self: self.staged is None)
    @invariant()
    def what_is_needed_is_kept(self) -> None:
        """No more than that is checked by start_anew(), which would repair here what is wrong."""
        assert self.versions.kept_bytes >= self.needed_bytes()

    def needed_bytes(self) -> int:
        needed = {
            (era, oid, until, record)
            for era, replaced in self.replaced.items()
            for oid, versions in replaced.items()
            for since, until, record in versions
            if any(held.era == era and since <= held.serial < until for held in self.held)
        }
        return sum(versions_module._BYTES_PER_VERSION + len(record or b"") for _, _, _, record in needed)

    def teardown(self) -> None:
        self.held = []
        self.versions.take_snapshot()
        self.storage.close()
        shutil.rmtree(self.folder)


class MemorySnapshotMachine(SnapshotMachine):
    """Over memory, where a commit is stored when it is staged; a snapshot that is taken just then may show it."""

    def new_storage(self) -> Storage:
        return Deferred()


class Deferred(MemoryStorage):
    """Stores at the end of a commit, as storages in files do."""

    def stage_commit(self, records: State) -> StagedCommit:
        def write() -> None:
            self.begin()
            for oid, record in records.items():
                self.store(oid, record)
            self.end()

        return StagedCommit(write, lambda: None)


TestOverFile = SnapshotMachine.TestCase
TestOverMemory = MemorySnapshotMachine.TestCase

pytestmark = pytest.mark.spec("TXN-60", "TXN-62", "TXN-63")

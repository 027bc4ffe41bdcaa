"""Snapshots during commits and packs, one step at a time. TXN-60 to TXN-64."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from durus.connection import Connection
from durus.error import ClosedError, DurusKeyError, ReadonlyError, SnapshotEndedError
from durus.file_storage import FileStorage
from durus.oid import oid_from_int
from durus.records.record import pack_record
from durus.shared_storage import SharedStorage
from durus.sharing import versions as versions_module
from durus.sharing.session import SessionCore
from durus.sharing.versions import Snapshot, Versions
from durus.sharing.write import Write
from durus.sqlite_storage import SqliteStorage
from durus.storage import MemoryStorage, StagedCommit, Storage

ROOT, X, Y, Z = (oid_from_int(number) for number in range(4))


def record(oid: bytes, text: bytes, *refs: bytes) -> bytes:
    return pack_record(oid, text, b"".join(refs))


def commit(storage: Storage | Versions, records: dict[bytes, bytes]) -> None:
    staged = storage.stage_commit(records)
    staged.write()
    staged.accept()


@pytest.fixture(params=["file", "memory", "sqlite", "other"])
def versions(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Versions]:
    kinds: dict[str, Callable[[], Storage]] = {
        "file": lambda: FileStorage(tmp_path / "f", durability="os"),
        "memory": MemoryStorage,
        "sqlite": lambda: SqliteStorage(tmp_path / "s"),
        "other": OtherStorage,
    }
    storage = kinds[request.param]()
    commit(storage, {ROOT: record(ROOT, b"root 1", X), X: record(X, b"x 1", Y), Y: record(Y, b"y 1")})
    yield Versions(storage)
    storage.close()


class OtherStorage(MemoryStorage):
    """One that knows nothing of as_of_now()."""

    as_of_now = Storage.as_of_now


@pytest.mark.spec("TXN-60")
def test_a_snapshot_keeps_what_commits_replace(versions: Versions) -> None:
    first = versions.take_snapshot()
    commit(versions, {X: record(X, b"x 2", Y, Z), Z: record(Z, b"z 2")})
    second = versions.take_snapshot()
    commit(versions, {X: record(X, b"x 3", Y), Y: record(Y, b"y 3")})
    assert [first.load(oid) for oid in (X, Y)] == [record(X, b"x 1", Y), record(Y, b"y 1")]
    assert not first.has_record(Z)
    with pytest.raises(DurusKeyError):
        first.load(Z)
    assert [second.load(oid) for oid in (X, Y, Z)] == [record(X, b"x 2", Y, Z), record(Y, b"y 1"), record(Z, b"z 2")]
    assert second.has_record(Z)
    assert versions.take_snapshot().load(X) == record(X, b"x 3", Y)


@pytest.mark.spec("TXN-60")
def test_a_snapshot_that_begins_during_a_write_does_not_see_it(versions: Versions) -> None:
    staged = versions.stage_commit({X: record(X, b"x 2"), Z: record(Z, b"z 2")})
    early = versions.take_snapshot()
    staged.write()
    late = versions.take_snapshot()
    is_seen_at_once = isinstance(versions._storage, MemoryStorage)  # whose commits take no second step
    staged.accept()
    for snapshot in early, late:
        assert snapshot.load(X) == (record(X, b"x 2") if is_seen_at_once else record(X, b"x 1", Y))
        assert snapshot.has_record(Z) == is_seen_at_once
    assert versions.take_snapshot().load(X) == record(X, b"x 2")


@pytest.mark.spec("TXN-63")
def test_a_snapshot_outlives_packs(versions: Versions) -> None:
    oldest = versions.take_snapshot()
    commit(versions, {ROOT: record(ROOT, b"root 2")})
    old = versions.take_snapshot()
    for _ in range(2):
        for _ in versions.get_packer():
            commit(versions, {ROOT: record(ROOT, b"root 3")})
        commit(versions, {ROOT: record(ROOT, b"root 4")})
    new = versions.take_snapshot()
    for _ in versions.get_packer():
        pass
    assert oldest.load(ROOT) == record(ROOT, b"root 1", X)
    assert [oldest.load(oid) for oid in (X, Y)] == [record(X, b"x 1", Y), record(Y, b"y 1")]
    assert (old.load(ROOT), new.load(ROOT)) == (record(ROOT, b"root 2"), record(ROOT, b"root 4"))
    assert not versions.take_snapshot().has_record(X)


@pytest.fixture
def loads(versions: Versions, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The oids that the storage was asked for, in their order."""
    asked: list[bytes] = []
    load = versions._storage.load

    def noting(oid: bytes) -> bytes:
        asked.append(oid)
        return load(oid)

    monkeypatch.setattr(versions._storage, "load", noting)
    return asked


@pytest.mark.spec("TXN-62")
@pytest.mark.parametrize("versions", ["file", "memory"], indirect=True)
def test_a_commit_loads_what_it_replaces_once_for_all_snapshots(versions: Versions, loads: list[bytes]) -> None:
    held = []
    for number in range(50):
        held.append(versions.take_snapshot())
        commit(versions, {Y: record(Y, b"y %d" % number)})
    loads.clear()
    held.append(versions.take_snapshot())
    commit(versions, {X: record(X, b"x 2"), Z: record(Z, b"z 2")})
    commit(versions, {X: record(X, b"x 3"), Z: record(Z, b"z 3")})
    assert loads == [X, Z]
    assert {snapshot.load(X) for snapshot in held} == {record(X, b"x 1", Y)}
    assert [snapshot.load(Y) for snapshot in held] == [
        record(Y, b"y 1"),
        *(record(Y, b"y %d" % number) for number in range(50)),
    ]


@pytest.mark.spec("TXN-62")
@pytest.mark.parametrize("versions", ["file", "memory"], indirect=True)
def test_a_commit_costs_nothing_more_without_a_snapshot(
    versions: Versions, loads: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = versions.take_snapshot()
    del kept

    def refuse() -> Storage:
        raise AssertionError

    monkeypatch.setattr(versions._storage, "as_of_now", refuse)
    commit(versions, {X: record(X, b"x 2")})
    for _ in versions.get_packer():
        pass
    assert loads == []
    assert versions.take_snapshot().load(ROOT) == record(ROOT, b"root 1", X)


@pytest.mark.spec("TXN-62")
def test_a_load_from_a_snapshot_takes_no_longer_for_a_thousand_others(
    versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = []
    for number in range(1000):
        held.append(versions.take_snapshot())
        commit(versions, {X: record(X, b"x %d" % number)})
    looked_at: list[object] = []
    until = versions_module._until

    def noting(version: versions_module._Version) -> int:
        looked_at.append(version)
        return until(version)

    monkeypatch.setattr(versions_module, "_until", noting)
    for snapshot, expected in (held[0], b"x 1"), (held[500], b"x 499"), (held[999], b"x 998"):
        looked_at.clear()
        assert expected in snapshot.load(X)
        assert len(looked_at) <= 10
        looked_at.clear()
        assert snapshot.load(Y) == record(Y, b"y 1")
        assert looked_at == []


@pytest.mark.spec("TXN-62")
def test_snapshots_between_which_nothing_was_committed_are_one(versions: Versions) -> None:
    first = versions.take_snapshot()
    assert versions.take_snapshot() is first
    commit(versions, {X: record(X, b"x 2")})
    assert versions.take_snapshot() is not first


@pytest.mark.spec("TXN-62")
def test_what_no_snapshot_can_show_is_dropped(versions: Versions) -> None:
    held: list[Snapshot] = []
    sizes: list[int] = []
    for text in b"x 2", b"x 3", b"x 4":
        held.append(versions.take_snapshot())
        commit(versions, {X: record(X, text * 1000)})
        sizes.append(versions.kept_bytes)
    assert sizes[0] > 0
    assert sizes[1] - sizes[0] > 3000
    assert sizes[2] - sizes[1] > 3000
    del held[1]  # x 2 is of this one alone
    assert versions.kept_bytes == sizes[2] - (sizes[1] - sizes[0])
    assert [snapshot.load(X) for snapshot in held] == [record(X, b"x 1", Y), record(X, b"x 3" * 1000)]
    del held[1]
    assert versions.kept_bytes == sizes[0]
    assert held[0].load(X) == record(X, b"x 1", Y)
    del held[0]
    assert versions.kept_bytes == 0


@pytest.mark.spec("TXN-62")
def test_a_snapshot_that_ends_leaves_to_older_ones_what_they_show_too(versions: Versions) -> None:
    old = versions.take_snapshot()
    commit(versions, {Y: record(Y, b"y 2")})
    new = versions.take_snapshot()
    commit(versions, {X: record(X, b"x 2"), Z: record(Z, b"z 2")})
    del new
    assert versions.kept_bytes > 0
    assert old.load(X) == record(X, b"x 1", Y)
    assert old.load(Y) == record(Y, b"y 1")
    assert not old.has_record(Z)
    del old
    assert versions.kept_bytes == 0


@pytest.mark.spec("TXN-60", "TXN-62")
def test_a_snapshot_taken_beside_a_write_keeps_what_an_older_one_shows_too(versions: Versions) -> None:
    old = versions.take_snapshot()
    commit(versions, {Y: record(Y, b"y 2")})
    before = versions.take_snapshot()
    staged = versions.stage_commit({X: record(X, b"x 2")})
    del before
    same = versions.take_snapshot()
    shown = same.load(X)
    staged.write()
    staged.accept()
    del old
    versions.take_snapshot()
    assert same.load(X) == shown == record(X, b"x 1", Y)
    del same
    assert versions.kept_bytes == 0


@pytest.mark.spec("TXN-31")
def test_after_an_interrupt_what_is_kept_is_found_anew(versions: Versions, monkeypatch: pytest.MonkeyPatch) -> None:
    old = versions.take_snapshot()
    commit(versions, {Y: record(Y, b"y 2")})
    new = versions.take_snapshot()
    commit(versions, {X: record(X, b"x 2"), Z: record(Z, b"z 2")})
    kept = versions.kept_bytes
    era = versions._eras[-1]
    era.kept_bytes, era._kept_for, era._serials = 17, {}, []
    versions.start_anew()
    assert versions.kept_bytes == kept
    commit(versions, {X: record(X, b"x 3"), Z: record(Z, b"z 3")})
    assert versions.kept_bytes == kept
    assert [new.load(oid) for oid in (X, Y)] == [record(X, b"x 1", Y), record(Y, b"y 2")]
    assert [old.load(oid) for oid in (X, Y)] == [record(X, b"x 1", Y), record(Y, b"y 1")]
    del old
    del new
    versions.start_anew()
    assert versions.kept_bytes == 0


@pytest.mark.spec("TXN-31", "TXN-62")
def test_what_an_interrupt_leaves_is_kept_as_long_as_it_is_shown(versions: Versions) -> None:
    held: list[Snapshot] = []
    for number in range(2, 6):
        commit(versions, {X: record(X, b"x %d" % number)})
        held.append(versions.take_snapshot())
    commit(versions, {X: record(X, b"x 6" * 1000)})
    sizes = versions.kept_bytes
    del held[2]  # this one has ended, but nothing has been forgotten yet
    versions.start_anew()
    assert versions.kept_bytes == sizes * 3 // 4
    assert [snapshot.load(X) for snapshot in held] == [record(X, b"x %d" % number) for number in (2, 3, 5)]
    held.clear()
    assert versions.kept_bytes == 0
    assert not versions._eras[-1].is_in_use


@pytest.mark.spec("TXN-62")
def test_a_snapshot_that_is_taken_again_before_its_end_is_noticed_is_kept(versions: Versions) -> None:
    era = versions._eras[-1]
    for _ in range(2):
        snapshot = era.snapshot_of(7)
        del snapshot
    snapshot = era.snapshot_of(7)
    era.forget_ended()
    assert era.is_in_use
    assert era.snapshot_of(7) is snapshot
    del snapshot
    era.forget_ended()
    assert not era.is_in_use
    assert not era._snapshots


@pytest.mark.spec("TXN-62")
def test_a_reader_that_takes_snapshots_for_ever_leaves_nothing(versions: Versions) -> None:
    for _ in range(100):
        versions.take_snapshot()
    assert len(versions._eras[-1]._ended) == 1


@pytest.mark.spec("TXN-63")
def test_a_pack_without_a_snapshot_opens_no_second_storage(versions: Versions, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[None] = []
    monkeypatch.setattr(versions._storage, "as_of_now", lambda: opened.append(None))
    versions.take_snapshot()
    for _ in versions.get_packer():
        pass
    assert opened == []
    assert len(versions._eras) == 1


@pytest.mark.spec("TXN-30")
def test_a_sync_tells_what_the_storage_tells(versions: Versions, monkeypatch: pytest.MonkeyPatch) -> None:
    for told in [X, Y], None:
        monkeypatch.setattr(versions._storage, "sync", lambda told=told: told)
        assert versions.sync() == told


@pytest.mark.spec("TXN-60", "TXN-31")
def test_a_commit_whose_outcome_is_unknown_makes_another_state(versions: Versions) -> None:
    before = versions.take_snapshot()
    staged = versions.stage_commit({X: record(X, b"x 2")})
    staged.write()
    versions._storage.sync()  # as after an interrupt, in which accept() is lost: a file has stored it now
    versions.sync()
    after = versions.take_snapshot()
    assert before.load(X) == record(X, b"x 1", Y)
    assert after.load(X) == versions._storage.load(X)


@pytest.mark.spec("TXN-63")
def test_the_file_before_a_pack_is_closed_with_the_last_snapshot_of_it(tmp_path: Path) -> None:
    closed: list[bool] = []

    class Noting(FileStorage):
        def close(self) -> None:
            closed.append(self._readonly)
            super().close()

    storage = Noting(tmp_path / "f", durability="os")
    commit(storage, {ROOT: record(ROOT, b"root 1")})
    versions = Versions(storage)
    first = versions.take_snapshot()
    commit(versions, {ROOT: record(ROOT, b"root 2")})
    second = versions.take_snapshot()
    for _ in versions.get_packer():
        pass
    commit(versions, {ROOT: record(ROOT, b"root 3")})
    del first
    assert versions.kept_bytes == 0
    assert closed == []
    assert second.load(ROOT) == record(ROOT, b"root 2")
    del second
    for _ in range(2):
        commit(versions, {ROOT: record(ROOT, b"root 4")})
        assert closed == [True]
        assert len(versions._eras) == 1
    storage.close()


# In the session core


class Gate(MemoryStorage):
    """A storage whose commits become current when accept() is called."""

    def stage_commit(self, records: dict[bytes, bytes]) -> StagedCommit:
        return StagedCommit(lambda: None, lambda: self._records.update(records))


@pytest.fixture
def core() -> SessionCore:
    """A core over a root, X and Y, whose time is its `now`."""
    core = Core(Gate())
    commit(core.storage, {ROOT: record(ROOT, b"root 1", X), X: record(X, b"x 1", Y), Y: record(Y, b"y 1")})
    return core


class Core(SessionCore):
    now = 0.0

    def __init__(self, storage: Storage, max_seconds: float | None = None, max_bytes: int | None = None) -> None:
        super().__init__(storage, lambda: self.now, max_seconds, max_bytes)


def begin_commit(core: SessionCore, *records: bytes) -> Write:
    session = core.connect()
    session.begin_commit(lambda invalid: None)
    session.commit({each[:8]: each for each in records}, lambda outcome: None)
    session.close()
    return core.begin_write()


def store(core: SessionCore, *records: bytes) -> None:
    write = begin_commit(core, *records)
    write.write()
    write.finish(None)


@pytest.mark.spec("TXN-60")
def test_a_client_reads_from_its_snapshot_whatever_others_commit(core: SessionCore) -> None:
    reader = core.connect()
    assert reader.take_snapshot() == []
    store(core, record(X, b"x 2"))
    assert reader.load_from_snapshot(X) == record(X, b"x 1", Y)
    assert reader.load_from_snapshot(Y) == record(Y, b"y 1")
    assert reader.load(X) is None
    assert reader.take_snapshot() == [X]
    assert reader.load_from_snapshot(X) == record(X, b"x 2")
    assert not reader.has_in_snapshot(Z)
    with pytest.raises(DurusKeyError):
        reader.load_from_snapshot(Z)


@pytest.mark.spec("TXN-61")
def test_a_client_hears_later_of_what_was_not_durable_when_it_took_its_snapshot(core: SessionCore) -> None:
    reader = core.connect()
    write = begin_commit(core, record(X, b"x 2"))
    reader.take_snapshot()
    for step in write.write, lambda: write.finish(None):
        assert reader.load_from_snapshot(X) == record(X, b"x 1", Y)
        step()
    assert reader.load_from_snapshot(X) == record(X, b"x 1", Y)
    assert reader.load(X) is None  # it may have read it as it was
    assert reader.take_snapshot() == [X]
    assert reader.load_from_snapshot(X) == record(X, b"x 2")
    assert reader.take_snapshot() == []


@pytest.mark.spec("TXN-61")
def test_so_it_does_from_a_sync_and_from_its_turn(core: SessionCore) -> None:
    readers = [core.connect() for _ in range(2)]
    write = begin_commit(core, record(X, b"x 2"))
    for reader in readers:
        reader.take_snapshot()
        reader.drop_snapshot()
    assert readers[0].sync() == [X]
    turns: list[list[bytes] | None] = []
    readers[1].begin_commit(turns.append)
    assert turns == [[X]]
    write.write()
    write.finish(None)
    assert readers[0].sync() == []
    assert readers[0].load(X) == record(X, b"x 2")


@pytest.mark.spec("TXN-61")
def test_several_commits_on_their_way_are_all_told_later(core: SessionCore) -> None:
    reader = core.connect()
    first = begin_commit(core, record(X, b"x 2"))
    other = core.connect()
    other.begin_commit(lambda invalid: None)
    other.commit({Y: record(Y, b"y 2")}, lambda outcome: None)
    reader.take_snapshot()
    first.write()
    first.finish(None)
    assert reader.take_snapshot() == [X, Y]
    assert reader.load_from_snapshot(Y) == record(Y, b"y 1")
    second = core.begin_write()
    second.write()
    second.finish(None)
    assert reader.take_snapshot() == [Y]
    assert reader.load_from_snapshot(Y) == record(Y, b"y 2")


@pytest.mark.spec("TXN-62")
def test_a_client_that_drops_its_snapshot_or_leaves_has_nothing_kept(core: SessionCore) -> None:
    readers = [core.connect() for _ in range(2)]
    for reader in readers:
        reader.take_snapshot()
    store(core, record(X, b"x 2"))
    assert core._versions.kept_bytes > 0
    readers[0].drop_snapshot()
    with pytest.raises(SnapshotEndedError, match="it was given up"):
        readers[0].load_from_snapshot(X)
    assert core._versions.kept_bytes > 0
    readers[1].close()
    assert core._versions.kept_bytes == 0


@pytest.mark.spec("TXN-64")
def test_a_snapshot_that_is_held_for_too_long_is_ended() -> None:
    core = Core(Gate(), max_seconds=10)
    commit(core.storage, {ROOT: record(ROOT, b"root 1")})
    old, new = core.connect(), core.connect()
    old.take_snapshot()
    core.now = 5
    new.take_snapshot()
    core.now = 10
    core.end_old_snapshots()
    assert old.load_from_snapshot(ROOT) == record(ROOT, b"root 1")
    core.now = 10.5
    core.end_old_snapshots()
    with pytest.raises(SnapshotEndedError, match=r"held for more than 10 seconds.*begin another snapshot"):
        old.load_from_snapshot(ROOT)
    with pytest.raises(SnapshotEndedError):
        old.has_in_snapshot(ROOT)
    assert new.load_from_snapshot(ROOT) == record(ROOT, b"root 1")
    old.take_snapshot()
    assert old.load_from_snapshot(ROOT) == record(ROOT, b"root 1")
    core.now = 15.25  # that of the other one is the oldest now
    core.end_old_snapshots()
    assert old.has_in_snapshot(ROOT)
    with pytest.raises(SnapshotEndedError):
        new.load_from_snapshot(ROOT)


@pytest.mark.spec("TXN-64")
def test_the_oldest_snapshots_are_ended_while_too_many_bytes_are_kept() -> None:
    core = Core(Gate(), max_bytes=9_000)
    commit(core.storage, {ROOT: record(ROOT, b"root 1" * 1000), X: record(X, b"x 1" * 1000)})
    readers = [core.connect() for _ in range(3)]
    readers[0].take_snapshot()
    store(core, record(X, b"x 2" * 1000))
    readers[1].take_snapshot()
    readers[2].take_snapshot()
    core.end_old_snapshots()
    assert readers[0].has_in_snapshot(X)
    store(core, record(ROOT, b"root 2"))  # by which the commit itself ends it
    assert core._versions.kept_bytes > 6000
    with pytest.raises(SnapshotEndedError, match="more than 9000 bytes were kept for snapshots"):
        readers[0].load_from_snapshot(X)
    for reader in readers[1:]:
        assert reader.load_from_snapshot(X) == record(X, b"x 2" * 1000)
        assert reader.load_from_snapshot(ROOT) == record(ROOT, b"root 1" * 1000)


@pytest.mark.spec("TXN-64")
def test_a_client_that_takes_another_snapshot_has_the_newest_one() -> None:
    core = Core(Gate(), max_seconds=10)
    first, second = core.connect(), core.connect()
    for now, reader in ((0, first), (5, second), (8, first)):
        core.now = now
        reader.take_snapshot()
    core.now = 15.5
    assert core.end_old_snapshots() == 1
    assert first.holds_snapshot
    assert not second.holds_snapshot


@pytest.mark.spec("TXN-64")
def test_it_is_told_how_many_snapshots_were_ended_and_not_released() -> None:
    core = Core(Gate(), max_seconds=10)
    readers = [core.connect() for _ in range(3)]
    for reader in readers:
        reader.take_snapshot()
    readers[0].drop_snapshot()
    assert core.end_old_snapshots() == 0
    core.now = 10.5
    assert core.end_old_snapshots() == 2
    assert core.end_old_snapshots() == 0


@pytest.mark.spec("TXN-64")
def test_a_snapshot_is_ended_when_more_is_kept_for_it_than_allowed(core: SessionCore) -> None:
    reader = core.connect()
    reader.take_snapshot()
    store(core, record(X, b"x 2"))
    core._snapshots.max_bytes = core._versions.kept_bytes
    assert core.end_old_snapshots() == 0
    core._snapshots.max_bytes -= 1
    assert core.end_old_snapshots() == 1
    assert not reader.holds_snapshot


@pytest.mark.spec("TXN-31", "TXN-64")
def test_a_core_that_starts_anew_goes_on_with_its_snapshots() -> None:
    core = Core(Gate(), max_seconds=10)
    commit(core.storage, {ROOT: record(ROOT, b"root 1")})
    readers = [core.connect() for _ in range(3)]
    for reader in readers:
        core.now += 1
        reader.take_snapshot()
    core._snapshots._holders = {}
    core.start_anew(is_write_lost=False)
    assert list(core._snapshots._holders) == [reader._snapshot for reader in readers]
    assert readers[0].load_from_snapshot(ROOT) == record(ROOT, b"root 1")
    assert readers[0].take_snapshot() is None


def test_the_client_of_a_snapshot_only_reads() -> None:
    shared = SharedStorage(MemoryStorage())
    Connection(shared.new_client()).close()
    client = shared.new_client()
    assert client.use_snapshots()
    with pytest.raises(SnapshotEndedError):
        client.load(ROOT)
    client.sync()
    assert client.has_record(ROOT)
    with pytest.raises(ReadonlyError):
        client.begin()
    with pytest.raises(ReadonlyError):
        client.new_oid()
    client.release()
    for ask in client.has_record, client.load:
        with pytest.raises(SnapshotEndedError, match=r"call abort\(\)"):
            ask(ROOT)
    client.sync()
    assert client.load(ROOT)[:8] == ROOT
    client.close()
    with pytest.raises(ClosedError):
        client.load(ROOT)


@pytest.mark.spec("TXN-63")
def test_a_core_packs_with_snapshots_open_and_a_write_under_way(tmp_path: Path) -> None:
    core = SessionCore(FileStorage(tmp_path / "f", durability="os"))
    commit(core.storage, {ROOT: record(ROOT, b"root 1", X), X: record(X, b"x")})
    reader = core.connect()
    reader.take_snapshot()
    write = begin_commit(core, record(ROOT, b"root 2"))
    steps = core.gen_pack()
    next(steps)
    write.write()
    next(steps)  # it waits for that
    write.finish(None)
    assert list(steps)
    assert reader.load_from_snapshot(X) == record(X, b"x")
    assert reader.load_from_snapshot(ROOT) == record(ROOT, b"root 1", X)
    assert not core.has_record(X)
    core.storage.close()

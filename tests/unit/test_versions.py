"""Snapshots beside commits and packs, one step at a time. spec/database.md, DB-15."""

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from durus.connection import Connection
from durus.error import ClosedError, DurusError, DurusKeyError, ReadonlyError
from durus.file_storage import FileStorage
from durus.oid import oid_from_int
from durus.progress import Progress
from durus.records.record import pack_record
from durus.shared_storage import SharedStorage, SnapshotClient
from durus.sharing.session import SessionCore
from durus.sharing.versions import Versions
from durus.sqlite_storage import SqliteStorage
from durus.storage import MemoryStorage, StagedCommit, Storage

ROOT, X, Y, Z = (oid_from_int(number) for number in range(4))


def record(oid: bytes, text: bytes, *refs: bytes) -> bytes:
    return pack_record(oid, text, b"".join(refs))


def commit(storage: Storage, records: dict[bytes, bytes]) -> None:
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


@pytest.mark.spec("DB-15")
def test_a_snapshot_keeps_what_commits_replace(versions: Versions) -> None:
    first = versions.new_snapshot()
    commit(versions, {X: record(X, b"x 2", Y, Z), Z: record(Z, b"z 2")})
    second = versions.new_snapshot()
    commit(versions, {X: record(X, b"x 3", Y), Y: record(Y, b"y 3")})
    assert [first.load(oid) for oid in (X, Y)] == [record(X, b"x 1", Y), record(Y, b"y 1")]
    assert not first.has_record(Z)
    with pytest.raises(DurusKeyError):
        first.load(Z)
    assert [second.load(oid) for oid in (X, Y, Z)] == [record(X, b"x 2", Y, Z), record(Y, b"y 1"), record(Z, b"z 2")]
    assert second.has_record(Z)
    assert versions.load(X) == record(X, b"x 3", Y)


@pytest.mark.spec("DB-15")
def test_a_snapshot_that_begins_during_a_write_does_not_see_it(versions: Versions) -> None:
    staged = versions.stage_commit({X: record(X, b"x 2"), Z: record(Z, b"z 2")})
    early = versions.new_snapshot()
    staged.write()
    late = versions.new_snapshot()
    is_seen_at_once = isinstance(versions._storage, MemoryStorage)  # which does not conclude in two steps
    staged.accept()
    for snapshot in early, late:
        assert snapshot.load(X) == (record(X, b"x 2") if is_seen_at_once else record(X, b"x 1", Y))
        assert snapshot.has_record(Z) == is_seen_at_once
    assert versions.new_snapshot().load(X) == record(X, b"x 2")


@pytest.mark.spec("DB-15")
def test_a_snapshot_outlives_packs(versions: Versions) -> None:
    oldest = versions.new_snapshot()
    commit(versions, {ROOT: record(ROOT, b"root 2")})
    old = versions.new_snapshot()
    for _ in range(2):
        for _ in versions.get_packer():
            commit(versions, {ROOT: record(ROOT, b"root 3")})
        commit(versions, {ROOT: record(ROOT, b"root 4")})
    new = versions.new_snapshot()
    for _ in versions.get_packer():
        pass
    assert oldest.load(ROOT) == record(ROOT, b"root 1", X)
    assert [oldest.load(oid) for oid in (X, Y)] == [record(X, b"x 1", Y), record(Y, b"y 1")]
    assert (old.load(ROOT), new.load(ROOT)) == (record(ROOT, b"root 2"), record(ROOT, b"root 4"))
    assert not versions.has_record(X)


@pytest.mark.spec("DB-15")
def test_a_snapshot_that_nobody_has_costs_nothing(versions: Versions, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = versions.new_snapshot()
    del kept
    gc.collect()

    def refuse(self: object) -> None:
        raise AssertionError

    monkeypatch.setattr(type(versions._storage), "as_of_now", refuse)
    monkeypatch.setattr("durus.sharing.versions.Snapshot.keep", refuse)
    commit(versions, {X: record(X, b"x 2")})
    for _ in versions.get_packer():
        pass
    assert versions.load(ROOT) == record(ROOT, b"root 1", X)


@pytest.mark.spec("DB-15")
def test_what_a_pack_left_to_snapshots_is_closed_with_the_last_of_them(tmp_path: Path) -> None:
    closed: list[bool] = []

    class Noting(FileStorage):
        def close(self) -> None:
            closed.append(self._readonly)
            super().close()

    storage = Noting(tmp_path / "f", durability="os")
    commit(storage, {ROOT: record(ROOT, b"root 1")})
    versions = Versions(storage)
    first, second = versions.new_snapshot(), versions.new_snapshot()
    for _ in versions.get_packer():
        pass
    del first
    gc.collect()
    assert closed == []
    assert second.load(ROOT) == record(ROOT, b"root 1")
    del second
    gc.collect()
    assert closed == [True]
    storage.close()


class Gate(MemoryStorage):
    """A storage whose commits become current when accept() is called."""

    def stage_commit(self, records: dict[bytes, bytes]) -> StagedCommit:
        return StagedCommit(lambda: None, lambda: self._records.update(records))


@pytest.mark.spec("DB-15")
def test_a_snapshot_hears_later_of_what_was_not_durable_when_it_began() -> None:
    shared = SharedStorage(Gate())
    writer = Connection(shared.new_client())
    client = SnapshotClient(shared)
    root = client.load(ROOT)
    session = shared._core.connect()
    outcomes: list[DurusError | None] = []
    session.begin_commit(lambda invalid: None)
    session.commit({ROOT: record(ROOT, b"new")}, outcomes.append)
    write = shared._core.begin_write()
    assert client.sync() == [ROOT]
    assert client.load(ROOT) == root  # it is not durable yet
    write.write()
    write.finish(None)
    assert client.load(ROOT) == root
    assert client.sync() == [ROOT]  # once more, since what it has read of it is out of date
    assert client.load(ROOT) == record(ROOT, b"new")
    assert client.sync() == []
    assert outcomes == [None]
    writer.close()


def test_the_client_of_a_snapshot_only_reads() -> None:
    shared = SharedStorage(MemoryStorage())
    Connection(shared.new_client()).close()
    client = shared.new_snapshot_client()
    assert client.has_record(ROOT)
    with pytest.raises(ReadonlyError):
        client.begin()
    with pytest.raises(ReadonlyError):
        client.new_oid()
    client.release()
    assert not client.has_record(ROOT)
    with pytest.raises(ClosedError, match="this snapshot has ended"):
        client.load(ROOT)
    client.sync()
    assert client.load(ROOT)[:8] == ROOT
    client.close()
    with pytest.raises(ClosedError):
        client.load(ROOT)


def test_a_core_packs_with_snapshots_open(tmp_path: Path) -> None:
    versions = Versions(FileStorage(tmp_path / "f", durability="os"))
    commit(versions, {ROOT: record(ROOT, b"root 1", X), X: record(X, b"x")})
    snapshot = versions.new_snapshot()
    commit(versions, {ROOT: record(ROOT, b"root 2")})
    steps: list[Progress] = list(SessionCore(versions).gen_pack())
    assert steps
    assert snapshot.load(X) == record(X, b"x")
    versions._storage.close()

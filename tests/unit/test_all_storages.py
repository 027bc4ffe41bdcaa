"""What every storage does, whatever keeps its records."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from durus.connection import Connection
from durus.error import (
    ArgumentError,
    ClosedError,
    DurusKeyError,
    FormatError,
    LockedError,
    ReadConflictError,
    ReadonlyError,
    RecordError,
    TransactionError,
    WriteConflictError,
)
from durus.file_storage import FileStorage
from durus.file_storage2 import FileStorage2
from durus.oid import oid_from_int, oid_to_int
from durus.persistent import Persistent
from durus.persistent_list import PersistentList
from durus.records.record import pack_record
from durus.shared_storage import SharedStorage
from durus.sqlite_storage import SqliteStorage
from durus.storage import MemoryStorage, Storage, get_census
from tests.postgres import open_handed, storage_at

ROOT, ONE, TWO, THREE = (oid_from_int(n) for n in range(4))
FILE_STORAGES: list[Callable[..., Storage]] = [FileStorage, FileStorage2, SqliteStorage]
STORAGES: list[Callable[..., Storage]] = [lambda path: MemoryStorage(), *FILE_STORAGES]
NAMES = ["memory", "shelf", "dfs20", "sqlite"]


@pytest.fixture(params=[*STORAGES, None], ids=[*NAMES, "postgres"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    """An empty storage of each kind."""
    made: Storage
    if request.param is None:
        made = open_handed(storage_at(request.getfixturevalue("postgres_address")))
    else:
        made = request.param(tmp_path / "f")
    yield made
    made.close()


in_a_file = pytest.mark.parametrize("make", FILE_STORAGES, ids=NAMES[1:])


def put(storage: Storage, records: dict[bytes, bytes]) -> None:
    """Commit records with these refs, by oid."""
    storage.begin()
    for oid, refs in records.items():
        storage.store(oid, pack_record(oid, b"data", refs))
    storage.end()


def oids(storage: Storage) -> set[bytes]:
    return {oid for oid, _ in storage.gen_oid_record()}


@pytest.mark.spec("TXN-9", "TXN-10", "REC-5", "REC-6")
def test_commits_of_malformed_records_and_dangling_references_are_refused(storage: Storage) -> None:
    with pytest.raises(TransactionError):
        storage.store(ROOT, b"")
    with pytest.raises(TransactionError):
        storage.end()
    storage.begin()
    for bad in (
        b"",
        pack_record(ONE, b"a", b""),
        pack_record(ROOT, b"a", b"123"),
        pack_record(ROOT, b"", b""),
        ROOT + b"\0\0\0\5abc",
    ):
        with pytest.raises(RecordError):
            storage.store(ROOT, bad)
    storage.store(ROOT, pack_record(ROOT, b"data", ONE))
    with pytest.raises(WriteConflictError) as caught:
        storage.end()
    assert caught.value.oids == [ONE]
    with pytest.raises(DurusKeyError, match="no object has the oid 0"):
        storage.load(ROOT)
    assert storage.new_oid() == ROOT
    storage.begin()
    storage.end()


def test_commit_that_is_begun_anew_forgets_what_it_had(storage: Storage) -> None:
    storage.begin()
    storage.store(ONE, pack_record(ONE, b"data", b""))
    put(storage, {ROOT: b""})
    assert oids(storage) == {ROOT}
    assert not storage.has_record(ONE)


def test_records_are_loaded_one_by_one_and_many_at_a_time(storage: Storage) -> None:
    put(storage, {ROOT: ONE + TWO, ONE: b"", TWO: THREE, THREE: b""})
    put(storage, {TWO: b""})
    assert storage.load(TWO) == pack_record(TWO, b"data", b"")
    assert list(storage.bulk_load([THREE, ROOT])) == [storage.load(THREE), storage.load(ROOT)]
    assert [oid for oid, _ in storage.gen_oid_record(start_oid=ROOT)] == [ROOT, ONE, TWO]
    assert oids(storage) == {ROOT, ONE, TWO, THREE}
    with pytest.raises(DurusKeyError):
        storage.load(oid_from_int(1 << 62))
    with pytest.raises(DurusKeyError):
        storage.load(b"\xff" * 8)


def test_oids_are_given_out_once_before_and_after_a_pack(storage: Storage) -> None:
    given = [storage.new_oid() for _ in range(5)]
    assert given == [oid_from_int(n) for n in range(5)]
    put(storage, dict.fromkeys(given[:4], b""))
    storage.pack()
    given += [storage.new_oid() for _ in range(5)]
    assert len(set(given)) == 10


def test_pack_removes_what_the_root_does_not_reach_and_tells_of_it(storage: Storage) -> None:
    put(storage, {ROOT: ONE + TWO, ONE: b"", TWO: THREE, THREE: TWO})
    put(storage, {ROOT: ONE})
    storage.pack()
    assert oids(storage) == {ROOT, ONE}
    assert sorted(storage.sync() or []) == [TWO, THREE]
    assert storage.sync() == []
    for oid in (TWO, THREE):
        with pytest.raises(DurusKeyError):
            storage.load(oid)
        assert not storage.has_record(oid)
    with pytest.raises(WriteConflictError):
        put(storage, {ROOT: TWO})


def test_commit_after_a_pack_is_told_what_it_removed(storage: Storage) -> None:
    put(storage, {ROOT: b"", ONE: b""})
    storage.pack()
    told: list[list[bytes]] = []
    storage.begin()
    storage.store(ROOT, pack_record(ROOT, b"data", b""))
    storage.end(lambda oids: told.append(list(oids or ())))
    assert told == [[ONE]]


@in_a_file
def test_commits_between_the_steps_of_a_pack_are_kept_with_all_that_they_reach(
    make: Callable[..., Storage], tmp_path: Path
) -> None:
    count = 700
    with Connection(make(tmp_path / "f")) as connection:
        root: Any = connection.get_root()
        chain: PersistentList[object] = PersistentList()
        root["garbage"] = garbage = PersistentList([PersistentList([chain])])
        root["kept"] = [Persistent() for _ in range(count)]
        for _ in range(count):
            chain.append(Persistent())
        connection.commit()
        del root["garbage"]
        connection.commit()
        packer = connection.get_storage().get_packer()
        next(packer)
        with pytest.raises(TransactionError, match="is running"):
            connection.get_storage().get_packer()
        for number, _ in enumerate(packer):
            if number == 3:
                root["back"] = garbage[0]
            if number % 2:
                root[number] = PersistentList([number])
            else:
                root.pop(number - 1, None)
            connection.commit()
        connection.pack()
    with Connection(make(tmp_path / "f")) as connection:
        root = connection.get_root()
        back = root["back"][0]
        assert len(back) == count
        assert all(vars(each) == {} for each in back)
        in_numbers = sum(isinstance(key, int) for key in root)
        assert get_census(connection.get_storage()) == {
            "PersistentDict": 1,
            "PersistentList": 2 + in_numbers,
            "Persistent": 2 * count,
        }


@in_a_file
def test_pack_that_is_closed_before_its_end_loses_nothing(make: Callable[..., Storage], tmp_path: Path) -> None:
    storage = make(tmp_path / "f")
    put(storage, {ROOT: ONE, ONE: b""})
    packer = storage.get_packer()
    next(packer)
    packer.close()  # type: ignore[attr-defined]  # it is a generator
    put(storage, {ONE: TWO, TWO: b""})
    storage.pack()
    assert oids(storage) == {ROOT, ONE, TWO}
    storage.close()


@in_a_file
def test_pack_of_a_dangling_reference_fails_and_changes_nothing(make: Callable[..., Storage], tmp_path: Path) -> None:
    storage = make(tmp_path / "f")
    put(storage, {ROOT: ONE, ONE: b"", TWO: b""})
    storage.begin()
    with pytest.MonkeyPatch.context() as patch:
        for module in ("files.append_only_storage", "sqlite_storage"):
            patch.setattr(f"durus.{module}.check_references", lambda records, exists: None)
        put(storage, {ONE: THREE})
    with pytest.raises(FormatError, match="object 1 refers to oid 3, which does not exist"):
        storage.pack()
    assert oids(storage) == {ROOT, ONE, TWO}
    storage.close()


@in_a_file
def test_what_was_committed_is_there_when_the_file_is_opened_again(
    make: Callable[..., Storage], tmp_path: Path
) -> None:
    with Connection(make(tmp_path / "f")) as connection:
        connection.get_root()["a"] = PersistentList([1, 2])
        connection.commit()
        connection.get_root()["b"] = 1
    with Connection(make(tmp_path / "f")) as connection:
        assert dict(connection.get_root()) == {"a": [1, 2]}
        assert oid_to_int(connection.get_storage().new_oid()) == 2


@in_a_file
def test_a_second_writer_is_locked_out_until_the_first_is_closed_or_dropped(
    make: Callable[..., Storage], tmp_path: Path
) -> None:
    first = make(tmp_path / "f")
    put(first, {ROOT: b""})
    with pytest.raises(LockedError, match="in use by"):
        make(tmp_path / "f")
    put(first, {ROOT: b""})
    first.close()
    second = make(tmp_path / "f")
    with pytest.raises(ClosedError):
        first.load(ROOT)
    with pytest.raises(ClosedError):
        first.begin()
    del second
    make(tmp_path / "f").close()


@in_a_file
def test_reader_sees_the_state_of_its_opening_and_changes_nothing(make: Callable[..., Storage], tmp_path: Path) -> None:
    writer = make(tmp_path / "f")
    put(writer, {ROOT: b""})
    reader = make(tmp_path / "f", readonly=True)
    put(writer, {ROOT: ONE, ONE: b""})
    assert reader.load(ROOT) == pack_record(ROOT, b"data", b"")
    assert oids(reader) == {ROOT}
    for change in (reader.begin, reader.get_packer):
        with pytest.raises(ReadonlyError, match="readonly=True"):
            change()
    reader.close()
    writer.close()
    with pytest.raises(ArgumentError):
        make(tmp_path / "f", readonly=True, repair=True)


@in_a_file
def test_file_that_does_not_exist_cannot_be_read_and_is_not_made(make: Callable[..., Storage], tmp_path: Path) -> None:
    with pytest.raises(OSError, match="f: cannot open"):
        make(tmp_path / "f", readonly=True)
    assert list(tmp_path.iterdir()) == []


@in_a_file
def test_empty_file_becomes_a_database_when_it_is_opened_for_writing(
    make: Callable[..., Storage], tmp_path: Path
) -> None:
    (tmp_path / "f").touch()
    with pytest.raises(FormatError, match="file is empty"):
        make(tmp_path / "f", readonly=True)
    make(tmp_path / "f").close()
    reader = make(tmp_path / "f", readonly=True)
    assert oids(reader) == set()
    reader.close()


@in_a_file
def test_threads_that_share_a_storage_lose_no_commit_while_it_is_packed(
    make: Callable[..., Storage], tmp_path: Path
) -> None:
    shared = SharedStorage(make(tmp_path / "f"))
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            connection = Connection(shared.new_client())
            done = 0
            while done < 20:
                try:
                    root: Any = connection.get_root()
                    root["total"] = root.get("total", 0) + 1
                    root[number] = PersistentList([done])
                    connection.commit()
                    done += 1
                except (WriteConflictError, ReadConflictError):
                    connection.abort()
            connection.close()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    packing = shared.new_client()
    for _ in range(3):
        packing.pack()
    for thread in threads:
        thread.join()
    shared.close()
    assert failures == []
    with Connection(make(tmp_path / "f")) as connection:
        root: Any = connection.get_root()
        assert root["total"] == 60
        assert [root[number] for number in range(3)] == [[19]] * 3


class _Noting:
    """Notes what is stored, in a class that is not a storage itself."""

    stored: list[bytes]

    def store(self, oid: bytes, record: bytes) -> None:
        self.stored.append(oid)
        super().store(oid, record)  # type: ignore[misc]  # of the storage beside which it stands


class _NotingItself(SqliteStorage):
    stored: list[bytes]

    def store(self, oid: bytes, record: bytes) -> None:
        self.stored.append(oid)
        super().store(oid, record)


class _NotingBeside(_Noting, SqliteStorage):
    pass


class _NotingHeir(_NotingItself):
    pass


@pytest.mark.parametrize("kind", [_NotingItself, _NotingBeside, _NotingHeir])
def test_a_connection_calls_what_a_subclass_of_a_file_storage_has_of_its_own(
    tmp_path: Path, kind: type[_NotingItself] | type[_NotingBeside]
) -> None:
    storage = kind(tmp_path / "f")
    storage.stored = []
    connection = Connection(storage)
    connection.root["a"] = PersistentList([1])
    connection.commit()
    assert storage.stored == [ROOT, ROOT, ONE]
    storage.close()

"""SqliteStorage: its table, what it refuses, and other writers of the file."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import cast

import pytest

from durus.connection import Connection
from durus.error import ClosedError, DurusKeyError, FileError, FormatError, LockedError, RecordError
from durus.oid import oid_from_int
from durus.records.record import pack_record
from durus.sqlite_storage import SqliteStorage

ROOT, ONE, TWO = (oid_from_int(n) for n in range(3))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "f"


@pytest.fixture
def storage(path: Path) -> Iterator[SqliteStorage]:
    made = SqliteStorage(path)
    yield made
    made.close()


def put(storage: SqliteStorage, records: dict[bytes, bytes], data: bytes = b"data") -> None:
    """Commit records with these refs, by oid."""
    storage.begin()
    for oid, refs in records.items():
        storage.store(oid, pack_record(oid, data, refs))
    storage.end()


def rows(path: Path) -> list[tuple[object, ...]]:
    """Return the rows as SQLite shows them to anyone."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("select id, data, refs from objects order by id").fetchall()


@pytest.mark.spec("SQL-1")
def test_rows_are_the_parts_of_the_records(path: Path, storage: SqliteStorage) -> None:
    put(storage, {ROOT: ONE, ONE: b""})
    assert rows(path) == [(0, b"data", ONE), (1, b"data", b"")]
    with closing(sqlite3.connect(path)) as connection:
        columns = connection.execute("pragma table_info(objects)").fetchall()
    assert [column[1:3] + column[5:] for column in columns] == [
        ("id", "INTEGER", 1),
        ("data", "BLOB", 0),
        ("refs", "BLOB", 0),
    ]
    assert str(storage) == f"SqliteStorage({str(path)!r})"
    assert storage.get_filename() == str(path)


@pytest.mark.spec("SQL-1")
@pytest.mark.parametrize("script", ["create table other (id)", "create table objects (id, data blob, refs blob)"])
def test_sqlite_file_of_another_program_is_refused_and_left_alone(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(script)
    before = path.read_bytes()
    for readonly in (False, True):
        with pytest.raises(FormatError, match="not one of Durus"):
            SqliteStorage(path, readonly=readonly)
    assert path.read_bytes() == before


@pytest.mark.spec("SQL-1")
def test_what_is_no_sound_sqlite_file_is_refused_and_left_alone(path: Path) -> None:
    with SqliteFile(path) as whole:
        pass
    for data in (b"SHELF-1\n" + bytes(200), whole[:100] + b"\xff" * (len(whole) - 100)):
        path.write_bytes(data)
        for readonly in (False, True):
            with pytest.raises(FormatError, match="not a sound SQLite file"):
                SqliteStorage(path, readonly=readonly)
        assert path.read_bytes() == data


class SqliteFile:
    """Gives the bytes of a file with some objects."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> bytes:
        storage = SqliteStorage(self._path)
        put(storage, {oid_from_int(n): b"" for n in range(500)})
        storage.close()
        return self._path.read_bytes()

    def __exit__(self, *_: object) -> None:
        self._path.unlink()


@pytest.mark.spec("SQL-1")
@pytest.mark.parametrize(
    ("row", "problem"),
    [("(-5, x'00', x'')", "id -5"), ("(3, 'text', x'')", "id 3"), ("(3, x'00', null)", "id 3")],
)
def test_row_that_is_no_record_is_an_error_that_names_it(path: Path, row: str, problem: str) -> None:
    SqliteStorage(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"insert into objects values {row}")
        connection.commit()

    def read() -> None:
        storage = SqliteStorage(path)
        try:
            storage.load(oid_from_int(3))
        finally:
            storage.close()

    with pytest.raises(FormatError, match=problem):
        read()


@pytest.mark.spec("SQL-2")
def test_oid_that_does_not_fit_is_refused_with_nothing_of_its_commit_stored(storage: SqliteStorage) -> None:
    high, highest = oid_from_int(1 << 63), oid_from_int((1 << 63) - 1)
    with pytest.raises(RecordError, match=r"oid 9223372036854775808 does not fit"):
        put(storage, {ROOT: b"", high: b""})
    with pytest.raises(DurusKeyError):
        storage.load(high)
    assert not storage.has_record(high)
    assert not storage.has_record(ROOT)
    put(storage, {ROOT: b"", highest: b""})
    assert [oid for oid, _ in storage.gen_oid_record()] == [ROOT, highest]


@pytest.mark.spec("SQL-3")
def test_commits_are_synced_and_go_through_the_write_ahead_log(path: Path, storage: SqliteStorage) -> None:
    assert storage._writer is not None
    assert storage._writer.execute("pragma synchronous").fetchone() == (2,)
    assert storage._writer.execute("pragma journal_mode").fetchone() == ("wal",)
    put(storage, {ROOT: b""})
    assert path.with_name("f-wal").stat().st_size > 0
    storage.close()
    assert [each.name for each in path.parent.iterdir()] == ["f"]


@pytest.mark.spec("SQL-3")
def test_readers_go_on_while_another_thread_writes(storage: SqliteStorage) -> None:
    put(storage, {ROOT: b""})
    amid_write, may_end = threading.Event(), threading.Event()

    def pause() -> int:
        amid_write.set()
        assert may_end.wait(60)
        return 1

    assert storage._writer is not None
    storage._writer.create_function("pause", 0, pause)
    storage._writer.execute("create temp trigger slow before insert on objects begin select pause(); end")
    staged = storage.stage_commit({ROOT: pack_record(ROOT, b"new", b"")})
    thread = threading.Thread(target=staged.write)
    thread.start()
    assert amid_write.wait(60)
    try:
        assert storage.load(ROOT) == pack_record(ROOT, b"data", b"")
    finally:
        may_end.set()
        thread.join()
    staged.accept()
    assert storage.load(ROOT) == pack_record(ROOT, b"new", b"")


@pytest.mark.spec("SQL-4")
def test_commit_that_fails_before_its_end_leaves_nothing_and_the_storage_in_use(storage: SqliteStorage) -> None:
    put(storage, {ROOT: b""})
    assert storage._writer is not None
    (pages,) = storage._writer.execute("pragma page_count").fetchone()
    storage._writer.execute(f"pragma max_page_count = {pages + 1}")
    with pytest.raises(FileError, match=r"f: cannot write to the file: .*full") as caught:
        put(storage, {ROOT: ONE, ONE: b""}, data=bytes(100_000))
    assert caught.value.operation == "write to the file"
    assert storage.load(ROOT) == pack_record(ROOT, b"data", b"")
    assert not storage.has_record(ONE)
    put(storage, {ROOT: ONE, ONE: b""})
    assert storage.has_record(ONE)


class FailingCommit:
    """A connection to SQLite whose next commit fails, as if its disk had."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def execute(self, statement: str) -> sqlite3.Cursor:
        if statement == "commit":
            raise sqlite3.OperationalError("disk I/O error")
        return self._connection.execute(statement)

    def __getattr__(self, name: str) -> object:
        return getattr(self._connection, name)


@pytest.mark.spec("SQL-4")
def test_after_a_commit_of_unknown_outcome_none_is_taken_until_the_file_is_opened_anew(
    path: Path, storage: SqliteStorage
) -> None:
    put(storage, {ROOT: b""})
    assert storage._writer is not None
    storage._writer = FailingCommit(storage._writer)  # type: ignore[assignment]  # it acts like one
    with pytest.raises(FileError, match="disk I/O error"):
        put(storage, {ROOT: ONE, ONE: b""})
    with pytest.raises(ClosedError, match="failed at its end"):
        storage.begin()
    assert storage.load(ROOT) == pack_record(ROOT, b"data", b"")
    storage.close()
    again = SqliteStorage(path)
    put(again, {ROOT: ONE, ONE: b""})
    again.close()


@pytest.mark.spec("SQL-5")
def test_other_programs_can_read_and_cannot_write(path: Path, storage: SqliteStorage) -> None:
    put(storage, {ROOT: b""})
    with closing(sqlite3.connect(path, timeout=0)) as other:
        assert other.execute("select count(*) from objects").fetchone() == (1,)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("delete from objects")


@pytest.mark.spec("SQL-5")
def test_file_that_another_program_is_writing_to_is_locked(path: Path) -> None:
    SqliteStorage(path).close()
    with closing(sqlite3.connect(path)) as other:
        other.execute("begin immediate")
        with pytest.raises(LockedError, match="in use by another writer"):
            SqliteStorage(path)
        other.execute("rollback")
    SqliteStorage(path).close()


@pytest.mark.spec("SQL-5")
@pytest.mark.parametrize("still_writing", [False, True])
def test_program_that_writes_between_two_commits_is_noticed(
    path: Path, storage: SqliteStorage, monkeypatch: pytest.MonkeyPatch, still_writing: bool
) -> None:
    keep_others_out = storage._keep_others_out
    other = sqlite3.connect(path, isolation_level=None)

    def too_late(writer: sqlite3.Connection) -> None:
        other.execute("begin immediate")
        other.execute("insert into objects values (7, x'00', x'')")
        if not still_writing:
            other.execute("commit")
        keep_others_out(writer)

    monkeypatch.setattr(storage, "_keep_others_out", too_late)
    put(storage, {ROOT: b""})
    other.close()
    with pytest.raises(ClosedError, match="another program"):
        storage.begin()


@pytest.mark.spec("SQL-6")
def test_reader_does_not_keep_a_writer_out(path: Path, storage: SqliteStorage) -> None:
    put(storage, {ROOT: b""})
    storage.close()
    reader = SqliteStorage(path, readonly=True)
    writer = SqliteStorage(path)
    put(writer, {ROOT: ONE, ONE: b""})
    assert not reader.has_record(ONE)
    reader.close()
    writer.close()


@pytest.mark.spec("SQL-6")
def test_reader_changes_nothing_and_leaves_two_files_to_the_next_writer(path: Path, storage: SqliteStorage) -> None:
    put(storage, {ROOT: b""})
    storage.close()
    before = path.read_bytes()
    assert [each.name for each in path.parent.iterdir()] == ["f"]
    SqliteStorage(path, readonly=True).close()
    assert path.read_bytes() == before
    assert {each.name for each in path.parent.iterdir()} <= {"f", "f-shm", "f-wal"}
    log = Path(f"{path}-wal")
    assert not log.exists() or log.stat().st_size == 0
    SqliteStorage(path).close()
    assert [each.name for each in path.parent.iterdir()] == ["f"]


@pytest.mark.spec("SQL-6")
def test_reader_that_can_not_make_these_files_says_why(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **options: object) -> None:
        error = sqlite3.OperationalError("attempt to write a readonly database")
        error.sqlite_errorcode = sqlite3.SQLITE_READONLY_CANTINIT
        raise error

    monkeypatch.setattr(SqliteStorage, "_connect", refuse)
    with pytest.raises(FileError, match=r"a readonly database; to read, SQLite makes two files .* a folder that you"):
        SqliteStorage(path, readonly=True)
    with pytest.raises(FileError, match=r"a readonly database$"):
        SqliteStorage(path)


@pytest.mark.spec("SQL-7")
def test_new_oids_follow_the_highest_one(path: Path, storage: SqliteStorage) -> None:
    assert storage.new_oid() == ROOT
    put(storage, {ROOT: b"", oid_from_int(40): b""})
    storage.close()
    again = SqliteStorage(path)
    assert again.new_oid() == oid_from_int(41)
    again.pack()
    assert again.new_oid() == oid_from_int(42)
    again.close()


@pytest.mark.spec("SQL-8", "SQL-9")
def test_what_is_not_reached_has_no_record_from_one_step_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("durus.sqlite_storage._STEP_ROWS", 10)
    storage = SqliteStorage(path)
    garbage = [oid_from_int(n) for n in range(2, 100)]
    put(storage, {ROOT: ONE, ONE: b"", **dict.fromkeys(garbage, garbage[0])})
    seen = []
    for progress in storage.get_packer():
        here = [oid for oid in garbage if storage.has_record(oid)]
        assert here in ([], garbage)
        assert (progress.phase == "remove") == (here == [])
        assert {oid for oid, _ in storage.gen_oid_record()} == {ROOT, ONE, *here}
        seen.append(len(rows(path)))
    assert sorted(set(seen), reverse=True) == [100, 90, 80, 70, 60, 50, 40, 30, 20, 10]
    assert len(rows(path)) == 2
    storage.close()


@pytest.mark.spec("SQL-8")
def test_object_that_is_stored_anew_while_its_row_waits_for_deletion_stays(storage: SqliteStorage) -> None:
    put(storage, {ROOT: b"", ONE: b"", TWO: b""})
    packer = storage.get_packer()
    while next(packer).phase != "remove":
        pass
    put(storage, {ROOT: ONE, ONE: b""})
    for _ in packer:
        pass
    assert {oid for oid, _ in storage.gen_oid_record()} == {ROOT, ONE}


def pack_with_progress(storage: SqliteStorage) -> None:
    assert {each.phase for each in storage.gen_pack()} >= {"mark"}


@pytest.mark.spec("SQL-8")
@pytest.mark.parametrize("pack", [SqliteStorage.pack, pack_with_progress])
def test_pack_gives_the_room_back(path: Path, pack: Callable[[SqliteStorage], None]) -> None:
    with Connection(SqliteStorage(path)) as connection:
        root = connection.get_root()
        root["text"] = [bytes([n % 251 for n in range(100_000)])]
        connection.commit()
        root["text"] = None
        root["many"] = [str(n) for n in range(20_000)]
        connection.commit()
        root["many"] = 1
        connection.commit()
        size = path.stat().st_size
        pack(cast(SqliteStorage, connection.get_storage()))
        assert path.stat().st_size < max(size, 20_000)
        root["after"] = 1
        connection.commit()
    with Connection(SqliteStorage(path)) as connection:
        assert dict(connection.get_root()) == {"text": None, "many": 1, "after": 1}


def test_storage_that_was_made_with_a_wrong_call_is_dropped_quietly(recwarn: pytest.WarningsRecorder) -> None:
    with pytest.raises(TypeError):
        SqliteStorage()  # type: ignore[call-arg]  # the wrong call is the point
    assert list(recwarn) == []

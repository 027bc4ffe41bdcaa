"""SqliteStorage: a storage in one SQLite file. spec/sqlite.md.

One connection writes, and its transaction stays open between commits, so that no other program can write. A second one
reads meanwhile. SQLite's locks belong to the process, so a fork must not close either of them in the child.
"""

import contextlib
import errno
import os
import sqlite3
import sys
import urllib.parse
from array import array
from collections import Counter
from collections.abc import Generator, Iterator

from durus.concurrency.call_guard import CallGuard, guarded
from durus.error import (
    ConcurrentUseError,
    DurusError,
    DurusKeyError,
    FileError,
    FormatError,
    LockedError,
    RecordError,
    WrongProcessError,
)
from durus.files.file import Path, os_errors_as
from durus.files.single_file_storage import SingleFileStorage
from durus.oid import ROOT_OID, format_oid, oid_from_int, oid_to_int
from durus.oid_array import OidArray, joined
from durus.progress import Progress
from durus.records.reachable import dangling_reference_error, mark_reachable
from durus.records.record import pack_record, unpack_record
from durus.storage import EMPTY_COMMIT, StagedCommit, check_references

_TABLE = "create table objects (id integer primary key, data blob, refs blob)"
_COLUMNS = [("id", 1), ("data", 0), ("refs", 0)]
"""The names of the columns, and the primary key among them."""
_MAX_ID = (1 << 63) - 1
_ERRNO = {
    sqlite3.SQLITE_CANTOPEN: errno.ENOENT,
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EROFS,
}
_MILLISECONDS_TO_WAIT = 1000
_STEP_ROWS = 1000
"""How many rows one step lists or deletes, at most."""


class SqliteStorage(SingleFileStorage[sqlite3.Connection]):
    """A storage in one SQLite file.

    Args:
        filename: the path of the file, which is created if it does not exist.
        readonly: let others write, and see the file as it was when it was opened. [SQL-6] To read, SQLite makes two
            small files beside it, `-wal` and `-shm`, which the next writer removes, so the folder must be writable.
        repair: changes nothing, because SQLite itself undoes incomplete commits.

    Raises:
        FileError: the file can't be opened.
        LockedError: it is open for writing elsewhere.
        FormatError: it is not a SQLite file with the table of Durus.
        ArgumentError: `readonly` and `repair` are both true.
    """

    shows_early = True

    _reader: sqlite3.Connection | None = None
    _writer: sqlite3.Connection | None = None
    _inode: tuple[int, int] | None = None
    _beside: list[tuple[int, int]]
    """The inodes of the log and of the locks, which SQLite finds by their names."""
    _size = 0
    """The length of the file when a commit last looked at it."""

    def __init__(self, filename: Path, readonly: bool = False, repair: bool = False) -> None:
        super().__init__(readonly, repair)
        self._write_guard = CallGuard("storage")
        """Guards the writing of a commit, during which others may load."""
        self._unsettled: list[int] = []
        """What an unfinished commit writes."""
        self._condemned: set[int] = set()
        """What a pack has removed, though its row may still exist. [SQL-8]"""
        self._written: set[bytes] | None = None
        """What was committed since a pack last looked, None if no pack is running."""
        self._set_filename(filename)
        if _inodes_of_parent and os.path.exists(self._path) and _inode_of(self._path) in _inodes_of_parent:
            raise WrongProcessError(
                f"{self._path}: the parent of this process had this file open at the fork, and SQLite can't have it "
                "open in both; fork before opening the file, or use another process"
            )
        try:
            with self._sqlite_errors_as("open the file"):
                if not readonly:
                    self._writer = self._open_writer()
                self._reader = self._open_reader()
                lowest, highest = self._reader.execute("select min(id), max(id) from objects").fetchone()
            if lowest is not None and lowest < 0:
                raise FormatError(f"{self._path}: it has a row with the id {lowest}, which is not an oid")
        except BaseException:
            self.close()
            raise
        self._inode = _inode_of(self._path)
        if not readonly:
            self._beside = self._inodes_beside()
        _open_inodes[self._inode] += 1
        self._next_id = 0 if highest is None else highest + 1

    def __del__(self) -> None:
        if self._reader or self._writer:  # a storage that is dropped without close() must not keep its lock
            self.close()

    # Opening

    def _open_writer(self) -> sqlite3.Connection:
        self._writer = writer = self._connect("rwc", seconds_to_wait=0)
        has_table = self._has_table(writer)
        (mode,) = writer.execute("pragma journal_mode=wal").fetchone()
        if mode != "wal":
            raise FileError(errno.ENOTSUP, "SQLite can't create its write-ahead log next to this file", self._path)
        writer.execute("pragma synchronous=full")
        writer.execute("pragma fullfsync=on")  # macOS: see file.py
        writer.execute("begin immediate")
        if not has_table and not self._has_table(writer):
            writer.execute(_TABLE)
            writer.execute("commit")
            writer.execute("begin immediate")
        # From here on only short locks of SQLite itself can block.
        writer.execute(f"pragma busy_timeout = {_MILLISECONDS_TO_WAIT}")
        self._data_version = self._get_data_version()
        return writer

    def _open_reader(self) -> sqlite3.Connection:
        self._reader = reader = self._connect("ro", seconds_to_wait=10)
        if self._readonly:
            reader.execute("begin")  # a snapshot from the first read on [SQL-6]
            if not self._has_table(reader):
                raise FormatError(f"{self._path}: the file is empty; open it for writing once to make it a database")
        return reader

    def _connect(self, mode: str, seconds_to_wait: float) -> sqlite3.Connection:
        uri = f"file:{urllib.parse.quote(os.fsencode(self._path))}?mode={mode}"
        return sqlite3.connect(uri, uri=True, timeout=seconds_to_wait, isolation_level=None, check_same_thread=False)

    def _has_table(self, connection: sqlite3.Connection) -> bool:
        """Return whether the table of objects exists; False if the file has no table at all. [SQL-1]"""
        tables = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]
        columns = [(name, key) for _, name, _, _, _, key in connection.execute("pragma table_info(objects)")]
        if tables and columns != _COLUMNS:
            raise FormatError(
                f"{self._path}: this SQLite file is not one of Durus; it has no table objects(id, data, refs), but "
                f"the tables {', '.join(tables)}"
            )
        return bool(tables)

    def _get_data_version(self) -> int:
        """Return a number that changes when a connection other than the writer has written."""
        version: int = self._require_writer().execute("pragma data_version").fetchone()[0]
        return version

    @contextlib.contextmanager
    def _sqlite_errors_as(self, operation: str) -> Iterator[None]:
        """Raise errors of SQLite as errors of this package that name operation and file."""
        try:
            yield
        except sqlite3.Error as error:
            raise self._error(operation, error) from error

    def _error(self, operation: str, error: sqlite3.Error) -> DurusError:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            return FormatError(f"{self._path}: this is not a sound SQLite file: {error}; restore it from a backup")
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return LockedError(errno.EAGAIN, "the file is in use by another writer", self._path)
        message = f"cannot {operation}: {error}"
        if self._readonly and code == sqlite3.SQLITE_READONLY:
            message += "; to read, SQLite makes two files beside it: open a copy in a folder that you can write to"
        named = FileError(_ERRNO.get(code, errno.EIO), message, self._path)
        named.operation = operation
        return named

    def _require_open(self) -> sqlite3.Connection:
        if self._reader is None:
            raise self._closed_error()
        return self._reader

    def _require_writer(self) -> sqlite3.Connection:
        if self._writer is None:
            self._require_writable()
            raise self._closed_error()
        return self._writer

    # Storage

    def load(self, oid: bytes) -> bytes:
        number = oid_to_int(oid)
        rows = self._select("select data, refs from objects where id = ?", number) if self._may_have(number) else []
        if not rows:
            raise DurusKeyError(oid)
        return self._record(number, *rows[0])

    def has_record(self, oid: bytes) -> bool:
        number = oid_to_int(oid)
        return self._may_have(number) and bool(self._select("select 1 from objects where id = ?", number))

    def _may_have(self, number: int) -> bool:
        self._require_open()
        return number <= _MAX_ID and number not in self._condemned

    def _select(self, statement: str, *values: int) -> list[tuple[object, ...]]:
        with self._sqlite_errors_as("read"):
            return self._require_open().execute(statement, values).fetchall()

    def _record(self, number: int, data: object, refs: object) -> bytes:
        oid = oid_from_int(number)
        if not (isinstance(data, bytes) and isinstance(refs, bytes)):
            raise FormatError(f"{self._path}: the row with the id {number} has values other than bytes as data or refs")
        return pack_record(oid, data, refs)

    def _stage_commit(self, records: dict[bytes, bytes]) -> StagedCommit:
        """Stage a commit that is one transaction of SQLite. [SQL-3] [SQL-4]"""
        self._require_writable()
        rows = []
        for oid, record in records.items():
            _, data, refs = unpack_record(record)
            if oid_to_int(oid) > _MAX_ID:
                raise RecordError(
                    f"{self._path}: the oid {format_oid(oid)} does not fit the integers of SQLite, which end at "
                    f"{_MAX_ID}; keep the object in a SHELF-1 file"
                )
            rows.append((oid_to_int(oid), data, refs))
        if not rows:
            return EMPTY_COMMIT

        def write() -> None:
            check_references(records, self._has_row)
            self._write("insert or replace into objects (id, data, refs) values (?, ?, ?)", rows)

        return StagedCommit(write, lambda: self._accept([number for number, _, _ in rows]))

    def _has_row(self, oid: bytes) -> bool:
        """Return whether there is a record, with the connection that writes, because others may load meanwhile."""
        number = oid_to_int(oid)
        if not self._may_have(number):
            return False
        with self._sqlite_errors_as("read"):
            statement = "select 1 from objects where id = ?"
            return bool(self._require_writer().execute(statement, (number,)).fetchall())

    def _accept(self, numbers: list[int]) -> None:
        self._condemned.difference_update(numbers)
        if self._written is not None:
            self._written.update(map(oid_from_int, numbers))

    def _write(self, statement: str, rows: list[tuple[int, bytes, bytes]] | list[tuple[int]]) -> None:
        """Execute a statement for all rows, in one durable transaction. [SQL-3]"""
        self._write_guard.begin(sys._getframe(), self._settle_write)
        try:
            self._write_rows(statement, rows)
        except DurusError:
            self._write_guard.end()
            raise
        self._write_guard.end()

    def _write_rows(self, statement: str, rows: list[tuple[int, bytes, bytes]] | list[tuple[int]]) -> None:
        self._require_writable()
        writer = self._require_writer()
        self._unsettled = [row[0] for row in rows]
        is_ending = False
        try:
            with self._sqlite_errors_as("write to the file"):
                writer.executemany(statement, rows)
                self._check_names()
                is_ending = True
                writer.execute("commit")
        except DurusError as error:
            if is_ending:
                self._failure = f"an earlier commit failed at its end: {error}"
            with contextlib.suppress(sqlite3.Error):  # SQLite may have undone it already
                writer.execute("rollback")
            self._keep_others_out(writer)
            raise
        self._keep_others_out(writer)
        self._unsettled = []

    def _check_names(self) -> None:
        """Check that others find this file, its log and its locks by their names, and that nobody cut it. [SQL-22]"""
        try:
            with os_errors_as("look up the file by its name", self._name):
                status = os.stat(self._name)
                beside = self._inodes_beside()
        except FileError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                raise self._moved_error() from error
            raise
        if (status.st_dev, status.st_ino) != self._inode or beside != self._beside:
            raise self._moved_error()
        if status.st_size < self._size:
            message = (
                f"another program has cut the file from {self._size} to {status.st_size} bytes, so nothing is written "
                "to it; restore it from a backup"
            )
            raise FileError(errno.ESTALE, message, self._name)
        self._size = status.st_size

    def _inodes_beside(self) -> list[tuple[int, int]]:
        return [_inode_of(self._path + suffix) for suffix in ("-wal", "-shm")]

    def _settle_write(self) -> None:
        """Undo what an interrupted call has written without committing it, and keep other writers out. [SQL-20]"""
        if self._writer is not None:
            with contextlib.suppress(sqlite3.Error):
                if self._writer.in_transaction:
                    self._writer.execute("rollback")
            self._keep_others_out(self._writer)
        self._accept(self._unsettled)  # they may be stored

    def _keep_others_out(self, writer: sqlite3.Connection) -> None:
        """Begin the next transaction; if another program has written first, this storage must end. [SQL-5]"""
        try:
            if not writer.in_transaction:
                writer.execute("begin immediate")
            if self._get_data_version() != self._data_version:
                self._failure = self._failure or "another program has written to the file meanwhile"
        except sqlite3.Error as error:
            self._failure = self._failure or f"another program is writing to the file: {error}"

    @guarded
    def new_oid(self) -> bytes:
        self._require_open()
        self._next_id += 1
        return oid_from_int(self._next_id - 1)

    def _release(self) -> None:
        reader, self._reader = self._reader, None
        writer, self._writer = self._writer, None
        inode, self._inode = self._inode, None
        for connection in reader, writer:
            if connection is not None:
                connection.close()
        if inode is not None:
            _open_inodes[inode] -= 1

    # Interrupts and forks

    def _start_anew(self) -> None:
        """Undo what an interrupted call has left. [SQL-20]"""
        super()._start_anew()
        self._give_up_pack()
        if self._write_guard.is_interrupted and self._writer is not None:
            with contextlib.suppress(ConcurrentUseError):  # a running write was not interrupted
                self._write_guard.begin(sys._getframe(), self._settle_write)
                self._write_guard.end()
        elif self._writer is not None and not self._writer.in_transaction:
            self._keep_others_out(self._writer)

    def leave_to_parent(self) -> None:
        """Never close the connections: that could write to a file that the parent shares. [SQL-21]"""
        for connection in self._reader, self._writer:
            if connection is not None:
                _keep_for_ever(connection)
        self._reader = self._writer = self._inode = None

    def gen_oid_record(self, start_oid: bytes | None = None, batch_size: int = 100) -> Iterator[tuple[bytes, bytes]]:
        """Yield (oid, record) for every record in the order of the oids, or for those reached from `start_oid`,
        `batch_size` at a time.
        """
        if start_oid is not None:
            yield from super().gen_oid_record(start_oid, batch_size)
            return
        self._require_open()
        last = -1
        statement = "select id, data, refs from objects where id > ? order by id limit ?"
        while rows := self._select(statement, last, batch_size):
            for number, data, refs in rows:
                last = _integer(number)
                if last not in self._condemned:
                    yield oid_from_int(last), self._record(last, data, refs)

    def as_of_now(self) -> "SqliteStorage":
        return SqliteStorage(self._path, readonly=True)

    def count(self) -> int:
        """Return how many objects there are."""
        return _integer(self._select("select count(*) from objects")[0][0]) - len(self._condemned)

    def integrity_problems(self) -> list[str]:
        """Return the problems that SQLite itself finds in the file."""
        problems = [str(problem) for (problem,) in self._select("pragma integrity_check")]
        return [] if problems == ["ok"] else problems

    def gen_oids(self) -> Iterator[bytes]:
        """Yield the oids of all rows, in order."""
        for ids in self._gen_ids():
            yield from map(oid_from_int, ids)

    # Packing

    def pack(self) -> None:
        """Remove the records that the root does not reach, and return their space to the file system."""
        super().pack()
        self.vacuum()

    def gen_pack(self) -> Iterator[Progress]:
        yield from super().gen_pack()
        self.vacuum()

    @guarded
    def vacuum(self) -> None:
        """Return the space of deleted rows to the file system; this may take long."""
        self._require_writable()
        writer = self._require_writer()
        self._check_names()
        self._size = 0
        with self._sqlite_errors_as("return unused space of the file"):
            try:
                writer.execute("commit")
                writer.execute("vacuum")
                writer.execute("pragma wal_checkpoint(truncate)")
            finally:
                self._keep_others_out(writer)

    def _give_up_pack(self) -> None:
        super()._give_up_pack()
        self._written = None

    def _pack(self) -> Generator[Progress, None, None]:
        try:
            garbage = yield from self._find_garbage()
            removed = joined(self._removed, OidArray(array("Q", garbage)))
            self._removed, self._condemned = removed, self._condemned.union(garbage)
            yield from self._delete(garbage)
        finally:
            self._written = None

    def _find_garbage(self) -> Generator[Progress, None, list[int]]:
        self._written = {ROOT_OID} if self.has_record(ROOT_OID) else set()
        reached: set[bytes] = set()
        yield from self._mark(reached)
        garbage = []
        for ids in self._gen_ids():
            garbage += [number for number in ids if oid_from_int(number) not in reached]
            yield Progress("mark", len(reached), None)
        yield from self._mark(reached)
        for _ in self._mark(reached):
            pass  # the rest was committed since the last step
        self._written = None
        return [number for number in garbage if oid_from_int(number) not in reached]

    def _delete(self, garbage: list[int]) -> Iterator[Progress]:
        for start in range(0, len(garbage), _STEP_ROWS):
            yield Progress("remove", start, len(garbage))
            numbers = [number for number in garbage[start : start + _STEP_ROWS] if number in self._condemned]
            self._write("delete from objects where id = ?", [(number,) for number in numbers])
            self._condemned.difference_update(numbers)

    def _mark(self, reached: set[bytes]) -> Iterator[Progress]:
        """Add to `reached` what was written since the last call of this, and all that it reaches."""
        pending, self._written = list(self._written or ()), set()
        yield from mark_reachable(pending, reached, self.load, self._require)
        yield Progress("mark", len(reached), None)

    def _require(self, oid: bytes, referrer: bytes) -> None:
        if not self.has_record(oid):
            raise dangling_reference_error(referrer, oid, self._path)

    def _gen_ids(self) -> Iterator[list[int]]:
        """Yield the ids of all rows, some at a time."""
        last = -1
        while rows := self._select("select id from objects where id > ? order by id limit ?", last, _STEP_ROWS):
            ids = [_integer(number) for (number,) in rows]
            yield ids
            last = ids[-1]


_inodes_of_parent: set[tuple[int, int]] = set()
"""Files that the parent of this process had open at the fork: SQLite takes the parent's locks for the child's."""
_connections_of_parent: list[sqlite3.Connection] = []


def _keep_for_ever(connection: sqlite3.Connection) -> None:
    """Keep a connection from ever being closed, even at the end of the process."""
    _connections_of_parent.append(connection)
    with contextlib.suppress(ImportError, AttributeError):
        import ctypes

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


def _note_fork() -> None:
    _inodes_of_parent.update(inode for inode, count in _open_inodes.items() if inode is not None and count > 0)
    _open_inodes.clear()


os.register_at_fork(after_in_child=_note_fork)

_open_inodes: Counter[tuple[int, int] | None] = Counter()


def is_open_in_this_process(path: Path) -> bool:
    """Return whether a SqliteStorage has this file open: opening and closing the file would release SQLite's locks."""
    return _open_inodes[_inode_of(path)] > 0


def _inode_of(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _integer(value: object) -> int:
    if not isinstance(value, int):
        raise FormatError(f"a row has the id {value!r}")
    return value

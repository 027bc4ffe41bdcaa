"""What all storages in one file share: opening, locking, cutting, committing, packing. spec/shelf.md.

A subclass says how its format is read and written.  Where a statement of spec/shelf.md is named here,
it holds for the other formats too.
"""

import contextlib
import os
import tempfile
import warnings
from collections.abc import Callable, Generator, Iterator
from datetime import UTC, datetime
from typing import Generic, Literal, TypeVar

from durus.error import (
    ClosedError,
    DurusKeyError,
    DurusWarning,
    FileError,
    FormatError,
    ReadonlyError,
    TransactionError,
)
from durus.file import File, FileSystem, OperatingSystem
from durus.oid import oid_from_int
from durus.packer import Packer
from durus.progress import Progress
from durus.record_file import PreparedTransaction, RecordFile, is_unfinished_creation
from durus.shelf.as_of_now import as_of_now
from durus.storage import (
    NOTHING_TO_DO,
    CollectingStorage,
    Conclusion,
    InvalidationHandler,
    check_references,
)

Durability = Literal["fsync", "os"]


def utc_now() -> str:
    """Return the wall-clock time as seals hold it."""
    return datetime.now(UTC).isoformat(timespec="microseconds")[:26] + "Z"


F = TypeVar("F", bound=RecordFile)


class AppendOnlyStorage(CollectingStorage, Generic[F]):
    """Base of storages in one file, which is only ever appended to, and replaced as a whole by a pack."""

    # What a subclass says of its format

    _empty_file: bytes
    """A file without any object."""

    def _read(self, file: File) -> F:
        """Read a file up to the end of its last sound transaction. FormatError, or DamageError, where that can't be."""
        raise NotImplementedError

    def _new_packer(self, source: F, target: File) -> Packer[F]:
        raise NotImplementedError

    # Opening

    def __init__(
        self,
        filename: str | os.PathLike[str] | None,
        readonly: bool,
        repair: bool,
        durability: Durability,
        file_system: FileSystem | None,
        clock: Callable[[], str],
    ) -> None:
        if readonly and (repair or filename is None):
            raise TransactionError(f"a readonly {type(self).__name__} needs the name of a file, and can't repair it")
        if durability not in ("fsync", "os"):
            raise TransactionError(f'durability is "fsync" or "os", not {durability!r}')
        self._records: F | None = None
        self._failure: str | None = None
        self._removed: list[bytes] = []
        self._freed: set[bytes] = set()
        self._packer: Generator[Progress, None, None] | None = None
        self._is_packing = False
        self._readonly = readonly
        self._durability = durability
        self._clock = clock
        self._file_system = OperatingSystem() if file_system is None else file_system
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        if filename is None:
            self._directory = tempfile.TemporaryDirectory(prefix="durus-")
            filename = os.path.join(self._directory.name, "temporary.durus")
        self._filename = os.fspath(filename)
        self._path = os.path.realpath(self._filename)
        try:
            self._records = self._open_readonly() if readonly else self._open_for_writing(repair)
        finally:
            if self._records is None:
                self.close()
        self._holes = self._records.holes()
        self._next_oid = self._records.oid_count

    def get_filename(self) -> str:
        """Return the name of the file, as it was given."""
        return self._filename

    def __str__(self) -> str:
        return f"{type(self).__name__}({self._filename!r})"

    __repr__ = __str__

    def _open_readonly(self) -> F:
        file = self._file_system.open(self._path, "read")
        with _closing_on_error(file):
            if is_unfinished_creation(file, self._empty_file):
                raise FormatError(f"{self._path}: the file is empty; open it for writing once to make it a database")
            found = self._read(as_of_now(file))
        if found.tail is not None:
            warnings.warn(
                f"{found.tail.path}: what stands behind byte {found.tail.offset} is not a whole transaction and is "
                f"not shown: {found.tail.problem}",
                DurusWarning,
                stacklevel=4,
            )
        return found

    def _open_for_writing(self, repair: bool) -> F:
        file = self._open_locked()
        with _closing_on_error(file):
            is_new = is_unfinished_creation(file, self._empty_file)
            if is_new:
                file.truncate(0)
                file.append(self._empty_file)
            found = self._read(file)
            if found.tail is not None:
                if not repair:
                    raise found.tail
                self._cut_tail(found)
            # What a process that was killed wrote may be in the cache only. [SHELF-22]
            try:
                file.sync()
            except BaseException:
                if is_new:  # or who opens it next finds it whole, though it may never come to the disk [SHELF-22]
                    file.truncate(0)
                raise
            self._file_system.sync_directory(self._path)
        return found

    def _open_locked(self) -> File:
        while True:
            file = self._file_system.open(self._path, "write")
            with _closing_on_error(file):
                file.lock()
                if file.has_its_name():
                    return file
            # A pack put a new file in its place between our open and our lock.
            file.close()

    def _cut_tail(self, found: F) -> None:
        """Move what stands behind the last sound transaction to a file beside it. [SHELF-26]"""
        size = found.file.size()
        kept_path = self._unused_name(f"{self._path}.cut-{found.end}")
        kept = self._file_system.open(kept_path, "new")
        try:
            for offset in range(found.end, size, 1 << 20):
                kept.append(found.file.read_at(offset, min(1 << 20, size - offset)))
            kept.sync()
            self._file_system.sync_directory(kept_path)
        except BaseException:
            self._remove(kept_path)
            raise
        finally:
            kept.close()
        found.file.truncate(found.end)
        warnings.warn(
            f"{self._path}: the last {size - found.end} bytes were not a whole transaction; "
            f"they were cut off and are kept in {kept_path}",
            DurusWarning,
            stacklevel=5,
        )

    def _unused_name(self, name: str) -> str:
        number, unused = 1, name
        while self._file_system.exists(unused):
            number += 1
            unused = f"{name}-{number}"
        return unused

    def _open_file(self) -> F:
        if self._records is None:
            raise ClosedError(f"{self._path}: the storage is closed")
        return self._records

    def _writable_file(self) -> F:
        found = self._open_file()
        if self._readonly:
            raise ReadonlyError(f"{self._path}: the file is open with readonly=True and can't be changed")
        if self._failure is not None:
            raise ClosedError(
                f"{self._path}: no further commit is taken since an earlier one failed ({self._failure}); "
                "close the storage and open it again"
            )
        return found

    # Storage

    def load(self, oid: bytes) -> bytes:
        record = self._open_file().read(oid)
        if record is None:
            raise DurusKeyError(oid)
        return record

    def has_record(self, oid: bytes) -> bool:
        return self._open_file().position(oid) is not None

    def begin(self) -> None:
        self._writable_file()
        super().begin()

    def end(self, handle_invalidations: InvalidationHandler | None = None) -> None:
        """Conclude the commit with one append and one fsync. [SHELF-18]

        FileError if the file can't take it: then nothing of it is stored.  ClosedError after a
        failure that left the end of the file unknown.
        """
        pending = self._take_pending()
        if self._removed and handle_invalidations is not None:
            handle_invalidations(self.sync())
        conclusion = self.conclude(pending)
        conclusion.write()
        conclusion.accept()

    def conclude(self, records: dict[bytes, bytes]) -> Conclusion:
        found = self._writable_file()
        if not records:
            return NOTHING_TO_DO
        prepared: list[PreparedTransaction] = []

        def write() -> None:
            check_references(records, self.has_record)
            self._check_end(found)
            prepared.append(found.prepare(list(records.items()), self._clock()))
            self._write(found, prepared[0])

        return Conclusion(write, lambda: found.accept(prepared[0]))

    def _write(self, found: F, prepared: PreparedTransaction) -> None:
        try:
            if prepared.cover:
                self._append(found, prepared.cover, durable=True)
            self._append(found, prepared.data, durable=self._durability == "fsync")
        except BaseException as error:
            self._undo_append(found, error)
            raise

    def _check_end(self, found: F) -> None:
        """Make sure that the file ends where this storage believes that it ends.

        It may not after an interrupt between a commit's last write and its noting here.
        """
        size = found.file.size()
        if size != found.end:
            self._failure = f"the file ends at byte {size} and not at {found.end}, where the last commit ended"
            self._writable_file()

    def _append(self, found: F, data: bytes, durable: bool) -> None:
        found.file.append(data)
        if durable:
            try:
                found.file.sync()
            except BaseException as error:
                # What a failed fsync leaves behind is unknown, whatever later calls say. [SHELF-20]
                self._failure = str(error)
                raise

    def _undo_append(self, found: F, error: BaseException) -> None:
        """Cut off what an append that failed has written, so that no crash brings it back. [SHELF-20]"""
        try:
            found.file.truncate(found.end)
            found.file.sync()
        except BaseException as second:
            self._failure = f"{error}, and then {second}"
            if not isinstance(second, FileError):
                raise

    def sync(self) -> list[bytes]:
        removed, self._removed = self._removed, []
        return removed

    def new_oid(self) -> bytes:
        found = self._open_file()
        for number in self._holes:
            oid = oid_from_int(number)
            if oid not in found.index:
                return oid
        while True:
            oid = oid_from_int(self._next_oid)
            self._next_oid += 1
            if oid not in self._freed and found.position(oid) is None:
                return oid

    def close(self) -> None:
        if self._packer is not None:
            self._packer.close()  # it would remove the file of a later one
            self._packer = None
        if self._records is not None:
            self._records.file.close()
            self._records = None
        if self._directory is not None:
            self._directory.cleanup()
            self._directory = None

    def gen_oid_record(self, start_oid: bytes | None = None, batch_size: int = 100) -> Iterator[tuple[bytes, bytes]]:
        """Yield (oid, record) for every record in the order of the file, or for those reached from `start_oid`."""
        if start_oid is not None:
            yield from super().gen_oid_record(start_oid, batch_size)
            return
        found = self._open_file()
        for oid, offset in list(found.positions()):
            yield oid, found.read_entry(oid, offset)

    # Packing

    def get_packer(self) -> Iterator[Progress]:
        """Return an iterator that packs the file in steps, while commits go on between them. [SHELF-30]"""
        found = self._writable_file()
        if self._is_packing:
            raise TransactionError(f"{self._path}: a pack is under way already")
        self._packer = self._pack(found)
        return self._packer

    def _pack(self, found: F) -> Generator[Progress, None, None]:
        if self._is_packing:
            raise TransactionError(f"{self._path}: a pack is under way already")
        self._is_packing = True
        try:
            yield from self._pack_into(found, self._path + ".pack")
        finally:
            self._is_packing = False

    def _pack_into(self, found: F, new_path: str) -> Generator[Progress, None, None]:
        # After a crash a left-over of this name can be a second name of the database itself. [SHELF-39]
        self._remove_left_over(new_path)
        new_file = self._file_system.open(new_path, "new")
        try:
            new_file.lock()
            new_file.copy_permissions(found.file)
            packer = self._new_packer(found, new_file)
            for progress in packer.steps():
                yield progress
                self._writable_file()
            packer.finish()
            new = packer.open_target()
            self._keep_old_file()
            self._file_system.replace(new_path, self._path)
        except BaseException as error:
            try:
                self._give_up_if_replaced(found, error)
            finally:
                new_file.close()
                self._remove(new_path)
            raise
        new_file.path = self._path
        self._records = new
        removed = packer.removed()
        self._removed.extend(removed)
        self._freed.update(removed)
        # An oid that a pack set free may live on in a connection's memory, so it is not given out
        # again before the file is opened anew. [SHELF-38]
        self._holes = iter(())
        found.file.close()
        try:
            self._file_system.sync_directory(self._path)
        except BaseException as error:
            self._failure = str(error) or repr(error)
            raise

    def _give_up_if_replaced(self, found: F, error: BaseException) -> None:
        """Take no more commits if the new file had the name when an interrupt came: they would go into the old one."""
        has_its_name = False
        try:
            has_its_name = found.file.has_its_name()
        finally:
            if not has_its_name:
                self._failure = f"{error!r}, while a pack replaced the file"

    def _remove_left_over(self, path: str) -> None:
        if self._file_system.exists(path):
            self._file_system.remove(path)

    def _remove(self, path: str) -> None:
        """Remove a file that is of no use after an error; it is no second error if that fails."""
        with contextlib.suppress(FileError):
            self._file_system.remove(path)

    def _keep_old_file(self) -> None:
        """Give the file a second name that ends in .prepack. [SHELF-37]"""
        prepack = self._path + ".prepack"
        link = prepack + ".new"
        self._remove_left_over(link)
        if self._file_system.link(self._path, link):
            try:
                self._file_system.replace(link, prepack)
            except BaseException:
                self._remove(link)
                raise
        else:
            warnings.warn(
                f"{self._path}: the file system has no hard links, so the state before the pack is not kept",
                DurusWarning,
                stacklevel=5,
            )


@contextlib.contextmanager
def _closing_on_error(file: File) -> Iterator[None]:
    try:
        yield
    except BaseException:
        file.close()
        raise

"""FileStorage: a storage in one SHELF-1 file. spec/shelf.md."""

import contextlib
import os
import tempfile
import warnings
from collections.abc import Callable, Generator, Iterator
from datetime import UTC, datetime
from typing import Literal

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
from durus.progress import Progress
from durus.shelf.as_of_now import as_of_now
from durus.shelf.pack import ShelfPacker
from durus.shelf.shelf import EMPTY_FILE, PreparedTransaction, Shelf, is_unfinished_creation
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
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class FileStorage(CollectingStorage):
    """A storage in the SHELF-1 file `filename`, which is made if it is not there.

    Without a filename it is a temporary file that is gone when the storage is closed.
    readonly=True takes no lock and sees the file as it was when it was opened. [SHELF-28]
    repair=True cuts off an end that was not written whole. [SHELF-26]
    durability="fsync" makes every commit wait until it is on stable storage; "os" leaves the time
    to the operating system: such commits outlive the process, but not the machine. [SHELF-18]

    FileError if the operating system refuses the file, LockedError if it is open for writing elsewhere,
    FormatError if it is not a SHELF-1 file, DamageError if it is damaged, UnsoundTailError if repair=True
    would help.
    """

    def __init__(
        self,
        filename: str | os.PathLike[str] | None = None,
        readonly: bool = False,
        repair: bool = False,
        *,
        durability: Durability = "fsync",
        file_system: FileSystem | None = None,
        clock: Callable[[], str] = utc_now,
    ) -> None:
        if readonly and (repair or filename is None):
            raise TransactionError("a readonly FileStorage needs the name of a file, and can't repair it")
        if durability not in ("fsync", "os"):
            raise TransactionError(f'durability is "fsync" or "os", not {durability!r}')
        self._shelf: Shelf | None = None
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
            self._shelf = self._open_readonly() if readonly else self._open_for_writing(repair)
        finally:
            if self._shelf is None:
                self.close()
        self._holes = self._shelf.map.holes()
        self._next_oid = self._shelf.map.count

    def get_filename(self) -> str:
        """Return the name of the file, as it was given."""
        return self._filename

    def __str__(self) -> str:
        return f"FileStorage({self._filename!r})"

    __repr__ = __str__

    # Opening

    def _open_readonly(self) -> Shelf:
        file = self._file_system.open(self._path, "read")
        with _closing_on_error(file):
            if is_unfinished_creation(file):
                raise FormatError(f"{self._path}: the file is empty; open it for writing once to make it a database")
            shelf = Shelf(as_of_now(file))
        if shelf.tail is not None:
            warnings.warn(
                f"{shelf.tail.path}: what stands behind byte {shelf.tail.offset} is not a whole transaction and is "
                f"not shown: {shelf.tail.problem}",
                DurusWarning,
                stacklevel=4,
            )
        return shelf

    def _open_for_writing(self, repair: bool) -> Shelf:
        file = self._open_locked()
        with _closing_on_error(file):
            is_new = is_unfinished_creation(file)
            if is_new:
                file.truncate(0)
                file.append(EMPTY_FILE)
            shelf = Shelf(file)
            if shelf.tail is not None:
                if not repair:
                    raise shelf.tail
                self._cut_tail(shelf)
            # What a process that was killed wrote may be in the cache only. [SHELF-22]
            try:
                file.sync()
            except BaseException:
                if is_new:  # or who opens it next finds it whole, though it may never come to the disk [SHELF-22]
                    file.truncate(0)
                raise
            self._file_system.sync_directory(self._path)
        return shelf

    def _open_locked(self) -> File:
        while True:
            file = self._file_system.open(self._path, "write")
            with _closing_on_error(file):
                file.lock()
                if file.has_its_name():
                    return file
            # A pack put a new file in its place between our open and our lock.
            file.close()

    def _cut_tail(self, shelf: Shelf) -> None:
        """Move what stands behind the last sound transaction to a file beside it. [SHELF-26]"""
        size = shelf.file.size()
        kept_path = self._unused_name(f"{self._path}.cut-{shelf.end}")
        kept = self._file_system.open(kept_path, "new")
        try:
            for offset in range(shelf.end, size, 1 << 20):
                kept.append(shelf.file.read_at(offset, min(1 << 20, size - offset)))
            kept.sync()
            self._file_system.sync_directory(kept_path)
        except BaseException:
            self._remove(kept_path)
            raise
        finally:
            kept.close()
        shelf.file.truncate(shelf.end)
        warnings.warn(
            f"{self._path}: the last {size - shelf.end} bytes were not a whole transaction; "
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

    def _open_shelf(self) -> Shelf:
        if self._shelf is None:
            raise ClosedError(f"{self._path}: the storage is closed")
        return self._shelf

    def _writable_shelf(self) -> Shelf:
        shelf = self._open_shelf()
        if self._readonly:
            raise ReadonlyError(f"{self._path}: the file is open with readonly=True and can't be changed")
        if self._failure is not None:
            raise ClosedError(
                f"{self._path}: no further commit is taken since an earlier one failed ({self._failure}); "
                "close the storage and open it again"
            )
        return shelf

    # Storage

    def load(self, oid: bytes) -> bytes:
        record = self._open_shelf().read(oid)
        if record is None:
            raise DurusKeyError(oid)
        return record

    def has_record(self, oid: bytes) -> bool:
        return self._open_shelf().position(oid) is not None

    def begin(self) -> None:
        self._writable_shelf()
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
        shelf = self._writable_shelf()
        if not records:
            return NOTHING_TO_DO
        prepared: list[PreparedTransaction] = []

        def write() -> None:
            check_references(records, self.has_record)
            self._check_end(shelf)
            prepared.append(shelf.prepare(list(records.items()), self._clock()))
            self._write(shelf, prepared[0])

        return Conclusion(write, lambda: shelf.accept(prepared[0]))

    def _write(self, shelf: Shelf, prepared: PreparedTransaction) -> None:
        try:
            if prepared.cover:
                self._append(shelf, prepared.cover, durable=True)
            self._append(shelf, prepared.data, durable=self._durability == "fsync")
        except BaseException as error:
            self._undo_append(shelf, error)
            raise

    def _check_end(self, shelf: Shelf) -> None:
        """Make sure that the file ends where this storage believes that it ends.

        It may not after an interrupt between a commit's last write and its noting here.
        """
        size = shelf.file.size()
        if size != shelf.end:
            self._failure = f"the file ends at byte {size} and not at {shelf.end}, where the last commit ended"
            self._writable_shelf()

    def _append(self, shelf: Shelf, data: bytes, durable: bool) -> None:
        shelf.file.append(data)
        if durable:
            try:
                shelf.file.sync()
            except BaseException as error:
                # What a failed fsync leaves behind is unknown, whatever later calls say. [SHELF-20]
                self._failure = str(error)
                raise

    def _undo_append(self, shelf: Shelf, error: BaseException) -> None:
        """Cut off what an append that failed has written, so that no crash brings it back. [SHELF-20]"""
        try:
            shelf.file.truncate(shelf.end)
            shelf.file.sync()
        except BaseException as second:
            self._failure = f"{error}, and then {second}"
            if not isinstance(second, FileError):
                raise

    def sync(self) -> list[bytes]:
        removed, self._removed = self._removed, []
        return removed

    def new_oid(self) -> bytes:
        shelf = self._open_shelf()
        for number in self._holes:
            oid = oid_from_int(number)
            if oid not in shelf.index:
                return oid
        while True:
            oid = oid_from_int(self._next_oid)
            self._next_oid += 1
            if oid not in self._freed and shelf.position(oid) is None:
                return oid

    def close(self) -> None:
        if self._packer is not None:
            self._packer.close()  # it would remove the file of a later one
            self._packer = None
        if self._shelf is not None:
            self._shelf.file.close()
            self._shelf = None
        if self._directory is not None:
            self._directory.cleanup()
            self._directory = None

    def gen_oid_record(self, start_oid: bytes | None = None, batch_size: int = 100) -> Iterator[tuple[bytes, bytes]]:
        """Yield (oid, record) for every record in the order of the file, or for those reached from `start_oid`."""
        if start_oid is not None:
            yield from super().gen_oid_record(start_oid, batch_size)
            return
        shelf = self._open_shelf()
        for oid, offset in list(shelf.positions()):
            yield oid, shelf.read_entry(oid, offset)

    # Packing

    def get_packer(self) -> Iterator[Progress]:
        """Return an iterator that packs the file in steps, while commits go on between them. [SHELF-30]"""
        shelf = self._writable_shelf()
        if self._is_packing:
            raise TransactionError(f"{self._path}: a pack is under way already")
        self._packer = self._pack(shelf)
        return self._packer

    def _pack(self, shelf: Shelf) -> Generator[Progress, None, None]:
        if self._is_packing:
            raise TransactionError(f"{self._path}: a pack is under way already")
        self._is_packing = True
        try:
            yield from self._pack_into(shelf, self._path + ".pack")
        finally:
            self._is_packing = False

    def _pack_into(self, shelf: Shelf, new_path: str) -> Generator[Progress, None, None]:
        # After a crash a left-over of this name can be a second name of the database itself. [SHELF-39]
        self._remove_left_over(new_path)
        new_file = self._file_system.open(new_path, "new")
        try:
            new_file.lock()
            new_file.copy_permissions(shelf.file)
            packer = ShelfPacker(shelf, new_file, self._clock())
            for progress in packer.steps():
                yield progress
                self._writable_shelf()
            packer.finish()
            new_shelf = Shelf(new_file, packer.base_checksum)
            self._keep_old_file()
            self._file_system.replace(new_path, self._path)
        except BaseException as error:
            try:
                self._give_up_if_replaced(shelf, error)
            finally:
                new_file.close()
                self._remove(new_path)
            raise
        new_file.path = self._path
        self._shelf = new_shelf
        removed = packer.removed()
        self._removed.extend(removed)
        self._freed.update(removed)
        # An oid that a pack set free may live on in a connection's memory, so it is not given out
        # again before the file is opened anew. [SHELF-38]
        self._holes = iter(())
        self._next_oid = max(self._next_oid, new_shelf.map.count)
        shelf.file.close()
        try:
            self._file_system.sync_directory(self._path)
        except BaseException as error:
            self._failure = str(error) or repr(error)
            raise

    def _give_up_if_replaced(self, shelf: Shelf, error: BaseException) -> None:
        """Take no more commits if the new file had the name when an interrupt came: they would go into the old one."""
        has_its_name = False
        try:
            has_its_name = shelf.file.has_its_name()
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


def TempFileStorage() -> FileStorage:
    """Return a FileStorage on a temporary file, which is gone when it is closed."""
    return FileStorage()


@contextlib.contextmanager
def _closing_on_error(file: File) -> Iterator[None]:
    try:
        yield
    except BaseException:
        file.close()
        raise

"""What all storages in one file share: opening, locking, cutting, committing, packing. spec/shelf.md.

A subclass says how its format is read and written.  Where a statement of spec/shelf.md is named here,
it holds for the other formats too.
"""

import contextlib
import errno
import inspect
import os
import shutil
import sys
import tempfile
import warnings
import weakref
from collections.abc import Callable, Generator, Iterator
from datetime import UTC, datetime
from types import FrameType
from typing import Generic, Literal, NamedTuple, TypeVar

from durus.concurrency.call_guard import CALL, CallGuard, guarded, is_running
from durus.concurrency.forked import note_held
from durus.error import (
    ClosedError,
    ConcurrentUseError,
    DurusError,
    DurusKeyError,
    DurusWarning,
    FileError,
    FormatError,
    ReadonlyError,
    TransactionError,
)
from durus.files.file import File, FileSystem, OperatingSystem, Path
from durus.files.file_format import PreparedTransaction, RecordFile, is_unfinished_creation
from durus.files.packer import Packer
from durus.files.snapshot import snapshot_of
from durus.oid import oid_from_int
from durus.progress import Progress
from durus.storage import (
    EMPTY_COMMIT,
    CollectingStorage,
    InvalidationHandler,
    StagedCommit,
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
        filename: Path | None,
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
        self._guard: CallGuard = CallGuard("storage")
        note_held(self)
        self._records: F | None = None
        self._failure: str | None = None
        self._removed: list[bytes] = []
        self._has_started_anew = False
        self._commit: _Commit[F] | None = None
        self._packing: weakref.ref[Generator[Progress, None, None]] | None = None
        """The pack that is under way, which ends when nobody can go on with it."""
        self._replacement: _Replacement[F] | None = None
        self._readonly = readonly
        self._durability = durability
        self._clock = clock
        self._file_system = OperatingSystem() if file_system is None else file_system
        self._directory: weakref.finalize[[str], AppendOnlyStorage[F]] | None = None
        if filename is None:
            folder = tempfile.mkdtemp(prefix="durus-")
            self._directory = weakref.finalize(self, _remove_directory, folder)
            filename = os.path.join(folder, "temporary.durus")
        self._filename = os.fsdecode(filename)
        self._name = os.path.abspath(self._filename)
        """What others call the file."""
        self._path = os.path.realpath(self._filename)
        try:
            self._records = self._open_readonly() if readonly else self._open_for_writing(repair)
        finally:
            if self._records is None:
                self.close()
        self._holes: Iterator[int] = self._records.holes()
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
            found = self._read(snapshot_of(file))
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
        kept = self._file_system.open(kept_path, "private")
        try:
            kept.copy_permissions(found.file)
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
            self._guard.check_process()
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
        return self._open_file().offset_of(oid) is not None

    @guarded
    def begin(self) -> None:
        self._writable_file()
        super().begin()

    @guarded
    def end(self, handle_invalidations: InvalidationHandler | None = None) -> None:
        """Conclude the commit with one append and one fsync. [SHELF-18]

        FileError if the file can't take it, or does not have its name any more: then nothing of it is stored.
        ClosedError after a failure that left the end of the file unknown.
        """
        pending = self._take_pending()
        self._tell_removed(handle_invalidations)
        staged = self._stage_commit(pending)
        staged.write()
        staged.accept()

    @guarded
    def stage_commit(self, records: dict[bytes, bytes]) -> StagedCommit:
        return self._stage_commit(records)

    def _stage_commit(self, records: dict[bytes, bytes]) -> StagedCommit:
        self._settle_commit()
        found = self._writable_file()
        if not records:
            return EMPTY_COMMIT
        commit = _Commit(found)

        def write() -> None:
            commit.frame = sys._getframe()
            check_references(records, self.has_record)
            self._check_end(found)
            prepared = found.prepare(list(records.items()), self._clock())
            self._commit = commit
            self._write(found, prepared)
            commit.written = prepared

        def accept() -> None:
            if self._commit is commit:
                self._settle_commit()

        return StagedCommit(write, accept)

    def _write(self, found: F, prepared: PreparedTransaction) -> None:
        try:
            end = found.end
            if prepared.covering_seal:
                self._append(found, prepared.covering_seal, end, durable=True)
                end += len(prepared.covering_seal)
            self._append(found, prepared.data, end, durable=self._durability == "fsync")
            self._check_name(found)
        except BaseException as error:
            self._undo_append(found, error)
            raise

    def _settle_commit(self) -> None:
        """Make current what a commit has written, or cut off what it has not written to its end. [SHELF-46]

        That can be one that was interrupted. Each of these steps may be done again.
        """
        commit = self._commit
        if commit is None:
            return
        if commit.written is not None:
            commit.file.accept(commit.written)
        elif is_running(commit.frame):
            raise ConcurrentUseError(f"{self._path}: a commit is being written by another thread at this moment")
        else:
            self._undo_append(commit.file, InterruptedError("an earlier commit was interrupted"))
        self._commit = None

    def _check_end(self, found: F) -> None:
        """Make sure that the file ends where this storage believes that it ends. [SHELF-47]"""
        self._settle_commit()
        size = found.file.size()
        if size != found.end:
            self._failure = f"the file ends at byte {size} and not at {found.end}, where the last commit ended"
            self._writable_file()

    def _check_name(self, found: F) -> None:
        """Make sure that others find the file under the name by which it was opened. [SHELF-47]"""
        if not found.file.has_its_name(self._name):
            raise FileError(
                errno.ESTALE,
                "another program has removed, renamed or replaced the file since it was opened, so nothing is written "
                "to it; put it back in its place, or close the storage and open it again",
                self._name,
            )

    def _append(self, found: F, data: bytes, end: int, durable: bool) -> None:
        found.file.append(data, end)
        if durable:
            try:
                found.file.sync()
            except FileError as error:
                # What a failed fsync leaves behind is unknown, whatever later calls say. [SHELF-20]
                self._failure = str(error)
                raise

    def _undo_append(self, found: F, error: BaseException) -> None:
        """Cut off what an append that failed has written, so that no crash brings it back. [SHELF-20]"""
        try:
            found.file.truncate(found.end)
            found.file.sync()
        except FileError as second:
            self._failure = f"{error}, and then {second}"
        self._commit = None

    @guarded
    def sync(self) -> list[bytes] | None:
        if self._commit is not None and not is_running(self._commit.frame):
            self._settle_commit()  # before anybody reads on: it may change what is current
            self._has_started_anew = True
        return self._take_removed()

    def _take_removed(self) -> list[bytes] | None:
        if self._has_started_anew:
            self._has_started_anew, self._removed = False, []
            return None
        removed, self._removed = self._removed, []
        return removed

    def _tell_removed(self, handle_invalidations: InvalidationHandler | None) -> None:
        if (self._removed or self._has_started_anew) and handle_invalidations is not None:
            handle_invalidations(self._take_removed())

    def new_oid(self) -> bytes:
        # As guarded() has it, without two calls more: a commit asks for each new object.
        marks = self._guard.marks
        frame = sys._getframe()
        if marks.setdefault(CALL, frame) is not frame:
            self._guard.begin(frame, self._start_anew)
        del frame  # or it would be a cycle
        try:
            oid = self._next_free_oid()
        except DurusError:
            self._guard.end()
            raise
        if len(marks) == 1:
            del marks[CALL]
        return oid

    def _next_free_oid(self) -> bytes:
        found = self._open_file()
        for number in self._holes:
            oid = oid_from_int(number)
            if found.offset_of(oid) is None:
                return oid
        while True:
            oid = oid_from_int(self._next_oid)
            self._next_oid += 1
            if found.offset_of(oid) is None:
                return oid

    def close(self) -> None:
        if not self._guard.is_foreign:  # else it is the parent's
            self._close()

    @guarded
    def _close(self) -> None:
        self._give_up_pack()
        if self._records is not None:
            self._records.file.close()
            self._records = None
        if self._directory is not None:
            self._directory()

    # Interrupts and forks

    def _start_anew(self) -> None:
        """Give up what a call has left that was interrupted; a failure ends the taking of commits. [SHELF-46]"""
        self._has_started_anew = True
        self._pending = None
        self._holes = iter(())  # some of them may have been given out
        with contextlib.suppress(ConcurrentUseError):  # a write that is under way was not interrupted
            self._settle_commit()
        self._give_up_pack()

    def leave_to_parent(self) -> None:
        self._records = None
        if self._directory is not None:
            self._directory.detach()

    def gen_oid_record(self, start_oid: bytes | None = None, batch_size: int = 100) -> Iterator[tuple[bytes, bytes]]:
        """Yield (oid, record) for every record in the order of the file, or for those reached from `start_oid`."""
        if start_oid is not None:
            yield from super().gen_oid_record(start_oid, batch_size)
            return
        found = self._open_file()
        for oid, offset in list(found.offsets()):
            yield oid, found.read_entry(oid, offset)

    # Packing

    @guarded
    def pack(self) -> None:
        found = self._writable_file()
        self._check_not_packing()
        steps = self._pack(found)
        self._packing = weakref.ref(steps)
        for _ in steps:
            pass

    @guarded
    def get_packer(self) -> Iterator[Progress]:
        """Return an iterator that packs the file in steps, while commits go on between them. [SHELF-30]"""
        found = self._writable_file()
        self._check_not_packing()
        return self._gen_steps(self._pack(found))

    def _pack_under_way(self) -> Generator[Progress, None, None] | None:
        steps = self._packing() if self._packing is not None else None
        return None if steps is None or inspect.getgeneratorstate(steps) == inspect.GEN_CLOSED else steps

    def _check_not_packing(self) -> None:
        if self._pack_under_way() is not None:
            raise TransactionError(f"{self._path}: a pack is under way already")

    def _gen_steps(self, steps: Generator[Progress, None, None]) -> Generator[Progress, None, None]:
        try:
            while (progress := self._pack_step(steps)) is not None:
                yield progress
        finally:
            steps.close()

    @guarded
    def _pack_step(self, steps: Generator[Progress, None, None]) -> Progress | None:
        if self._pack_under_way() is not steps:
            self._check_not_packing()
            self._packing = weakref.ref(steps)
        return next(steps, None)

    def _pack(self, found: F) -> Generator[Progress, None, None]:
        new_path = self._path + ".pack"
        # After a crash a left-over of this name can be a second name of the database itself. [SHELF-39]
        self._remove_left_over(new_path)
        self._check_name(found)
        new_file = self._file_system.open(new_path, "private")
        try:
            new_file.lock()
            new_file.copy_permissions(found.file)
            packer = self._new_packer(found, new_file)
            for progress in packer.steps():
                yield progress
                self._writable_file()
            packer.finish()
            self._check_end(found)
            self._check_name(found)
            self._replacement = _Replacement(packer.open_target(), new_file, packer.removed(), packer.max_garbage)
            self._keep_old_file(found)
            self._check_name(found)
            self._file_system.replace(new_path, self._path)
            self._settle_pack()
        except BaseException:
            self._give_up_pack(new_file)
            raise

    def _settle_pack(self) -> bool:
        """Go over to the new file of a pack if it has the name of the database; tell if that is so. [SHELF-36]

        Each of these steps may be done again, and is after an interrupt.
        """
        replacement = self._replacement
        if replacement is None or self._records is None:
            return False
        new, new_file, removed, highest = replacement
        if not new_file.has_its_name(self._path):
            return False
        new_file.path = self._path
        if self._records is not new:
            # An oid that a pack set free may live on in a connection's memory, so it is not given out
            # again before the file is opened anew. [SHELF-38]
            self._holes = iter(())
            self._next_oid = max(self._next_oid, highest + 1)
            old, self._records, self._removed = self._records, new, self._removed + removed
            old.file.close()
        try:
            self._replace_prepack()
            self._file_system.sync_directory(self._path)
        except FileError as error:
            self._failure = str(error)
            raise
        self._replacement = None
        return True

    def _give_up_pack(self, new_file: File | None = None) -> None:
        """End a pack that is not at its end: leave nothing of it, or all if the new file has the name."""
        steps = self._pack_under_way()
        if steps is not None and inspect.getgeneratorstate(steps) != inspect.GEN_RUNNING:
            steps.close()  # it would remove the file of a later one
        replacement = self._replacement
        if new_file is None and replacement is None:
            return
        try:
            if self._settle_pack():
                return
        except FileError as error:
            self._failure = f"{error}, while a pack replaced the file"
        self._replacement = None
        if replacement is not None:
            if self._records is replacement.file:
                return
            self._remove(self._path + ".prepack.new")
            new_file = replacement.new_file
        if new_file is not None and new_file.path != self._path:  # else it has taken the place of the old one
            new_file.close()
            self._remove(new_file.path)

    def _remove_left_over(self, path: str) -> None:
        if self._file_system.exists(path):
            self._file_system.remove(path)

    def _remove(self, path: str) -> None:
        """Remove a file that is of no use after an error; it is no second error if that fails."""
        with contextlib.suppress(FileError):
            self._file_system.remove(path)

    def _keep_old_file(self, found: F) -> None:
        """Give the file a second name, that it may become .prepack when it has lost its own. [SHELF-37]"""
        link = self._path + ".prepack.new"
        self._remove_left_over(link)
        if not self._file_system.link(self._path, link):
            warnings.warn(
                f"{self._path}: the file system has no hard links, so the state before the pack is not kept",
                DurusWarning,
                stacklevel=6,
            )
        elif not found.file.has_its_name(link):
            self._remove(link)
            self._check_name(found)

    def _replace_prepack(self) -> None:
        link = self._path + ".prepack.new"
        if self._file_system.exists(link):
            self._file_system.replace(link, self._path + ".prepack")
            self._remove_left_over(link)  # it stays where both are names of one file [SHELF-39]


class _Commit(Generic[F]):
    """A commit on its way into the file."""

    def __init__(self, file: F) -> None:
        self.file = file
        self.frame: FrameType | None = None
        """The call that writes it."""
        self.written: PreparedTransaction | None = None
        """What it is, when it is in the file and durable."""


class _Replacement(NamedTuple, Generic[F]):
    """The new file of a pack, which is to have the name of the database now."""

    file: F
    new_file: File
    removed: list[bytes]
    highest: int
    """The number of the highest oid that the pack removed, -1 if there is none."""


def _remove_directory(path: str) -> None:
    shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _closing_on_error(file: File) -> Iterator[None]:
    try:
        yield
    except BaseException:
        file.close()
        raise

"""The common part of storages in one append-only file: opening, committing, packing. spec/shelf.md.

The storage owns the writable file; the format, which is one value, defines how it is read and written. The statements
of spec/shelf.md that are named here hold for the other formats too.
"""

import contextlib
import errno
import functools
import os
import shutil
import sys
import tempfile
import time
import warnings
import weakref
from collections.abc import Callable, Collection, Generator, Iterator
from datetime import UTC, datetime
from types import FrameType
from typing import Generic, Literal, NamedTuple

from durus.concurrency.call_guard import CALL, guarded, is_running
from durus.error import (
    ArgumentError,
    ConcurrentUseError,
    DurusError,
    DurusKeyError,
    DurusWarning,
    FileError,
    FormatError,
)
from durus.files.file import (
    File,
    FileSystem,
    OperatingSystem,
    Path,
    closing_on_error,
    os_errors_as,
    temporary_folder,
)
from durus.files.file_format import FileFormat
from durus.files.file_replacer import FileReplacer
from durus.files.follower import Follower
from durus.files.oid_allocator import OidAllocator
from durus.files.opening import cut_tail, open_locked
from durus.files.record_file import F, PreparedTransaction, RecordFile, is_unfinished_creation
from durus.files.single_file_storage import SingleFileStorage
from durus.oid_array import OidArray, joined
from durus.progress import Progress
from durus.storage import EMPTY_COMMIT, StagedCommit, StagedSync, Storage, Usage, check_references

Durability = Literal["fsync", "os"]

_getframe = sys._getframe


def utc_now() -> str:
    """Return the wall-clock time in the form of seals."""
    second, microsecond = divmod(time.time_ns() // 1000, 1_000_000)
    return f"{_second_as_text(second)}.{microsecond:06}Z"


@functools.lru_cache(maxsize=1)
def _second_as_text(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat()[:19]


class _Opened(NamedTuple, Generic[F]):
    """An open file, and its reader of the format: one value, so that both change at once."""

    file: File
    record_file: F
    follower: Follower[F] | None = None
    """If it was opened with readonly=True."""


class AppendOnlyStorage(SingleFileStorage[_Opened[F]], Generic[F]):
    """Base of storages in one file, which is only appended to, and replaced as a whole by a pack."""

    file_format: FileFormat[F]

    _opened: _Opened[F] | None = None
    _commit: "_Commit[F] | None" = None
    """The commit that is being written, or was interrupted."""
    _is_following = True
    """False if the last sync failed to read on."""
    _replacement: "_Replacement[F] | None" = None
    """The new file of a pack that is about to end."""
    _directory: "weakref.finalize[[str], AppendOnlyStorage[F]] | None" = None
    """Removes a temporary file."""

    # Opening

    def __init__(
        self,
        filename: Path | None,
        readonly: bool,
        repair: bool,
        durability: Durability,
        file_system: FileSystem | None,
        clock: Callable[[], str] = utc_now,
    ) -> None:
        if readonly and filename is None:
            raise ArgumentError(f"a readonly {type(self).__name__} needs the name of a file")
        if durability not in ("fsync", "os"):
            raise ArgumentError(f'durability must be "fsync" or "os", not {durability!r}')
        super().__init__(readonly, repair)
        self._durability = durability
        self._clock = clock
        self._file_system = OperatingSystem() if file_system is None else file_system
        self._set_filename(self._make_temporary_name() if filename is None else filename)
        """The absolute name of the file."""
        self._replacer = FileReplacer(self._file_system, self._path)
        try:
            self._opened = self._open_readonly(self._path) if readonly else self._open_for_writing(repair)
        finally:
            if self._opened is None:
                self.close()
        record_file = self._opened.record_file
        if readonly and record_file.tail is not None:
            tail = record_file.tail
            warnings.warn(
                f"{tail.path}: the bytes after byte {tail.offset} are not a complete transaction and are ignored: "
                f"{tail.problem}",
                DurusWarning,
                stacklevel=4,
            )
        self._oids = OidAllocator(record_file.holes(), record_file.oid_count)

    def _make_temporary_name(self) -> str:
        parent = temporary_folder()
        with os_errors_as("make a temporary folder there", parent):
            folder = tempfile.mkdtemp(prefix="durus-", dir=parent)
        self._directory = weakref.finalize(self, _remove_directory, folder)
        return os.path.join(folder, "temporary.durus")

    def _open_readonly(self, path: str) -> _Opened[F]:
        file = self._file_system.open(path, "read")
        with closing_on_error(file):
            if is_unfinished_creation(file, self.file_format.empty_file):
                raise FormatError(f"{path}: the file is empty; open it for writing once to make it a database")
            fixed = self._fixed(file)
            if fixed is not None:
                return _Opened(file, fixed)
            follower = Follower(file, self.file_format.read)
        return _Opened(file, follower.record_file, follower)

    def _fixed(self, file: File) -> F | None:
        """Return what a readonly storage shows of its file for ever, None if it follows the file."""
        return None

    def _open_for_writing(self, repair: bool) -> _Opened[F]:
        file = open_locked(self._file_system, self._path)
        empty_file = self.file_format.empty_file
        with closing_on_error(file):
            is_new = is_unfinished_creation(file, empty_file)
            if is_new:
                file.truncate(0)
                file.append(empty_file)
            record_file = self.file_format.read(file)
            if record_file.tail is not None:
                if not repair:
                    raise record_file.tail
                cut_tail(self._file_system, file, record_file.end)
            # What a killed process has written may be only in the cache. [SHELF-22]
            try:
                file.sync()
            except BaseException:
                # The next one to open a new file must not find it complete: it may never reach the disk. [SHELF-22]
                if is_new:
                    file.truncate(0)
                raise
            self._file_system.sync_directory(self._path)
        return _Opened(file, record_file)

    def _require_open(self) -> _Opened[F]:
        if self._opened is None:
            raise self._closed_error()
        return self._opened

    @property
    def usage(self) -> Usage | None:
        opened = self._opened
        return None if opened is None else Usage(opened.record_file.end, opened.record_file.garbage)

    # Storage

    def load(self, oid: bytes) -> bytes:
        record = (self._opened or self._require_open()).record_file.read(oid)
        if record is None:
            raise DurusKeyError(oid)
        return record

    def has_record(self, oid: bytes) -> bool:
        return self._require_open().record_file.offset_of(oid) is not None

    def new_oid(self) -> bytes:
        # The same as guarded(), without further calls: a commit asks for each new object.
        guard, opened = self._guard, self._opened
        marks = guard.marks
        if marks.setdefault(CALL, _getframe()) is not _getframe():
            guard.begin(_getframe(), self._start_anew)
            opened = self._opened
        try:
            oid = self._oids.new_oid((opened or self._require_open()).record_file.offset_of)
        except DurusError:
            guard.end()
            raise
        if len(marks) == 1:
            marks.clear()
        return oid

    def gen_oid_record(self, start_oid: bytes | None = None, batch_size: int = 100) -> Iterator[tuple[bytes, bytes]]:
        """Yield (oid, record) for every record in the order of the file, or for those reached from `start_oid`."""
        if start_oid is not None:
            yield from super().gen_oid_record(start_oid, batch_size)
            return
        opened = self._require_open()
        record_file = opened.record_file
        is_fixed = self._readonly and opened.follower is None
        for oid, offset in record_file.walk() if is_fixed else list(record_file.offsets()):
            yield oid, record_file.read_entry(oid, offset)

    # Committing

    def _stage_commit(self, records: dict[bytes, bytes]) -> StagedCommit:
        """Stage a commit that is one append and one fsync. [SHELF-18]

        FileError also if the file has lost its name: then nothing is stored. [SHELF-47]
        """
        self._settle_commit()
        opened = self._require_writable()
        if not records:
            return EMPTY_COMMIT
        commit = _Commit(opened)

        def write() -> None:
            commit.frame = sys._getframe()
            check_references(records, self.has_record)
            self._check_end(opened)
            prepared = opened.record_file.prepare(list(records.items()), self._clock())
            self._commit = commit
            self._write(opened, prepared)
            commit.written = prepared
            commit.frame = None  # otherwise it would be a reference cycle

        def accept() -> None:
            if self._commit is commit:
                self._settle_commit()

        return StagedCommit(write, accept)

    def _write(self, opened: _Opened[F], prepared: PreparedTransaction) -> None:
        end = opened.record_file.end
        try:
            if prepared.before:
                self._append(opened.file, [prepared.before], end, durable=True)
                end += len(prepared.before)
            self._append(opened.file, prepared.pieces, end, durable=self._durability == "fsync")
            self._check_name(opened.file)
        except BaseException as error:
            self._undo_append(opened, error)
            raise

    def _settle_commit(self) -> None:
        """Make a completely written commit current, or cut off an incomplete one. [SHELF-46]

        The commit may have been interrupted. Each of these steps can be repeated.
        """
        commit = self._commit
        if commit is None:
            return
        if commit.written is not None:
            commit.written.accept()
        elif is_running(commit.frame):
            raise ConcurrentUseError(f"{self._path}: another thread is writing a commit at this moment")
        else:
            self._undo_append(commit.opened, InterruptedError("an earlier commit was interrupted"))
        self._commit = None

    def _check_end(self, opened: _Opened[F]) -> None:
        """Check that the file ends where this storage expects. [SHELF-47]"""
        self._settle_commit()
        size, end = opened.file.size(), opened.record_file.end
        if size != end:
            self._failure = f"the file ends at byte {size} instead of {end}, where the last commit ended"
            self._require_writable()

    def _check_name(self, file: File) -> None:
        """Check that others find the file under the name with which it was opened. [SHELF-47]"""
        if not file.has_its_name(self._name):
            raise self._moved_error()

    def _append(self, file: File, pieces: list[bytes], end: int, durable: bool) -> None:
        for piece in pieces:
            file.append(piece, end)
            end += len(piece)
        if durable:
            try:
                file.sync()
            except FileError as error:
                # The state after a failed fsync is unknown, whatever later calls report. [SHELF-20]
                self._failure = str(error)
                raise

    def _undo_append(self, opened: _Opened[F], error: BaseException) -> None:
        """Cut off what a failed append has written, so that no crash brings it back. [SHELF-20]"""
        try:
            opened.file.truncate(opened.record_file.end)
            opened.file.sync()
        except FileError as second:
            self._failure = f"{error}, and then {second}"
        self._commit = None

    @guarded
    def sync(self) -> Collection[bytes] | None:
        if self._commit is not None and not is_running(self._commit.frame):
            self._settle_commit()  # before anybody reads on, because it may change what is current
            self._has_started_anew = True
        opened = self._opened
        if opened is not None and opened.follower is not None:
            self._follow(opened, opened.follower)
        return self._take_removed()

    def _follow(self, opened: _Opened[F], follower: Follower[F]) -> None:
        """Show what another process has written, in this file or in one that has replaced it. [SHELF-54] [SHELF-55]

        FileError if the file was cut or does not exist any more, DamageError if it is damaged.
        """
        self._is_following = False
        if opened.file.has_its_name(self._name):
            self._removed = [*self._removed, *follower.read_on()]
        else:
            path = os.path.realpath(self._name)
            self._opened, self._path = self._open_readonly(path), path
            self._has_started_anew = True
            opened.file.close()
        self._is_following = True

    def stage_sync(self) -> StagedSync:
        opened = self._require_open()
        if opened.follower is None:
            raise ArgumentError(f"{self._path}: only a storage that was opened with readonly=True follows its file")
        if opened.file.has_its_name(self._name):
            try:
                appended = opened.follower.look_ahead()
            except FileError as error:
                if error.errno != errno.ESTALE:
                    raise
                warnings.warn(f"{error}: it is read again", DurusWarning, stacklevel=1)
            else:
                return StagedSync(appended.oids, appended.accept)
        path = os.path.realpath(self._name)
        new = self._open_readonly(path)

        def accept() -> None:
            self._opened, self._path = new, path

        return StagedSync(None, accept, EarlierFile(opened.file, opened.record_file))

    @property
    def follows(self) -> bool:
        return self._opened is not None and self._opened.follower is not None and self._is_following

    def as_of_now(self) -> Storage:
        return type(self)(self._path, True, False, durability=self._durability, file_system=self._file_system)

    # Packing

    def _pack(self) -> Generator[Progress, None, None]:
        opened = self._require_open()
        self._replacer.remove_left_over()
        self._check_name(opened.file)
        new_file = self._replacer.create()
        try:
            new_file.lock()
            new_file.copy_permissions(opened.file)
            packer = self.file_format.packer(opened.record_file, new_file, self._clock())
            for progress in packer.steps():
                yield progress
                self._require_writable()
            packer.finish()
            self._check_end(opened)
            self._check_name(opened.file)
            new = _Opened(new_file, packer.open_target())
            self._replacement = _Replacement(new, packer.removed(), packer.max_garbage)
            self._replacer.keep_old_file(opened.file)
            self._check_name(opened.file)
            self._replacer.rename()
            self._settle_pack()
        except BaseException:
            self._give_up_pack(new_file)
            raise

    def _settle_pack(self) -> bool:
        """Switch to the new file of a pack if it has the name of the database; returns whether it has. [SHELF-36]

        Each of these steps can be repeated, and is repeated after an interrupt.
        """
        replacement = self._replacement
        if replacement is None or self._opened is None or not self._replacer.is_renamed(replacement.new.file):
            return False
        new, removed, highest = replacement
        new.file.path = self._path
        if self._opened is not new:
            self._oids.leave_removed(highest)
            old, self._opened, self._removed = self._opened, new, joined(self._removed, removed)
            old.file.close()
        try:
            self._replacer.finish(self.keep_prepack)
        except FileError as error:
            self._failure = str(error)
            raise
        self._replacement = None
        return True

    def _give_up_pack(self, new_file: File | None = None) -> None:
        """End an incomplete pack: remove it completely, or complete it if the new file has the name."""
        super()._give_up_pack()
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
            if self._opened is replacement.new:
                return
            self._replacer.forget_old_file()
            new_file = replacement.new.file
        if new_file is not None and new_file.path != self._path:  # otherwise it has replaced the old one
            self._replacer.discard(new_file)

    # Interrupts, forks, and the end

    def _start_anew(self) -> None:
        """Clean up after an interrupted call; after a failure no commit is accepted any more. [SHELF-46]"""
        super()._start_anew()
        self._oids.leave_holes()
        with contextlib.suppress(ConcurrentUseError):  # a running write was not interrupted
            self._settle_commit()
        self._give_up_pack()

    def leave_to_parent(self) -> None:
        self._opened = None
        if self._directory is not None:
            self._directory.detach()

    def _release(self) -> None:
        if self._opened is not None:
            self._opened.file.close()
            self._opened = None
        if self._directory is not None:
            self._directory()


class _Commit(Generic[F]):
    """A commit on its way into the file."""

    def __init__(self, opened: _Opened[F]) -> None:
        self.opened = opened
        self.frame: FrameType | None = None
        """The call that writes the commit, until it is written."""
        self.written: PreparedTransaction | None = None
        """The transaction, once it is in the file and durable."""


class EarlierFile(Storage):
    """A file that has lost its name to another one, as long as it is shown."""

    def __init__(self, file: File, record_file: RecordFile) -> None:
        self._file = file
        self._record_file = record_file

    def load(self, oid: bytes) -> bytes:
        record = self._record_file.read(oid)
        if record is None:
            raise DurusKeyError(oid)
        return record

    def has_record(self, oid: bytes) -> bool:
        return self._record_file.offset_of(oid) is not None

    def close(self) -> None:
        self._file.close()


class _Replacement(NamedTuple, Generic[F]):
    """The new file of a pack, which is about to get the name of the database."""

    new: _Opened[F]
    removed: OidArray
    highest: int
    """The number of the highest oid that the pack removed, -1 if there is none."""


def _remove_directory(path: str) -> None:
    shutil.rmtree(path, ignore_errors=True)

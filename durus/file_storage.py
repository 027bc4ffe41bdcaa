"""FileStorage: a storage in one SHELF-1 file. spec/shelf.md."""

from collections.abc import Callable, Iterator
from datetime import datetime

from durus.error import ArgumentError
from durus.files import shelf
from durus.files.append_only_storage import AppendOnlyStorage, Durability, utc_now
from durus.files.file import File, FileSystem, Path, ReadableFile
from durus.files.moment import seal_time
from durus.files.shelf.history import gen_commits, gen_records, gen_records_in, view_at
from durus.files.shelf.shelf import Shelf
from durus.storage import Commit, Moment

__all__ = ["Durability", "FileStorage", "TempFileStorage", "utc_now"]


class FileStorage(AppendOnlyStorage[Shelf]):
    """A storage in the SHELF-1 file `filename`, which is made if it is not there.

    Without a filename it is a temporary file that is gone when the storage is closed.
    readonly=True takes no lock and sees the file as it was when it was opened. [SHELF-28]
    repair=True cuts off an end that was not written whole. [SHELF-26]
    at shows the file as it was after a commit, by its number or a time, and implies readonly=True. [HIST-5]
    durability="fsync" makes every commit wait until it is on stable storage; "os" leaves the time
    to the operating system: such commits outlive the process, but not the machine. [SHELF-18]

    FileError if the operating system refuses the file, LockedError if it is open for writing elsewhere,
    FormatError if it is not a SHELF-1 file, DamageError if it is damaged, UnsoundTailError if repair=True
    would help, ArgumentError if the arguments do not go together.  The packed part is checked when it is
    read, block by block: whatever reads an object or looks for one raises DamageError if it meets a block
    that is damaged. [SHELF-44]
    """

    file_format = shelf.FORMAT

    def __init__(
        self,
        filename: Path | None = None,
        readonly: bool = False,
        repair: bool = False,
        *,
        at: Moment | None = None,
        durability: Durability = "fsync",
        file_system: FileSystem | None = None,
        clock: Callable[[], str] = utc_now,
    ) -> None:
        self._at = _checked(at)
        super().__init__(filename, readonly or at is not None, repair, durability, file_system, clock)

    def _view(self, file: File) -> ReadableFile:
        return super()._view(file) if self._at is None else view_at(file, self._at)

    def commits(self) -> Iterator[Commit]:
        return gen_commits(self._require_open().record_file)

    def records_of(self, oid: bytes) -> Iterator[tuple[Commit, bytes]]:
        return gen_records(self._require_open().record_file, oid)

    def records_in(self, commit: Commit) -> Iterator[tuple[bytes, bytes]]:
        return gen_records_in(self._require_open().record_file, commit)

    def as_of(self, at: Moment) -> "FileStorage":
        self._require_open()
        return type(self)(self._path, at=at, file_system=self._file_system)


def _checked(at: Moment | None) -> int | str | None:
    """Return the number of a commit, or a time as seals have it. ArgumentError if it is neither."""
    if isinstance(at, bool) or not isinstance(at, int | str | datetime | None):
        raise ArgumentError(f"at is the number of a commit, a time as text, or a datetime, not {at!r}")
    return at if at is None or isinstance(at, int) else seal_time(at)


def TempFileStorage() -> FileStorage:
    """Return a FileStorage on a temporary file, which is gone when it is closed."""
    return FileStorage()

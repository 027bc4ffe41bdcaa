"""FileStorage: a storage in one SHELF-1 file. spec/shelf.md."""

import warnings
from collections.abc import Callable, Iterator
from datetime import datetime

from durus.error import ArgumentError, DurusError, DurusWarning
from durus.files import shelf
from durus.files.append_only_storage import AppendOnlyStorage, Durability, utc_now
from durus.files.file import File, FileSystem, Path, closing_on_error, new_name
from durus.files.moment import seal_time
from durus.files.shelf.damaged import SoundPart
from durus.files.shelf.history import gen_commits, gen_records, gen_records_in, view_at
from durus.files.shelf.part import FilePart
from durus.files.shelf.shelf import Shelf
from durus.files.snapshot import FileSnapshot
from durus.storage import Commit, Moment, SealedPart
from durus.text import command

__all__ = ["Durability", "FileStorage", "TempFileStorage", "utc_now"]


_SHOWN_PROBLEMS = 5


class FileStorage(AppendOnlyStorage[Shelf]):
    """A storage in one SHELF-1 file.

    The packed part of the file is checked block by block when it is read: a call that reads an object in a damaged
    block raises DamageError. [SHELF-44]

    Args:
        filename: the path of the file, which is created if it does not exist; without it, a temporary file, which is
            removed when the storage is closed.
        readonly: take no lock; each sync() shows what others have committed by then. [SHELF-28] [SHELF-54]
        repair: cut off an incomplete transaction at the end. [SHELF-26]
        damaged: with `readonly`, open a damaged file for what is sound in it, without history; a load of anything else
            raises DamageError. [SALV-13]
        at: show the file as it was after a commit, by its number or a time; implies `readonly`. [HIST-5]
        durability: "fsync" makes each commit wait until it is on stable storage. "os" leaves the time to the operating
            system: such commits survive the end of the process, but not a crash of the machine. [SHELF-18]
        file_system: where the file is; a simulator can replace the operating system.
        clock: returns the time that is written into the file.

    Raises:
        FileError: the operating system refuses the file.
        LockedError: the file is open for writing elsewhere.
        FormatError: it is not a SHELF-1 file.
        DamageError: it is damaged.
        UnsoundTailError: its end is incomplete, and repair=True would help.
        ArgumentError: the arguments contradict each other.
    """

    file_format = shelf.FORMAT
    keeps_history = True

    def __init__(
        self,
        filename: Path | None = None,
        readonly: bool = False,
        repair: bool = False,
        *,
        damaged: bool = False,
        at: Moment | None = None,
        durability: Durability = "fsync",
        file_system: FileSystem | None = None,
        clock: Callable[[], str] = utc_now,
    ) -> None:
        if damaged and (not readonly or at is not None):
            raise ArgumentError("damaged=True requires readonly=True, and excludes at")
        self._at = _checked(at)
        self._is_damaged = damaged
        super().__init__(filename, readonly or at is not None, repair, durability, file_system, clock)
        part = self._require_open().record_file
        if isinstance(part, SoundPart) and (problems := part.problems()):
            shown = "; ".join(problems[:_SHOWN_PROBLEMS])
            more = f"; and {len(problems) - _SHOWN_PROBLEMS} more" if len(problems) > _SHOWN_PROBLEMS else ""
            warnings.warn(
                f"{self._path}: only what is sound is shown: {shown}{more}; what is shown can be older than the last "
                "commit",
                DurusWarning,
                stacklevel=2,
            )

    def _fixed(self, file: File) -> Shelf | None:
        if self._is_damaged:
            return SoundPart(file, self._salvage_advice())
        return None if self._at is None else Shelf(view_at(file, self._at))

    def _salvage_advice(self) -> str:
        new = new_name(self._path, "salvaged", self._file_system)
        return (
            "restore the file from a backup, or copy what is sound to a new file: "
            f"{command('salvage', self._path, new)}"
        )

    def _history(self) -> Shelf:
        shelf = self._require_open().record_file
        if self._is_damaged:
            raise DurusError(
                f"{self._path}: a file that is open with damaged=True has no history; {self._salvage_advice()}"
            )
        return shelf

    def commits(self) -> Iterator[Commit]:
        return gen_commits(self._history())

    def records_of(self, oid: bytes) -> Iterator[tuple[Commit, bytes]]:
        return gen_records(self._history(), oid)

    def records_in(self, commit: Commit) -> Iterator[tuple[bytes, bytes]]:
        return gen_records_in(self._history(), commit)

    def sealed_part(self, after: str) -> SealedPart:
        shelf = self._history()
        file = self._file_system.open(self._path, "read")
        with closing_on_error(file):
            if not self._require_open().file.has_its_name(self._path):
                raise self._moved_error()
            if self._readonly or self._durability != "fsync":
                file.sync()  # otherwise a crash could take away what others have got [WIRE2-52]
            # Without a seal at the end, one that is far before it would have to be looked for.
            return FilePart(FileSnapshot(file, shelf.end if shelf.is_sealed else 0), after)

    def as_of(self, at: Moment) -> "FileStorage":
        self._history()
        return type(self)(self._path, at=at, file_system=self._file_system)


def _checked(at: Moment | None) -> int | str | None:
    """Return the number of a commit, or a time as seals have it. ArgumentError if it is neither."""
    if isinstance(at, bool) or not isinstance(at, int | str | datetime | None):
        raise ArgumentError(f"at is the number of a commit, a time as text, or a datetime, not {at!r}")
    return at if at is None or isinstance(at, int) else seal_time(at)


def TempFileStorage() -> FileStorage:
    """Return a FileStorage on a temporary file, which is removed when the storage is closed."""
    return FileStorage()

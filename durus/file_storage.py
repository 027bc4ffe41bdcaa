"""FileStorage: a storage in one SHELF-1 file. spec/shelf.md."""

from collections.abc import Callable

from durus.files import shelf
from durus.files.append_only_storage import AppendOnlyStorage, Durability, utc_now
from durus.files.file import FileSystem, Path
from durus.files.shelf.shelf import Shelf

__all__ = ["Durability", "FileStorage", "TempFileStorage", "utc_now"]


class FileStorage(AppendOnlyStorage[Shelf]):
    """A storage in one SHELF-1 file.

    The packed part of the file is checked block by block when it is read: a call that reads an object in a damaged
    block raises DamageError. [SHELF-44]

    Args:
        filename: the path of the file, which is created if it does not exist; without it, a temporary file, which is
            removed when the storage is closed.
        readonly: take no lock; each sync() shows what others have committed by then. [SHELF-28] [SHELF-54]
        repair: cut off an incomplete transaction at the end. [SHELF-26]
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

    def __init__(
        self,
        filename: Path | None = None,
        readonly: bool = False,
        repair: bool = False,
        *,
        durability: Durability = "fsync",
        file_system: FileSystem | None = None,
        clock: Callable[[], str] = utc_now,
    ) -> None:
        super().__init__(filename, readonly, repair, durability, file_system, clock)


def TempFileStorage() -> FileStorage:
    """Return a FileStorage on a temporary file, which is removed when the storage is closed."""
    return FileStorage()

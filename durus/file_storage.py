"""FileStorage: a storage in one SHELF-1 file. spec/shelf.md."""

from collections.abc import Callable

from durus.files import shelf
from durus.files.append_only_storage import AppendOnlyStorage, Durability, utc_now
from durus.files.file import FileSystem, Path
from durus.files.shelf.shelf import Shelf

__all__ = ["Durability", "FileStorage", "TempFileStorage", "utc_now"]


class FileStorage(AppendOnlyStorage[Shelf]):
    """A storage in the SHELF-1 file `filename`, which is made if it is not there.

    Without a filename it is a temporary file that is gone when the storage is closed.
    readonly=True takes no lock and sees the file as it was when it was opened. [SHELF-28]
    repair=True cuts off an end that was not written whole. [SHELF-26]
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
        durability: Durability = "fsync",
        file_system: FileSystem | None = None,
        clock: Callable[[], str] = utc_now,
    ) -> None:
        super().__init__(filename, readonly, repair, durability, file_system, clock)


def TempFileStorage() -> FileStorage:
    """Return a FileStorage on a temporary file, which is gone when it is closed."""
    return FileStorage()

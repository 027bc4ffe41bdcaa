"""Which kind of storage a file is for, and what a look at it tells."""

import os
from typing import TYPE_CHECKING

from durus.error import FormatError
from durus.file_storage import FileStorage
from durus.file_storage2 import FileStorage2
from durus.files.file import OperatingSystem, Path, closing_on_error
from durus.files.inspection import Inspection

if TYPE_CHECKING:
    from durus.sqlite_storage import SqliteStorage

_SQLITE_MAGIC = b"SQLite format 3\0"


def storage_class_of(path: Path) -> "type[FileStorage | FileStorage2 | SqliteStorage]":
    """Return the storage class for a file, by its first bytes: FileStorage for one that is new, or of no known kind."""
    if not os.path.isfile(path):
        return FileStorage
    try:
        from durus.sqlite_storage import SqliteStorage, is_open_in_this_process
    except ImportError as error:  # Python can be built without SQLite
        if _start_of(path) == _SQLITE_MAGIC:
            raise FormatError(f"{os.fsdecode(path)}: this is a SQLite file, and this Python has no SQLite") from error
    else:
        if is_open_in_this_process(path) or _start_of(path) == _SQLITE_MAGIC:
            return SqliteStorage
    return FileStorage2 if _start_of(path).startswith(FileStorage2.file_format.magic) else FileStorage


def open_file_storage(
    path: Path, readonly: bool = False, repair: bool = False
) -> "FileStorage | FileStorage2 | SqliteStorage":
    """Open the storage in a file, whatever its format; a FileStorage if it is not there. Errors as each class has."""
    return storage_class_of(path)(path, readonly, repair)


def inspect_file(path: Path) -> Inspection:
    """Return a look at a file, whatever its format. FileError if it can't be opened; the look tells of the rest."""
    storage_class = storage_class_of(path)
    if not issubclass(storage_class, FileStorage | FileStorage2):
        from durus.sqlite_inspection import SqliteInspection

        return SqliteInspection(path)
    file = OperatingSystem().open(os.fsdecode(path), "read")
    with closing_on_error(file):
        return storage_class.file_format.inspect(file)


def _start_of(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(len(_SQLITE_MAGIC))
    except OSError:  # opening the storage tells of it
        return b""

"""Opening and inspecting a file of any format, which its first bytes tell."""

import os
from typing import TYPE_CHECKING

from durus.error import FormatError
from durus.file_storage import FileStorage
from durus.file_storage2 import FileStorage2
from durus.files.file import OperatingSystem, Path, closing_on_error, path_text
from durus.files.inspection import Inspection

if TYPE_CHECKING:
    from durus.sqlite_storage import SqliteStorage

_SQLITE_MAGIC = b"SQLite format 3\0"


def storage_class_of(path: Path) -> "type[FileStorage | FileStorage2 | SqliteStorage]":
    """Return the storage class for a file, by its first bytes: FileStorage for a new file or an unknown kind.

    Args:
        path: the path of the file.

    Raises:
        ArgumentError: `path` can't be the path of a file.
        FileError: the file can't be read.
    """
    if not os.path.isfile(path_text(path)):
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
    """Open the storage in a file, whatever its format; a FileStorage if the file does not exist.

    Args:
        path: the path of the file.
        readonly: as for the storage class.
        repair: as for the storage class.

    Raises:
        DurusError: as the storage class raises it.
    """
    return storage_class_of(path)(path, readonly, repair)


def inspect_file(path: Path) -> Inspection:
    """Return an Inspection of a file, whatever its format.

    Args:
        path: the path of the file.

    Raises:
        FileError: the file can't be opened; the inspection reports all other faults.
    """
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
    except OSError:  # opening the storage reports it
        return b""

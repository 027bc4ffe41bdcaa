"""Opening the file of a storage for writing: the lock, and an incomplete tail. Statements SHELF-21, SHELF-26."""

import contextlib
import itertools
import warnings

from durus.error import DurusWarning, FileError
from durus.files.file import File, FileSystem, closing_on_error, first_unused

_COPY_SIZE = 1 << 20


def open_locked(file_system: FileSystem, path: str) -> File:
    """Open a file for writing and lock it; LockedError if it is open for writing elsewhere. [SHELF-21]"""
    while True:
        file = file_system.open(path, "write")
        with closing_on_error(file):
            file.lock()
            if file.has_its_name():
                return file
        # A pack has replaced the file between our open and our lock.
        file.close()


def cut_tail(file_system: FileSystem, file: File, end: int) -> None:
    """Move the bytes after `end` to a separate file in the same directory. [SHELF-26]"""
    size = file.size()
    name = f"{file.path}.cut-{end}"
    kept_path = first_unused(
        file_system, itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    )
    kept = file_system.open(kept_path, "private")
    try:
        kept.copy_permissions(file)
        for offset in range(end, size, _COPY_SIZE):
            kept.append(file.read_at(offset, min(_COPY_SIZE, size - offset)))
        kept.sync()
        file_system.sync_directory(kept_path)
    except BaseException:
        with contextlib.suppress(FileError):
            file_system.remove(kept_path)
        raise
    finally:
        kept.close()
    file.truncate(end)
    warnings.warn(
        f"{file.path}: the last {size - end} bytes were not a complete transaction; "
        f"they were cut off and are kept in {kept_path}",
        DurusWarning,
        stacklevel=5,
    )

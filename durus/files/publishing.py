"""Writes a new file that gets its name only when it is complete. Statement OBJ-46."""

import contextlib
import errno
import itertools
import os
import re
from collections.abc import Iterator

from durus.error import AlreadyExistsError, FileError
from durus.files.file import FileSystem, first_unused

_PART = re.compile(r"\.(\d+)-\d+\.part(?:-journal|-wal|-shm|-staging)?")


@contextlib.contextmanager
def publishing(path: str, file_system: FileSystem, replaces: bool = False) -> Iterator[str]:
    """Yield the name of a file to write, which is renamed to `path` when it is complete, and otherwise removed.

    AlreadyExistsError if a file has that name: it is never replaced, unless `replaces` is true. Errors of the file to
    write name `path`.
    """
    if file_system.exists(path) and not replaces:
        raise AlreadyExistsError(
            errno.EEXIST, "the file already exists; give the copy another name, or move that file away", path
        )
    with contextlib.suppress(FileError):  # a leftover that can't be removed does not prevent the copy
        _remove_left_overs(path, file_system)
    # A name that no other process is about to use.
    part = first_unused(file_system, (f"{path}.{os.getpid()}-{number}.part" for number in itertools.count()))
    try:
        yield part
        if not replaces and file_system.link(part, path):  # which never replaces a file that was made meanwhile
            file_system.remove(part)
        else:
            file_system.replace(part, path)
        file_system.sync_directory(path)
    except BaseException as error:
        if isinstance(error, FileError) and error.filename == part:
            error.filename = path
        with contextlib.suppress(FileError):  # otherwise it would hide the original error
            if file_system.exists(part):
                file_system.remove(part)
        raise


def read_file(path: str, file_system: FileSystem) -> bytes | None:
    """Return the content of a small file; None if there is no such file."""
    if not file_system.exists(path):
        return None
    file = file_system.open(path, "read")
    try:
        return file.read_at(0, file.size())
    finally:
        file.close()


def replace_file(path: str, data: bytes, file_system: FileSystem) -> None:
    """Replace a small file as a whole; return when this is durable. Only its owner can read it."""
    part = f"{path}.part"
    if file_system.exists(part):
        file_system.remove(part)
    file = file_system.open(part, "private")
    try:
        file.append(data)
        file.sync()
    finally:
        file.close()
    file_system.replace(part, path)
    file_system.sync_directory(path)


def _remove_left_overs(path: str, file_system: FileSystem) -> None:
    """Remove the parts beside the path that killed processes have left. [OBJ-46]"""
    directory, name = os.path.split(path)
    for each in file_system.names_beside(path):
        part = _PART.fullmatch(each.removeprefix(name)) if each.startswith(name) else None
        if part is not None and not _is_alive(int(part[1])):
            file_system.remove(os.path.join(directory, each))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True

"""The only place that touches the operating system's files.

FileStorage works on a FileSystem and the Files that it opens; OperatingSystem is the real one, and a simulator can
replace it. A File is only appended to and cut, never overwritten. Every failure here raises a FileError that names the
operation and the file.
"""

import contextlib
import errno
import fcntl
import itertools
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from typing import Literal, Protocol

from durus.concurrency.forked import note_held
from durus.concurrency.uncopied import Uncopied
from durus.error import ArgumentError, FileError, LockedError
from durus.text import command

Mode = Literal["read", "write", "new", "private"]
"""How to open: read only; to append, created if it does not exist; to append to a file that must not exist yet; the
same, accessible only to its owner until copy_permissions()."""


Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]
"""The name of a file, as users write it."""


def path_text(path: object) -> str:
    """Return the name of a file as text; ArgumentError for anything that can't be one. [TXN-38]"""
    text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
    if not text or "\0" in text:
        raise ArgumentError(f"{path!r} is not the path of a file")
    return text


class ReadableFile(Protocol):
    """An open file, for reading. Offsets and sizes are in bytes."""

    @property
    def path(self) -> str:
        """The name of the file in errors."""

    def size(self) -> int:
        """Return the present length of the file."""

    def read_at(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset`, fewer only where the file ends."""

    def close(self) -> None:
        """Close the file and release its lock; further calls do nothing."""


class File(ReadableFile, Protocol):
    """An open file that can be appended to and cut."""

    path: str

    def append(self, data: bytes, end: int | None = None) -> None:
        """Write all of `data` at the end, which is `end` if that is known; after an error a part may be written."""

    def truncate(self, size: int) -> None:
        """Cut the file to `size` bytes."""

    def sync(self) -> None:
        """Return when everything written is on stable storage."""

    def lock(self) -> None:
        """Take the exclusive lock without waiting; LockedError if another holds it."""

    def has_its_name(self, name: str | None = None) -> bool:
        """Return whether the path, or another name, still leads to this file and not to a replacement."""

    def copy_permissions(self, other: "File") -> None:
        """Take over group, mode and, if allowed, owner, ACLs and extended attributes of another file.

        FileError if the group can't be kept, and its members would lose access, or others get it.
        """


class FileSystem(Protocol):
    """The operations on names that FileStorage needs."""

    def open(self, path: str, mode: Mode) -> File: ...

    def exists(self, path: str) -> bool: ...

    def names_beside(self, path: str) -> list[str]:
        """Return the names of all entries in the directory of this file, without the directory."""

    def link(self, source: str, name: str) -> bool:
        """Make `name` a second name of the file; False if the file system has no hard links."""

    def replace(self, source: str, name: str) -> None:
        """Give the file `source` the name `name`, atomically, replacing the file that had it."""

    def remove(self, path: str) -> None: ...

    def make_directory(self, path: str) -> None:
        """Make a directory that only its owner may enter, if it is not there."""

    def sync_directory(self, path: str) -> None:
        """Return when the directory entry of this file is on stable storage."""


@contextlib.contextmanager
def os_errors_as(operation: str, path: str, kind: type[FileError] = FileError) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _named(error, operation, path, kind) from error


def temporary_folder() -> str:
    """Return the folder in which the system keeps temporary files; FileError if it has none that can be written."""
    try:
        return tempfile.gettempdir()
    except OSError as error:
        raise FileError(
            f"cannot make a temporary file: {error.strerror}; let TMPDIR name a folder to which this process can write"
        ) from error


@contextlib.contextmanager
def closing_on_error(file: ReadableFile) -> Iterator[None]:
    """Close the file if the block raises."""
    try:
        yield
    except BaseException:
        file.close()
        raise


def first_unused(file_system: FileSystem, names: Iterable[str]) -> str:
    """Return the first of these names that is unused; there must be one."""
    return next(name for name in names if not file_system.exists(name))


def new_name(path: str, suffix: str = "converted", file_system: "FileSystem | None" = None) -> str:
    """Return a name beside a file that no file has, for a message about a copy of it."""
    names = (f"{path}.{suffix}{number or ''}" for number in itertools.count())
    return first_unused(file_system or OperatingSystem(), names)


def _named(error: OSError, operation: str, path: str, kind: type[FileError] = FileError) -> FileError:
    named = kind(error.errno, f"cannot {operation}: {error.strerror or error}", path)
    named.operation = operation
    return named


def _folder_error(path: str) -> OSError:
    remedy = command("restore", path, new_name(path, "restored"))
    return OSError(errno.EISDIR, f"it is a folder; if it holds a backup, {remedy} makes a file of that")


class OperatingSystemFile(Uncopied):
    """A File of the operating system, by its descriptor."""

    _fd = -1

    def __init__(self, path: str, mode: Mode) -> None:
        flags = {
            "read": os.O_RDONLY,
            "write": os.O_RDWR | os.O_CREAT,
            "new": os.O_RDWR | os.O_CREAT | os.O_EXCL,
            "private": os.O_RDWR | os.O_CREAT | os.O_EXCL,
        }[mode]
        self.path = path
        note_held(self)
        with os_errors_as("open the file", path):
            try:
                self._fd = os.open(path, flags | os.O_CLOEXEC, 0o600 if mode == "private" else 0o666)
            except IsADirectoryError as error:
                raise _folder_error(path) from error
        try:
            with os_errors_as("open the file", path):
                self._status = os.fstat(self._fd)
                if stat.S_ISDIR(self._status.st_mode):
                    raise _folder_error(path)
                if not stat.S_ISREG(self._status.st_mode):
                    raise OSError(errno.EINVAL, "it is not a regular file")
        except FileError:
            self.close()
            raise

    def size(self) -> int:
        try:
            return os.lseek(self._fd, 0, os.SEEK_END)  # faster than fstat(); nothing here uses the position
        except OSError as error:
            raise _named(error, "tell the size of the file", self.path) from error

    def read_at(self, offset: int, size: int) -> bytes:
        try:
            data = os.pread(self._fd, size, offset)
            while len(data) < size:
                more = os.pread(self._fd, size - len(data), offset + len(data))
                if not more:
                    break
                data += more
            return data
        except OSError as error:
            raise _named(error, f"read at byte {offset}", self.path) from error

    def append(self, data: bytes, end: int | None = None) -> None:
        try:
            offset = os.lseek(self._fd, 0, os.SEEK_END) if end is None else end
            written = os.pwrite(self._fd, data, offset)
            while written < len(data):
                written += os.pwrite(self._fd, memoryview(data)[written:], offset + written)
        except OSError as error:
            raise _named(error, "append to the file", self.path) from error

    def truncate(self, size: int) -> None:
        with os_errors_as(f"cut the file to {size} bytes", self.path):
            os.ftruncate(self._fd, size)

    def sync(self) -> None:
        with os_errors_as("sync the file to its disk", self.path):
            _full_sync(self._fd)

    def lock(self) -> None:
        with os_errors_as("lock the file", self.path):
            if _try_lock(self._fd):
                return
            holder = _lock_holder(self._fd)
        by = f"process {holder}" if holder else "another process"
        if holder == os.getpid():
            by = "this process already"
        raise LockedError(errno.EWOULDBLOCK, f"the file is in use by {by}", self.path)

    def has_its_name(self, name: str | None = None) -> bool:
        path = name or self.path
        try:
            return os.path.samestat(self._status, os.stat(path))
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise _named(error, "look up the file by its name", path) from error

    def copy_permissions(self, other: File) -> None:
        with os_errors_as("set the permissions of the file", self.path):
            model, now = os.stat(other.path), os.fstat(self._fd)
            if model.st_uid != now.st_uid:
                with contextlib.suppress(PermissionError):  # only root may give a file away
                    os.fchown(self._fd, model.st_uid, -1)
            if model.st_gid != now.st_gid:
                self._set_group(model, other.path)
            os.fchmod(self._fd, stat.S_IMODE(model.st_mode))
            _copy_attributes(other.path, self._fd)

    def _set_group(self, model: os.stat_result, path: str) -> None:
        try:
            os.fchown(self._fd, -1, model.st_gid)
        except PermissionError as error:
            if stat.S_IMODE(model.st_mode) >> 3 & 7 != stat.S_IMODE(model.st_mode) & 7:
                raise OSError(
                    error.errno,
                    f"{path} belongs to the group {model.st_gid}, and this process does not, so its new "
                    "file would get another group; run this as a member of the group, or as root",
                ) from error

    def close(self) -> None:
        fd, self._fd = self._fd, -1  # marked as closed first: afterwards the number may belong to another file
        if fd >= 0:
            os.close(fd)

    leave_to_parent = close
    """Keep the lock: it belongs to the file description that parent and child share."""

    def __del__(self) -> None:
        self.close()  # a storage that is dropped without close() must not keep its lock


class OperatingSystem:
    """The FileSystem of the operating system."""

    def open(self, path: str, mode: Mode) -> File:
        return OperatingSystemFile(path, mode)

    def exists(self, path: str) -> bool:
        return os.path.lexists(path)

    def names_beside(self, path: str) -> list[str]:
        directory = os.path.dirname(path) or "."
        with os_errors_as("list the directory", directory):
            return os.listdir(directory)

    def link(self, source: str, name: str) -> bool:
        with os_errors_as(f"give the name {name} to the file", source):
            try:
                os.link(source, name)
            except OSError as error:
                if error.errno in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                    return False
                raise
        return True

    def replace(self, source: str, name: str) -> None:
        with os_errors_as(f"rename {source} to this name", name):
            os.replace(source, name)

    def remove(self, path: str) -> None:
        with os_errors_as("remove the file", path):
            os.unlink(path)

    def make_directory(self, path: str) -> None:
        with os_errors_as("make the folder", path):
            try:
                os.mkdir(path, 0o700)
            except FileExistsError:
                if not os.path.isdir(path):
                    raise

    def sync_directory(self, path: str) -> None:
        directory = os.path.dirname(os.path.abspath(path))
        with os_errors_as("sync the directory to its disk", directory):
            fd = os.open(directory, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def _copy_attributes(path: str, fd: int) -> None:
    """Copy the ACLs and extended attributes of another file, as far as file system and rights allow."""
    if not hasattr(os, "listxattr"):
        return
    with contextlib.suppress(OSError):
        wanted = os.listxattr(path)
        for name in set(os.listxattr(fd)).difference(wanted):  # what the directory's default ACL has added
            with contextlib.suppress(OSError):
                os.removexattr(fd, name)
        for name in wanted:
            with contextlib.suppress(OSError):
                os.setxattr(fd, name, os.getxattr(path, name))


def _full_sync(fd: int) -> None:
    """On macOS fsync leaves the data in the drive's cache; F_FULLFSYNC does not."""
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is None:
        os.fsync(fd)
    else:
        fcntl.fcntl(fd, full)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_holder(fd: int) -> int | None:
    """Return the id of the process that has this file locked, if Linux reveals it."""
    status = os.fstat(fd)
    wanted = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        with open("/proc/locks", encoding="ascii") as locks:
            for line in locks:
                fields = line.split()
                if fields[1] == "FLOCK" and fields[5] == wanted:
                    return int(fields[4])
    except (OSError, ValueError, IndexError):
        return None
    return None

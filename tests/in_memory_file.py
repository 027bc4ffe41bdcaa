"""Files in memory, for tests that open very many of them."""

import errno
import os

from durus.error import FileError
from durus.files.file import File, Mode


class MemoryFile:
    """A File whose bytes are in `data`."""

    def __init__(self, path: str, data: bytearray) -> None:
        self.path = path
        self.data = data

    def size(self) -> int:
        return len(self.data)

    def read_at(self, offset: int, size: int) -> bytes:
        return bytes(self.data[offset : offset + size])

    def append(self, data: bytes, end: int | None = None) -> None:
        self.data += data

    def truncate(self, size: int) -> None:
        del self.data[size:]

    def sync(self) -> None:
        pass

    def lock(self) -> None:
        pass

    def has_its_name(self, name: str | None = None) -> bool:
        return True

    def copy_permissions(self, other: File) -> None:
        pass

    def close(self) -> None:
        pass


class CountingFile(MemoryFile):
    """Counts the bytes that are read."""

    bytes_read = 0

    def read_at(self, offset: int, size: int) -> bytes:
        data = super().read_at(offset, size)
        self.bytes_read += len(data)
        return data


class MemoryFileSystem:
    """Files by their absolute paths."""

    def __init__(self, **files: bytes) -> None:
        self.files = {f"/{name}": bytearray(data) for name, data in files.items()}

    def open(self, path: str, mode: Mode) -> File:
        if mode in ("new", "private") or (mode == "write" and path not in self.files):
            self.files[path] = bytearray()
        if path not in self.files:
            raise FileError(errno.ENOENT, "no such file", path)
        return MemoryFile(path, self.files[path])

    def exists(self, path: str) -> bool:
        return path in self.files

    def names_beside(self, path: str) -> list[str]:
        return [os.path.basename(name) for name in self.files if os.path.dirname(name) == os.path.dirname(path)]

    def link(self, source: str, name: str) -> bool:
        self.files[name] = self.files[source]
        return True

    def replace(self, source: str, name: str) -> None:
        self.files[name] = self.files.pop(source)

    def remove(self, path: str) -> None:
        del self.files[path]

    def make_directory(self, path: str) -> None:
        """Directories are not simulated."""

    def sync_directory(self, path: str) -> None:
        pass

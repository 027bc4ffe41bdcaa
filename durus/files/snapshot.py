"""A file as it is now, whatever others append to it meanwhile.

Who reads a file that another process writes needs one size for all that it decides: what was a
half-written end when the reading began can be a whole transaction with more behind it a moment later.
"""

from typing import cast

from durus.files.file import File


class _Snapshot:
    """Reads a file up to the size that it had at the start."""

    def __init__(self, file: File) -> None:
        self.path = file.path
        self._file = file
        self._size = file.size()

    def size(self) -> int:
        return self._size

    def read_at(self, offset: int, size: int) -> bytes:
        return self._file.read_at(offset, max(0, min(size, self._size - offset)))

    def close(self) -> None:
        self._file.close()


def snapshot_of(file: File) -> File:
    """Return a view of `file` that ends where it ends now. It can only be read, and closed."""
    return cast(File, _Snapshot(file))

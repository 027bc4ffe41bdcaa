"""A file as it is now, whatever others append to it later.

A reader of a file that another process writes needs one size for all that it decides: what was an
incomplete tail when the reading began can be a whole transaction, with more after it, a moment later.
"""

from durus.files.file import ReadableFile


class _Snapshot:
    """Reads a file up to the size that it had at the start."""

    def __init__(self, file: ReadableFile, size: int) -> None:
        self.path = file.path
        self._file = file
        self._size = size

    def size(self) -> int:
        return self._size

    def read_at(self, offset: int, size: int) -> bytes:
        return self._file.read_at(offset, max(0, min(size, self._size - offset)))

    def close(self) -> None:
        self._file.close()


def snapshot_of(file: ReadableFile, size: int | None = None) -> ReadableFile:
    """Return a view of `file` that ends where the file ends now, or after `size` bytes, which it must have."""
    return _Snapshot(file, file.size() if size is None else size)

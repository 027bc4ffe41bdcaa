"""A file in its present state, whatever others append to it later.

A reader of a file that another process writes needs one size for all decisions: the incomplete tail at the beginning
can be a complete transaction, with more after it, a moment later.
"""

from durus.files.file import ReadableFile


class FileSnapshot:
    """Reads a file up to `size`, by default the size at the beginning, or that of the last look_again()."""

    def __init__(self, file: ReadableFile, size: int | None = None) -> None:
        self.path = file.path
        self._file = file
        self._size = file.size() if size is None else size

    def look_again(self) -> int:
        """Return the present size of the file; from now on reads end there."""
        self._size = self._file.size()
        return self._size

    def size(self) -> int:
        return self._size

    def read_at(self, offset: int, size: int) -> bytes:
        return self._file.read_at(offset, max(0, min(size, self._size - offset)))

    def close(self) -> None:
        self._file.close()

"""A file whose packed part is checked block by block, each block when a byte of it is first read. [SHELF-44]"""

from durus.error import DamageError
from durus.files.file import ReadableFile
from durus.files.shelf.block_table import BLOCK_SIZE, BlockTable
from durus.text import command


def if_damaged(path: str) -> str:
    """Return what helps if the file with this path is damaged."""
    return f"restore the file from a backup; {command('check', path)} lists all damage"


class _BlockChecked:
    """Reads `file`, whose first `end` bytes are described by `table`."""

    def __init__(self, file: ReadableFile, end: int, table: BlockTable) -> None:
        self._file = file
        self._end = end
        self._table = table
        self._is_sound = bytearray(-(-end // BLOCK_SIZE))
        """1 for each block that was checked and is sound."""

    @property
    def path(self) -> str:
        return self._file.path  # because a pack renames its new file

    def size(self) -> int:
        return self._file.size()

    def close(self) -> None:
        self._file.close()

    def read_at(self, offset: int, size: int) -> bytes:
        """Return the bytes at this offset; DamageError if they are in a block that is not sound."""
        first = offset // BLOCK_SIZE
        after = (offset + size - 1) // BLOCK_SIZE + 1
        if offset >= self._end or self._is_sound.find(0, first, after) < 0:
            return self._file.read_at(offset, size)
        after = min(after, len(self._is_sound))
        start = offset if self._is_sound[first] else first * BLOCK_SIZE
        stop = max(offset + size, min(after * BLOCK_SIZE, self._end))
        data = self._file.read_at(start, stop - start)
        for number in range(first, after):
            if not self._is_sound[number]:
                self._check(number, memoryview(data)[number * BLOCK_SIZE - start :])
        return data[offset - start : offset - start + size]

    def _check(self, number: int, data: memoryview) -> None:
        """Check the block that `data` starts with."""
        offset = number * BLOCK_SIZE
        problem = self._table.fault(number, data[: min(BLOCK_SIZE, self._end - offset)])
        if problem is not None:
            raise DamageError(self._file.path, offset, problem, if_damaged)
        self._is_sound[number] = 1


def block_checked(file: ReadableFile, end: int, table: BlockTable) -> ReadableFile:
    """Return a view of `file` that checks its first `end` bytes against their table before it returns them."""
    return _BlockChecked(file, end, table)

"""Reading a file forward, whatever its format, and what an unsound transaction in it is.

The running checksum is that of SHELF-15; a format without checksums ignores it.
"""

from zlib import crc32

from durus.error import DamageError, UnsoundTailError
from durus.files.file import ReadableFile
from durus.text import command

CHUNK_SIZE = 1 << 20
FIRST_CHUNK_SIZE = 1 << 12
"""The size of the first read, which each further read doubles: reading a damaged file starts over very often."""


class Unsound(Exception):
    """The transaction at `start` is incomplete or damaged; it claims to end at `end`."""

    def __init__(
        self,
        start: int,
        end: int,
        problem: str,
        fault_offset: int,
        is_checksum_mismatch: bool = False,
        is_seal_only: bool = False,
    ) -> None:
        super().__init__(problem)
        self.start = start
        self.end = end
        self.problem = problem
        self.fault_offset = fault_offset
        self.is_checksum_mismatch = is_checksum_mismatch
        """True if the structure is right, and only the checksum is wrong."""
        self.is_seal_only = is_seal_only
        """True if such a transaction holds only its seal."""


class ForwardReader:
    """Reads a file forward from `offset`, in chunks that grow, and keeps the running checksum."""

    def __init__(self, file: ReadableFile, offset: int, end: int, checksum: int) -> None:
        self.offset = offset
        self._checksum = checksum
        self._file = file
        self._end = end
        self._buffer = b""
        self._start = 0
        self._chunk_size = FIRST_CHUNK_SIZE
        self._summed = 0
        """Up to where the buffer is part of the checksum, which is updated in large pieces."""

    @property
    def checksum(self) -> int:
        """The checksum of everything before the offset."""
        self._catch_up()
        return self._checksum

    @checksum.setter
    def checksum(self, checksum: int) -> None:
        self._summed = self._start
        self._checksum = checksum

    def _catch_up(self) -> None:
        if self._summed < self._start:
            self._checksum = crc32(memoryview(self._buffer)[self._summed : self._start], self._checksum)
            self._summed = self._start

    def peek(self, size: int) -> bytes:
        """Return the next `size` bytes without moving; fewer only at the end."""
        start = self._start
        if start + size > len(self._buffer):
            self._catch_up()
            rest = self._buffer[start:]
            wanted = min(max(size, self._chunk_size), self._end - self.offset) - len(rest)
            self._chunk_size = min(2 * self._chunk_size, CHUNK_SIZE)
            if wanted > 0:
                rest += self._file.read_at(self.offset + len(rest), wanted)
            self._buffer = rest
            self._start = self._summed = start = 0
        return self._buffer[start : start + size]

    def advance(self, size: int) -> None:
        """Move by `size` bytes, which must exist, and add them to the checksum."""
        while self._start + size > len(self._buffer):
            step = len(self._buffer) - self._start
            self._start += step
            self.offset += step
            size -= step
            if not self.peek(1):
                raise self._became_shorter()
        self._start += size
        self.offset += size

    def window_at(self, offset: int, size: int) -> tuple[bytes, int]:
        """Move to an offset; return a buffer with at least `size` bytes after it, and the offset of the buffer."""
        self.advance(offset - self.offset)
        if len(self.peek(size)) < size:
            raise self._became_shorter()
        return self._buffer, self.offset - self._start

    def _became_shorter(self) -> DamageError:
        problem = f"the file became shorter than {self._end} bytes while it was read"
        return DamageError(self._file.path, self.offset, problem, "open it again")


def unsound_tail(path: str, start: int, size: int, problem: str) -> UnsoundTailError:
    """Return the error for an unsound tail, from `start` to the end of the file at `size`."""
    return UnsoundTailError(
        path,
        start,
        f"the last {size - start} bytes are not a complete, sound transaction: {problem}",
        f"open it with repair=True ({command('shell --repair', path)}) to cut them off and keep them in a separate "
        "file, or with readonly=True to see the state before them",
    )

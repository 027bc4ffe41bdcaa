"""Reading parts of a file that never change, with few reads if they follow one another."""

from durus.error import DamageError
from durus.files.file import ReadableFile

_RANDOM_READ = 1 << 12
_SEQUENTIAL_READ = 1 << 16


class ReadAhead:
    """Remembers what it has read last. It must not read after the sound part of the file, which may be cut off."""

    def __init__(self, file: ReadableFile) -> None:
        self.file = file
        self._last = 0, b""
        """The offset of some bytes in the file, and the bytes: one value, because several threads may read."""

    def window(self, offset: int, size: int, end: int) -> tuple[bytes, int]:
        """Return a buffer that contains the `size` bytes of the file from `offset` on, and their index in it.

        There are fewer if the file, or its sound part that ends at `end`, is too short.
        """
        start, buffer = self._last
        index = offset - start
        if 0 <= index <= len(buffer) - size:
            return buffer, index
        is_in_order = 0 <= index <= len(buffer) + _RANDOM_READ
        available = max(end - offset, 0)
        wanted = max(size, _SEQUENTIAL_READ if is_in_order else _RANDOM_READ)
        try:
            buffer = self.file.read_at(offset, min(wanted, available))
        except DamageError:  # it may be in bytes that nobody has asked for
            return self.file.read_at(offset, min(size, available)), 0
        if len(buffer) <= _SEQUENTIAL_READ:
            self._last = offset, buffer
        return buffer, 0

"""Writing a new SHELF-1 file, from its first byte on. Statements SHELF-2, SHELF-10, SHELF-17, SHELF-30."""

from array import array
from collections.abc import Iterable, Iterator
from zlib import crc32

from durus.file import File
from durus.new_file import NewFile
from durus.oid import oid_to_int
from durus.progress import Progress
from durus.shelf.layout import MAGIC, U64, pack_entry, pack_transaction
from durus.shelf.offset_map import build_offset_map


class NewShelf(NewFile):
    """A file that is written as a whole: its packed part, a seal that covers it, then transactions."""

    def __init__(self, file: File) -> None:
        super().__init__(file)
        self.base_checksum = 0
        """The running checksum at the end of the offset map."""
        self._checksum = 0

    def write_base(
        self, records: Iterable[tuple[bytes, bytes]], count: int, size: int, highest_oid: int, time: str
    ) -> Iterator[Progress]:
        """Write the packed part of these (oid, record) pairs, and the seal that covers it, in small steps.

        There are `count` of them, and `size` bytes in their object entries; `highest_oid` is -1 if there is none.
        """
        self._write(MAGIC + U64.pack(size))
        offsets = array("Q", bytes(8 * (highest_oid + 1)))

        def note_place(oid: bytes, offset: int) -> None:
            offsets[oid_to_int(oid)] = offset

        yield from self._write_records(records, count, pack_entry, note_place)
        for piece in build_offset_map(offsets, self._end):
            self._write(piece)
            yield Progress("copy", count, count)
        self.base_checksum = self._checksum
        self.append([], time)
        yield Progress("copy", count, count)

    def append(self, entries: list[bytes], time: str) -> None:
        """Append a sealed transaction of these object entries."""
        data, checksum = pack_transaction(entries, self._end, time, self._checksum)
        self._write(data)
        self._checksum = checksum

    def _write(self, data: bytes) -> None:
        super()._write(data)
        self._checksum = crc32(data, self._checksum)

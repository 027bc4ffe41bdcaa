"""Writing a new SHELF-1 file, from its first byte on. Statements SHELF-2, SHELF-10, SHELF-17, SHELF-30, SHELF-40."""

from array import array
from collections.abc import Iterable, Iterator

from durus.files.file import File
from durus.files.shelf.block_table import MAX_BYTES, BlockTableBuilder, pack_block_table
from durus.files.shelf.layout import MAGIC, U64, pack_entry, pack_transaction
from durus.files.shelf.offset_map import build_offset_map
from durus.files.writer import NewFile
from durus.oid import oid_to_int
from durus.progress import Progress


class NewShelf(NewFile):
    """A file that is written as a whole: its packed part, a seal that covers it, a block table, then transactions."""

    def __init__(self, file: File) -> None:
        super().__init__(file)
        self._sums = BlockTableBuilder()
        self._checksum = 0

    def write_base(
        self, records: Iterable[tuple[bytes, bytes] | None], count: int, size: int, highest_oid: int, time: str
    ) -> Iterator[Progress]:
        """Write the packed part of these (oid, record) pairs, its seal and its block table, in small steps.

        There are `count` of them, and `size` bytes in their object entries; `highest_oid` is -1 if there is none.
        """
        self._write(MAGIC + U64.pack(size))
        offsets = array("Q", bytes(8 * (highest_oid + 1)))

        def note_offset(oid: bytes, offset: int) -> None:
            offsets[oid_to_int(oid)] = offset

        yield from self._write_records(records, count, pack_entry, note_offset)
        for piece in build_offset_map(offsets, self._end):
            self._write(piece)
            yield Progress("copy", count, count)
        table = self._sums.table()
        self._checksum = table.checksum
        is_small_enough = self._end <= MAX_BYTES
        self.append([], time)
        if is_small_enough:
            self.append([pack_block_table(table)], time)
        yield Progress("copy", count, count)

    def append(self, entries: list[bytes], time: str) -> None:
        """Append a sealed transaction of these object entries."""
        data, self._checksum = pack_transaction(entries, self._end, time, self._checksum)
        super()._write(data)

    def _write(self, data: bytes) -> None:
        """Write a piece of the packed part."""
        super()._write(data)
        self._sums.add(data)

"""Writing a new SHELF-1 file, from its first byte on. Statements SHELF-2, SHELF-10, SHELF-17, SHELF-30, SHELF-40."""

from collections.abc import Iterable, Iterator

from durus.files.file import File
from durus.files.shelf.block_table import MAX_BYTES, BlockTableBuilder, pack_block_table
from durus.files.shelf.layout import ENTRY_FRAME_SIZE, MAGIC, U64, pack_entry, pack_transaction
from durus.files.shelf.offset_map import build_offset_map, no_offsets
from durus.files.writer import NewFile
from durus.oid import oid_to_int
from durus.progress import Progress


class NewShelf(NewFile):
    """A file that is written as a whole: its packed part, a seal that covers it, and a block table."""

    def __init__(self, file: File, time: str) -> None:
        super().__init__(file, time)
        self._table = BlockTableBuilder()

    def write_base(
        self, records: Iterable[tuple[bytes, bytes] | None], count: int, records_size: int, highest_oid: int
    ) -> Iterator[Progress]:
        size = records_size + ENTRY_FRAME_SIZE * count
        self._write(MAGIC + U64.pack(size))
        offsets = no_offsets(highest_oid + 1, self._end + size)

        def note_offset(oid: bytes, offset: int) -> None:
            offsets[oid_to_int(oid)] = offset

        yield from self._write_records(records, count, pack_entry, note_offset)
        for piece in build_offset_map(offsets, self._end):
            self._write(piece)
            yield Progress("copy", count, count)
        table = self._table.table()
        is_small_enough = self._end <= MAX_BYTES
        seal, checksum = pack_transaction(b"", self._end, self._time, table.checksum)
        super()._write(seal)
        if is_small_enough:
            super()._write(pack_transaction(pack_block_table(table), self._end, self._time, checksum)[0])
        yield Progress("copy", count, count)

    def _write(self, data: bytes) -> None:
        """Write a piece of the packed part."""
        super()._write(data)
        self._table.add(data)

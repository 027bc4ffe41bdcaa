"""The packed copy of a shelf. Statements SHELF-30 to SHELF-38, SHELF-50."""

from collections.abc import Iterator
from itertools import islice, pairwise

from durus import progress
from durus.error import DamageError
from durus.files.entry_index import PLACE
from durus.files.file import File
from durus.files.forward_reader import ForwardReader, Unsound
from durus.files.packer import Entry, LateCommit, Packer
from durus.files.shelf.block_checked import if_damaged
from durus.files.shelf.block_table import BLOCK_SIZE, read_block_table
from durus.files.shelf.layout import BASE_START, ENTRY_FRAME_SIZE, ENTRY_HEAD, U64
from durus.files.shelf.new_shelf import NewShelf
from durus.files.shelf.scan import check_seal, find_entries, is_sound_entry, scan_entries
from durus.files.shelf.shelf import Shelf
from durus.oid import FIRST_RESERVED_OID, SEAL_OID, format_oid

_STEP_BYTES = 1 << 20


class ShelfPacker(Packer[Shelf]):
    """A Packer from a shelf into a shelf."""

    def __init__(self, shelf: Shelf, target: File, time: str) -> None:
        super().__init__(shelf, target, NewShelf(target, time), time)
        self._followed_checksum = shelf.checksum

    def _gen_entries(self) -> Iterator[list[Entry]]:
        shelf, end, checksum = self._source, self._snapshot_end, self._followed_checksum
        reader = ForwardReader(shelf.raw_file, 0, end, 0)
        reader.advance(BASE_START + U64.size)
        yield from self._gen_entries_to(reader, 0, shelf.map.start)
        while reader.offset < shelf.map.end:
            reader.advance(min(_STEP_BYTES, shelf.map.end - reader.offset))
            yield []
        if reader.checksum != shelf.base_checksum:
            raise self._damaged_base(reader.checksum)
        while reader.offset < end:
            start = reader.offset
            (length,) = U64.unpack(reader.peek(U64.size))
            reader.advance(U64.size)
            yield from self._gen_entries_to(reader, start, start + U64.size + length)
        if reader.checksum != checksum:
            raise self._differs(0, f"the checksum is {reader.checksum:08x}, where it was {checksum:08x} at first")

    def _gen_entries_to(self, reader: ForwardReader, start: int, end: int) -> Iterator[list[Entry]]:
        """Yield the entries from the reader's offset to `end`, of the transaction that starts at `start`."""
        first = reader.offset
        while (offset := reader.offset) < end:
            head = reader.peek(ENTRY_HEAD.size)
            if len(head) < ENTRY_HEAD.size:
                raise self._differs(offset, "an object entry is cut off")
            length, oid, record_oid, data_size = ENTRY_HEAD.unpack(head)
            if not is_sound_entry(offset, end, length, oid, record_oid, data_size):
                raise self._differs(offset, f"an object entry (oid {format_oid(oid)}) does not fit")
            size = U64.size + length
            if oid == SEAL_OID and start:
                try:
                    check_seal(reader, start, end, is_seal_only=offset == first)
                except Unsound as unsound:
                    raise self._differs(unsound.fault_offset, unsound.problem) from None
            elif oid >= FIRST_RESERVED_OID:
                reader.advance(size)
            else:
                yield from _gen_batches(reader, oid, size, end)

    def _damaged_base(self, checksum: int) -> DamageError:
        """Return the error for a packed part that has changed."""
        shelf = self._source
        table = read_block_table(shelf.raw_file, shelf.map.end)
        for number, offset in enumerate(range(0, shelf.map.end if table else 0, BLOCK_SIZE)):
            block = shelf.raw_file.read_at(offset, min(BLOCK_SIZE, shelf.map.end - offset))
            if table and (fault := table.fault(number, block)):
                return self._differs(offset, fault)
        return self._differs(0, f"the checksum of the packed part is {checksum:08x}, not {shelf.base_checksum:08x}")

    def _differs(self, offset: int, problem: str) -> DamageError:
        return DamageError(self._source.file.path, offset, f"{problem}, so the file is not packed", if_damaged)

    def _gen_late_commits(self) -> Iterator[LateCommit]:
        shelf = self._source
        stop = shelf.end  # its present end: otherwise a pack would never end while others keep committing
        while (start := self._followed_to) < stop:
            (length,) = U64.unpack(shelf.file.read_at(start, U64.size))
            end = start + U64.size + length
            reader = ForwardReader(shelf.file, start, end, self._followed_checksum)
            data = reader.peek(end - start)
            reader.advance(U64.size)
            places, seal = scan_entries(reader, start, end)
            records = {}
            for oid, offset in PLACE.iter_unpack(places):
                (size,) = U64.unpack_from(data, offset - start)
                records[oid] = data[offset - start + ENTRY_FRAME_SIZE : offset - start + U64.size + size]
            yield LateCommit(records, end, seal and seal.time)
            self._followed_checksum = reader.checksum

    def _open_target(self) -> Shelf:
        return Shelf(self._target)


def _gen_batches(reader: ForwardReader, oid: bytes, size: int, end: int) -> Iterator[list[Entry]]:
    """Yield the entry of `size` bytes at the reader's offset, and those after it, as far as the reader has them."""
    offset = reader.offset
    window, start = reader.window_at(offset, size)
    places = bytearray(PLACE.pack(oid, offset))
    stop = find_entries(window, start, offset + size, end, places)
    if stop > start + len(window):
        _, stop = PLACE.unpack(places[-PLACE.size :])
        del places[-PLACE.size :]
    reader.advance(stop - offset)
    places += PLACE.pack(b"", stop)
    entries = pairwise(PLACE.iter_unpack(places))
    while batch := [
        (oid, offset, window[offset - start + ENTRY_FRAME_SIZE : after - start])
        for (oid, offset), (_, after) in islice(entries, progress.STEP_RECORDS)
    ]:
        yield batch

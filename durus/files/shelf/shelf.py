"""An open SHELF-1 file: its records by oid, and appending to it. Statements SHELF-1 to SHELF-23, SHELF-43."""

from collections.abc import Callable, Iterator, Sequence
from zlib import crc32

from durus.error import DamageError, FormatError, UnsoundTailError
from durus.files.entry_index import PLACE, EntryIndex
from durus.files.file import ReadableFile
from durus.files.forward_reader import CHUNK_SIZE, Unsound
from durus.files.read_ahead import PAGE_SIZE, ReadAhead
from durus.files.record_file import Appended, PreparedTransaction, RecordFile
from durus.files.shelf import recover
from durus.files.shelf.block_checked import block_checked, if_damaged
from durus.files.shelf.block_table import read_block_table
from durus.files.shelf.layout import (
    BASE_START,
    ENTRY_HEAD,
    MAGIC,
    SMALLEST_ENTRY,
    U64,
    pack_entries,
    pack_in_pieces,
    pack_transaction,
)
from durus.files.shelf.offset_map import OffsetMap, build_offset_map
from durus.files.shelf.scan import Transaction, newest_record_in_page, record_in_page, scan_transactions
from durus.oid import format_oid, oid_from_int

LARGE_RECORD = 1 << 18
"""A record of this size is a piece of its transaction: joining the pieces would take as much memory again."""

EMPTY_FILE = MAGIC + U64.pack(0) + b"".join(build_offset_map([], 0))
"""The bytes of a file without any object. [SHELF-3]"""


class Shelf(RecordFile):
    """A SHELF-1 file that was read up to the end of its last sound transaction.

    With a block table the packed part is not read at that time: its blocks are checked when they are read. [SHELF-43]
    `tail` is the error for the bytes after the end, None if there are none.
    """

    _settled: tuple[int, int, bool]
    """`end`, `checksum` and `is_sealed` at the offset from which reading continues."""

    def __init__(self, file: ReadableFile) -> None:
        self.raw_file = file
        """The file, read without checking its blocks."""
        self.file, self.map, self.base_checksum = open_packed_part(file)
        self._source = ReadAhead(self.file)
        self.index = EntryIndex()
        """The newest entry of each oid that has one after the offset map."""
        self.end, self.checksum, self.is_sealed = self._settled = self.map.end, self.base_checksum, False
        self.tail: UnsoundTailError | None = None
        self._entry_count = 0
        """How many entries were read after the packed part."""
        self._packed_below = oid_from_int(self.map.count)
        """Oids below this one count as having a record in the packed part."""
        accept_end, _ = self._scan(self.index.add)
        accept_end()
        self.garbage = self._garbage_read()

    def _garbage_read(self) -> int:
        """Return about how many bytes after the packed part make garbage: as many as replaced entries have. [CMD-61]"""
        count = self._entry_count
        new = len(self.index) - self.index.count_below(self._packed_below)
        return (self.end - self.map.end) * (count - new) // count if count else 0

    @property
    def settled_end(self) -> int:
        return self._settled[0]

    def look_ahead(self) -> Appended:
        """Read all further sound transactions, and change nothing yet. [SHELF-54]"""
        places = bytearray()
        accept_end, settled_end = self._scan(places.extend)

        def accept() -> None:
            accept_end()
            self.index.add(places)  # last, because entries must be before the end

        return Appended(list(dict(PLACE.iter_unpack(places))), accept, settled_end)

    def _scan(self, note: Callable[[bytes | bytearray], None]) -> tuple[Callable[[], None], int]:
        """Note the places in all further sound transactions.

        Returns:
            What makes their end the present one, and the `settled_end` after that.
        """
        tail: UnsoundTailError | None = None
        last: Transaction | None = None
        size = 0
        now = before = settled = self._settled
        try:
            for last in scan_transactions(self.file, now[0], self.file.size(), now[1]):
                note(last.places)
                size += len(last.places)
                before, now = now, (last.end, last.checksum, last.seal is not None)
                if last.places or last.seal:
                    settled = now  # otherwise Durus 4.3 may be about to write its true length [SHELF-24]
        except Unsound as unsound:
            error = recover.explain(self.file, unsound, last)
            if not isinstance(error, UnsoundTailError):
                raise error from None
            tail = error
            if tail.offset < now[0]:  # the transaction of length 0 before it belongs to the tail
                now = before

        def accept() -> None:
            self.end, self.checksum, self.is_sealed = now
            self._settled, self.tail = settled, tail
            self._entry_count += size // PLACE.size

        return accept, settled[0]

    def offset_of(self, oid: bytes) -> int | None:
        """Return the file offset of the current entry of `oid`, None if there is none. [SHELF-11]"""
        offset = self.index.get(oid)
        return self.map.offset_of(oid) if offset is None and oid < self._packed_below else offset

    def read(self, oid: bytes) -> bytes | None:
        record = newest_record_in_page(self.index, self._source.pages, PAGE_SIZE, oid, self.end)
        if record is None:
            offset = self.offset_of(oid)
            record = None if offset is None else self.read_entry(oid, offset)
        return record

    def read_entry(self, oid: bytes, offset: int) -> bytes:
        """Return the record in the entry at `offset`, which must be of `oid`; DamageError if it is not."""
        end = self.end if offset >= self.map.end else self.map.start
        record = record_in_page(self._source.pages, PAGE_SIZE, oid, offset, end)
        return read_entry(self._source, end, oid, offset) if record is None else record

    def offsets(self) -> Iterator[tuple[bytes, int]]:
        """Yield (oid, file offset) for all current entries, in the order of the file."""
        packed = [(offset, oid) for oid, offset in self.map.offsets() if oid not in self.index]
        packed.sort()
        for offset, oid in packed:
            yield oid, offset
        yield from self._indexed()

    def walk(self) -> Iterator[tuple[bytes, int]]:
        end, offset = self.map.start, BASE_START + U64.size
        while offset < end:
            buffer, index = self._source.window(offset, ENTRY_HEAD.size, end)
            length, oid = ENTRY_HEAD.unpack_from(buffer.ljust(index + ENTRY_HEAD.size, b"\0"), index)[:2]
            if offset + U64.size + length > end:
                raise DamageError(self.file.path, offset, "an object entry does not end in the packed part", if_damaged)
            if oid not in self.index and self.map.offset_of(oid) == offset:
                yield oid, offset
            offset += U64.size + length
        yield from self._indexed()

    def _indexed(self) -> Iterator[tuple[bytes, int]]:
        """Yield (oid, file offset) for the current entries after the packed part, in the order of the file."""
        yield from PLACE.iter_unpack(self.index.places())

    def holes(self) -> Iterator[int]:
        """Yield the numbers of the free oids, in the order of their chain. [SHELF-9]"""
        return self.map.holes()

    @property
    def oid_count(self) -> int:
        """The number of words in the offset map."""
        count: int = self.map.count
        return count

    def prepare(self, records: Sequence[tuple[bytes, bytes]], time: str) -> PreparedTransaction:
        """Return the transaction that holds these (oid, record) pairs at the end of this file. [SHELF-12]

        If the bytes before it have no seal yet, the transaction brings one that covers them. [SHELF-17]
        """
        covering_seal, checksum = b"", self.checksum
        if not self.is_sealed:
            covering_seal, checksum = pack_transaction(b"", self.end, time, checksum)
        start = self.end + len(covering_seal)
        entries, places = pack_entries(records, start + U64.size, LARGE_RECORD)
        if len(entries) == 1:
            transaction, checksum = pack_transaction(entries[0], start, time, checksum)
            pieces, end = [transaction], start + len(transaction)
        else:
            pieces, checksum = pack_in_pieces(entries, start, time, checksum)
            end = start + sum(map(len, pieces))
        index, packed_below = self.index, self._packed_below
        replacing = (len(record) for oid, record in records if oid in index or oid < packed_below)
        garbage = self.garbage + sum(replacing)  # as if the records before had the same size [CMD-61]

        def accept() -> None:
            self._note_replaced(PLACE.iter_unpack(places))
            self.garbage = garbage
            self.end, self.checksum, self.is_sealed = end, checksum, True
            self.index.add(places)  # last, because entries must be before the end

        return PreparedTransaction(covering_seal, pieces, accept)


def open_packed_part(file: ReadableFile) -> tuple[ReadableFile, OffsetMap, int]:
    """Return the file, with checked blocks if it has a block table, and the map and the checksum of its packed part."""
    offset_map = read_header(file)
    table = read_block_table(file, offset_map.end)
    if table is None:
        return file, offset_map, checksum_of(file, offset_map.end)
    file = block_checked(file, offset_map.end, table)
    return file, read_header(file), table.checksum  # the map again, now from checked bytes


def read_entry(source: ReadAhead, end: int, oid: bytes, offset: int) -> bytes:
    """Return the record in the entry of `oid` at `offset`, of a file whose sound part ends at `end`."""
    buffer, index = source.window(offset, ENTRY_HEAD.size, end)
    if len(buffer) >= ENTRY_HEAD.size:
        length, entry_oid, record_oid, data_size = ENTRY_HEAD.unpack_from(buffer, index)
        refs_size = length - SMALLEST_ENTRY - data_size
        size = U64.size + length
        if (
            entry_oid == record_oid == oid
            and data_size
            and refs_size >= 0
            and refs_size % 8 == 0
            and offset + size <= end
        ):
            if index + size > len(buffer):
                buffer, index = source.window(offset, size, end)
            return buffer[index + 16 : index + size]
    raise DamageError(source.file.path, offset, f"there is no sound entry of oid {format_oid(oid)} here", if_damaged)


def read_header(file: ReadableFile) -> OffsetMap:
    """Return the offset map that the header of a file points to."""
    head = file.read_at(0, BASE_START + U64.size)
    if head[:BASE_START] != MAGIC[: len(head)]:
        raise FormatError(f"{file.path}: this is not a Durus file: it starts with {head[:8]!r}, not with {MAGIC!r}")
    if len(head) < BASE_START + U64.size:
        raise DamageError(file.path, BASE_START, "the file ends inside its header", if_damaged)
    (length,) = U64.unpack_from(head, BASE_START)
    start = len(head) + length
    if start > file.size():
        problem = f"the first transaction claims to end at byte {start}, past the end of the file"
        raise DamageError(file.path, BASE_START, problem, if_damaged)
    return OffsetMap(file, start)


def checksum_of(file: ReadableFile, end: int) -> int:
    """Return the crc32 of the first `end` bytes of a file."""
    checksum = 0
    for offset in range(0, end, CHUNK_SIZE):
        checksum = crc32(file.read_at(offset, min(CHUNK_SIZE, end - offset)), checksum)
    return checksum

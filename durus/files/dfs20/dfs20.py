"""An open DFS20 file: its records by oid, and appending to it. Statements DFS-1 to DFS-9."""

from collections.abc import Iterator, Sequence

from durus.error import DamageError, FormatError, RecordError, UnsoundTailError
from durus.files.dfs20.layout import (
    BASE_START,
    END,
    ENTRY_HEAD,
    MAGIC,
    U32,
    U64,
    entry_fits,
    parse_index,
)
from durus.files.dfs20.scan import explain, scan_transactions
from durus.files.file import ReadableFile
from durus.files.forward_reader import Unsound
from durus.files.read_ahead import ReadAhead
from durus.files.record_file import Appended, PreparedTransaction, RecordFile
from durus.oid import FIRST_RESERVED_OID, format_oid, oid_to_int
from durus.text import command

MAX_RECORD = (1 << 32) - 1


def if_damaged(path: str) -> str:
    """Return what helps if the file with this path is damaged."""
    return f"restore the file from a backup; {command('check', path)} lists all damage that can be detected"


class Dfs20(RecordFile):
    """A DFS20 file that was read up to the end of its last sound transaction.

    `base` is the content of its index record, and where that starts and ends, for callers that have read it.
    `tail` is the error for the bytes after the end, None if there are none.
    """

    def __init__(self, file: ReadableFile, base: tuple[dict[bytes, int], int, int] | None = None) -> None:
        self.file = file
        self._source = ReadAhead(file)
        self.index: dict[bytes, int]
        """The file offset of the newest entry of each oid, also of the packed part."""
        self.index, self.base_start, self.base_end = read_base(file) if base is None else base
        self.end = self.base_end
        self.tail: UnsoundTailError | None = None
        self.read_on()

    @property
    def settled_end(self) -> int:
        return self.end

    def look_ahead(self) -> Appended:
        """Read all further sound transactions, and change nothing yet. [SHELF-54]"""
        index: dict[bytes, int] = {}
        tail: UnsoundTailError | None = None
        end = self.end
        try:
            for transaction in scan_transactions(self.file, end, self.file.size()):
                index.update(transaction.entries)
                end = transaction.end
        except Unsound as unsound:
            error = explain(self.file, unsound)
            if not isinstance(error, UnsoundTailError):
                raise error from None
            tail = error

        def accept() -> None:
            self.index.update(index)
            self.end, self.tail = end, tail

        return Appended(list(index), accept, end)

    def offset_of(self, oid: bytes) -> int | None:
        """Return the file offset of the current entry of `oid`, None if there is none. [DFS-5]"""
        return self.index.get(oid)

    def read_entry(self, oid: bytes, offset: int) -> bytes:
        """Return the record in the entry at `offset`, which must be of `oid`; DamageError if it is not."""
        return read_entry(self._source, self.end if offset >= self.base_end else self.base_start, oid, offset)

    def offsets(self) -> Iterator[tuple[bytes, int]]:
        """Yield (oid, file offset) for all current entries, in the order of the file."""
        yield from sorted(self.index.items(), key=lambda pair: pair[1])

    @property
    def oid_count(self) -> int:
        """The number above the highest oid. [DFS-8]"""
        return oid_to_int(max(self.index)) + 1 if self.index else 0

    def prepare(self, records: Sequence[tuple[bytes, bytes]], time: str) -> PreparedTransaction:
        """Return the transaction that holds these (oid, record) pairs at the end of this file. [DFS-3]"""
        entries = [pack_entry(oid, record) for oid, record in records]
        data = b"".join([*entries, END])
        offsets = []
        offset = start = self.end
        for (oid, _), entry in zip(records, entries, strict=True):
            offsets.append((oid, offset))
            offset += len(entry)

        def accept() -> None:
            self._note_replaced(offsets)
            self.end = start + len(data)
            self.index.update(offsets)  # last, because entries must be before the end

        return PreparedTransaction(b"", [data], accept)


def pack_entry(oid: bytes, record: bytes) -> bytes:
    """Return the object entry that holds a record. RecordError if the record is too long. [DFS-9]"""
    if len(record) > MAX_RECORD:
        raise RecordError(
            f"the record of oid {format_oid(oid)} has {len(record)} bytes, and this format takes {MAX_RECORD} at "
            "the most; keep the object in a SHELF-1 file"
        )
    return U32.pack(len(record)) + record


def read_base(file: ReadableFile) -> tuple[dict[bytes, int], int, int]:
    """Return the content of the index record, and where it starts and ends. [DFS-6]"""
    head = file.read_at(0, BASE_START)
    if head[: len(MAGIC)] != MAGIC[: len(head)]:
        raise FormatError(f"{file.path}: this is not a DFS20 file: it starts with {head[:8]!r}, not with {MAGIC!r}")
    if len(head) < BASE_START:
        raise DamageError(file.path, len(MAGIC), "the file ends inside its header", if_damaged)
    (start,) = U64.unpack_from(head, len(MAGIC))
    stream_start = start + U64.size
    if not BASE_START <= start <= file.size() - U64.size:
        problem = f"the header leads to an index record at byte {start}, where none can be"
        raise DamageError(file.path, len(MAGIC), problem, if_damaged)
    (length,) = U64.unpack(file.read_at(start, U64.size))
    if length > file.size() - stream_start:
        problem = f"the index record claims to end at byte {stream_start + length}, past the end of the file"
        raise DamageError(file.path, start, problem, if_damaged)
    try:
        index = parse_index(file.read_at(stream_start, length))
    except ValueError as error:
        raise DamageError(file.path, stream_start, f"this is not an index: {error}", if_damaged) from error
    for oid, offset in index.items():
        if not BASE_START <= offset < start:
            problem = f"the index leads to byte {offset} for oid {format_oid(oid)}, which is not in the packed part"
            raise DamageError(file.path, stream_start, problem, if_damaged)
    return {oid: offset for oid, offset in index.items() if oid < FIRST_RESERVED_OID}, start, stream_start + length


def read_entry(source: ReadAhead, end: int, oid: bytes, offset: int) -> bytes:
    """Return the record in the entry of `oid` at `offset`, of a file whose sound part ends at `end`."""
    buffer, index = source.window(offset, ENTRY_HEAD.size, end)
    if len(buffer) >= ENTRY_HEAD.size:
        length, record_oid, data_size = ENTRY_HEAD.unpack_from(buffer, index)
        size = U32.size + length
        if record_oid == oid and entry_fits(length, data_size) and offset + size <= end:
            if index + size > len(buffer):
                buffer, index = source.window(offset, size, end)
            return buffer[index + U32.size : index + size]
    raise DamageError(source.file.path, offset, f"there is no sound entry of oid {format_oid(oid)} here", if_damaged)

"""The commits of a SHELF-1 file, and the file as it was after one of them. Statements HIST-1 to HIST-6."""

from collections.abc import Iterator
from dataclasses import dataclass

from durus.error import ArgumentError, DamageError, UnsoundTailError
from durus.files.entry_index import PLACE
from durus.files.file import ReadableFile
from durus.files.read_ahead import ReadAhead
from durus.files.shelf.layout import BASE_START, ENTRY_HEAD, U64
from durus.files.shelf.scan import Transaction, scan_transactions
from durus.files.shelf.sealed import explained
from durus.files.shelf.shelf import Shelf, open_packed_part, read_entry
from durus.files.snapshot import FileSnapshot
from durus.oid import FIRST_RESERVED_OID
from durus.storage import Commit


@dataclass
class _Span:
    """A commit while the start of the next one, or the time of its seal, is not known yet."""

    number: int
    offset: int
    size: int
    places: bytes | bytearray = b""
    """The place of the entry of each object; none for the packed part."""
    time: str | None = None
    end: int = 0
    """The end of the file before the next commit: after the commit itself it has at most seals and block tables."""

    @property
    def offsets(self) -> dict[bytes, int]:
        """The file offset of its last entry of each object."""
        return dict(PLACE.iter_unpack(self.places))

    def commit(self) -> Commit:
        return Commit(self.number, self.time, self.offset, self.size, tuple(self.offsets))


def gen_commits(shelf: Shelf) -> Iterator[Commit]:
    """Yield the commits of a file, the oldest first. [HIST-1]"""
    for span in _spans_of(shelf):
        yield span.commit()


def gen_records(shelf: Shelf, oid: bytes) -> Iterator[tuple[Commit, bytes]]:
    """Yield each record of `oid` with the commit that stored it, the oldest first. [HIST-7]"""
    source = ReadAhead(shelf.file)
    end, map_end = shelf.end, shelf.map.end
    for span in _spans_of(shelf):
        offset = span.offsets.get(oid) if span.number else shelf.map.offset_of(oid)
        if offset is not None:
            yield span.commit(), read_entry(source, end if offset >= map_end else shelf.map.start, oid, offset)


def gen_records_in(shelf: Shelf, commit: Commit) -> Iterator[tuple[bytes, bytes]]:
    """Yield (oid, record) for each record of a commit. DamageError if it is not a commit of this file. [HIST-6]"""
    source = ReadAhead(shelf.file)
    if not commit.number:
        for oid, offset in shelf.map.offsets():
            yield oid, read_entry(source, shelf.map.start, oid, offset)
        return
    end = commit.offset + commit.size
    offset = commit.offset + U64.size
    while offset < end:
        buffer, index = source.window(offset, ENTRY_HEAD.size, end)
        length, oid = ENTRY_HEAD.unpack_from(buffer.ljust(index + ENTRY_HEAD.size, b"\0"), index)[:2]
        if oid < FIRST_RESERVED_OID:
            yield oid, read_entry(source, end, oid, offset)
        offset += U64.size + length


def view_at(file: ReadableFile, at: int | str) -> ReadableFile:
    """Return a view of a file that ends as the file did after a commit.

    `at` is the number of the commit, or a time in the format of seals: then it is the last commit whose time is not
    later. ArgumentError if there is no such commit, DamageError if the file is damaged before it. [HIST-4] [HIST-5]
    """
    whole = FileSnapshot(file)
    checked, offset_map, checksum = open_packed_part(whole)
    transactions = explained(scan_transactions(checked, offset_map.end, whole.size(), checksum), whole)
    found: _Span | None = None
    first: _Span | None = None
    last: _Span | None = None
    for last in _spans(transactions, _packed_size(offset_map.start, offset_map.end), offset_map.end, whole.size()):
        first = first or last
        if isinstance(at, int):
            if last.number == at:
                return FileSnapshot(whole, last.end)
        elif last.time is not None and last.time <= at:
            found = last
    if found is not None:
        return FileSnapshot(whole, found.end)
    if first is None or last is None:
        raise ArgumentError(f"{file.path}: the file has no commits yet")
    older = "older states are in the .prepack file of the last pack, or in a backup"
    if isinstance(at, int):
        raise ArgumentError(
            f"{file.path}: there is no commit {at}; the file has those from {first.number} to {last.number}; {older}"
        )
    raise ArgumentError(
        f"{file.path}: no commit was made at {at} or before; commit {first.number}, the first one, was made at "
        f"{first.time or 'an unknown time'}; {older}"
    )


def _packed_size(start: int, end: int) -> int:
    """Return the size of the packed part whose offset map is from `start` to `end`; 0 if it has no objects."""
    return end if start > BASE_START + U64.size else 0


def _spans_of(shelf: Shelf) -> Iterator[_Span]:
    end = shelf.end  # the present end: commits may continue
    transactions = scan_transactions(shelf.file, shelf.map.end, end, shelf.base_checksum)
    return _spans(explained(transactions, shelf.file), _packed_size(shelf.map.start, shelf.map.end), shelf.map.end, end)


def _spans(transactions: Iterator[Transaction], packed_size: int, packed_end: int, end: int) -> Iterator[_Span]:
    """Yield the commits among the transactions after a packed part, up to an unsound tail, or to damage. [HIST-2]"""
    waiting = [_Span(0, 0, packed_size)] if packed_size else []
    number = 0
    last_end = packed_end
    try:
        for each in transactions:
            if each.places:
                if waiting:
                    waiting[-1].end = each.start
                    if waiting[-1].time is not None:
                        yield from waiting
                        waiting = []
                number += 1
                waiting.append(_Span(number, each.start, each.end - each.start, each.places))
            if each.seal is not None:
                for span in waiting:
                    span.time = span.time or each.seal.time
            last_end = each.end
    except DamageError as error:
        if waiting:
            waiting[-1].end = last_end
            yield from waiting
        if not isinstance(error, UnsoundTailError):
            raise
    else:
        if waiting:
            waiting[-1].end = end
            yield from waiting

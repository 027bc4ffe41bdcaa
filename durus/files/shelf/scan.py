"""Reads consecutive transactions, with their checksums.

Statements SHELF-4, SHELF-5, SHELF-14 to SHELF-16, SHELF-23.

This module decides whether the bytes of a transaction are sound; recover.py decides what to do about
an unsound one.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from durus.files.entry_index import PLACE, EntryIndex
from durus.files.file import ReadableFile
from durus.files.forward_reader import ForwardReader, Unsound
from durus.files.shelf.layout import (
    ENTRY_FRAME_SIZE,
    ENTRY_HEAD,
    SEAL_COVERED_SIZE,
    SEAL_SIZE,
    SMALLEST_ENTRY,
    U64,
    Seal,
    is_like_seal,
    parse_seal,
)
from durus.implementation import implementation
from durus.oid import FIRST_RESERVED_OID, SEAL_OID, format_oid

_SEAL_LENGTH = SEAL_SIZE - U64.size


class Transaction(NamedTuple):
    """A sound transaction of a file."""

    start: int
    end: int
    places: bytes | bytearray
    """The place of the entry of each object in it, in order."""
    seal: Seal | None
    checksum: int
    """The running checksum at its end."""

    @property
    def entries(self) -> list[tuple[bytes, int]]:
        """(oid, file offset of the entry) of each object in it, in order."""
        return list(PLACE.iter_unpack(self.places))


def scan_transactions(file: ReadableFile, start: int, end: int, checksum: int) -> Iterator[Transaction]:
    """Yield the transactions from `start` up to the byte `end`; Unsound at the first unsound one.

    `checksum` is the running checksum at `start`.
    """
    reader = ForwardReader(file, start, end, checksum)
    while reader.offset < end:
        yield _scan_transaction(reader, end)


def _scan_transaction(reader: ForwardReader, file_end: int) -> Transaction:
    start = reader.offset
    head = reader.peek(U64.size)
    if len(head) < U64.size:
        problem = f"the length of a transaction is cut after {len(head)} of its 8 bytes"
        raise Unsound(start, start + U64.size, problem, start)
    end = start + U64.size + U64.unpack(head)[0]
    if end > file_end:
        problem = f"a transaction would end at byte {end}, {end - file_end} past the end of the file"
        raise Unsound(start, end, problem, start)
    reader.advance(U64.size)
    places, seal = scan_entries(reader, start, end)
    return Transaction(start, end, places, seal, reader.checksum)


def scan_entries(reader: ForwardReader, start: int, end: int) -> tuple[bytearray, Seal | None]:
    """Return the places from the reader's offset to `end`, of the transaction that starts at `start`."""
    places = bytearray()
    offset = first = reader.offset
    window, window_start = b"", offset
    last = end - ENTRY_HEAD.size
    while offset < end:
        if offset > last:
            raise Unsound(start, end, f"{end - offset} bytes are too few for an object entry", offset)
        if offset > window_start + len(window) - ENTRY_HEAD.size:
            window, window_start = reader.window_at(offset, ENTRY_HEAD.size)
        following = find_entries(window, window_start, offset, end, places)
        if following != offset:
            offset = following
            continue
        length, oid, record_oid, data_size = ENTRY_HEAD.unpack_from(window, offset - window_start)
        if not is_sound_entry(offset, end, length, oid, record_oid, data_size):
            problem = f"an object entry (oid {format_oid(oid)}) does not fit its transaction or its record"
            raise Unsound(start, end, problem, offset)
        reader.advance(offset - reader.offset)
        if oid == SEAL_OID or (length == _SEAL_LENGTH and is_like_seal(reader.peek(SEAL_SIZE))):
            return places, check_seal(reader, start, end, is_seal_only=offset == first)
        if oid < FIRST_RESERVED_OID:
            places += PLACE.pack(oid, offset)
        offset += U64.size + length
    reader.advance(offset - reader.offset)
    return places, None


def is_sound_entry(offset: int, end: int, length: int, oid: bytes, record_oid: bytes, data_size: int) -> bool:
    """Return whether the head of an object entry fits its record, and the entry a transaction that ends at `end`."""
    refs_size = length - SMALLEST_ENTRY - data_size
    return (
        oid == record_oid
        and data_size > 0
        and refs_size >= 0
        and refs_size % 8 == 0
        and offset + U64.size + length <= end
    )


def find_entries(window: bytes, window_start: int, offset: int, end: int, places: bytearray) -> int:
    """Find the sound entries of objects from `offset` on, as far as their heads are in the window, and below `end`.

    It stops at anything else, and at what may be a seal. The window starts at the offset `window_start`.

    Returns:
        The offset where it has stopped. The place of each entry before it is added to `places`.
    """
    last = min(window_start + len(window), end) - ENTRY_HEAD.size
    unpack_from = ENTRY_HEAD.unpack_from
    while offset <= last:
        length, oid, record_oid, data_size = unpack_from(window, offset - window_start)
        if (
            length == _SEAL_LENGTH
            or oid >= FIRST_RESERVED_OID
            or not is_sound_entry(offset, end, length, oid, record_oid, data_size)
        ):
            break
        places += PLACE.pack(oid, offset)
        offset += U64.size + length
    return offset


def record_in_page(pages: dict[int, bytes], page_size: int, oid: bytes, offset: int, end: int) -> bytes | None:
    """Return the record of `oid` in the entry at `offset`; None if one page that was read does not have all of it.

    It is also None if the entry is not sound, or no entry of an object of an application, or looks like a seal.
    """
    page, index = pages.get(offset // page_size, b""), offset % page_size
    if len(page) - index < ENTRY_HEAD.size:
        return None
    length, entry_oid, record_oid, data_size = ENTRY_HEAD.unpack_from(page, index)
    is_usual = entry_oid == oid and length != _SEAL_LENGTH and oid < FIRST_RESERVED_OID
    if not is_usual or not is_sound_entry(offset, end, length, entry_oid, record_oid, data_size):
        return None
    entry_end = index + U64.size + length
    return page[index + ENTRY_FRAME_SIZE : entry_end] if entry_end <= len(page) else None


def newest_record_in_page(
    index: EntryIndex, pages: dict[int, bytes], page_size: int, oid: bytes, end: int
) -> bytes | None:
    """Return the record in the entry that `index` has for `oid`; None if it has none, or as for record_in_page()."""
    offset = index.get(oid)
    return None if offset is None else record_in_page(pages, page_size, oid, offset, end)


if not TYPE_CHECKING and implementation == "C":
    from durus import _persistent

    find_entries = _persistent.find_entries
    record_in_page = _persistent.record_in_page
    newest_record_in_page = _persistent.newest_record_in_page


def check_seal(reader: ForwardReader, start: int, end: int, is_seal_only: bool) -> Seal:
    offset = reader.offset
    seal = parse_seal(reader.peek(SEAL_SIZE))
    if seal is None or seal.offset != offset or offset + SEAL_SIZE != end:
        raise Unsound(start, end, "this should be the seal of its transaction, but is not", offset)
    reader.advance(SEAL_COVERED_SIZE)
    if reader.checksum != seal.checksum:
        problem = f"the checksum is {reader.checksum:08x}, but the seal of {seal.time} says {seal.checksum:08x}"
        raise Unsound(start, end, problem, start, is_checksum_mismatch=True, is_seal_only=is_seal_only)
    reader.advance(SEAL_SIZE - SEAL_COVERED_SIZE)
    reader.checksum = seal.checksum
    return seal

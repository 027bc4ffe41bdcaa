"""Reads consecutive transactions, with their checksums.

Statements SHELF-4, SHELF-5, SHELF-14 to SHELF-16, SHELF-23.

This module decides whether the bytes of a transaction are sound; recover.py decides what to do about
an unsound one.
"""

from collections.abc import Iterator
from typing import NamedTuple

from durus.files.file import ReadableFile
from durus.files.forward_reader import ForwardReader, Unsound
from durus.files.shelf.layout import (
    ENTRY_HEAD,
    SEAL_COVERED_SIZE,
    SEAL_SIZE,
    SMALLEST_ENTRY,
    U64,
    Seal,
    is_like_seal,
    parse_seal,
)
from durus.oid import FIRST_RESERVED_OID, SEAL_OID, format_oid


class Transaction(NamedTuple):
    """A sound transaction of a file."""

    start: int
    end: int
    entries: list[tuple[bytes, int]]
    """(oid, file offset of the entry) of each object in it, in order."""
    seal: Seal | None
    checksum: int
    """The running checksum at its end."""


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
        problem = f"a transaction would end at byte {end}, {end - file_end} behind the end of the file"
        raise Unsound(start, end, problem, start)
    reader.advance(U64.size)
    entries, seal = scan_entries(reader, start, end)
    return Transaction(start, end, entries, seal, reader.checksum)


def scan_entries(reader: ForwardReader, start: int, end: int) -> tuple[list[tuple[bytes, int]], Seal | None]:
    """Return the entries from the reader's offset to `end`, of the transaction that starts at `start`."""
    entries: list[tuple[bytes, int]] = []
    offset = first = reader.offset
    window, window_start, window_last = b"", offset, -1
    unpack_from = ENTRY_HEAD.unpack_from
    last = end - ENTRY_HEAD.size
    while offset < end:
        if offset > last:
            raise Unsound(start, end, f"{end - offset} bytes are too few for an object entry", offset)
        if offset > window_last:
            window, window_start = reader.window_at(offset, ENTRY_HEAD.size)
            window_last = window_start + len(window) - ENTRY_HEAD.size
        length, oid, record_oid, data_size = unpack_from(window, offset - window_start)
        refs_size = length - SMALLEST_ENTRY - data_size
        stop = offset + U64.size + length
        if oid != record_oid or not data_size or refs_size < 0 or refs_size & 7 or stop > end:
            problem = f"an object entry (oid {format_oid(oid)}) does not fit its transaction or its record"
            raise Unsound(start, end, problem, offset)
        if oid >= FIRST_RESERVED_OID or length == SEAL_SIZE - U64.size:
            reader.advance(offset - reader.offset)
            if oid == SEAL_OID or (length == SEAL_SIZE - U64.size and is_like_seal(reader.peek(SEAL_SIZE))):
                return entries, check_seal(reader, start, end, is_seal_only=offset == first)
        if oid < FIRST_RESERVED_OID:
            entries.append((oid, offset))
        offset = stop
    reader.advance(offset - reader.offset)
    return entries, None


def check_seal(reader: ForwardReader, start: int, end: int, is_seal_only: bool) -> Seal:
    offset = reader.offset
    seal = parse_seal(reader.peek(SEAL_SIZE))
    if seal is None or seal.offset != offset or offset + SEAL_SIZE != end:
        raise Unsound(start, end, "what stands in a seal's place is not the seal of this place", offset)
    reader.advance(SEAL_COVERED_SIZE)
    if reader.checksum != seal.checksum:
        problem = f"the checksum is {reader.checksum:08x}, but the seal of {seal.time} says {seal.checksum:08x}"
        raise Unsound(start, end, problem, start, is_checksum_mismatch=True, is_seal_only=is_seal_only)
    reader.advance(SEAL_SIZE - SEAL_COVERED_SIZE)
    reader.checksum = seal.checksum
    return seal

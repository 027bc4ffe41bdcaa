"""Reads the transactions of a DFS20 file, and judges the first unsound one. Statements DFS-10 to DFS-12.

This module decides what is valid in a file without checksums; it does not write.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from durus.error import DamageError
from durus.files.dfs20.layout import ENTRY_HEAD, U32, entry_fits
from durus.files.file import ReadableFile
from durus.files.forward_reader import CHUNK_SIZE, ForwardReader, Unsound, unsound_tail
from durus.oid import FIRST_RESERVED_OID, format_oid

_PICKLE = re.compile(rb"\x80[\x01-\x05]")


class Transaction(NamedTuple):
    """A sound transaction of a file."""

    start: int
    end: int
    entries: list[tuple[bytes, int]]
    """(oid, file offset of the entry) of each object in it, in order."""


def scan_transactions(file: ReadableFile, start: int, end: int) -> Iterator[Transaction]:
    """Yield the transactions from `start` up to the byte `end`; Unsound at the first unsound one."""
    reader = ForwardReader(file, start, end, 0)
    while reader.offset < end:
        yield _scan_transaction(reader, end)


def _scan_transaction(reader: ForwardReader, end: int) -> Transaction:
    start = reader.offset
    entries = [(oid, offset) for oid, offset, _ in scan_entries(reader, start, end, with_records=False)]
    return Transaction(start, reader.offset, entries)


def scan_entries(
    reader: ForwardReader, start: int, end: int, with_records: bool = True
) -> Iterator[tuple[bytes, int, bytes]]:
    """Yield oid, file offset and record of each entry of the transaction that starts at `start`."""
    while True:
        offset = reader.offset
        head = reader.peek(ENTRY_HEAD.size)
        if len(head) < U32.size:
            raise Unsound(start, end, f"the transaction that starts at byte {start} has no end", offset)
        (length,) = U32.unpack_from(head)
        if not length:
            reader.advance(U32.size)
            return
        entry_end = offset + U32.size + length
        if entry_end > end:
            problem = f"an object entry would end at byte {entry_end}, {entry_end - end} past the end"
            raise Unsound(start, end, problem, offset)
        oid, data_size = ENTRY_HEAD.unpack(head)[1:] if len(head) == ENTRY_HEAD.size else (b"", 0)
        if not entry_fits(length, data_size):
            problem = f"the length of an object entry (oid {format_oid(oid)}) does not fit its record"
            raise Unsound(start, end, problem, offset)
        record = reader.peek(U32.size + length)[U32.size :] if with_records else b""
        reader.advance(U32.size + length)
        if oid < FIRST_RESERVED_OID:
            yield oid, offset, record


def explain(file: ReadableFile, unsound: Unsound) -> DamageError:
    """Return the error for an unsound transaction: an UnsoundTailError if the file may be cut there. [DFS-11]"""
    size = file.size()
    sound_from = find_sound_suffix(file, unsound.fault_offset + 1, size)
    if sound_from is None:
        return unsound_tail(file.path, unsound.start, size, unsound.problem)
    return DamageError(
        file.path,
        unsound.fault_offset,
        unsound.problem,
        f"but everything from byte {sound_from} on is sound, so this is damage, and nothing is cut off: restore the "
        f"file from a backup, or, if you do not need what follows byte {unsound.start}, truncate a copy there and "
        "open that",
    )


def find_sound_suffix(file: ReadableFile, start: int, size: int) -> int | None:
    """Return the offset of an object entry from which everything is sound up to the end of the file, or None."""
    looked_to = start
    for chunk in range(start + ENTRY_HEAD.size, size, CHUNK_SIZE):
        for match in _PICKLE.finditer(file.read_at(chunk, CHUNK_SIZE + 1)):
            offset = chunk + match.start() - ENTRY_HEAD.size
            if offset < looked_to:
                continue
            length, _, data_size = ENTRY_HEAD.unpack(file.read_at(offset, ENTRY_HEAD.size))
            if not (entry_fits(length, data_size) and offset + U32.size + length < size):
                continue
            try:
                for _ in scan_transactions(file, offset, size):
                    pass
            except Unsound as unsound:
                looked_to = unsound.fault_offset  # every entry before it leads to it too
            else:
                return offset
    return None

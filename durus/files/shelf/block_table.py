"""The block table: checksums with which a packed part is checked block by block. Statements SHELF-40 to SHELF-43."""

import struct
from typing import NamedTuple
from zlib import crc32

from durus.files.file import ReadableFile
from durus.files.forward_reader import Unsound
from durus.files.shelf.layout import ENTRY_HEAD, PERSISTENT_CLASS, SEAL_SIZE, U64
from durus.files.shelf.scan import scan_transactions
from durus.oid import BLOCK_TABLE_OID

BLOCK_SIZE = 1 << 14
MAX_BYTES = 1 << 43
"""A longer packed part has no block table: its lengths are u32."""

_STATE = b"\x80\x03}X\x06\x00\x00\x00blocksB"
_BYTES_SIZE = struct.Struct("<I")
_STATE_END = b"s."
_CHECKSUM = struct.Struct(">I")
_HEAD_SIZE = ENTRY_HEAD.size + len(PERSISTENT_CLASS) + len(_STATE) + _BYTES_SIZE.size


class BlockTable(NamedTuple):
    """The contents of a block table, which describe the packed part before it. [SHELF-41]"""

    checksum: int
    """The crc32 of the whole packed part."""
    blocks: bytes
    """The crc32 of each block, as u32."""

    def fault(self, number: int, block: bytes | memoryview) -> str | None:
        """Return what is wrong with the bytes of a block; None if they match the table."""
        checksum = crc32(block)
        (stated,) = _CHECKSUM.unpack_from(self.blocks, number * _CHECKSUM.size)
        if checksum == stated:
            return None
        return f"the checksum of these {len(block)} bytes is {checksum:08x}, but the block table says {stated:08x}"


class BlockTableBuilder:
    """Makes a block table from bytes that come in pieces."""

    def __init__(self) -> None:
        self._checksum = 0
        self._blocks = bytearray()
        self._begun = 0
        """The checksum of the block that is not full yet."""
        self._size = 0

    def add(self, data: bytes) -> None:
        """Add the next bytes."""
        self._checksum = crc32(data, self._checksum)
        rest = memoryview(data)
        while rest:
            piece = rest[: BLOCK_SIZE - self._size % BLOCK_SIZE]
            rest = rest[len(piece) :]
            self._begun = crc32(piece, self._begun)
            self._size += len(piece)
            if self._size % BLOCK_SIZE == 0:
                self._blocks += _CHECKSUM.pack(self._begun)
                self._begun = 0

    def table(self) -> BlockTable:
        """Return the table of all bytes that were added."""
        last = _CHECKSUM.pack(self._begun) if self._size % BLOCK_SIZE else b""
        return BlockTable(self._checksum, bytes(self._blocks) + last)


def pack_block_table(table: BlockTable) -> bytes:
    """Return the object entry that holds a block table. [SHELF-41]"""
    checksums = _CHECKSUM.pack(table.checksum) + table.blocks
    data = PERSISTENT_CLASS + _STATE + _BYTES_SIZE.pack(len(checksums)) + checksums + _STATE_END
    return ENTRY_HEAD.pack(8 + 12 + len(data), BLOCK_TABLE_OID, BLOCK_TABLE_OID, len(data)) + data


def parse_block_table(entry: bytes, end: int) -> BlockTable | None:
    """Return the block table in an object entry; None if it is not that of a packed part that ends at byte `end`."""
    if len(entry) != locate_block_table(end)[1]:
        return None
    blocks = entry[_HEAD_SIZE + _CHECKSUM.size : -len(_STATE_END)]
    table = BlockTable(_CHECKSUM.unpack_from(entry, _HEAD_SIZE)[0], blocks)
    return table if pack_block_table(table) == entry else None


def locate_block_table(end: int) -> tuple[int, int]:
    """Return the offset and the size of the block table of a packed part that ends at byte `end`. [SHELF-40]"""
    count = -(-end // BLOCK_SIZE)
    size = _HEAD_SIZE + _CHECKSUM.size * (1 + count) + len(_STATE_END)
    return end + U64.size + SEAL_SIZE + U64.size, size


def read_block_table(file: ReadableFile, end: int) -> BlockTable | None:
    """Return the block table of the packed part that ends at byte `end`; None if it must not be used. [SHELF-43]"""
    offset, size = locate_block_table(end)
    stop = offset + size + SEAL_SIZE
    if end > MAX_BYTES or stop > file.size():
        return None
    table = parse_block_table(file.read_at(offset, size), end)
    if table is None:
        return None
    try:
        ends = [(each.end, each.seal is not None) for each in scan_transactions(file, end, stop, table.checksum)]
    except Unsound:
        return None
    return table if ends == [(offset - U64.size, True), (stop, True)] else None

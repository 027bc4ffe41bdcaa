"""The layout of a SHELF-1 file, including entries and seals. Statements SHELF-1 to SHELF-15.

Bytes go in, values come out; nothing here reads or writes a file.
"""

import re
import struct
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from durus.files.entry_index import PLACE
from durus.implementation import implementation
from durus.oid import SEAL_OID

NAME = "SHELF-1"
MAGIC = b"SHELF-1\n"
U64 = struct.Struct(">Q")
BASE_START = len(MAGIC)

ENTRY_HEAD = struct.Struct(">Q8s8sI")
"""The first bytes of an object entry: its length, its oid, then the record's oid and data length."""

ENTRY_FRAME_SIZE = 16
"""The bytes of an object entry outside its record: length and oid."""

SMALLEST_ENTRY = ENTRY_HEAD.size - U64.size
"""The length that the smallest object entry declares: an oid and a record that has no data."""

PERSISTENT_CLASS = b"\x80\x02cdurus.persistent\nPersistent\n."
"""The class pickle of a seal and of a block table: Durus 4.3 takes them for objects of this class."""

_SEAL_STATE = b"\x80\x02}X\x04\x00\x00\x00sealX\x35\x00\x00\x00"
_SEAL_END = b"s."
_OIDS_END = 24
_TEXT_SIZE = 53
_CHECKSUM_SIZE = 8
_SEAL_DATA_SIZE = len(PERSISTENT_CLASS) + len(_SEAL_STATE) + _TEXT_SIZE + len(_SEAL_END)
_SEAL_START = ENTRY_HEAD.pack(8 + 12 + _SEAL_DATA_SIZE, SEAL_OID, SEAL_OID, _SEAL_DATA_SIZE) + (
    PERSISTENT_CLASS + _SEAL_STATE
)
SEAL_SIZE = len(_SEAL_START) + _TEXT_SIZE + len(_SEAL_END)
"""The bytes of a whole seal entry."""

_SEAL_TEXT = rb"([0-9a-f]{16}) (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z) ([0-9a-f]{8})"
_SEAL = re.compile(re.escape(_SEAL_START) + _SEAL_TEXT + re.escape(_SEAL_END))


class Seal(NamedTuple):
    """The contents of a seal. [SHELF-13]"""

    offset: int
    """The offset of the seal entry in its file."""
    time: str
    """When its writer made it, by the writer's clock, as `2026-11-23T19:11:01.123456Z`."""
    checksum: int
    """The crc32 of everything after the previous seal, up to these digits, seeded with the checksum of that seal."""

    @property
    def end(self) -> int:
        """The file offset of its end, where its transaction also ends."""
        return self.offset + SEAL_SIZE

    def __str__(self) -> str:
        return f"{self.offset:016x} {self.time} {self.checksum:08x}"


def pack_entry(oid: bytes, record: bytes) -> bytes:
    """Return the object entry that holds a record. [SHELF-5]"""
    return U64.pack(8 + len(record)) + oid + record


def pack_entries(records: Iterable[tuple[bytes, bytes]], offset: int, large: int) -> tuple[list[bytes], bytes]:
    """Return the object entries that hold these (oid, record) pairs from a file offset on, and their places.

    The entries come in pieces, so that a record of `large` bytes or more is not copied.
    """
    pieces: list[bytes] = []
    places = []
    entries: list[bytes] = []
    for oid, record in records:
        places.append(PLACE.pack(oid, offset))
        offset += ENTRY_FRAME_SIZE + len(record)
        if len(record) < large:
            entries.append(pack_entry(oid, record))
        else:
            pieces += [b"".join(entries) + U64.pack(8 + len(record)) + oid, record]
            entries.clear()
    return [*pieces, b"".join(entries)], b"".join(places)


if not TYPE_CHECKING and implementation == "C":
    from durus import _persistent

    pack_entries = _persistent.pack_entries


def pack_seal(offset: int, time: str, covered: int, *before: bytes) -> tuple[bytes, int]:
    """Return `before`, joined, with the seal entry for this offset at the end, and the checksum of that.

    `covered` is the running checksum up to `before`. [SHELF-15]
    """
    body = b"".join((*before, _SEAL_START, b"%016x %b " % (offset, time.encode("ascii"))))
    checksum = crc32(body, covered)
    return b"%b%08x%b" % (body, checksum, _SEAL_END), checksum


def is_like_seal(entry: bytes) -> bool:
    """Return whether an entry has the data of a seal, under whatever oid. [SHELF-14]

    A crash can leave zeros in place of the oids of a seal, which would otherwise turn it into an object.
    """
    return entry[_OIDS_END:].startswith(_SEAL_START[_OIDS_END:])


def parse_seal(entry: bytes, start: int = 0) -> Seal | None:
    """Return the seal in the entry at entry[start:]; None if it does not have the layout of a seal."""
    match = _SEAL.match(entry, start)
    return None if match is None else _seal(match)


def parse_seal_text(text: str) -> Seal | None:
    """Return the seal for which str() gives this text; None if the text does not have this form."""
    match = re.fullmatch(_SEAL_TEXT, text.encode("ascii", "replace"))
    return None if match is None else _seal(match)


def _seal(match: re.Match[bytes]) -> Seal:
    offset, time, checksum = match.groups()
    return Seal(int(offset, 16), time.decode("ascii"), int(checksum, 16))


def has_seal_layout(data: bytes) -> bool:
    """Return whether something in `data` has the layout of a seal, at its own offset or not."""
    return _SEAL.search(data) is not None


SEAL_COVERED_SIZE = SEAL_SIZE - _CHECKSUM_SIZE - len(_SEAL_END)
"""How many bytes of a seal entry its own checksum covers: all bytes before its digits."""


def pack_transaction(body: bytes, offset: int, time: str, checksum: int) -> tuple[bytes, int]:
    """Return the sealed transaction with these entries for this file offset, and the checksum of its seal. [SHELF-12]

    `checksum` is that of the previous seal.
    """
    head = U64.pack(len(body) + SEAL_SIZE)
    return pack_seal(offset + len(head) + len(body), time, checksum, head, body)


def pack_in_pieces(body: list[bytes], offset: int, time: str, checksum: int) -> tuple[list[bytes], int]:
    """Do the same with entries in pieces, of which there are several, and return the transaction in as many."""
    first, *others, last = body
    size = sum(map(len, body))
    pieces = [U64.pack(size + SEAL_SIZE) + first, *others]
    for piece in pieces:
        checksum = crc32(piece, checksum)
    last, sealed = pack_seal(offset + U64.size + size, time, checksum, last)
    return [*pieces, last], sealed


def find_seals(data: bytes, offset: int) -> Iterator[int]:
    """Yield the file offsets of all seals in `data` that are at their own offset. [SHELF-25]

    `offset` is the file offset at which `data` starts.
    """
    index = data.find(_SEAL_START)
    while index >= 0:
        seal = parse_seal(data, index)
        if seal is not None and seal.offset == offset + index:
            yield seal.offset
        index = data.find(_SEAL_START, index + 1)

"""Records as rows, and oids as the signed integers of SQL. Statement PG-4."""

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from durus.error import FormatError, RecordError
from durus.oid import format_oid, oid_from_int, oid_to_int
from durus.records.record import pack_record, split_oids, unpack_record

MAX_OID = (1 << 63) - 1
MAX_DATA = 1 << 28
"""In bytes. The engine's own limit for a value is 2^30, in text form, as its dumps have it, half of that."""
_CHUNK_ROWS = 1000
_CHUNK_SIZE = 1 << 22
"""In bytes: about how much one statement carries."""


class Row(NamedTuple):
    """What a commit writes for one object."""

    oid: int
    data: bytes
    refs: list[int]


def row_of(record: bytes) -> Row:
    """Return the row for a record; RecordError if it does not fit the engine."""
    oid, data, refs = unpack_record(record)
    numbers = [oid_to_int(ref) for ref in split_oids(refs)]
    highest = max(numbers, default=0)
    for number in oid_to_int(oid), highest:
        if number > MAX_OID:
            raise RecordError(
                f"the oid {number} does not fit the integers of SQL, which end at {MAX_OID}; keep the object in a "
                "SHELF-1 file, or copy the whole database with the command convert, which renumbers the objects"
            )
    if len(data) > MAX_DATA:
        raise RecordError(
            f"oid {format_oid(oid)}: {len(data)} bytes of data are too many for a PostgreSQL server: divide the object "
            f"into several, of {MAX_DATA} bytes at most"
        )
    return Row(oid_to_int(oid), data, numbers)


def record_of_row(oid: object, data: object, refs: object) -> bytes:
    """Return the record in the columns of a row; FormatError if they are of other types."""
    if not (isinstance(oid, int) and isinstance(data, bytes) and isinstance(refs, list)):
        raise FormatError(f"the row of oid {oid!r} has columns whose types are not those that Durus uses")
    return pack_record(oid_from_int(oid), data, struct.pack(f">{len(refs)}Q", *refs) if refs else b"")


def parameters(rows: Iterable[Row]) -> tuple[list[int], list[bytes], list[str]]:
    """Return three lists: oids, data, and references in the text form of an array.

    The lists of references have different lengths, and SQL has no array of such arrays.
    """
    oids, data, refs = [], [], []
    for row in rows:
        oids.append(row.oid)
        data.append(row.data)
        refs.append(f"{{{','.join(map(str, row.refs))}}}")
    return oids, data, refs


def chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Divide rows into lists that one statement can carry each."""
    chunk: list[Row] = []
    size = 0
    for row in rows:
        if chunk and (len(chunk) >= _CHUNK_ROWS or size + len(row.data) > _CHUNK_SIZE):
            yield chunk
            chunk, size = [], 0
        chunk.append(row)
        size += len(row.data) + 8 * len(row.refs)
    if chunk:
        yield chunk

"""Object record <-> bytes. Statements REC-4 to REC-10.

A record is the stored form of one object: its oid, its data (class and state) and the oids that
the state refers to. serialize.py knows what the data means.
"""

import re
import struct
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, NamedTuple

from durus.error import RecordError
from durus.implementation import implementation
from durus.oid import FIRST_RESERVED_OID, format_oid

_HEAD = struct.Struct(">8sI")
HEAD_SIZE = _HEAD.size
MAX_DATA = (1 << 32) - 1
"""In bytes: the largest size that the head of a record can hold. [REC-32]"""


def pack_record(oid: bytes, data: bytes, refs: bytes) -> bytes:
    """Return the record of `oid`: `data` is class and state, `refs` the oids referred to, joined."""
    try:
        return _HEAD.pack(oid, len(data)) + data + refs
    except struct.error as error:
        raise RecordError(
            f"oid {format_oid(oid)}: {len(data)} bytes of data are too many: a record holds at most {MAX_DATA}"
        ) from error


def unpack_record(record: bytes) -> tuple[bytes, bytes, bytes]:
    """Return (oid, data, refs) of a record. [REC-4] RecordError if its lengths do not fit."""
    if len(record) < HEAD_SIZE:
        raise RecordError(f"a record of {len(record)} bytes is shorter than its {HEAD_SIZE}-byte head")
    oid, data_size = _HEAD.unpack_from(record)
    if not data_size:
        raise RecordError(f"the record of oid {format_oid(oid)} has no data")
    refs_start = HEAD_SIZE + data_size
    if refs_start > len(record):
        raise RecordError(
            f"the record of oid {format_oid(oid)} is {len(record)} bytes long, but claims {data_size} of data"
        )
    if (len(record) - refs_start) % 8:
        raise RecordError(f"the record of oid {format_oid(oid)} ends in a reference that is not 8 bytes long")
    return oid, record[HEAD_SIZE:refs_start], record[refs_start:]


def oid_of(record: bytes) -> bytes:
    """Return the oid of a record, without a copy of the rest; RecordError as for unpack_record()."""
    if len(record) > HEAD_SIZE:
        oid: bytes
        oid, data_size = _HEAD.unpack_from(record)
        refs_size = len(record) - HEAD_SIZE - data_size
        if data_size and refs_size >= 0 and refs_size % 8 == 0:
            return oid
    return unpack_record(record)[0]


def is_record_of(oid: bytes, record: bytes) -> bool:
    """Return whether a record is well-formed, and that of an oid, which is not a reserved one. [REC-5] [REC-6]"""
    try:
        return len(oid) == 8 and oid_of(record) == oid < FIRST_RESERVED_OID
    except RecordError:
        return False


def refs_of(record: bytes) -> list[bytes]:
    """Return the oids that a record refers to; RecordError as for unpack_record()."""
    return split_oids(unpack_record(record)[2])


def refs_of_sound(record: bytes) -> list[bytes]:
    """Return the oids that a record refers to; the record must have been checked before."""
    return split_oids(record[HEAD_SIZE + _HEAD.unpack_from(record)[1] :])


def refs_part(record: bytes) -> bytes:
    """Return the refs of a record, side by side; anything if the record is malformed."""
    return record[HEAD_SIZE + int.from_bytes(record[HEAD_SIZE - 4 : HEAD_SIZE], "big") :]


def refs_outside(records: dict[bytes, bytes]) -> set[bytes]:
    """Return the oids that records refer to and that are not among their oids; they must have been checked before."""
    return {ref for record in records.values() for ref in refs_of_sound(record) if ref not in records}


if not TYPE_CHECKING and implementation == "C":
    from durus import _persistent

    is_record_of = _persistent.is_record_of
    refs_outside = _persistent.refs_outside


def data_of(record: bytes) -> bytes:
    """Return the data of a record: its class and its state."""
    return unpack_record(record)[1]


def gen_refs(record: bytes) -> Iterator[bytes]:
    """Return an iterator over the oids that a record refers to, which makes one at a time: there can be millions."""
    refs = unpack_record(record)[2]
    return _gen_oids(refs) if refs else iter(())


def _gen_oids(s: bytes) -> Iterator[bytes]:
    for start in range(0, len(s), 8):
        yield s[start : start + 8]


def split_oids(s: bytes) -> list[bytes]:
    """Return the oids in `s`, the refs of a record, each 8 bytes."""
    if not s:
        return []
    if len(s) % 8:
        raise RecordError(f"{len(s)} bytes of references are not a multiple of 8")
    return [s[start : start + 8] for start in range(0, len(s), 8)]


def join_refs(oid: bytes, refs: Collection[bytes]) -> bytes:
    """Return the refs in the form for a record of `oid`: sorted, without duplicates and its own oid. [REC-7]"""
    return b"".join(sorted(set(refs) - {oid})) if refs else b""


_GLOBAL_FORM = re.compile(rb"\x80.c([^\n]+)\n([^\n]+)\n(q.|r....|\x94)?\.", re.DOTALL)


class ClassPickle(NamedTuple):
    """A class pickle in GLOBAL form: what it names, and where the state after it starts."""

    module: str
    name: str
    end: int
    has_memo: bool


def class_pickle_of(data: bytes) -> bytes | None:
    """Return the class pickle at the start of `data`, None if it is not in GLOBAL form. [REC-10]"""
    match = _GLOBAL_FORM.match(data)
    return None if match is None else match[0]


def parse_class_pickle(data: bytes) -> ClassPickle | None:
    """Return what the class pickle at the start of `data` names, None if it is not in GLOBAL form. [REC-10]"""
    match = _GLOBAL_FORM.match(data)
    if match is None:
        return None
    module, name, memo = match.groups()
    try:
        return ClassPickle(module.decode(), name.decode(), match.end(), memo is not None)
    except UnicodeDecodeError:
        return None


def extract_class_name(record: bytes) -> str:
    """Return the name of the record's class without its module, '?' if it is unknown."""
    found = parse_class_pickle(data_of(record))
    return found.name if found else "?"

"""Object ids: 64-bit unsigned numbers, held as 8 bytes, big-endian. Statements REC-1 to REC-3."""

import sys
from array import array
from collections.abc import Iterable

ROOT_OID = bytes(8)
FIRST_RESERVED_OID = b"\xff" * 7 + b"\x00"
"""The first of the 256 highest oids, which never belong to an object of an application. [REC-3]"""
SEAL_OID = b"\xff" * 8
BLOCK_TABLE_OID = b"\xff" * 7 + b"\xfe"


def oid_from_int(number: int) -> bytes:
    """Return the oid with this number; OverflowError if it does not fit into 64 bits."""
    return number.to_bytes(8, "big")


def oid_to_int(oid: bytes) -> int:
    """Return the number of an oid."""
    return int.from_bytes(oid, "big")


def array_of_oids(oids: Iterable[bytes]) -> "array[int]":
    """Return the numbers of oids."""
    numbers = array("Q", b"".join(oids))
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers


def oids_from_ints(numbers: Iterable[int]) -> list[bytes]:
    """Return the oids with these numbers."""
    return [number.to_bytes(8, "big") for number in numbers]


def format_oid(oid: bytes) -> str:
    """Return an oid as people read it: its number in decimal."""
    return str(int.from_bytes(oid, "big"))

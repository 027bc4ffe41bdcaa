"""Numbers, bytes and streams under the names that applications of Durus 4.3 import.

A stream is a file that is open for bytes, or a socket.  u32 and u64 are big-endian, as everywhere in Durus.
"""

import socket
import struct
from collections.abc import Iterable
from typing import Protocol

from durus.error import DurusError
from durus.oid import oid_from_int, oid_to_int

__all__ = [
    "ShortRead",
    "as_bytes",
    "int4_to_str",
    "int8_to_str",
    "join_bytes",
    "read",
    "read_int4",
    "read_int4_str",
    "read_int8",
    "read_int8_str",
    "str_to_int4",
    "str_to_int8",
    "write",
    "write_all",
    "write_int4",
    "write_int4_str",
    "write_int8",
    "write_int8_str",
]

_U32 = struct.Struct(">I")
_PIECE_SIZE = 1 << 20


class _File(Protocol):
    def read(self, size: int, /) -> bytes: ...

    def write(self, data: bytes, /) -> object: ...


Stream = _File | socket.socket


class ShortRead(DurusError, OSError):
    """A stream ended before all the bytes had come that were asked for."""


def int8_to_str(n: int) -> bytes:
    """Return a number as a u64; OverflowError if it does not fit."""
    return oid_from_int(n)


def str_to_int8(s: bytes) -> int:
    """Return the number that a u64 says."""
    return oid_to_int(s)


def int4_to_str(v: int) -> bytes:
    """Return a number as a u32; OverflowError if it does not fit."""
    return v.to_bytes(4, "big")


def str_to_int4(v: bytes) -> int:
    """Return the number that a u32 says."""
    number: int = _U32.unpack(v)[0]
    return number


def as_bytes(s: str | bytes | bytearray) -> bytes | bytearray:
    """Return bytes as they are, and a str in latin-1."""
    return s.encode("latin-1") if isinstance(s, str) else s


def join_bytes(iterable_of_bytes: Iterable[bytes], /) -> bytes:
    """Return all of them as one."""
    return b"".join(iterable_of_bytes)


def read(f: Stream, n: int) -> bytes:
    """Return the next `n` bytes of a stream; ShortRead if it ends before."""
    take = f.recv if isinstance(f, socket.socket) else f.read
    pieces: list[bytes] = []
    missing = n
    while missing:
        piece = take(min(missing, _PIECE_SIZE))
        if not piece:
            raise ShortRead(f"{n} bytes were to be read, and the stream ended after {n - missing}")
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


def write(f: Stream, s: bytes) -> None:
    """Write bytes to a stream."""
    if isinstance(f, socket.socket):
        f.sendall(s)
    else:
        f.write(s)


def write_all(f: Stream, *args: bytes) -> None:
    """Write all of these bytes to a stream, one behind the other."""
    write(f, b"".join(args))


def read_int4(f: Stream) -> int:
    """Read a u32."""
    return str_to_int4(read(f, 4))


def write_int4(f: Stream, n: int) -> None:
    """Write a u32."""
    write(f, int4_to_str(n))


def read_int4_str(f: Stream) -> bytes:
    """Read a u32, and then so many bytes, which are returned."""
    return read(f, read_int4(f))


def write_int4_str(f: Stream, s: bytes) -> None:
    """Write the length of some bytes as a u32, and then the bytes."""
    write_all(f, int4_to_str(len(s)), s)


def read_int8(f: Stream) -> int:
    """Read a u64."""
    return str_to_int8(read(f, 8))


def write_int8(f: Stream, n: int) -> None:
    """Write a u64."""
    write(f, int8_to_str(n))


def read_int8_str(f: Stream) -> bytes:
    """Read a u64, and then so many bytes, which are returned."""
    return read(f, read_int8(f))


def write_int8_str(f: Stream, s: bytes) -> None:
    """Write the length of some bytes as a u64, and then the bytes."""
    write_all(f, int8_to_str(len(s)), s)

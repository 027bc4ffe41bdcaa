"""Numbers, bytes and streams under the names that applications of Durus 4.3 import.

A stream is a file that is open for bytes, or a socket. u32 and u64 are big-endian, as everywhere in Durus.
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
    """A stream ended before all requested bytes had come."""


def int8_to_str(n: int) -> bytes:
    """Return the number `n` as a u64; OverflowError if it does not fit."""
    return oid_from_int(n)


def str_to_int8(s: bytes) -> int:
    """Return the number in the u64 `s`."""
    return oid_to_int(s)


def int4_to_str(v: int) -> bytes:
    """Return the number `v` as a u32; OverflowError if it does not fit."""
    return v.to_bytes(4, "big")


def str_to_int4(v: bytes) -> int:
    """Return the number in the u32 `v`."""
    number: int = _U32.unpack(v)[0]
    return number


def as_bytes(s: str | bytes | bytearray) -> bytes | bytearray:
    """Return `s` as it is if it is bytes, and encoded in latin-1 if it is a str."""
    return s.encode("latin-1") if isinstance(s, str) else s


def join_bytes(iterable_of_bytes: Iterable[bytes], /) -> bytes:
    """Return the bytes of `iterable_of_bytes` as one."""
    return b"".join(iterable_of_bytes)


def read(f: Stream, n: int) -> bytes:
    """Return the next `n` bytes of the stream `f`; ShortRead if it ends before."""
    take = f.recv if isinstance(f, socket.socket) else f.read
    pieces: list[bytes] = []
    missing = n
    while missing:
        piece = take(min(missing, _PIECE_SIZE))
        if not piece:
            raise ShortRead(f"the stream ended after {n - missing} of {n} bytes")
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


def write(f: Stream, s: bytes) -> None:
    """Write the bytes `s` to the stream `f`."""
    if isinstance(f, socket.socket):
        f.sendall(s)
    else:
        f.write(s)


def write_all(f: Stream, *args: bytes) -> None:
    """Write all bytes in `args` to the stream `f`, one after the other."""
    write(f, b"".join(args))


def read_int4(f: Stream) -> int:
    """Read a u32 from the stream `f`; ShortRead if it ends before."""
    return str_to_int4(read(f, 4))


def write_int4(f: Stream, n: int) -> None:
    """Write the number `n` as a u32 to the stream `f`."""
    write(f, int4_to_str(n))


def read_int4_str(f: Stream) -> bytes:
    """Read a u32 from the stream `f`, then return as many bytes of it; ShortRead if it ends before."""
    return read(f, read_int4(f))


def write_int4_str(f: Stream, s: bytes) -> None:
    """Write the length of `s` as a u32 to the stream `f`, then `s`."""
    write_all(f, int4_to_str(len(s)), s)


def read_int8(f: Stream) -> int:
    """Read a u64 from the stream `f`; ShortRead if it ends before."""
    return str_to_int8(read(f, 8))


def write_int8(f: Stream, n: int) -> None:
    """Write the number `n` as a u64 to the stream `f`."""
    write(f, int8_to_str(n))


def read_int8_str(f: Stream) -> bytes:
    """Read a u64 from the stream `f`, then return as many bytes of it; ShortRead if it ends before."""
    return read(f, read_int8(f))


def write_int8_str(f: Stream, s: bytes) -> None:
    """Write the length of `s` as a u64 to the stream `f`, then `s`."""
    write_all(f, int8_to_str(len(s)), s)

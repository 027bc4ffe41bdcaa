"""Compression of the bodies of messages of protocol 2. Statements WIRE2-6 and WIRE2-7."""

import importlib
import zlib
from typing import Any, Protocol

from durus.error import ProtocolError

zstd: Any  # a module of the standard library that type checkers for older versions do not know
try:
    zstd = importlib.import_module("compression.zstd")  # from Python 3.14 on
except ImportError:
    zstd = None

COMPRESSED_FROM = 4096
"""Shorter messages are never compressed, because that costs more than it saves."""

NONE, ZLIB, ZSTD = 0, 1, 2
"""The methods, as numbers on the wire."""
KNOWN = 1 << ZLIB | (0 if zstd is None else 1 << ZSTD)
"""The methods that this program knows, as a set of bits."""


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def best_of(methods: int) -> int:
    """Return the best known method in this set of bits."""
    common = methods & KNOWN
    return ZSTD if common & 1 << ZSTD else ZLIB if common & 1 << ZLIB else NONE


def compress(method: int, data: bytes) -> bytes:
    """Return the data, compressed quickly; ProtocolError for an unknown method."""
    if method == ZLIB:
        return zlib.compress(data, 1)
    if method == ZSTD and zstd is not None:
        return bytes(zstd.compress(data, 1))
    raise ProtocolError(f"there is no method {method} of compression here")


def decompress(method: int, data: bytes, size: int) -> bytes:
    """Return exactly `size` bytes, and never take more memory than that; ProtocolError if there are more or fewer."""
    decompressor: _Decompressor
    if method == ZLIB:
        decompressor = zlib.decompressobj()
    elif method == ZSTD and zstd is not None:
        decompressor = zstd.ZstdDecompressor()
    else:
        raise ProtocolError(f"there is no method {method} of compression here")
    try:
        result = decompressor.decompress(data, size + 1)
    except (zlib.error, ValueError, EOFError, getattr(zstd, "ZstdError", zlib.error)) as error:
        raise ProtocolError(f"a compressed message can't be decompressed: {error}") from error
    if len(result) != size or not decompressor.eof:
        raise ProtocolError(f"a compressed message does not have the {size} bytes that it claims")
    return result

"""State pickle <-> its stored form, which may be a zlib stream. Statements REC-13, REC-30 and REC-31."""

import os
import zlib

from durus.error import RecordError

_ZLIB_START = b"x"
COMPRESS_FROM = 512
"""Shorter states gain little, and compression takes longer than everything else in a commit."""

_PIECE = 1 << 20
"""A larger state is compressed in pieces of this size."""

_MAX_RATIO = 100
_MAX_STATE = int(os.environ.get("DURUS_MAX_STATE") or 64 << 20)
"""Any state may have this many bytes; a larger one at most this many times its stored form. [REC-30]"""
_NEVER_TOO_MUCH = _MAX_STATE // 1100
"""A shorter zlib stream can't reach the limit: a byte of it decompresses to at most 1,032."""


def compress_state(state: bytes) -> bytes:
    """Return the stored form of a state pickle: a zlib stream if that is notably shorter. [REC-13] [REC-31]"""
    if len(state) < COMPRESS_FROM:
        return state
    compressed = _compressed_below(len(state) * 3 // 4, state)
    return state if compressed is None or len(state) > _most_state(compressed) else compressed


def _compressed_below(size: int, state: bytes) -> bytes | None:
    """Return a zlib stream of less than `size` bytes; None, as soon as that is known, if it would have more."""
    if len(state) <= _PIECE:
        compressed = zlib.compress(state, 1)
        return compressed if len(compressed) < size else None
    stream = zlib.compressobj(1)
    pieces = []
    for start in range(0, len(state), _PIECE):
        pieces.append(stream.compress(memoryview(state)[start : start + _PIECE]))
        size -= len(pieces[-1])
        if size <= 0:
            return None
    pieces.append(stream.flush())
    return b"".join(pieces) if len(pieces[-1]) < size else None


def decompress_state(stored: bytes) -> bytes:
    """Return the state pickle of a stored form. [REC-13]

    RecordError if it exceeds the limit [REC-30], or if bytes follow the zlib stream [PICKLE-1].
    """
    if stored[:1] != _ZLIB_START:
        return stored
    stream = zlib.decompressobj()
    try:
        state = stream.decompress(stored, 0 if len(stored) < _NEVER_TOO_MUCH else _most_state(stored) + 1)
    except zlib.error:
        return stored
    if stream.unused_data:
        raise RecordError(f"{len(stream.unused_data)} bytes follow its compressed state and do not belong to it")
    if len(state) > _most_state(stored):
        raise RecordError(
            f"its {len(stored)} bytes decompress to a state of more than {_most_state(stored)}; if this is not an "
            "attack, set DURUS_MAX_STATE in the environment to as many bytes as a state may have"
        )
    return state if stream.eof else stored


def _most_state(stored: bytes) -> int:
    return max(_MAX_STATE, _MAX_RATIO * len(stored))

"""The large examples of the specification, made from their recipes as its README says."""

import struct
import zlib
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any

from durus_conformance import judge

Json = Any
_MULTIPLIER, _INCREMENT = 6364136223846793005, 1442695040888963407
_TIME = b"2026-01-02T03:04:05.000006Z"
_CLASS = b"\x80\x04cdurus.persistent\nPersistent\n."
_OID_OF_RECORD = 5
_FLIPPED = 36
"""Where the data of the first record of a transaction begins."""


class Numbers:
    """The generator of pseudo-random numbers below 2^32."""

    def __init__(self, seed: int) -> None:
        self._x = seed

    def next(self) -> int:
        self._x = (_MULTIPLIER * self._x + _INCREMENT) % 2**64
        return self._x >> 32

    def text(self) -> bytes:
        """Return digits, 1 to 400 of them."""
        length = self.next() % 400 + 1
        digits = str(self.next()).encode()
        return (digits * length)[:length]


def examples(name: str, recipe: dict[str, Json]) -> tuple[dict[str, Json], ...]:
    """Return what a recipe makes, in the form of the vectors of other kinds."""
    return _examples(name, *recipe.items())


@cache
def _examples(name: str, *items: tuple[str, int]) -> tuple[dict[str, Json], ...]:
    return tuple(_made(name, dict(items)))


def _made(name: str, recipe: dict[str, int]) -> Iterator[dict[str, Json]]:
    if "zeros" in recipe:
        record = compressed_record(**recipe)
        expected: Json = {"oid": str(_OID_OF_RECORD), "class": "durus.persistent Persistent", "state": {}, "refs": []}
        yield {"name": name, "kind": "record", "hex": record.hex(), "expected": expected}
        return
    file = LargeFile(recipe["seed"], recipe["objects"], recipe["commits"], recipe["each"])
    data, found = bytes(file.data), file.contents
    cut, changed = data[:-1], bytearray(data)
    damaged = file.starts[len(file.starts) // 2]
    changed[damaged + _FLIPPED] ^= 1
    commit = {"0": {"data": "new", "refs": []}}
    written = {
        **found,
        "objects": {**found["objects"], "0": "new"},
        "transactions": found["transactions"] + 1,
        "outcomes": ["stored"],
        "commits": [commit],
    }
    for suffix, kind, content, expected in (
        ("", "shelf", data, found),
        ("-that-is-cut", "shelf", cut, {"error": "tail", "offset": file.starts[-1]}),
        ("-with-a-wrong-byte", "shelf", changed, {"error": "damage", "offset": damaged}),
        ("-with-a-commit", "write", data, written),
        ("-that-is-packed", "pack", data, {"objects": found["objects"], "sealed": True}),
    ):
        yield {"name": name + suffix, "kind": kind, "hex": content.hex(), "expected": expected}


def compressed_record(seed: int, random: int, zeros: int) -> bytes:
    """Return a record with a state of this many random numbers and zeros, which are dropped again."""
    numbers = Numbers(seed)
    noise = b"".join(struct.pack(">L", numbers.next()) for _ in range(random))
    steps = (b"B" + struct.pack("<L", len(each)) + each + b"0" for each in (noise, bytes(zeros)))
    data = _CLASS + zlib.compress(b"\x80\x04}" + b"".join(steps) + b".", 1)
    return struct.pack(">QL", _OID_OF_RECORD, len(data)) + data


class LargeFile:
    """A file of many objects and commits.

    Attributes:
        data: its bytes.
        starts: the offsets of the commits.
        contents: what a reader finds.
    """

    def __init__(self, seed: int, objects: int, commits: int, each: int) -> None:
        numbers = Numbers(seed)
        oids = [oid for oid in range(objects) if oid == 0 or numbers.next() % 8]
        following = dict(pairwise(oids))
        texts = {oid: numbers.text() for oid in oids}
        self.data = bytearray(judge.SHELF)
        self.data += bytes(8)
        offsets = {oid: self._add(oid, texts[oid], following) for oid in oids}
        self.data[8:16] = struct.pack(">Q", len(self.data) - 16)
        holes = [oid for oid in range(oids[-1] + 2) if oid not in texts]
        self._add_map(offsets, holes)
        self._covered, self._checksum = 0, 0
        self._seal(len(self.data))
        self.starts = []
        for _ in range(commits):
            changed: dict[int, bytes] = {}
            while len(changed) < each:
                changed[oids[numbers.next() % len(oids)]] = numbers.text()
            texts |= changed
            self.starts.append(len(self.data))
            self.data += bytes(8)
            for oid, text in changed.items():
                self._add(oid, text, following)
            self._seal(self.starts[-1])
        self.contents: dict[str, Json] = {
            "objects": {str(oid): text.decode() for oid, text in texts.items()},
            "transactions": 1 + commits,
            "sealed": True,
            "free": holes[::-1],
        }

    def _add(self, oid: int, text: bytes, following: dict[int, int]) -> int:
        """Add an entry; return its offset."""
        offset = len(self.data)
        refs = struct.pack(">Q", following[oid]) if oid in following else b""
        self.data += struct.pack(">QQQL", 20 + len(text) + len(refs), oid, oid, len(text)) + text + refs
        return offset

    def _add_map(self, offsets: dict[int, int], holes: list[int]) -> None:
        start = len(self.data)
        lower = dict(zip(holes, [holes[-1], *holes], strict=False))
        words = [offsets[oid] if oid in offsets else start + lower[oid] for oid in range(holes[-1] + 1)]
        width = ((start + holes[-1] + 2).bit_length() + 7) // 8
        self.data += struct.pack(">QQQ", 16 + width * len(words), width, len(words))
        self.data += b"".join(word.to_bytes(width) for word in words)

    def _seal(self, start: int) -> None:
        """End the transaction at `start`, which may not have begun, with a seal."""
        if start == len(self.data):
            self.data += bytes(8)
        at = len(self.data)
        self.data[start : start + 8] = struct.pack(">Q", at + 132 - start - 8)
        self.data += judge.SEAL_HEAD + b"%016x " % at + _TIME + b" "
        self._checksum = zlib.crc32(self.data[self._covered :], self._checksum)
        self.data += b"%08xs." % self._checksum
        self._covered = len(self.data)

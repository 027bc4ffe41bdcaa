"""The offset map of a SHELF-1 file: where the records of the packed part are, and which oids
are free. Statements SHELF-6 to SHELF-10."""

import struct
from array import array
from collections.abc import Iterator, Sequence

from durus.error import DamageError
from durus.files.file import ReadableFile
from durus.files.read_ahead import ReadAhead
from durus.oid import oid_from_int

_MAP_HEAD = struct.Struct(">QQQ")
_WORDS_AT_ONCE = 8192
_ADVICE = "restore the file from a backup, or from the .prepack file that the last pack kept beside it"


class OffsetMap:
    """The offset map that starts at byte `start` of `file`; DamageError if its sizes can't be right."""

    def __init__(self, file: ReadableFile, start: int) -> None:
        head = file.read_at(start, _MAP_HEAD.size)
        if len(head) < _MAP_HEAD.size:
            raise DamageError(file.path, start, "the file ends where its offset map must stand", _ADVICE)
        size, self.word_size, self.count = _MAP_HEAD.unpack(head)
        self.start = start
        self.end = start + 8 + size
        self._file = file
        self._source = ReadAhead(file)
        self._words_start = start + _MAP_HEAD.size
        if not 1 <= self.word_size <= 8 or size != 16 + self.word_size * self.count:
            problem = f"an offset map of {size} bytes can't have {self.count} words of {self.word_size} bytes"
            raise DamageError(file.path, start, problem, _ADVICE)
        if self.end > file.size():
            problem = f"the offset map claims to end at byte {self.end}, past the end of the file"
            raise DamageError(file.path, start, problem, _ADVICE)

    def offset_of(self, oid: bytes) -> int | None:
        """Return the file offset of the entry of `oid` in the packed part; None if it has none. [SHELF-8]"""
        number = int.from_bytes(oid, "big")  # the same as oid_to_int(), without a call
        if number >= self.count:
            return None
        word = self._word(number)
        return word if word < self.start else None

    def holes(self) -> Iterator[int]:
        """Yield the numbers of the free oids, from the highest down. [SHELF-9]"""
        hole = before = self.count - 1
        while hole >= 0:
            following = self._word(hole) - self.start
            if following < 0:  # otherwise an object's oid would be given out
                problem = f"the chain of free oids leads to {hole}, which is not free"
                raise self._damage(before, problem)
            yield hole
            if following == self.count - 1:
                return
            if following >= hole:
                raise self._damage(hole, f"the free oid {hole} is chained to {following}, which is not below it")
            hole, before = following, hole

    def _damage(self, number: int, problem: str) -> DamageError:
        return DamageError(self._file.path, self._words_start + number * self.word_size, problem, _ADVICE)

    def offsets(self) -> Iterator[tuple[bytes, int]]:
        """Yield (oid, file offset of its entry) for all objects of the packed part, in order of oid."""
        for first in range(0, self.count, _WORDS_AT_ONCE):
            number = min(_WORDS_AT_ONCE, self.count - first)
            words = self._file.read_at(self._words_start + first * self.word_size, number * self.word_size)
            for i in range(number):
                word = int.from_bytes(words[i * self.word_size : (i + 1) * self.word_size], "big")
                if word < self.start:
                    yield oid_from_int(first + i), word

    def _word(self, number: int) -> int:
        offset = self._words_start + number * self.word_size
        buffer, index = self._source.window(offset, self.word_size, self.end)
        return int.from_bytes(buffer[index : index + self.word_size], "big")


def no_offsets(count: int, size: int) -> "array[int]":
    """Return room for the offsets of this many oids in a file of `size` bytes, for build_offset_map()."""
    return array("I" if size <= 1 << 32 else "Q", [0]) * count


def build_offset_map(offsets: Sequence[int], start: int) -> Iterator[bytes]:
    """Yield, in pieces, the bytes of the offset map that starts at file offset `start`. [SHELF-10]

    `offsets[n]` is the file offset of the entry of oid n, or 0 if n is free. The last one belongs to
    an object, unless there are none at all.
    """
    if not offsets:
        yield _MAP_HEAD.pack(16, 1, 0)
        return
    count = len(offsets) + 1
    word_size = ((start + count + 1).bit_length() + 7) // 8
    yield _MAP_HEAD.pack(16 + word_size * count, word_size, count)
    top_hole = count - 1
    next_hole = top_hole
    piece = bytearray()
    for number in range(top_hole):
        word = offsets[number]
        if not word:
            word = start + next_hole
            next_hole = number
        piece += word.to_bytes(word_size, "big")
        if len(piece) >= _WORDS_AT_ONCE:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece) + (start + next_hole).to_bytes(word_size, "big")

"""A compact sorted array of oids: what a transaction has accessed, what has changed, what a pack has removed.

Statement WIRE2-21.
"""

import sys
from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from itertools import chain, filterfalse
from typing import Protocol

from durus.error import ProtocolError
from durus.oid import array_of_oids, oid_to_int, oids_from_ints

_TYPECODES = {4: "I" if array("I").itemsize == 4 else "L", 8: "Q"}
_WIDTH_LIMIT = 1 << 32
"""Lower oids fit into 4 bytes."""
_PART = 1 << 12
"""How many oids at a time are made when an array is gone through."""
_PAGE_BITS = 16
_SEARCHED_TIMES = 16
"""How many times as long an array must be before searching it is faster than going through it."""


class OidSet(Collection[bytes], Protocol):
    """What a transaction has accessed: a set of oids, or an OidArray."""

    def isdisjoint(self, oids: Collection[bytes], /) -> bool:
        """Return whether none of these oids is in the set."""
        ...


class OidArray:
    """Oids in ascending order. A look-up takes logarithmic time; creation from bytes takes almost none."""

    def __init__(self, numbers: "array[int]") -> None:
        self.numbers = numbers

    @classmethod
    def of(cls, oids: Iterable[bytes]) -> "OidArray":
        """Return the array of some oids, which may be in any order."""
        numbers = array_of_oids(sorted(oids))
        return cls(array(_TYPECODES[4], numbers) if numbers and numbers[-1] < _WIDTH_LIMIT else numbers)

    @classmethod
    def from_bytes(cls, width: int, data: bytes) -> "OidArray":
        """Return the array for the result of to_bytes(); ProtocolError for a width other than 4 and 8."""
        if width not in _TYPECODES:
            raise ProtocolError(f"oids of {width} bytes: only 4 and 8 are possible")
        numbers = array(_TYPECODES[width], data)
        if sys.byteorder == "little":
            numbers.byteswap()
        return cls(numbers)

    def to_bytes(self) -> tuple[int, bytes]:
        """Return the width of each oid in bytes, and the oids, big-endian."""
        numbers = self.numbers
        if sys.byteorder == "little":
            numbers = numbers[:]
            numbers.byteswap()
        return numbers.itemsize, numbers.tobytes()

    @property
    def encoded(self) -> bytes:
        """The oids side by side, 8 bytes each."""
        numbers = array("Q", self.numbers)
        if sys.byteorder == "little":
            numbers.byteswap()
        return numbers.tobytes()

    def isdisjoint(self, oids: Collection[bytes], /) -> bool:
        """Return whether none of these oids is in the array. The shorter of both sides is gone through."""
        if isinstance(oids, OidArray):
            fewer, more = sorted((self, oids), key=len)
            if _SEARCHED_TIMES * len(fewer) < len(more):
                return not any(more.has_number(number) for number in fewer.numbers)
            return set(fewer.numbers).isdisjoint(more.numbers)
        if len(self) < len(oids):
            return set(oids_from_ints(self.numbers)).isdisjoint(oids)
        return not any(oid in self for oid in oids)

    def __iter__(self) -> Iterator[bytes]:
        numbers = self.numbers
        if len(numbers) <= _PART:
            return iter(oids_from_ints(numbers))
        parts = (numbers[start : start + _PART] for start in range(0, len(numbers), _PART))
        return chain.from_iterable(map(oids_from_ints, parts))

    def __len__(self) -> int:
        return len(self.numbers)

    def __contains__(self, oid: object) -> bool:
        if not isinstance(oid, bytes):
            return False
        return self.has_number(oid_to_int(oid))

    def has_number(self, number: int) -> bool:
        """Return whether the oid with this number is in the array."""
        index = bisect_left(self.numbers, number)
        return index < len(self.numbers) and self.numbers[index] == number


class OidCollector:
    """Different oids that come in any order: 2 bytes for each, as long as many are close to each other."""

    def __init__(self) -> None:
        self._pages: defaultdict[int, array[int]] = defaultdict(lambda: array("H"))
        """By the upper bits of the oids: their lower bits."""

    def add(self, number: int) -> None:
        """Add the oid with this number, which was not added before."""
        self._pages[number >> _PAGE_BITS].append(number & ((1 << _PAGE_BITS) - 1))

    @property
    def highest(self) -> int:
        """The highest number, -1 if there is none."""
        page = max(self._pages, default=-1)
        return -1 if page < 0 else page << _PAGE_BITS | max(self._pages[page])

    def all_but(self, others: Collection[bytes]) -> OidArray:
        """Return the array of these oids without some `others`."""
        numbers = array(_TYPECODES[4 if self.highest < _WIDTH_LIMIT else 8])
        left_out = set(map(oid_to_int, others))
        for page in sorted(self._pages):
            there = map((page << _PAGE_BITS).__or__, sorted(self._pages[page]))
            numbers.extend(filterfalse(left_out.__contains__, there))
        return OidArray(numbers)


def joined(oids: Collection[bytes], more: OidArray) -> Collection[bytes]:
    """Return the oids of both."""
    return OidArray.of({*oids, *more}) if oids else more


def encoded(oids: Collection[bytes]) -> bytes:
    """Return oids side by side."""
    return oids.encoded if isinstance(oids, OidArray) else b"".join(oids)

"""Which oids a client was given and has not used yet. Statement TXN-24.

Oids are given out in sequence, so a set of them is stored as bitmaps: one int for each block of neighbouring oids.
"""

from collections.abc import Collection, Iterable, Iterator

from durus.oid import array_of_oids, oid_from_int, oid_to_int
from durus.oid_array import OidArray

_BLOCK_BITS = 10
_IN_BLOCK = (1 << _BLOCK_BITS) - 1
"""2^10 oids share one int."""


class OidGrants:
    """A set of oids that takes about one bit for each, if they are close together."""

    def __init__(self) -> None:
        self._blocks: dict[int, int] = {}
        self.count = 0

    def __contains__(self, oid: bytes) -> bool:
        if not self.count:
            return False
        block, bit = _locate(oid)
        return bool(self._blocks.get(block, 0) & bit)

    def among(self, oids: Collection[bytes]) -> list[bytes]:
        """Return which of these oids are in the set."""
        numbers = oids.numbers if isinstance(oids, OidArray) else array_of_oids(oids)
        blocks = self._blocks
        return [oid_from_int(n) for n in numbers if blocks.get(n >> _BLOCK_BITS, 0) >> (n & _IN_BLOCK) & 1]

    @property
    def block_count(self) -> int:
        """How many blocks of oids there are, each of which takes up to about 200 bytes."""
        return len(self._blocks)

    def add(self, oids: Iterable[bytes]) -> None:
        """Add oids, none of which is in the set."""
        for oid in oids:
            self.add_new(oid)

    def add_new(self, oid: bytes) -> bool:
        """Add an oid, and return whether it is new."""
        block, bit = _locate(oid)
        before = self._blocks.get(block, 0)
        if before & bit:
            return False
        self._blocks[block] = before | bit
        self.count += 1
        return True

    def add_all_new(self, oids: Iterable[bytes]) -> bool:
        """Add oids up to the first one that is in the set already, and return whether there is none."""
        blocks = self._blocks
        for number in array_of_oids(oids):
            block, bit = number >> _BLOCK_BITS, 1 << (number & _IN_BLOCK)
            before = blocks.get(block, 0)
            if before & bit:
                return False
            blocks[block] = before | bit
            self.count += 1
        return True

    def discard(self, oids: Iterable[bytes]) -> None:
        """Remove those of the oids that are in the set, because they are used now."""
        for oid in oids:
            block, bit = _locate(oid)
            granted = self._blocks.get(block, 0)
            if granted & bit:
                self.count -= 1
                if granted == bit:
                    del self._blocks[block]
                else:
                    self._blocks[block] = granted ^ bit

    def __iter__(self) -> Iterator[bytes]:
        for block, granted in self._blocks.items():
            while granted:
                highest = granted.bit_length() - 1
                yield oid_from_int((block << _BLOCK_BITS) + highest)
                granted ^= 1 << highest

    def clear(self) -> None:
        """Remove all oids."""
        self._blocks, self.count = {}, 0

    def recount(self) -> None:
        """Compute the count again, after an interrupt."""
        self.count = sum(granted.bit_count() for granted in self._blocks.values())


def _locate(oid: bytes) -> tuple[int, int]:
    """Return the block of an oid, and the oid's bit in it."""
    number = oid_to_int(oid)
    return number >> _BLOCK_BITS, 1 << (number & _IN_BLOCK)

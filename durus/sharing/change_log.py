"""What changed when, kept once for all clients of a storage. Statements TXN-40 and TXN-41.

Each commit, and each removal by a pack, has a place in the order.  A client is told of what comes after its own place.
The log is a list of runs: sorted oids, and the place at which each changed last.  Small runs are merged, so a
look-up searches a few dozens of them at the most, however many commits there were.
"""

import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from durus.oid import oid_from_int, oid_to_int

MAX_CHANGES = 1 << 20
"""The most changes that are kept, of 16 bytes each. [TXN-41]"""
_FEW = 64
"""Up to so many changes nobody looks for what all clients have heard of."""
_MERGED = 1 << 15
"""The most changes of a run that was merged: so long one commit may hold up others for it."""


class _Run(NamedTuple):
    """Changes that follow one another: sorted oids, the place at which each changed last, and the last place."""

    oids: "array[int]"
    places: "array[int]"
    last: int


class ChangeLog:
    """The changes after the place `start`, up to the place `end`."""

    def __init__(self, start: int = 0) -> None:
        self.start = self.end = start
        self._runs: list[_Run] = []
        self._count = 0
        self._trim_at = _FEW

    def __len__(self) -> int:
        return self._count

    def add(self, oids: Iterable[bytes]) -> None:
        """Take the next change of the storage, which is of these oids."""
        numbers = array("Q", b"".join(sorted(oids)))
        if sys.byteorder == "little":
            numbers.byteswap()
        self.end += 1
        self._push(_Run(numbers, array("Q", [self.end]) * len(numbers), self.end))
        while self._count > MAX_CHANGES:
            self._forget_oldest()

    def skip(self) -> None:
        """Take a change that no client needs to be told of."""
        self.end += 1
        if not self._runs:
            self.start = self.end

    @property
    def is_long(self) -> bool:
        """True if it is time to look for what all clients have heard of."""
        return self._count > self._trim_at

    def trim(self, place: int) -> None:
        """Forget what all clients have heard of, which is what comes before or at this place."""
        while self._runs and self._runs[0].last <= place:
            self._forget_oldest()
        self._trim_at = 2 * self._count + _FEW

    def changed_after(self, oid: bytes, place: int) -> int:
        """Return the last place at which the oid changed, 0 if that is not after `place`."""
        number = oid_to_int(oid)
        for run in reversed(self._runs):
            if run.last <= place:
                break
            index = bisect_left(run.oids, number)
            if index < len(run.oids) and run.oids[index] == number:
                return run.places[index] if run.places[index] > place else 0
        return 0

    def changes_after(self, place: int, own: int) -> Iterator[bytes]:
        """Yield, sorted, the oids whose last change is after `place`, and not at the place `own`."""
        last: dict[int, int] = {}
        for run in self._runs:
            if run.last > place:
                last.update(zip(run.oids, run.places, strict=True))
        for number in sorted(last):
            if last[number] > place and last[number] != own:
                yield oid_from_int(number)

    def _push(self, run: _Run) -> None:
        self._count += len(run.oids)
        while self._runs:
            before = self._runs[-1]
            size = len(before.oids) + len(run.oids)
            if size > _MERGED or len(before.oids) > 2 * len(run.oids):
                break
            self._runs.pop()
            run = _merged(before, run)
            self._count -= size - len(run.oids)
        self._runs.append(run)

    def _forget_oldest(self) -> None:
        run = self._runs.pop(0)
        self._count -= len(run.oids)
        self.start = run.last


def _merged(before: _Run, after: _Run) -> _Run:
    last = dict(zip(before.oids, before.places, strict=True))
    last.update(zip(after.oids, after.places, strict=True))
    oids = array("Q", sorted(last))
    return _Run(oids, array("Q", [last[oid] for oid in oids]), after.last)

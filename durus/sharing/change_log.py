"""What changed when, kept once for all clients of a storage. Statements TXN-20, TXN-40, TXN-41 and TXN-82.

Each commit, and each removal by a pack, has a serial: its number in the common order. A client learns of the changes
after its own serial, which its LogReader has. The log is a list of runs: sorted oids, and the serial at which each of
them changed last. Small runs are merged, so a look-up searches at most a few dozen of them, however many commits there
were.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from durus.oid import array_of_oids, oid_to_int
from durus.oid_array import OidArray

MAX_CHANGES = 1 << 20
"""How many changes the log keeps at most, of 16 bytes each. [TXN-41]"""
_TRIM_SLACK = 64
"""The log is not trimmed before it has more changes than this."""
_MAX_MERGED = 1 << 15
"""How many changes a merged run has at most. It limits how long a merge delays other clients."""
_SMALLEST_BY_AGE = 1 << 6
_LARGEST_BY_AGE = 1 << 12
"""How many changes a run has whose changes are also kept sorted by their serials. There are few of this size."""
_REMEMBERED_COMMITS = 256
"""Of how many commits it is known who made them and when. [TXN-82]"""
_NEVER = -1
"""The serial of a client that has lost track."""


@dataclass(eq=False, slots=True)
class _Run:
    """Consecutive changes: sorted oids, the serial at which each changed last, and the last serial of all."""

    oids: "array[int]"
    serials: "array[int]"
    last: int
    _by_age: "tuple[array[int], array[int]] | None" = None
    """The serials, sorted, and their oids: made when a client needs a part of the run, since others will soon, too."""

    def changed_after(self, serial: int) -> Iterable[int]:
        """Return the oids that changed after a serial."""
        if not _SMALLEST_BY_AGE <= len(self.oids) <= _LARGEST_BY_AGE:
            return [oid for oid, at in zip(self.oids, self.serials, strict=True) if at > serial]
        if self._by_age is None:
            serials, oids = zip(*sorted(zip(self.serials, self.oids, strict=True)), strict=True)
            self._by_age = array("Q", serials), array("Q", oids)
        sorted_serials, oids_by_age = self._by_age
        return oids_by_age[bisect_right(sorted_serials, serial) :]


class ChangeLog:
    """The changes after the serial `start`, up to the serial `end`."""

    def __init__(self, start: int = 0) -> None:
        self.start = self.end = start
        self._runs: list[_Run] = []
        self._count = 0
        self._trim_at = _TRIM_SLACK

    def start_anew(self) -> None:
        """Forget everything, so that each client has lost track."""
        self.end += 1
        self.start = self.end
        self._runs, self._count, self._trim_at = [], 0, _TRIM_SLACK

    def __len__(self) -> int:
        return self._count

    def add(self, oids: Collection[bytes]) -> None:
        """Append the next change of the storage, which changes these oids."""
        if len(oids) > MAX_CHANGES:
            self.start_anew()
            return
        numbers = oids.numbers if isinstance(oids, OidArray) else array_of_oids(sorted(oids))
        self.end += 1
        self._push(_Run(numbers, array("Q", [self.end]) * len(numbers), self.end))
        while self._count > MAX_CHANGES:
            self._forget_oldest()

    def skip(self) -> None:
        """Count a change that no client needs to learn of."""
        self.end += 1
        if not self._runs:
            self.start = self.end

    @property
    def is_long(self) -> bool:
        """True if the log should be trimmed."""
        return self._count > self._trim_at

    def trim(self, serial: int) -> None:
        """Forget the changes up to this serial, because all clients know them."""
        while self._runs and self._runs[0].last <= serial:
            self._forget_oldest()
        self._trim_at = 2 * self._count + _TRIM_SLACK

    def changed_after(self, oid: bytes, serial: int) -> int:
        """Return the last serial at which the oid changed, 0 if that is not after `serial`."""
        last = self._last_change(oid_to_int(oid), serial)
        return last if last > serial else 0

    def _last_change(self, number: int, serial: int = 0) -> int:
        """Return the last serial at which an oid changed; if that is not after `serial`, it may be 0."""
        for run in reversed(self._runs):
            if run.last <= serial:
                break
            index = bisect_left(run.oids, number)
            if index < len(run.oids) and run.oids[index] == number:
                return run.serials[index]
        return 0

    def changes_after(self, serial: int, own_serial: int) -> OidArray:
        """Return the oids whose last change is after `serial`, and not at `own_serial`."""
        last_before = self.start
        found: set[int] = set()
        for run in self._runs:
            if last_before >= serial:
                found.update(run.oids)
            elif run.last > serial:
                found.update(run.changed_after(serial))
            last_before = run.last
        if own_serial > serial:
            found = {oid for oid in found if self._last_change(oid) != own_serial}
        return OidArray(array("Q", sorted(found)))

    def _push(self, run: _Run) -> None:
        self._count += len(run.oids)
        while self._runs:
            before = self._runs[-1]
            size = len(before.oids) + len(run.oids)
            if size > _MAX_MERGED or len(before.oids) > 2 * len(run.oids):
                break
            self._runs.pop()
            run = _merged(before, run)
            self._count -= size - len(run.oids)
        self._runs.append(run)

    def _forget_oldest(self) -> None:
        run = self._runs.pop(0)
        self._count -= len(run.oids)
        self.start = run.last


class LogReader:
    """What one client knows of the changes in a log."""

    def __init__(self, log: ChangeLog) -> None:
        self._log = log
        self.serial = log.end
        """The serial of the last change that the client knows. [TXN-20]"""
        self.own_serial = 0
        """The serial of its own commit, if that came after changes that it does not know yet."""

    @property
    def has_lost_track(self) -> bool:
        """True if the log no longer says what the client does not know. [TXN-41]"""
        return self.serial < self._log.start

    @property
    def knows_all(self) -> bool:
        """True if there is no change that the client does not know."""
        return self.serial == self._log.end

    def is_invalid(self, oid: bytes) -> bool:
        """Return whether an oid has changed since, or may have."""
        log = self._log
        if self.serial == log.end:
            return False
        return self.serial < log.start or log.changed_after(oid, self.serial) not in (0, self.own_serial)

    def invalid(self) -> list[bytes]:
        """Return the oids that have changed since, sorted, if the client has not lost track."""
        return list(self._log.changes_after(self.serial, self.own_serial))

    def take_invalid(self) -> list[bytes] | None:
        """Return the oids that have changed since, sorted, None for any: now the client knows all."""
        found = self.take_changes()
        return None if found is None else list(found)

    def take_changes(self) -> Collection[bytes] | None:
        """Return the oids that have changed since, in ascending order, None for any: now the client knows all."""
        log = self._log
        serial, own, self.serial, self.own_serial = self.serial, self.own_serial, log.end, 0
        if serial == log.end:
            return ()
        return None if serial < log.start else log.changes_after(serial, own)

    def go_back_to(self, serial: int) -> None:
        """Report the changes after this serial to the client again: the report of them was lost."""
        if serial < self.serial:
            self.serial, self.own_serial = serial, 0

    def lose_track(self) -> None:
        """Make every oid invalid. [TXN-31]"""
        self.serial = _NEVER


class LatestCommits:
    """Who made the latest commits, and when. [TXN-82]

    Args:
        clock: returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._latest: dict[int, tuple[str, float]] = {}
        """The names of clients and the times, by serial."""

    def note(self, serial: int, name: str) -> None:
        """Note who has made a commit just now."""
        self._latest[serial] = name, self._clock()
        if len(self._latest) > _REMEMBERED_COMMITS:
            del self._latest[next(iter(self._latest))]

    def describe(self, serial: int) -> str:
        """Return who has made a commit, and when; an empty text if that is not known."""
        if serial not in self._latest:
            return ""
        name, moment = self._latest[serial]
        return f"changed {round(self._clock() - moment, 3):g} s ago by {name or 'another client'}"


def _merged(before: _Run, after: _Run) -> _Run:
    last = dict(zip(before.oids, before.serials, strict=True))
    last.update(zip(after.oids, after.serials, strict=True))
    oids = array("Q", sorted(last))
    return _Run(oids, array("Q", [last[oid] for oid in oids]), after.last)

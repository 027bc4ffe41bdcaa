"""What a server counts. Statements WIRE2-35 and WIRE2-36.

No clocks here: callers pass times in, in seconds. Everything has a bounded size, whatever clients do.
"""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from durus.error import DurusError

BOUNDS = tuple(0.0001 * 2**power for power in range(21))
"""The upper bounds of a histogram's buckets in seconds, from 0.1 ms to 105 s; one more bucket has what is longer."""
MAX_CONFLICTING_OIDS = 64
"""How many oids a table of conflicts has."""
_NOTED_OIDS = 8
"""How many oids of one conflict are noted."""
SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
"""The percentiles that are reported, by name."""


class Histogram:
    """How long something took, each time: in buckets, each of which is twice as wide as the one before."""

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.total = 0.0
        """The sum of all times."""
        self.longest = 0.0

    @property
    def count(self) -> int:
        """How many times were noted."""
        return sum(self.buckets)

    def note(self, seconds: float) -> None:
        """Add one time."""
        self.buckets[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds
        self.longest = max(self.longest, seconds)

    def quantile(self, share: float) -> float | None:
        """Return the time in which this share of all was done, as if times were spread evenly in their bucket.

        None if nothing was noted.
        """
        wanted = share * self.count
        before = 0
        for index, number in enumerate(self.buckets):
            if number and before + number >= wanted:
                lower = BOUNDS[index - 1] if index else 0.0
                upper = BOUNDS[index] if index < len(BOUNDS) else self.longest
                return min(lower + (upper - lower) * (wanted - before) / number, self.longest)
            before += number
        return None

    def since(self, earlier: "Histogram") -> "Histogram":
        """Return what was noted after a copy was taken; its longest time is at most that of all."""
        new = Histogram()
        new.buckets = [now - then for now, then in zip(self.buckets, earlier.buckets, strict=True)]
        new.total = self.total - earlier.total
        highest = max((index for index, number in enumerate(new.buckets) if number), default=0)
        new.longest = min(self.longest, BOUNDS[highest]) if highest < len(BOUNDS) else self.longest
        return new

    def copy(self) -> "Histogram":
        """Return a histogram of its own with the same contents."""
        return self.since(Histogram())

    def as_json(self) -> dict[str, object]:
        """Return the count, the percentiles and the longest time. [WIRE2-35]"""
        shares = {name: self.quantile(share) for name, share in SHARES.items()}
        return {"count": self.count, **shares, "max": self.longest if self.count else None}


class Conflicts:
    """The oids that were in conflict most often, and how often each was.

    When the table is full, a new oid takes the place of the rarest one, together with its number. So a number can be
    too high, and an oid that is in more than one of MAX_CONFLICTING_OIDS conflicts is always there.
    """

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}

    def note(self, oids: Iterable[bytes]) -> None:
        """Note the oids of one conflict; the first few, if it has many."""
        numbers = self._numbers
        for _, oid in zip(range(_NOTED_OIDS), oids, strict=False):
            if oid in numbers or len(numbers) < MAX_CONFLICTING_OIDS:
                numbers[oid] = numbers.get(oid, 0) + 1
            else:
                rarest = min(numbers, key=lambda each: numbers[each])
                numbers[oid] = numbers.pop(rarest) + 1

    def most_frequent(self) -> list[tuple[bytes, int]]:
        """Return the oids and their numbers, the most frequent first."""
        return sorted(self._numbers.items(), key=lambda item: (-item[1], item[0]))


class Traffic(NamedTuple):
    """What all connections have asked for, sent and got."""

    loads: int
    received: int
    sent: int


class LastPack(NamedTuple):
    """How the last pack ended."""

    ended: float
    seconds: float
    freed: int | None
    """By how many bytes the file is shorter; None if the storage has no file."""
    error: str | None
    """Why it failed; None if it did not."""


@dataclass
class Counts:
    """What has happened on a server since it started.

    Args:
        began: the time when it started.
    """

    began: float
    commits: int = 0
    committed_objects: int = 0
    committed_bytes: int = 0
    conflicts: int = 0
    """Commits that the server has refused because of a conflict."""
    given_up: int = 0
    """Commits that clients have given up in their turn, because they found a conflict."""
    failed_writes: int = 0
    refused: int = 0
    """Connections and requests that were refused because of a limit."""
    connections: int = 0
    """How many connections were made, including those that are open."""
    loads: int = 0
    """How many records the connections that have ended asked for."""
    received: int = 0
    """How many bytes these have sent."""
    sent: int = 0
    """How many bytes they were sent."""
    commit_seconds: Histogram = field(default_factory=Histogram)
    """From the last byte of each commit until it was durable."""
    write_seconds: Histogram = field(default_factory=Histogram)
    """For each write to the disk, with its sync; one can have several commits."""
    conflicting: Conflicts = field(default_factory=Conflicts)
    last_pack: LastPack | None = None
    copies: int = 0
    """How often a client was sent all that was new in the file for it. [WIRE2-50]"""
    last_copied: float | None = None
    """When the last of these ended."""

    def copy(self) -> "Counts":
        """Return the counts as they are now, without the table of conflicts, for another thread."""
        return replace(
            self,
            commit_seconds=self.commit_seconds.copy(),
            write_seconds=self.write_seconds.copy(),
            conflicting=Conflicts(),
        )

    def note_commit(self, objects: int, size: int, seconds: float) -> None:
        """Note a durable commit."""
        self.commits += 1
        self.committed_objects += objects
        self.committed_bytes += size
        self.commit_seconds.note(seconds)

    def note_conflict(self, oids: Iterable[bytes]) -> None:
        """Note a commit that was refused because of these oids."""
        self.conflicts += 1
        self.conflicting.note(oids)

    def note_pack(
        self, now: float, began: float, before: int | None, after: int | None, error: DurusError | None
    ) -> LastPack:
        """Note and return how a pack has ended. `before` and `after` are the size of the file, None without one."""
        freed = None if before is None or after is None or error is not None else before - after
        self.last_pack = LastPack(now, now - began, freed, None if error is None else str(error))
        return self.last_pack


class Measures(NamedTuple):
    """The numbers of a server at one moment."""

    counts: Counts
    traffic: Traffic
    uptime: float
    size: int | None
    """The size of the file in bytes."""
    garbage: int | None
    """About how many of them a pack would remove; None if that is not known."""
    clients: int
    snapshots: int
    """How many clients hold one."""
    is_packing: bool
    bytes_since_pack: int
    seconds_since_pack: float | None

    def copy(self) -> "Measures":
        """Return the numbers with a copy of the counts, for another thread."""
        return self._replace(counts=self.counts.copy())

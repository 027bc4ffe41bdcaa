"""What the log says about a server from time to time. Statement CMD-25.

No clocks here: callers pass the time in.
"""

from typing import NamedTuple

from durus.serving.counts import Counts, Histogram, Traffic


class Summary(NamedTuple):
    """What has happened in a time."""

    seconds: float
    commits: int
    objects: int
    bytes: int
    conflicts: int
    """With the commits that clients have given up."""
    failed_writes: int
    traffic: Traffic
    commit_seconds: Histogram

    @property
    def has_news(self) -> bool:
        """True if anything has happened that the log reports."""
        return bool(self.commits or self.conflicts or self.failed_writes or self.traffic.loads)

    def text(self, clients: int) -> str:
        """Return a line for people. `clients` is how many there are now."""
        half, most = self.commit_seconds.quantile(0.5), self.commit_seconds.quantile(0.99)
        times = "" if half is None or most is None else f" (half in {1000 * half:.3g} ms, 99 % in {1000 * most:.3g} ms)"
        failed = f", {self.failed_writes} failed writes" if self.failed_writes else ""
        loads, received, sent = self.traffic
        return (
            f"in {self.seconds:.0f} s: {self.commits} commits of {self.objects} objects, {self.bytes} bytes{times}, "
            f"{self.conflicts} conflicts{failed}, {loads} loads, {received} bytes in, {sent} bytes out; "
            f"{clients} clients now"
        )

    def numbers(self) -> dict[str, object]:
        """Return the same for programs."""
        return {
            **self._replace(seconds=round(self.seconds, 3))._asdict(),
            "traffic": self.traffic._asdict(),
            "commit_seconds": self.commit_seconds.as_json(),
        }


class Summaries:
    """Makes one summary after the other, each of what has happened since the one before.

    Args:
        began: the time when the first one begins.
    """

    def __init__(self, began: float) -> None:
        self._before = Summary(began, 0, 0, 0, 0, 0, Traffic(0, 0, 0), Histogram())
        """The numbers at the last summary, and its time."""

    def next(self, now: float, counts: Counts, traffic: Traffic) -> Summary | None:
        """Return what has happened since the last call; None if there is nothing to tell."""
        before = self._before
        self._before = Summary(
            now,
            counts.commits,
            counts.committed_objects,
            counts.committed_bytes,
            counts.conflicts + counts.given_up,
            counts.failed_writes,
            traffic,
            counts.commit_seconds.copy(),
        )
        after = self._before
        summary = Summary(
            now - before.seconds,
            after.commits - before.commits,
            after.objects - before.objects,
            after.bytes - before.bytes,
            after.conflicts - before.conflicts,
            after.failed_writes - before.failed_writes,
            Traffic(*(new - old for new, old in zip(after.traffic, before.traffic, strict=True))),
            after.commit_seconds.since(before.commit_seconds),
        )
        return summary if summary.has_news else None

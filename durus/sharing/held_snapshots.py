"""The snapshots that the clients of a session core hold, and when they end. Statements TXN-60 to TXN-64."""

from collections.abc import Callable, Iterable

from durus.error import SnapshotEndedError
from durus.sharing.versions import Versions
from durus.storage import HeldState


class SnapshotHolder:
    """A client, which holds at most one snapshot."""

    def __init__(self) -> None:
        self.snapshot: HeldState | None = None
        self.since = 0.0
        """When it was taken."""
        self.why_ended: str | None = None
        """Why the last one was ended; None if the client has released it."""

    def require(self) -> HeldState:
        """Return the snapshot; SnapshotEndedError if none is held."""
        if self.snapshot is None:
            raise SnapshotEndedError(self.why_ended or "it was given up, or none was taken")
        return self.snapshot


class HeldSnapshots:
    """The snapshots that are held.

    Args:
        versions: keeps what is replaced.
        clock: returns the time in seconds.
        max_seconds: how long a snapshot may be held; None for no limit.
        max_bytes: how many bytes are kept for all of them; None for no limit.
        keep: takes those that are still held whenever one was ended.
    """

    def __init__(
        self,
        versions: Versions,
        clock: Callable[[], float],
        max_seconds: float | None,
        max_bytes: int | None,
        keep: Callable[[set[HeldState]], None] | None = None,
    ) -> None:
        self._versions = versions
        self._clock = clock
        self.max_seconds = max_seconds
        self.max_bytes = max_bytes
        self._holders: dict[SnapshotHolder, None] = {}
        """Those that hold a snapshot, that of the oldest one first."""
        self._keep = keep
        self._ended = 0

    def take(self, holder: SnapshotHolder, snapshot: HeldState) -> None:
        """Have a client hold a state, instead of an earlier one."""
        self.end(holder)
        holder.since = self._clock()
        self._holders[holder] = None
        holder.snapshot = snapshot

    def end(self, holder: SnapshotHolder, reason: str | None = None) -> None:
        """Release the snapshot of a client, if it has one; `reason` is given unless the client asks for this."""
        self._holders.pop(holder, None)
        if reason is not None:
            self._ended += 1
        was_held, holder.snapshot, holder.why_ended = holder.snapshot is not None, None, reason
        if was_held:
            self._keep_held()

    def _keep_held(self) -> None:
        if self._keep is not None:
            self._keep({holder.snapshot for holder in self._holders if holder.snapshot is not None})

    def end_old(self) -> int:
        """End the snapshots that are held for too long, and the oldest while too many bytes are kept. [TXN-64]

        Return how many were ended since the last call.
        """
        limit, holders = self.max_seconds, self._holders
        while limit is not None and holders:
            oldest = next(iter(holders))
            if self._clock() - oldest.since <= limit:
                break
            self.end(oldest, f"it was held for more than {limit:g} seconds")
        self.end_costly()
        ended, self._ended = self._ended, 0
        return ended

    def end_costly(self) -> None:
        """End the oldest snapshots while too many bytes are kept. [TXN-64]"""
        limit, holders = self.max_bytes, self._holders
        while limit is not None and holders and self._versions.kept_bytes > limit:
            self.end(next(iter(holders)), f"more than {limit} bytes were kept for snapshots")

    def start_anew(self, clients: Iterable[SnapshotHolder]) -> None:
        """Find out again, after an interrupt, which of all clients hold a snapshot."""
        held = [client for client in clients if client.snapshot is not None]
        self._holders = dict.fromkeys(sorted(held, key=lambda holder: holder.since))
        self._keep_held()

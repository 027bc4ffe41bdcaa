"""The turn to commit, among the connections of this process to a server. Statement DB-14.

While one transaction has the turn, the commits of the other connections of this process wait.
"""

import sys
import time
import weakref
from types import FrameType

from durus.client_storage import ClientStorage
from durus.concurrency.call_guard import is_running
from durus.concurrency.lost import LostHolders
from durus.concurrency.monitor import Monitor
from durus.error import DurusError
from durus.storage import InvalidationHandler

_getframe = sys._getframe


class ProcessTurn:
    """At most one client of a process has the turn at a time; while nobody has it, any number may commit."""

    def __init__(self) -> None:
        self._monitor = Monitor(lambda: None)
        self._lost_holders = LostHolders()
        self._holder: weakref.ref[object] | None = None
        self._commits: list[FrameType] = []
        """The calls that are about to commit."""

    def take(self, client: object) -> None:
        """Take the turn, after those before it and the commits in progress."""
        self._monitor.enter(_getframe())  # a name for it would be a reference cycle
        self._wait_for_holder(client)
        self._holder = weakref.ref(client)
        while any(is_running(commit) for commit in self._commits):
            self._monitor.wait()
        self._commits.clear()
        self._monitor.leave()

    def release(self, client: object) -> None:
        """Give the turn up, if this client has it; this never waits."""
        holder = self._holder
        if holder is not None and holder() is client:
            self._holder = None
            self._monitor.notify_all()

    def begin_commit(self, client: object, frame: FrameType) -> None:
        """Wait until no other client has the turn. The call of `frame` then commits, up to end_commit()."""
        self._monitor.enter(_getframe())
        self._wait_for_holder(client)
        self._commits.append(frame)
        self._monitor.leave()

    def end_commit(self, frame: FrameType) -> None:
        """Note that a commit has ended."""
        self._monitor.enter(_getframe())
        if frame in self._commits:
            self._commits.remove(frame)
        self._monitor.notify_all()
        self._monitor.leave()

    def _wait_for_holder(self, client: object) -> None:
        since = time.monotonic()
        while self._is_others(client):
            self._monitor.wait()
            self._lost_holders.look(since)

    def _is_others(self, client: object) -> bool:
        holder = None if self._holder is None else self._holder()
        return holder is not None and holder is not client


class TurnTakingClient(ClientStorage):
    """A ClientStorage that shares `turn` with the other clients of its process."""

    turn: ProcessTurn
    """Set before the client is used."""

    def end(self, handle_invalidations: InvalidationHandler | None = None) -> None:
        frame = _getframe()
        self.turn.begin_commit(self, frame)
        try:
            super().end(handle_invalidations)
        finally:
            self.turn.end_commit(frame)
            del frame  # otherwise it would be a reference cycle

    def take_turn(self) -> list[bytes] | None:
        self.turn.take(self)
        try:
            return super().take_turn()
        except DurusError:
            self.turn.release(self)
            raise

    def release(self) -> None:
        self.turn.release(self)
        super().release()

    def abandon(self) -> None:
        self.turn.release(self)
        self._give_up("the connection to the server was dropped, because its transaction was discarded before it ended")

    def close(self) -> None:
        self.turn.release(self)
        super().close()

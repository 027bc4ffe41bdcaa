"""A lock that survives an interrupt of the thread that holds it. [TXN-31]

As in call_guard.py the frame of a call is its mark, and a mark whose frame is no longer running was interrupted: then
the next thread starts anew what the lock protects. Sleeping threads wake up by themselves once in a while, so a
wake-up that an interrupt has prevented costs a moment and not a deadlock.

A thread that leaves may enter again before a thread that it has woken; this is fast, because it avoids a switch of
threads. But a thread that has waited for too long enters first, or it could starve. [TXN-29]
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from types import FrameType

from durus.concurrency.call_guard import is_on_stack, is_running

_MAX_SLEEP = 0.05
"""Seconds after which a sleeping thread wakes up by itself."""
_PATIENCE = 0.02
"""For how many seconds a waiting thread may be overtaken."""


class _Sleeper:
    """A waiting thread; `frame` is the caller of the Monitor."""

    __slots__ = ("bed", "frame", "since")

    def __init__(self, frame: FrameType, since: float = 0) -> None:
        self.bed = threading.Lock()
        self.bed.acquire()
        self.frame = frame
        self.since = since


class Monitor:
    """One thread at a time is inside; there it may wait() until another one calls notify_all().

    `start_anew` is called inside after an interrupt of a thread that was there. A thread that has waited for `patience`
    seconds is the next one to enter.
    """

    def __init__(self, start_anew: Callable[[], None], patience: float = _PATIENCE) -> None:
        self._start_anew = start_anew
        self._patience = patience
        self._marks: dict[object, FrameType] = {}
        """The mark of the thread inside. An interrupted frame is itself the key of the mark of its successor."""
        self._entering: deque[_Sleeper] = deque()
        self._waiting: deque[_Sleeper] = deque()

    def enter(self, frame: FrameType) -> bool:
        """Enter, with `frame` as the mark; return False if a caller of `frame` is inside already."""
        since = None
        while not self._try_to_enter(frame):
            if is_on_stack(self._holder(frame), frame):
                return False
            since = since or time.monotonic()
            self._sleep_at_the_door(_Sleeper(frame, since))
        if len(self._marks) > 1:
            self._start_anew()
            self._marks[None] = frame
            for mark in [key for key in self._marks if key is not None]:
                del self._marks[mark]
        return True

    def enter_if_free(self, frame: FrameType) -> bool:
        """Enter if nobody is inside, and nobody was interrupted there."""
        return self._marks.setdefault(None, frame) is frame

    def leave(self) -> None:
        """Let another thread in, first of all one that has waited for too long."""
        if self._entering and (heir := self._impatient()) is not None:
            self._marks[None] = heir.frame
            heir.bed.release()
            time.sleep(0)  # otherwise it could continue only when this thread waits for something
        else:
            self._marks.clear()
            _wake(self._entering, 1)

    def wait(self) -> None:
        """Leave until notify_all() is called, or for a moment, and enter again."""
        frame = self.holder
        self.leave()
        sleeper = _Sleeper(frame)
        self._waiting.append(sleeper)
        sleeper.bed.acquire(timeout=_MAX_SLEEP)
        with contextlib.suppress(ValueError):  # somebody has woken this thread
            self._waiting.remove(sleeper)
        self.enter(frame)

    @property
    def holder(self) -> FrameType:
        """The mark of the thread inside; for that thread only."""
        return self._marks[None]

    def notify_all(self) -> None:
        """Wake all threads that wait()."""
        _wake(self._waiting, len(self._waiting))

    def _holder(self, frame: FrameType) -> FrameType:
        holder = self._marks.setdefault(None, frame)
        while holder is not frame and (heir := self._marks.get(holder)) is not None:
            holder = heir
        return holder

    def _try_to_enter(self, frame: FrameType) -> bool:
        holder = self._holder(frame)
        if holder is frame:
            return True
        if not is_running(holder) and self._holder(frame) is holder:
            self._marks.setdefault(holder, frame)
        return self._holder(frame) is frame

    def _impatient(self) -> _Sleeper | None:
        """Remove the longest waiting thread from the line, if it has waited for too long."""
        first = min(self._entering.copy(), key=lambda sleeper: sleeper.since, default=None)
        if first is None or time.monotonic() - first.since < self._patience:
            return None
        try:
            self._entering.remove(first)
        except ValueError:  # it has just woken up by itself
            return None
        return first if is_running(first.frame) else None  # otherwise it was interrupted

    def _sleep_at_the_door(self, sleeper: _Sleeper) -> None:
        """Wait in the line until this thread is woken, or is inside."""
        self._entering.append(sleeper)
        is_inside = self._try_to_enter(sleeper.frame)
        while not is_inside and not sleeper.bed.acquire(timeout=_MAX_SLEEP):
            is_inside = self._try_to_enter(sleeper.frame)
        try:
            self._entering.remove(sleeper)
        except ValueError:  # somebody has woken this thread
            if is_inside:
                _wake(self._entering, 1)


def _wake(sleepers: deque[_Sleeper], number: int) -> None:
    for _ in range(number):
        try:
            sleeper = sleepers.popleft()
        except IndexError:
            return
        sleeper.bed.release()

"""A lock for what several threads share, which outlives the interruption of the thread that holds it. [TXN-31]

As in call_guard.py the frame of a call is its mark, and a mark whose frame is not running any more was interrupted:
then whoever comes next starts anew what the lock protects.  Threads that sleep look up by themselves once in a while,
so an interrupt that keeps a wake-up from being sent costs a moment, and not for ever.
"""

import threading
from collections import deque
from collections.abc import Callable
from types import FrameType

from durus.concurrency.call_guard import is_on_stack, is_running

_LONGEST_SLEEP = 0.05
"""Seconds after which a thread that sleeps looks for itself."""


class Monitor:
    """One thread at a time is inside; it may wait() there until another one has called notify_all().

    `start_anew` is called inside, when an exception that is not of this package came while a thread was there.
    """

    def __init__(self, start_anew: Callable[[], None]) -> None:
        self._start_anew = start_anew
        self._marks: dict[object, FrameType] = {}
        """The mark of who is inside. A frame that was interrupted there is itself the key of its heir's."""
        self._entering: deque[threading.Lock] = deque()
        self._waiting: deque[threading.Lock] = deque()

    def enter(self, frame: FrameType) -> bool:
        """Come inside, with `frame` as the mark; False if a caller of `frame` is there already."""
        while not self._try_to_enter(frame):
            if is_on_stack(self._holder(frame), frame):
                return False
            self._sleep(self._entering, lambda: self._try_to_enter(frame))
        if len(self._marks) > 1:
            self._start_anew()
            self._marks[None] = frame
            for mark in [key for key in self._marks if key is not None]:
                del self._marks[mark]
        return True

    def enter_if_free(self, frame: FrameType) -> bool:
        """Come inside if nobody is there, and nobody was interrupted there."""
        return self._marks.setdefault(None, frame) is frame

    def leave(self) -> None:
        """Let others in."""
        self._marks.clear()
        _wake(self._entering, 1)

    def wait(self) -> None:
        """Be outside until notify_all() is called, or for a moment, and come inside again."""
        frame = self.holder
        self.leave()
        self._sleep(self._waiting, lambda: False)
        self.enter(frame)

    @property
    def holder(self) -> FrameType:
        """The mark of who is inside, for who is inside."""
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

    def _sleep(self, sleepers: "deque[threading.Lock]", is_awake: Callable[[], bool]) -> None:
        bed = threading.Lock()
        bed.acquire()
        sleepers.append(bed)
        was_needed = not is_awake() and bed.acquire(timeout=_LONGEST_SLEEP)
        try:
            sleepers.remove(bed)
        except ValueError:  # somebody has woken this thread
            if not was_needed:
                _wake(sleepers, 1)


def _wake(sleepers: "deque[threading.Lock]", number: int) -> None:
    for _ in range(number):
        try:
            bed = sleepers.popleft()
        except IndexError:
            return
        bed.release()

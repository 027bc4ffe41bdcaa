"""Guards calls that must not overlap: who is inside a connection or a storage, and whether the last call has ended.

Statements TXN-30 to TXN-35. One mechanism at the edge of each call detects four mistakes:

    interrupted    an exception that is not the object's own (Ctrl-C, a job's time limit) has left a call half done
    concurrent     two threads, or greenlets, are in the same object at once
    nested         a call was made inside another one, by a signal handler or a finalizer
    foreign        the object was made before a fork, and is used in the child

A call leaves its frame as a mark when it begins, and removes it when it ends normally: by a return, by a DurusError, or
by the TypeError of arguments that do not fit its parameters. A call that finds the mark of another one checks whether
that frame is still running. If it is not, that call was interrupted, at any line, and the object starts anew before it
does anything else. This needs no `finally`, which an exception could keep from being reached.
"""

import functools
import os
import sys
from collections.abc import Callable
from types import FrameType
from typing import Concatenate, Final, ParamSpec, Protocol, TypeVar
from weakref import WeakSet

from durus.error import ConcurrentUseError, DurusError, WrongProcessError

P = ParamSpec("P")
T = TypeVar("T")

CALL: Final = "call"
"""The key of the mark of the call that began first. A frame that was interrupted is itself the key of its heir's."""
_UNFINISHED: Final = "unfinished"
"""The key of the number of nested calls that have begun and not ended."""

_getframe = sys._getframe


class _Foreign:
    """The mark of what belongs to the parent of this process."""


Mark = FrameType | _Foreign
_FOREIGN = _Foreign()
_guards: "WeakSet[CallGuard]" = WeakSet()


class CallGuard:
    """The marks of the calls in one object. Messages call the object `what`.

    Marks are left by dict.setdefault(), which is atomic for threads and interrupts. So no lock is needed, which an
    exception could keep from being released.
    """

    __slots__ = ("__weakref__", "_what", "marks", "process")

    def __init__(self, what: str) -> None:
        self._what = what
        self.marks: dict[object, Mark | int] = {}
        self.process = os.getpid()
        _guards.add(self)

    @property
    def is_foreign(self) -> bool:
        """True in a process that was forked since the object was made."""
        return self.marks.get(CALL) is _FOREIGN

    def check_process(self) -> None:
        """Raise WrongProcessError in a process that was forked since the object was made. [TXN-32]"""
        if self.is_foreign:
            raise WrongProcessError(
                f"this {self._what} was opened in process {self.process} and is used in process {os.getpid()}: "
                "open it after the fork"
            )

    def begin(self, frame: FrameType, start_anew: Callable[[], object], may_nest: bool = False) -> bool:
        """Leave `frame` as the mark of a call; returns whether it is the first one, and not nested in another.

        `start_anew` is called if an earlier call was interrupted. ConcurrentUseError or WrongProcessError if the call
        must not be made.
        """
        claimed: object = None
        while (holder := self.holder(frame)) is not frame:
            self.check_process()
            if is_on_stack(holder, frame):
                if not may_nest:
                    raise ConcurrentUseError(
                        f"this {self._what} was called while another call to it was running, maybe by a signal "
                        "handler, a finalizer or a __getstate__: make that call after the other one has returned"
                    )
                self.marks[_UNFINISHED] = self._unfinished() + 1
                return False
            if is_running(holder):
                self.marks.pop(claimed, None)
                raise ConcurrentUseError(
                    f"this {self._what} is in use by another thread at this moment: give each thread a connection of "
                    "its own, on a client of a SharedStorage or on a ClientStorage"
                )
            claimed = holder
            self.marks.setdefault(holder, frame)
        if len(self.marks) > 1:
            if self.marks[CALL] is not frame or _UNFINISHED in self.marks:  # otherwise the other call has just ended
                start_anew()
            self.marks[CALL] = frame
            for mark in [key for key in self.marks if key is not CALL]:
                del self.marks[mark]
        return True

    def holder(self, frame: FrameType) -> Mark | int:
        """Return the mark of the running call: `frame` itself if there is no other."""
        holder = self.marks.setdefault(CALL, frame)
        while holder is not frame and (heir := self.marks.get(holder)) is not None:
            holder = heir
        return holder

    def end(self, is_first: bool = True) -> None:
        """Remove the mark of a call that has ended."""
        marks = self.marks
        if is_first:
            if len(marks) == 1:
                marks.clear()
            # Otherwise a nested call was interrupted, and nobody has noticed: the marks stay.
        elif (unfinished := self._unfinished() - 1) > 0:
            marks[_UNFINISHED] = unfinished
        else:
            marks.pop(_UNFINISHED, None)

    def note_interrupt(self) -> None:
        """Have the next call start anew."""
        self.marks[_UNFINISHED] = self._unfinished() + 1
        self.marks.setdefault(CALL, _getframe())

    @property
    def is_interrupted(self) -> bool:
        """True if the next call will start anew; meaningful only between calls."""
        return bool(self.marks) and not self.is_foreign

    def _unfinished(self) -> int:
        count = self.marks.get(_UNFINISHED, 0)
        return count if isinstance(count, int) else 0


class Guarded(Protocol):
    """An object with guarded calls."""

    @property
    def _guard(self) -> CallGuard: ...

    def _start_anew(self) -> None:
        """Clean up what an interrupted call may have left half done. If this raises, the next call tries again."""


G = TypeVar("G", bound=Guarded)


def guarded(call: Callable[Concatenate[G, P], T]) -> Callable[Concatenate[G, P], T]:
    """Guard a method: it is refused while any other call is running."""
    return _guard(call, may_nest=False)


def guarded_load(call: Callable[Concatenate[G, P], T]) -> Callable[Concatenate[G, P], T]:
    """Guard a method that may also be called inside another call of the same thread, as loads are."""
    return _guard(call, may_nest=True)


def _guard(call: Callable[Concatenate[G, P], T], may_nest: bool) -> Callable[Concatenate[G, P], T]:
    @functools.wraps(call)
    def guard(self: G, /, *args: P.args, **kwargs: P.kwargs) -> T:
        guard = self._guard
        marks = guard.marks
        is_first = True
        if marks.setdefault(CALL, _getframe()) is not _getframe():  # a name for it would be a reference cycle
            is_first = guard.begin(_getframe(), self._start_anew, may_nest)
        try:
            result = call(self, *args, **kwargs)
        except DurusError:
            guard.end(is_first)
            raise
        except TypeError as error:
            if error.__traceback__ is None or error.__traceback__.tb_next is None:  # wrong arguments: it never began
                guard.end(is_first)
            raise
        if is_first and len(marks) == 1:  # the same as end(), without a call
            marks.clear()
        else:
            guard.end(is_first)
        return result

    return guard


def is_on_stack(holder: object, frame: FrameType) -> bool:
    """Return whether a frame has called another one, directly or not."""
    above = frame.f_back
    while above is not None:
        if above is holder:
            return True
        above = above.f_back
    return False


def is_running(holder: object) -> bool:
    """Return whether a frame is running, in any thread or greenlet; if it is not, its local variables are cleared."""
    if not isinstance(holder, FrameType):
        return False
    try:
        holder.clear()
    except RuntimeError:
        return True
    return False


def _mark_as_foreign() -> None:
    """In the child after a fork: mark all objects as those of the parent. [TXN-32]"""
    for guard in list(_guards):
        guard.marks[CALL] = _FOREIGN


os.register_at_fork(after_in_child=_mark_as_foreign)

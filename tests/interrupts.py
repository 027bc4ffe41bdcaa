"""An exception at the n-th line that runs in the package, which is what a signal handler can do."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import durus
from durus.call_guard import CallGuard
from durus.connection import Connection

HOME = str(Path(durus.__file__).parent)


class Interrupt(BaseException):
    """Not an error of the program: it comes from outside."""


def interrupted_at(number: int, call: Callable[..., object], *args: object) -> str | None:
    """Call something, and interrupt it at a line, counted from 0; return which that was, None if it has fewer."""
    count = 0
    where: str | None = None

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count, where
        if not frame.f_code.co_filename.startswith(HOME):
            return None
        if event in ("line", "return"):
            count += 1
            if count > number and where is None:
                sys.settrace(before)
                where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {event} in {frame.f_code.co_name}()"
                raise Interrupt(where)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call(*args)
    except Interrupt:
        pass
    finally:
        sys.settrace(before)
    return where


class GuardedConnection(Connection):
    """A connection that starts anew after steps of an object which were interrupted."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.steps = CallGuard("connection")
        self.was_interrupted = False

    def begin_steps(self, frame: FrameType) -> bool:
        return self.steps.begin(frame, self.start_anew, may_nest=True)

    def end_steps(self, is_first: bool) -> None:
        self.steps.end(is_first)

    def start_anew(self) -> None:
        self.was_interrupted = True

    def commits(self) -> bool:
        """Commit; tell if that was not refused, with all changes forgotten, since steps were interrupted."""
        self.steps.begin(sys._getframe(), self.start_anew)
        self.steps.end()
        if self.was_interrupted:
            self.was_interrupted = False
            self.abort()
            return False
        self.commit()
        return True

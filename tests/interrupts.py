"""Interrupts between any two lines of the package, as a signal handler can raise them."""

import gc
import inspect
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any

import durus
from durus.connection import Connection
from durus.error import InterruptedTransactionError

HOME = os.path.dirname(durus.__file__) + os.sep
_MAY_YIELD = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


class Interrupt(BaseException):
    """What comes in the middle of a call."""


def interrupted_at(
    number: int, call: Callable[..., object], *arguments: object, most_visits: float = math.inf
) -> str | None:
    """Call, and raise an Interrupt at the line of the package that is reached as the number-th one, from 0 on.

    A line that was reached `most_visits` times counts no more. The end of a call counts as a line, but not in a
    generator: it may be a yield, where no signal handler runs, and where the Interrupt would crash Python 3.13.0.
    Return where the Interrupt was raised, None if the call came to its end before.
    """
    count, where = 0, None
    visits: Counter[tuple[CodeType, int, str]] = Counter()
    is_limited = most_visits < math.inf

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count, where
        if event == "call":
            return trace if frame.f_code.co_filename.startswith(HOME) else None
        if event == "line" or (event == "return" and not frame.f_code.co_flags & _MAY_YIELD):
            if is_limited:
                place = frame.f_code, frame.f_lineno, event
                if visits[place] >= most_visits:
                    return trace
                visits[place] += 1
            count += 1
            if count > number:
                sys.settrace(None)
                where = f"{frame.f_code.co_filename[len(HOME) :]}:{frame.f_lineno} {event} in {frame.f_code.co_name}"
                raise Interrupt(where)
        return trace

    before = sys.gettrace()
    gc.disable()  # since what comes in a finalizer is not raised
    sys.settrace(trace)
    try:
        call(*arguments)
    except BaseException:
        if where is None:
            raise
    finally:
        sys.settrace(before)
        gc.enable()
    return where


def each_line(prepare: Callable[[], Callable[[], object]]) -> Iterator[str]:
    """Yield each place at which the call that `prepare` returns was interrupted; then examine what the call left."""
    number = 0
    while (where := interrupted_at(number, prepare())) is not None:
        yield where
        number += 1


def commits(connection: Connection) -> bool:
    """Commit; tell if that was not refused, with all changes forgotten, since something was interrupted."""
    try:
        connection.commit()
    except InterruptedTransactionError:
        return False
    return True

"""How transactions are tried again after a conflict. Statements DB-20 to DB-24, DB-26."""

import dis
import random
import time
from types import CodeType, FrameType, FunctionType

from durus.error import ConflictError, DisconnectedError, OutcomeUnknownError, ServerUnreachableError

_sleep = time.sleep
_clock = time.monotonic
_chance = random.random

_CONFLICT_PAUSE = 0.001, 0.1
_NETWORK_PAUSE = 0.05, 2.0
"""The longest pause before the second try, and the longest of all, in seconds."""
_NOTHING = ("CACHE", "NOP", "NOT_TAKEN")
"""Instructions of CPython that do nothing."""


DEFAULT_TRIES = 10
DEFAULT_SERVER_TRIES = 100
"""For a server that other processes use too, whose clients a last try can't keep waiting. [DB-21]"""
_CONFLICTS_BEFORE_TURN = 2
_QUICK = 0.05
"""In seconds. Tries that take no longer are exclusive after this many conflicts. [DB-24]"""
_EXCLUSIVE_IN_A_ROW = 32
"""How many calls of a function that had such conflicts are exclusive from their first try. [DB-26]"""
_MAX_REMEMBERED = 256
"""Of how many functions that is remembered."""
_MAX_LOST = 10
"""How often a connection may be lost, or refused, in the tries of one transaction."""


class Tries:
    """Counts the tries of a transaction, and decides whether it may be tried again. [DB-21] [DB-24]"""

    def __init__(self, limit: int, has_turns: bool = True, is_contended: bool = False) -> None:
        """`has_turns` says whether an exclusive transaction keeps all others from committing; `is_contended` that
        there will be conflicts. [DB-26]
        """
        self.limit = limit
        self.number = 1
        """The number of the next or current try."""
        self._has_turns = has_turns
        self._is_contended = is_contended
        self._lost = 0
        self._began = 0.0
        self._slowest = 0.0

    @property
    def is_exclusive(self) -> bool:
        """True if the next try should be an exclusive transaction."""
        return self.limit > 1 and (self.number == self.limit or self.waits_in_line)

    @property
    def waits_in_line(self) -> bool:
        """True if the next try takes its turn because of conflicts, and holds others up no longer than they do it."""
        return self._has_turns and self.is_quick and (self._is_contended or self.has_conflicts)

    @property
    def has_conflicts(self) -> bool:
        """True if it had too many conflicts to continue without a turn."""
        return self.number - 1 - self._lost >= _CONFLICTS_BEFORE_TURN

    @property
    def is_quick(self) -> bool:
        """True if no try has taken long."""
        return self._slowest <= _QUICK

    def begin_work(self) -> None:
        """Note that a try has begun its transaction."""
        self._began = _clock()

    def end_work(self) -> None:
        """Note that a try continues to its commit, or has failed."""
        self._slowest = max(self._slowest, _clock() - self._began)

    def goes_on(self, error: BaseException | None) -> bool:
        """Return whether there is another try after an error, and continue to it."""
        if not may_try_again(error) or self.number >= self.limit:
            return False
        if not isinstance(error, ConflictError):
            self._lost += 1
            if self._lost >= _MAX_LOST:
                return False
        self.number += 1
        return True


class Contention:
    """The functions whose next calls are exclusive from their first try, because earlier ones had conflicts. [DB-26]"""

    def __init__(self) -> None:
        self._left: dict[CodeType, int] = {}
        """How many more calls, by the code of the function."""

    def expects(self, function: object) -> bool:
        """Return whether the call of a function that begins now is one of them."""
        code = _code_of(function) if self._left else None
        left = 0 if code is None else self._left.get(code, 0)
        if code is None or left == 0:
            return False
        if left > 1:
            self._left[code] = left - 1
        else:
            self._left.pop(code, None)  # the call after this one shows if there still are conflicts
        return True

    def note(self, function: object, tries: Tries) -> None:
        """Note what the tries of a call have shown."""
        if tries.is_quick and not tries.has_conflicts:
            return  # as nearly always
        code = _code_of(function)
        if code is None:
            return
        if not tries.is_quick:
            self._left.pop(code, None)
        else:
            if len(self._left) >= _MAX_REMEMBERED:
                self._left.clear()
            self._left[code] = _EXCLUSIVE_IN_A_ROW


def _code_of(function: object) -> CodeType | None:
    """Return the code of a function, without that of the decorators around it, which others may have too."""
    function = getattr(function, "__func__", function)  # of a method
    while isinstance(function, FunctionType) and hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    code = getattr(function, "__code__", None)
    return code if isinstance(code, CodeType) else None


def may_try_again(error: BaseException | None) -> bool:
    """Return whether an error has left nothing of its transaction, and another try may succeed. [DB-20]"""
    return isinstance(error, ConflictError | DisconnectedError | ServerUnreachableError) and not isinstance(
        error, OutcomeUnknownError
    )


def pause(error: BaseException, number: int) -> None:
    """Sleep before try `number`."""
    _sleep(pause_seconds(error, number))


def pause_seconds(error: BaseException, number: int) -> float:
    """Return how long to sleep before try `number`: a random time that grows with it."""
    is_conflict = isinstance(error, ConflictError)
    first, longest = _CONFLICT_PAUSE if is_conflict else _NETWORK_PAUSE
    seconds = min(longest, first * 2.0 ** min(number - 2, 20))
    return seconds * (_chance() if is_conflict else 1 - _chance() / 2)


def goes_round(frame: FrameType) -> bool:
    """Return whether a frame that leaves a `with` block without an error continues with the next round of its loop.

    It may instead leave the loop by `break`, the function by `return`, or continue with the lines after the block. The
    result is False if this is unknown.
    """
    code = {instruction.offset: instruction for instruction in dis.get_instructions(frame.f_code)}
    offset: int | None = frame.f_lasti
    names: list[str] = []
    while offset is not None and len(names) < 2:
        offset = min((other for other in code if other > offset), default=None)
        while offset is not None and code[offset].opname == "JUMP_FORWARD":
            offset = code[offset].argval
        if offset is not None and code[offset].opname not in _NOTHING:
            names.append(code[offset].opname)
    return names == ["POP_TOP", "JUMP_BACKWARD"]

"""Work that is tried again after a conflict. Statements DB-20 to DB-23."""

import dis
import random
import time
from types import FrameType

from durus.error import ConflictError, DisconnectedError, OutcomeUnknownError, ServerUnreachableError

_sleep = time.sleep
_chance = random.random

_CONFLICT_PAUSE = 0.001, 0.1
_NETWORK_PAUSE = 0.05, 2.0
"""The longest pause before the second try, in seconds, and the longest one of all."""
_NOTHING = ("CACHE", "NOP", "NOT_TAKEN")
"""Instructions of CPython that do nothing."""


def may_try_again(error: BaseException | None) -> bool:
    """Tell if an error leaves nothing of its transaction behind, and another try may have better luck. [DB-20]"""
    return isinstance(error, ConflictError | DisconnectedError | ServerUnreachableError) and not isinstance(
        error, OutcomeUnknownError
    )


def pause(error: BaseException, number: int) -> None:
    """Sleep before the next try, for a random time that grows with the number of tries so far, 1 at first."""
    is_conflict = isinstance(error, ConflictError)
    first, longest = _CONFLICT_PAUSE if is_conflict else _NETWORK_PAUSE
    seconds = min(longest, first * 2 ** (number - 1))
    _sleep(seconds * (_chance() if is_conflict else 1 - _chance() / 2))


def goes_round(frame: FrameType) -> bool:
    """Tell if a frame, in which a `with` block is being left without an error, goes to the next round of its loop.

    It may go elsewhere: after the loop by `break`, out of the function by `return`, or to lines after the block.
    Where that can't be told it is False.
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

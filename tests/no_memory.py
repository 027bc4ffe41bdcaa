"""One allocation of Python's memory that fails, wherever that is."""

import gc
import sys
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

import pytest

P = ParamSpec("P")
T = TypeVar("T")


class NoMemory:
    """What stands for the value of a call that ended with a MemoryError."""


NO_MEMORY: Final = NoMemory()

_SECONDS_ALONE = 1000.0
"""How long no other thread asks to run: an allocation of one that does, such as that of pytest-xdist, would fail."""


def call_without_memory(number: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | NoMemory:
    """Call a function with this allocation failing, counted from 0; return its value, or NO_MEMORY."""
    testing = pytest.importorskip("_testcapi", reason="this Python can't let an allocation fail")
    interval = sys.getswitchinterval()
    gc.disable()
    sys.setswitchinterval(_SECONDS_ALONE)
    testing.set_nomemory(number, number + 1)
    try:
        return function(*args, **kwargs)
    except MemoryError:
        return NO_MEMORY
    finally:
        testing.remove_mem_hooks()
        sys.setswitchinterval(interval)
        gc.enable()

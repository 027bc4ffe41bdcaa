"""One allocation of Python's memory that fails, wherever that is, in a process with no other thread.

The allocation is one of the whole process: where another thread gets to run, that of a thread of pytest-xdist may fail,
and ends it.
"""

import functools
import gc
import importlib
import multiprocessing
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

import pytest

P = ParamSpec("P")
T = TypeVar("T")


class NoMemory:
    """What stands for the value of a call that ended with a MemoryError."""


NO_MEMORY: Final = NoMemory()


def in_a_process_alone(test: Callable[P, None]) -> Callable[P, None]:
    """Let a test run in a forked process, which has the thread of the test and no other; its failure goes to stderr."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        pytest.importorskip("_testcapi", reason="this Python can't let an allocation fail")
        child = multiprocessing.get_context("fork").Process(target=test, args=args, kwargs=kwargs)
        child.start()
        child.join()
        assert child.exitcode == 0

    return run


def call_without_memory(number: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | NoMemory:
    """Call a function with this allocation failing, counted from 0; return its value, or NO_MEMORY."""
    testing = importlib.import_module("_testcapi")
    if multiprocessing.parent_process() is None:
        raise RuntimeError("the allocation of another thread could fail: mark the test with @in_a_process_alone")
    gc.disable()
    testing.set_nomemory(number, number + 1)
    try:
        return function(*args, **kwargs)
    except MemoryError:
        return NO_MEMORY
    finally:
        testing.remove_mem_hooks()
        gc.enable()

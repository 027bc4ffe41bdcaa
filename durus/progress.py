"""How long work reports its progress, and how much of it is one step."""

from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

from durus.error import DurusError

T = TypeVar("T")

STEP_REFS = 1000
"""How many references one step examines, at most."""
STEP_RECORDS = 100
"""How many records one step handles, at most."""


class Progress(NamedTuple):
    """How far a pack or a backup has come."""

    phase: str
    """"mark", "copy", or "follow" for the commits made meanwhile; in SQLite "mark" and "remove"; in a backup "copy" and
    "check"."""
    done: int
    """How many objects (mark, copy, remove) or bytes (follow, and in a backup) this phase has handled."""
    total: int | None
    """The value of `done` at the end of the phase, None if that is not known."""


class Work(Generic[T]):
    """Work that is done in steps, and has a result after the last one."""

    _result: T | None = None

    def steps(self) -> Iterator[Progress]:
        """Do the work, one step at a time."""
        raise NotImplementedError

    def finish(self) -> T:
        """Do all steps, and return the result."""
        for _ in self.steps():
            pass
        return self.result

    @property
    def result(self) -> T:
        """The result of the steps."""
        if self._result is None:
            raise DurusError(f"{type(self).__name__}: there is no result before the last step; call finish()")
        return self._result

"""How long work reports its progress, and how much of it is one step."""

from typing import NamedTuple

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

"""How a long piece of work tells how far it has come, and how much of it is one step."""

from typing import NamedTuple

STEP_REFS = 1000
"""How many references one step looks at, at the most."""
STEP_RECORDS = 100
"""How many records one step handles, at the most."""


class Progress(NamedTuple):
    """How far a pack or a backup has come."""

    phase: str
    """"mark", "copy" or "follow": taking over what was committed meanwhile; in SQLite "mark" and "remove"; in a backup
    "copy" and "check"."""
    done: int
    """Objects (mark, copy, remove) or bytes (follow, and in a backup) that were handled in this phase."""
    total: int | None
    """What `done` comes to at the end of the phase, None where that is not known."""

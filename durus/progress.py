"""How a long piece of work tells how far it has come."""

from typing import NamedTuple


class Progress(NamedTuple):
    """How far a pack has come."""

    phase: str
    """"mark", "copy" or "follow": taking over what was committed meanwhile; in SQLite "mark" and "remove"."""
    done: int
    """Objects (mark, copy, remove) or bytes (follow) that were handled in this phase."""
    total: int | None
    """What `done` comes to at the end of the phase, None where that is not known."""

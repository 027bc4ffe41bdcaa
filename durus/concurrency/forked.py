"""How a forked process releases what its parent holds open. Statement SHELF-53.

It does so without any effect on the parent: no unlock, no file removed, nothing sent.
"""

import os
from typing import Protocol
from weakref import WeakSet


class Held(Protocol):
    """What must not be used, closed or removed by a child of the process that made it."""

    def leave_to_parent(self) -> None:
        """Release it, in the child right after the fork."""


_held: WeakSet[Held] = WeakSet()


def note_held(held: Held) -> None:
    """Have every child that this process forks from now on release `held`."""
    _held.add(held)


def _leave_to_parent() -> None:
    for held in list(_held):
        held.leave_to_parent()
    _held.clear()


os.register_at_fork(after_in_child=_leave_to_parent)

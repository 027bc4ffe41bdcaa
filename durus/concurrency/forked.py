"""What a process that was forked does with what its parent holds open. Statement SHELF-53.

It gives it up, without a word to the operating system or to others that the parent would feel.
"""

import os
from typing import Protocol
from weakref import WeakSet


class Held(Protocol):
    """What must not be used, closed or removed by a child of the process that made it."""

    def leave_to_parent(self) -> None:
        """In the child, right after the fork: give it up."""


_held: WeakSet[Held] = WeakSet()


def note_held(held: Held) -> None:
    """Have `held` given up by every child that this process forks from now on."""
    _held.add(held)


def _leave_to_parent() -> None:
    for held in list(_held):
        held.leave_to_parent()
    _held.clear()


os.register_at_fork(after_in_child=_leave_to_parent)

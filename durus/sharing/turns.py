"""Whose turn it is to send a commit, and for how long others wait for that. Statements TXN-21, TXN-42 to TXN-44.

No clock here: the caller gives one.  With a clock that stands still a turn lasts until it ends.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

EXCLUSIVE_SECONDS = 0.2
"""For how long others wait for a client that sends nothing. [TXN-42]"""
BYTES_PER_SECOND = 1 << 23
"""Bytes a second: for so many others wait a second more. [TXN-42]"""
SECONDS_EARNED = 0.01
"""Seconds of waiting in vain that a commit makes up for. [TXN-43]"""
LOSSES_FOR_LONGER_TURN = 2
"""After how many lost commits in a row a client gets a longer turn. [TXN-44]"""
LONGER_FACTOR = 10
MAX_LONGER_FACTOR = 40
"""How many times as long a longer turn is, at first and at the most. [TXN-44]"""
LONGER_SECONDS_EARNED = 0.02
"""Seconds of longer turns that a commit makes up for. [TXN-44]"""


@dataclass(eq=False)
class Standing:
    """What the turns of a client have come to so far."""

    has_committed: bool = False
    losses: int = 0
    """Its commits that came too late, since it last had one taken."""
    has_stalled: bool = False
    """Its turn was passed on since it last had a commit taken."""


@dataclass(eq=False)
class Turn:
    """The turn of a client: waited for, then had; exclusive until it is passed on."""

    standing: Standing
    grant: Callable[[], None]
    """Called when it comes."""
    is_granted: bool = False
    received: int = 0
    """Bytes that its client has sent in it."""
    seconds: float = 0
    rate: float = BYTES_PER_SECOND
    began: float = 0
    is_longer: bool = False
    lease: float | None = None
    """For how many seconds it is exclusive, whatever its client sends; None for the usual time. [TXN-46]"""


class Turns:
    """The turn that is exclusive now, and the line of those that wait."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._line: deque[Turn] = deque()
        self.holder: Turn | None = None
        self._allowances = {False: EXCLUSIVE_SECONDS, True: EXCLUSIVE_SECONDS}
        """How many seconds others may still wait in vain, for clients without a commit and with one. [TXN-43]"""
        self._longer_allowance = 0.0
        self._waited_since = 0.0
        """Since when somebody waits for the holder."""

    def ask(self, turn: Turn) -> None:
        """Put a turn into the line."""
        if not self._line:
            self._waited_since = self._clock()
        self._line.append(turn)
        self.pass_on()

    def ask_again_first(self, turn: Turn, finish: Callable[[], None]) -> None:
        """Have a turn that was passed on be the next in the line; `finish` is called, to end it, when it comes."""
        turn.is_granted, turn.grant = False, finish
        if not self._line:
            self._waited_since = self._clock()
        self._line.appendleft(turn)
        self.pass_on()

    def end(self, turn: Turn, has_committed: bool) -> None:
        """End a turn, or ask no longer for it."""
        if has_committed:
            for kind in self._allowances:
                self._allowances[kind] = min(EXCLUSIVE_SECONDS, self._allowances[kind] + SECONDS_EARNED)
            self._longer_allowance = min(0.0, self._longer_allowance + LONGER_SECONDS_EARNED)
            turn.standing.losses, turn.standing.has_stalled, turn.standing.has_committed = 0, False, True
        if turn is self.holder:
            self._charge(turn, has_committed)
            self.holder = None
            self.pass_on()
        elif not turn.is_granted:
            self._line.remove(turn)

    def seconds_left(self) -> float | None:
        """Return in how many seconds pass_on() is to be called, None if nobody waits."""
        if self.holder is None or not self._line:
            return None
        turn = self.holder
        return turn.began + turn.seconds + turn.received / turn.rate - self._clock()

    def pass_on(self) -> None:
        """Give the next client its turn, and the one after that, as long as the one before is free or has lasted."""
        while self._line and (self.holder is None or (self.seconds_left() or 0) <= 0):
            if self.holder is not None:
                self.holder.standing.has_stalled = True
                self._charge(self.holder, has_committed=False)
            self.holder = self._line.popleft()
            self._begin(self.holder)

    def _begin(self, turn: Turn) -> None:
        turn.is_granted, turn.is_longer = True, False
        turn.began = self._waited_since = self._clock()
        losses = turn.standing.losses
        if turn.lease is not None and self._longer_allowance >= 0:
            turn.seconds, turn.rate = turn.lease, inf
        elif losses >= LOSSES_FOR_LONGER_TURN and self._longer_allowance >= 0:
            times = min(LONGER_FACTOR * 2 ** (losses - LOSSES_FOR_LONGER_TURN), MAX_LONGER_FACTOR)
            turn.is_longer, turn.seconds, turn.rate = True, EXCLUSIVE_SECONDS * times, BYTES_PER_SECOND / times
        elif self._allowances[turn.standing.has_committed] > 0 and not turn.standing.has_stalled:
            turn.seconds = EXCLUSIVE_SECONDS
        else:
            turn.rate = inf
        turn.grant()

    def _charge(self, turn: Turn, has_committed: bool) -> None:
        """Count how long others have waited for a turn, if that was in vain."""
        waited = self._clock() - max(turn.began, self._waited_since) if self._line else 0
        if turn.lease is not None:
            self._longer_allowance -= waited
        elif turn.is_longer:
            self._longer_allowance -= waited
            turn.standing.losses = 0
        elif not has_committed:
            self._allowances[turn.standing.has_committed] -= waited

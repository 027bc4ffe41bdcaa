"""Whose turn it is to send a commit, and how long others wait for it. Statements TXN-21, TXN-42 to TXN-44.

There is no clock here: the caller gives one. With a stopped clock, a turn lasts until its client ends it.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

EXCLUSIVE_SECONDS = 0.2
"""How many seconds others wait for a client that sends nothing. [TXN-42]"""
BYTES_PER_SECOND = 1 << 23
"""Bytes per second: for each such amount that a client sends, others wait one second longer. [TXN-42]"""
SECONDS_EARNED = 0.01
"""For how many seconds of waiting in vain one commit makes up. [TXN-43]"""
LOSSES_FOR_LONGER_TURN = 2
"""After how many lost commits in a row a client gets a longer turn. [TXN-44]"""
LONGER_FACTOR = 10
MAX_LONGER_FACTOR = 40
"""How many times as long a longer turn is, at first and at most. [TXN-44]"""
LONGER_SECONDS_EARNED = 0.02
"""For how many seconds of longer turns one commit makes up. [TXN-44]"""


@dataclass(eq=False)
class Standing:
    """The history of a client's turns."""

    has_committed: bool = False
    losses: int = 0
    """How many of its commits came too late since its last accepted one."""
    has_stalled: bool = False
    """True if its turn was passed on since its last accepted commit."""


@dataclass(eq=False)
class Turn:
    """The turn of a client: first it waits, then it is exclusive, until it ends or is passed on."""

    standing: Standing
    grant: Callable[[], None]
    """Called when the turn comes."""
    is_granted: bool = False
    received: int = 0
    """How many bytes the client has sent in this turn."""
    seconds: float = 0
    rate: float = BYTES_PER_SECOND
    began: float = 0
    is_longer: bool = False
    lease: float | None = None
    """For how many seconds it is exclusive, whatever its client sends; None for the usual time. [TXN-46]"""


class Turns:
    """The exclusive turn, and the line of the turns that wait."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.line: deque[Turn] = deque()
        """The turns that wait."""
        self.holder: Turn | None = None
        self._allowances = {False: EXCLUSIVE_SECONDS, True: EXCLUSIVE_SECONDS}
        """How many seconds others may wait in vain, for clients without an accepted commit and with one. [TXN-43]"""
        self._longer_allowance = 0.0
        self._waited_since = 0.0
        """When the wait for the holder began."""

    def ask(self, turn: Turn) -> None:
        """Put a turn at the end of the line."""
        if not self.line:
            self._waited_since = self._clock()
        self.line.append(turn)
        self.pass_on()

    def ask_again_first(self, turn: Turn, finish: Callable[[], None]) -> None:
        """Put a turn that was passed on at the front of the line; `finish` is called when it comes, to end it."""
        turn.is_granted, turn.grant = False, finish
        if not self.line:
            self._waited_since = self._clock()
        self.line.appendleft(turn)
        self.pass_on()

    def end(self, turn: Turn, has_committed: bool) -> None:
        """End a turn, or take it out of the line."""
        if has_committed:
            self.note_commit(turn.standing)
        if turn is self.holder:
            self._charge(turn, has_committed)
            self.holder = None
            self.pass_on()
        elif not turn.is_granted:
            self.line.remove(turn)

    def note_commit(self, standing: Standing) -> None:
        """Note an accepted commit, which makes up for some waiting in vain. [TXN-43] [TXN-44]"""
        for kind in self._allowances:
            self._allowances[kind] = min(EXCLUSIVE_SECONDS, self._allowances[kind] + SECONDS_EARNED)
        self._longer_allowance = min(0.0, self._longer_allowance + LONGER_SECONDS_EARNED)
        standing.losses, standing.has_stalled, standing.has_committed = 0, False, True

    @property
    def is_free(self) -> bool:
        """True if nobody has the turn, or waits for it."""
        return self.holder is None and not self.line

    def seconds_left(self) -> float | None:
        """Return in how many seconds to call pass_on(), None if nobody waits."""
        if self.holder is None or not self.line:
            return None
        turn = self.holder
        return turn.began + turn.seconds + turn.received / turn.rate - self._clock()

    def pass_on(self) -> None:
        """Give the turn to the next in the line, and so on, as long as the turn before has ended or lasted too long."""
        while self.line and (self.holder is None or (self.seconds_left() or 0) <= 0):
            if self.holder is not None:
                self.holder.standing.has_stalled = True
                self._charge(self.holder, has_committed=False)
            self.holder = self.line.popleft()
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
        """Count how long others have waited for a turn, if they waited in vain."""
        waited = self._clock() - max(turn.began, self._waited_since) if self.line else 0
        if turn.lease is not None:
            self._longer_allowance -= max(0.0, waited - EXCLUSIVE_SECONDS) if has_committed else waited
        elif turn.is_longer:
            self._longer_allowance -= waited
            turn.standing.losses = 0
        elif not has_committed:
            self._allowances[turn.standing.has_committed] -= waited

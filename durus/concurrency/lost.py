"""Holders of a turn that nobody can use any more. Statement DB-12.

A connection and its objects are a cycle, so one that was lost by an interrupt, with its turn, ends when the collector
finds it. Threads that all wait for that turn make no garbage, and so would never set the collector off.
"""

import gc
import time

SECONDS = 5.0
"""How long somebody waits before lost holders are looked for, and how long it is until they are looked for again."""


class LostHolders:
    """Has the collector look for lost holders once in a while."""

    def __init__(self) -> None:
        self._looked = time.monotonic()

    def look(self, waiting_since: float) -> None:
        """Look for them if it is time for that; `waiting_since` is when the caller began to wait, by monotonic()."""
        now = time.monotonic()
        if now - max(waiting_since, self._looked) >= SECONDS:
            self._looked = now
            gc.collect()

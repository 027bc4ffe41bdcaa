"""Finds holders of a turn that nobody can use any more. Statement DB-12.

A connection and its objects form a cycle. One that was lost by an interrupt keeps its turn until the garbage collector
finds it. Threads that all wait for that turn create no garbage, and so would never trigger the collector.
"""

import gc
import time

SECONDS = 5.0
"""How long a waiter waits before it looks for lost holders, and between two searches."""


class LostHolders:
    """Runs the collector once in a while to find lost holders."""

    def __init__(self) -> None:
        self._looked = time.monotonic()

    def look(self, waiting_since: float) -> None:
        """Look for them if it is time to, and warn if that has not helped.

        `waiting_since` is when the caller began to wait, by monotonic().
        """
        now = time.monotonic()
        if now - max(waiting_since, self._looked) >= SECONDS:
            self._looked = now
            gc.collect()
            if now - waiting_since >= 2 * SECONDS:  # the collector had the chance to end it
                from durus.logger import logger  # only when used, because of its imports

                logger.warning(
                    "a commit has waited %.0f s for its turn: another transaction of this process keeps it; if that is "
                    "an exclusive one that waits for this thread, both wait forever",
                    now - waiting_since,
                )

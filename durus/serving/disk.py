"""Writes the commits of a server: in its loop while the disk is fast, in a thread when it is slow.

An fsync of a tenth of a millisecond is over before another thread would have woken; a longer one must not keep the
loop from answering other clients.
"""

import concurrent.futures
import time
from collections import deque
from collections.abc import Callable

MAX_SECONDS_IN_LOOP = 0.001
"""Writes are done in the loop while the median of the latest ones is below this."""
_SECONDS_TOO_LONG = 0.01
"""After a longer write, the next ones are done in the thread."""
_REMEMBERED = 16
MAX_BYTES_IN_LOOP = 1 << 18
"""Longer commits are always written by the thread."""


class Disk:
    """Writes commits one after the other, and measures how long that takes."""

    def __init__(self) -> None:
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "durus-disk")
        self._seconds: deque[float] = deque(maxlen=_REMEMBERED)
        self.latest = 0.0
        """How many seconds the latest write took."""

    def is_fast_for(self, size: int) -> bool:
        """Whether this many bytes can be written in the loop; the first writes, without measurements, are not."""
        if size > MAX_BYTES_IN_LOOP or len(self._seconds) < _REMEMBERED:
            return False
        times = sorted(self._seconds)
        return times[_REMEMBERED // 2] <= MAX_SECONDS_IN_LOOP and times[-1] <= _SECONDS_TOO_LONG

    def write(self, write: Callable[[], None]) -> None:
        """Write in the loop, now."""
        began = time.perf_counter()
        try:
            write()
        finally:
            self.latest = time.perf_counter() - began
            self._seconds.append(self.latest)

    def submit(self, write: Callable[[], None]) -> "concurrent.futures.Future[None]":
        """Write in the thread."""
        return self._thread.submit(self.write, write)

    def close(self) -> None:
        """Wait for the end of the thread."""
        self._thread.shutdown()

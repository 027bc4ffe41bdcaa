"""How far a long piece of work is, on the terminal."""

import sys
import time
from collections.abc import Iterable

from durus.progress import Progress

_SECONDS_BETWEEN_LINES = 0.1


def show_progress(steps: Iterable[Progress]) -> None:
    """Go through the steps, with a line on stderr that tells how far they are, if that is a terminal."""
    if not sys.stderr.isatty():
        for _ in steps:
            pass
        return
    shown_at = 0.0
    try:
        for progress in steps:
            if time.monotonic() - shown_at >= _SECONDS_BETWEEN_LINES:
                shown_at = time.monotonic()
                total = "" if progress.total is None else f" of {progress.total}"
                print(f"\r{progress.phase}: {progress.done}{total}\x1b[K", end="", file=sys.stderr, flush=True)
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)

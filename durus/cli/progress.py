"""Shows the progress of long work on stderr. Statement CMD-21."""

import os
import sys
import time
from collections.abc import Iterable, Iterator

from durus.progress import Progress

_SECONDS_BETWEEN_UPDATES = 0.1
_SECONDS_BETWEEN_LINES = 10.0


def show_progress(steps: Iterable[Progress]) -> None:
    """Run the steps and show their progress: a bar, a line that is overwritten, or a line now and then."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        shown = _show_lines(steps)
    else:
        try:
            from durus.cli.progress_bar import show_bar
        except ImportError:
            shown = _show_one_line(steps)
        else:
            shown = show_bar(sample(steps, _SECONDS_BETWEEN_UPDATES))
    for _ in shown:
        pass


def sample(steps: Iterable[Progress], seconds: float, *, at_once: bool = True) -> Iterator[Progress]:
    """Run all steps, and yield one of them whenever this many seconds have passed."""
    next_time = time.monotonic() + (0 if at_once else seconds)
    for progress in steps:
        now = time.monotonic()
        if now >= next_time:
            next_time = now + seconds
            yield progress


def _show_lines(steps: Iterable[Progress]) -> Iterator[None]:
    for progress in sample(steps, _SECONDS_BETWEEN_LINES, at_once=False):
        print(f"durus: {_text(progress)}", file=sys.stderr, flush=True)
        yield


def _show_one_line(steps: Iterable[Progress]) -> Iterator[None]:
    try:
        for progress in sample(steps, _SECONDS_BETWEEN_UPDATES):
            print(f"\r{_text(progress)}\x1b[K", end="", file=sys.stderr, flush=True)
            yield
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _text(progress: Progress) -> str:
    total = "" if progress.total is None else f" of {progress.total}"
    return f"{progress.phase}: {progress.done}{total}"

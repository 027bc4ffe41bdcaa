"""The peak memory of this process, from a moment on. Linux tells it."""

import contextlib
import gc
from collections.abc import Iterator
from pathlib import Path

_PROCESS = Path("/proc/self")


class Peak:
    """How many bytes the work has added at its peak; known after its end."""

    added = 0


@contextlib.contextmanager
def peak_memory() -> Iterator[Peak]:
    """Measure the work of a with statement. What was allocated and freed before can hide a part of its memory."""
    peak = Peak()
    gc.collect()
    (_PROCESS / "clear_refs").write_text("5")  # the peak starts over. proc(5)
    before = _status("VmRSS")
    yield peak
    peak.added = max(0, _status("VmHWM") - before)


def _status(name: str) -> int:
    """Return a number of bytes from the status of this process."""
    lines = (_PROCESS / "status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(f"{name}:")]
    return 1024 * int(line.split()[1])

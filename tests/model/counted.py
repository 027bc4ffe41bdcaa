"""A server that says what it holds: `python tests/model/counted.py FILE [durus' arguments]`.

For each SIGUSR1, it replaces FILE with figures in JSON: what it has in memory, and how many objects of each type.
"""

import ctypes
import gc
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path

if not __package__:  # this folder must not hide modules of others
    sys.path[0] = str(Path(__file__).parents[2])

from durus.cli.main import main


class _MallInfo(ctypes.Structure):
    """What mallinfo2() of glibc returns."""

    _names = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    _fields_ = [(name, ctypes.c_size_t) for name in _names]


def _malloc_bytes() -> int:
    """Return how many bytes malloc() has given out, without Python's own pools; 0 if the system can't tell."""
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return 0
    mallinfo2.restype = _MallInfo
    info = mallinfo2()
    return int(info.uordblks + info.hblkhd)


def _tell(path: Path) -> None:
    for _ in range(3):  # what the first one frees may have held more
        gc.collect()
    # Each `case` with a class may leave a name in the cache of types, up to 4096 of them.
    if sys.version_info >= (3, 13):
        sys._clear_internal_caches()
    else:
        sys._clear_type_cache()
    figures = {
        "blocks": sys.getallocatedblocks(),
        "bytes": _malloc_bytes(),
        "types": Counter(type(each).__name__ for each in gc.get_objects()),
    }
    new = path.with_suffix(".new")
    new.write_text(json.dumps(figures))
    os.replace(new, path)


if __name__ == "__main__":
    told = Path(sys.argv.pop(1))
    signal.signal(signal.SIGUSR1, lambda number, frame: _tell(told))
    sys.exit(main())

"""One flipped bit in each byte of a file of 1,000 objects, in turn: salvage puts it back. Statements SALV-4 and SALV-7.

A seed stands for the next _BYTES of the file; after the last ones come the first ones, with the next bit of each byte.
`python -m tests.model.deep flips --seed 0 --seconds 7200` begins with the first byte.
"""

from collections import Counter
from functools import cache
from unittest import mock

from durus.connection import Connection
from durus.file_storage import FileStorage
from durus.persistent import Persistent
from tests.salvaging import Original, check_flip

OBJECTS = 1000
_BYTES = 100
_CHANGED = 10


class Leaf(Persistent):
    """One of the objects."""

    def __init__(self, text: str) -> None:
        self.text = text


def run(seed: int) -> Counter[str]:
    """Flip a bit in each of the bytes that the seed stands for, one after the other."""
    original = _original()
    size = len(original.data)
    turn, stretch = divmod(seed, -(-size // _BYTES))
    offsets = range(stretch * _BYTES, min((stretch + 1) * _BYTES, size))
    with mock.patch("durus.tools.salvage.utc_now", return_value="2026-01-01T00:00:00.000000Z"):
        # With one time, the new files are the same for most bytes, and each is read and checked once.
        for offset in offsets:
            check_flip(original, offset, (offset + turn) % 8)
    return Counter({"flipped bits": len(offsets), f"times the {size:,} bytes begun": int(stretch == 0)})


@cache
def _original() -> Original:
    original = Original(_fill)
    assert len(original.newest) == OBJECTS
    return original


def _fill(storage: FileStorage) -> None:
    """Make a packed part with all objects, and commits after it that change some."""
    connection = Connection(storage)
    leaves = [Leaf(str(number)) for number in range(OBJECTS - 1)]
    connection.get_root()["leaves"] = leaves
    connection.commit()
    storage.pack()
    for leaf in leaves[:: OBJECTS // _CHANGED]:
        leaf.text = "later"
        connection.commit()

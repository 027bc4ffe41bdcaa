"""The layout of DFS20 files. Statements DFS-1 to DFS-7.

Bytes in, values out; nothing here reads or writes a file.
"""

import io
import pickle
import struct
import zlib
from collections.abc import Iterable

from durus.records.pickle_work import check_work, fits
from durus.records.stored_state import decompress_state

NAME = "DFS20"
MAGIC = b"DFS20\0"
U32 = struct.Struct(">I")
U64 = struct.Struct(">Q")
BASE_START = len(MAGIC) + U64.size
"""Where the packed part starts."""

END = U32.pack(0)
"""The end of a transaction."""

ENTRY_HEAD = struct.Struct(">I8sI")
"""The first bytes of an object entry: its length, then the oid and the data length of its record."""

SMALLEST_RECORD = ENTRY_HEAD.size - U32.size


def entry_fits(length: int, data_size: int) -> bool:
    """Return whether an entry of this length can hold a record with this much data. [REC-5]"""
    refs_size = length - SMALLEST_RECORD - data_size
    return data_size > 0 and refs_size >= 0 and refs_size % 8 == 0


class IndexPickle:
    """Creates an index record piece by piece, because a large one takes long. [DFS-4]"""

    def __init__(self) -> None:
        self._compressor = zlib.compressobj()
        self._pieces = [self._compressor.compress(b"\x80\x04}")]

    def add(self, offsets: Iterable[tuple[bytes, int]]) -> None:
        """Add some pairs of an oid and an offset."""
        items = b"".join(b"C\x08" + oid + b"\x8a\x08" + offset.to_bytes(8, "little") for oid, offset in offsets)
        self._pieces.append(self._compressor.compress(b"(" + items + b"u"))

    def record(self) -> bytes:
        """Return the record of all pairs that were added."""
        self._pieces += [self._compressor.compress(b"."), self._compressor.flush()]
        stream = b"".join(self._pieces)
        return U64.pack(len(stream)) + stream


EMPTY_FILE = MAGIC + U64.pack(BASE_START) + IndexPickle().record()
"""The bytes of a file without any object. [DFS-7]"""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        raise pickle.UnpicklingError(f"it names {module}.{name}, which an index must not name")


def parse_index(stream: bytes) -> dict[bytes, int]:
    """Return the content of the zlib stream of an index record; ValueError if it is not an index. [DFS-4] [DFS-6]"""
    try:
        pickled = decompress_state(stream)
        if pickled is stream:
            raise ValueError("it is not a zlib stream")
        if not fits(pickled, True):
            check_work(pickled, True)
        file = io.BytesIO(pickled)
        unpickled: object = _Unpickler(file, encoding="latin-1").load()
        if file.tell() != len(pickled):
            raise ValueError(f"{len(pickled) - file.tell()} bytes follow it")
    except Exception as error:  # unpickling anything other than a pickle can raise anything
        raise ValueError(f"it can't be read: {type(error).__name__}: {error}") from error
    if not isinstance(unpickled, dict):
        raise ValueError(f"it holds a {type(unpickled).__name__}, not a dict")
    index: dict[bytes, int] = {}
    for key, offset in unpickled.items():
        oid = key.encode("latin-1") if isinstance(key, str) else key
        if not (isinstance(oid, bytes) and len(oid) == 8 and isinstance(offset, int)):
            raise ValueError(f"it leads from {key!r} to {offset!r}, where an oid leads to an offset")
        index[oid] = offset
    return index

"""Lists as parameters, in the binary form of an array: what psycopg makes of a list takes longer than the statement.

ndim, has_nulls, the type of the elements, their number, the first index; then, for each, its length and its bytes
"""

import struct
from itertools import repeat

from psycopg.abc import AdaptContext, PyFormat
from psycopg.adapt import Dumper
from psycopg.pq import Format

_EMPTY = struct.Struct(">iiI")
_HEADER = struct.Struct(">iiIii")
_NUMBER = struct.Struct(">iq")
_LENGTH = struct.Struct(">i")
_TYPES = {int: (20, 1016), bytes: (17, 1001), str: (25, 1009)}
"""The types of bigint, bytea and text, and of arrays of them, by the class of the elements."""


class ListDumper(Dumper):
    """Encodes a list of int as bigint[], one of bytes as bytea[], and one of str as text[]."""

    format = Format.BINARY

    def __init__(self, cls: type, context: AdaptContext | None = None, element: type = int) -> None:
        super().__init__(cls, context)
        self._type, self.oid = _TYPES[element]
        self._element = element

    def get_key(self, obj: object, format: PyFormat) -> tuple[type, type]:
        return list, _class_of(obj)

    def upgrade(self, obj: object, format: PyFormat) -> "ListDumper":
        element = _class_of(obj)
        return self if element is self._element else ListDumper(self.cls, None, element)

    def dump(self, obj: list[int] | list[bytes] | list[str]) -> bytes:
        if not obj:
            return _EMPTY.pack(0, 0, self._type)
        parts = [_HEADER.pack(1, 0, self._type, len(obj), 1)]
        if self._element is int:
            parts += map(_NUMBER.pack, repeat(8), obj)
        else:
            for each in obj:
                data = each if isinstance(each, bytes) else str(each).encode()
                parts += _LENGTH.pack(len(data)), data
        return b"".join(parts)


def _class_of(obj: object) -> type:
    return type(obj[0]) if isinstance(obj, list) and obj else int

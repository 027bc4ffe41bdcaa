"""Where the newest entry of each oid is in a file, as far as no offset map of the file says so.

A file may have millions of unpacked objects, so they are kept and handed over in few bytes: a place is an oid and
the file offset of an entry of it, in 16 bytes.
"""

import struct
from typing import TYPE_CHECKING

from durus.implementation import implementation

PLACE = struct.Struct(">8sQ")
"""An oid, and the file offset of an entry."""


class EntryIndex(dict[bytes, int]):
    """The file offset of the newest entry of each oid."""

    def add(self, places: bytes | bytearray) -> None:
        """Take places in the order of the file: the last one of an oid counts."""
        self.update(PLACE.iter_unpack(places))

    def places(self) -> bytes:
        """Return the places of all oids, in the order of the file."""
        pairs = sorted(self.items(), key=lambda pair: pair[1])
        return b"".join(PLACE.pack(oid, offset) for oid, offset in pairs)

    def count_below(self, oid: bytes) -> int:
        """Return how many oids are below this one."""
        return sum(map(oid.__gt__, self))


if not TYPE_CHECKING and implementation == "C":
    from durus import _persistent

    EntryIndex = _persistent.EntryIndex

"""Which records a server sends before they are asked for. Statements WIRE2-11 and WIRE2-13.

The server remembers, as a guess, which records a client has: those that it sent and that have not changed since.  A
guess that is wrong costs time and nothing else.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable

from durus.records.record import split_oids, unpack_record
from durus.sharing.oid_grants import OidGrants

_MAX_BLOCKS = 512
"""How many blocks of a bitmap the memory of what a client has may take, up to 100 KB."""
_LOOKED_AT = 4
"""How many references are looked at for each record that may be sent."""

Load = Callable[[bytes], bytes | None]
"""Returns the record that the client may see now, None if there is none or it would have to wait."""


class Ahead:
    """What one client seems to have."""

    def __init__(self) -> None:
        self._sent = OidGrants()

    def note_sent(self, oid: bytes) -> None:
        """Note that the client got a record that it asked for."""
        if oid in self._sent:
            self._sent = OidGrants()  # it asks for what it had, so it has dropped states
        self._add([oid])

    def note_stored(self, oids: Collection[bytes]) -> None:
        """Note that the client has these, since it has committed them."""
        self._add(oid for oid in oids if oid not in self._sent)

    def _add(self, oids: Iterable[bytes]) -> None:
        """Note oids, none of which is noted; when that would take too much memory, begin anew."""
        if self._sent.block_count >= _MAX_BLOCKS:
            self._sent = OidGrants()
        self._sent.add(oids)

    def take_changed(self, invalid: list[bytes] | None, count: int, size: int, load: Load) -> list[bytes]:
        """Return the records of some invalid oids that the client had, as they are now; it has the others no more."""
        if invalid is None:
            self._sent = OidGrants()
            return []
        had = [oid for oid in invalid if oid in self._sent] if self._sent.count else []
        found: list[bytes] = []
        for oid in had:
            record = load(oid) if len(found) < count and size > 0 else None
            if record is None:
                self._sent.discard([oid])
            else:
                size -= len(record)
                found.append(record)
        return found

    def follow(self, records: list[bytes], count: int, size: int, load: Load) -> list[bytes]:
        """Return records that these refer to, breadth first, without what the client seems to have."""
        found: list[bytes] = []
        pending = deque(records)
        looked_at = count * _LOOKED_AT
        while pending:
            for oid in split_oids(unpack_record(pending.popleft())[2]):
                looked_at -= 1
                if len(found) >= count or size <= 0 or looked_at < 0:
                    return found
                if oid in self._sent:
                    continue
                record = load(oid)
                if record is not None:
                    size -= len(record)
                    self._add([oid])
                    found.append(record)
                    pending.append(record)
        return found

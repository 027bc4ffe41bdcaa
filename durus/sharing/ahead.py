"""Chooses the records that a server sends before a client asks for them. Statements WIRE2-11 and WIRE2-13.

The server guesses which records a client has: those that it has sent and that have not changed since. A wrong guess
only costs time. What has come with a sync point counts only when the client has asked for it, stored it or had a
conflict over it: otherwise each change of an object that it never uses would be sent to it.
"""

from collections import deque
from collections.abc import Callable, Collection
from itertools import islice

from durus.oid_array import OidArray
from durus.records.record import refs_of_sound
from durus.sharing.oid_grants import OidGrants

_MAX_BLOCKS = 512
"""The most blocks of a bitmap for what one client has, up to 100 KB."""
_NOTED_AT_A_TIME = 128
_LOOKED_AT = 4
"""How many references are examined for each record that may be sent."""

Load = Callable[[bytes], bytes | None]
"""Returns the record that the client may see now, None if there is none or the client would have to wait for it."""


class Ahead:
    """The records that one client seems to have."""

    def __init__(self) -> None:
        self._sent = OidGrants()

    def note_sent(self, oids: list[bytes]) -> None:
        """Note that the client got records that it asked for."""
        for start in range(0, len(oids), _NOTED_AT_A_TIME):
            some = oids[start : start + _NOTED_AT_A_TIME]
            if self._sent.block_count + len(some) > _MAX_BLOCKS:
                self._sent = OidGrants()
            if not self._sent.add_all_new(some):
                self._sent = OidGrants()  # it asks for a record that it had, so it has dropped states
                self.note_stored(some)

    def note_stored(self, oids: Collection[bytes]) -> None:
        """Note that the client has these records, because it has committed them, or is to have them."""
        for oid in oids:
            self._add(oid)

    def _add(self, oid: bytes) -> bool:
        """Note an oid, and return whether it is new; if that would take too much memory, forget all others."""
        if self._sent.block_count >= _MAX_BLOCKS:
            self._sent = OidGrants()
        return self._sent.add_new(oid)

    def having(self, oids: Collection[bytes]) -> list[bytes]:
        """Return which of these the client seems to have."""
        if self._sent.count < len(oids):
            changed = oids if isinstance(oids, OidArray) else set(oids)
            return [oid for oid in self._sent if oid in changed]
        return self._sent.among(oids)

    def take_changed(self, invalid: Collection[bytes] | None, count: int, size: int, load: Load) -> list[bytes]:
        """Return the current records of some invalid oids that the client had; it does not count as having any then."""
        if invalid is None:
            self._sent = OidGrants()
        if not invalid:
            return []
        had = self.having(invalid)
        self._sent.discard(had)
        found: list[bytes] = []
        for oid in had:
            if len(found) == count or size <= 0:
                break
            record = load(oid)
            if record is not None:
                size -= len(record)
                found.append(record)
        return found

    def wanted(self, records: list[bytes], count: int) -> list[bytes]:
        """Return what follow() begins with: references of these records that the client does not seem to have."""
        wanted = (oid for record in records for oid in refs_of_sound(record) if oid not in self._sent)
        return list(islice(wanted, count))

    def follow(self, records: list[bytes], count: int, size: int, load: Load) -> list[bytes]:
        """Return records that these refer to, breadth first, without those that the client seems to have."""
        found: list[bytes] = []
        pending = deque(records)
        looked_at = count * _LOOKED_AT
        while pending:
            for oid in refs_of_sound(pending.popleft()):
                looked_at -= 1
                if len(found) >= count or size <= 0 or looked_at < 0:
                    return found
                if not self._add(oid):
                    continue
                record = load(oid)
                if record is None or len(record) > size:
                    self._sent.discard([oid])
                else:
                    size -= len(record)
                    found.append(record)
                    pending.append(record)
        return found

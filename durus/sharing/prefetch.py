"""Which records to load ahead: the siblings of an object. Statement TXN-26.

The references of one object are a family, and so are the oids that a client of a server asks for together. An
application that loads one member often loads the next ones soon, so a load asks for these as well, and keeps their
records until somebody loads or invalidates them.
"""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator

from durus.records.record import refs_part

_FAMILIES = 256
_LOOKED_AT = 4
"""How many siblings are examined for each one that may be loaded ahead."""
_ANSWER_SIZE = 1 << 20
"""About how many bytes are loaded ahead with one record."""
_MAX_SIZE = 1 << 24
"""How many bytes of records that nobody has loaded yet are kept."""
_FIRST_GUESS = 1 << 16
"""The assumed length of a record, before any was loaded."""
_FIRST_AHEAD = 16
"""How many records a server is asked to send along at first."""
_JUDGED_FROM = 32
"""How many records must have come along before it is judged if they are of use."""


class Prefetch:
    """Loads up to `limit` siblings of each loaded object: what a recently loaded object refers to as well."""

    def __init__(self, limit: int) -> None:
        self.is_loaded: Callable[[bytes], bool] = lambda oid: False
        self.limit = limit
        self.ahead = min(limit, _FIRST_AHEAD)
        """How many records to ask for along with the next one: more if those that came were used, fewer if not."""
        self._came = self._used = 0
        """How many came along lately, and how many of them were used."""
        self._families: OrderedDict[bytes, int] = OrderedDict()
        """The references of recently loaded objects, in the order of their records, with how many of them to load ahead
        at a time; the most recently used is last."""
        self._records: dict[bytes, tuple[bytes, bytes]] = {}
        """The records loaded ahead, each with the family to which it belongs."""
        self._size = 0
        self._low = -1
        """How many records are left when half of those that came last are used."""
        self.runs_low = False
        """True if half of those are used, and no more were asked for since."""
        self._usual_size: float = _FIRST_GUESS
        """The average length of recent records."""

    def siblings(self, oid: bytes, limit: int | None = None) -> list[bytes]:
        """Return the oids to load along with this one, at most `limit`, or as many as their family is loaded by."""
        if not (self.limit if limit is None else limit):
            return []
        for family in reversed(self._families):
            if family[:8] <= oid <= family[-8:]:
                count = len(family) // 8
                index = bisect_left(range(count), oid, key=lambda i: family[8 * i : 8 * i + 8])
                if family[8 * index : 8 * index + 8] == oid:
                    self._families.move_to_end(family)
                    most = self._families[family] if limit is None else limit
                    return list(self._wanted(family, count, index, most))
        return []

    def _wanted(self, family: bytes, count: int, index: int, limit: int) -> Iterator[bytes]:
        """Yield the missing members of the family after `index`; the first one follows the last."""
        found = 0
        limit = min(limit, int(_ANSWER_SIZE / self._usual_size))
        for step in range(1, min(count, limit * _LOOKED_AT)):
            start = 8 * ((index + step) % count)
            oid = family[start : start + 8]
            if oid not in self._records and not self.is_loaded(oid):
                yield oid
                found += 1
                if found == limit:
                    return

    def add_siblings(self, found: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Keep the records of siblings(), pairs of oid and record; nothing for an oid without one."""
        family = next(reversed(self._families))
        for oid, record in found:
            if record and self._size + len(record) <= _MAX_SIZE:
                self._records[oid] = record, family
                self._size += len(record)

    def add_records(self, records: Iterable[bytes]) -> None:
        """Take in records that the server has sent along, as far as their objects are not loaded here already."""
        is_loaded, kept, size = self.is_loaded, self._records, self._size
        before = len(kept)
        for record in records:
            oid = record[:8]
            if not (oid in kept or is_loaded(oid) or size + len(record) > _MAX_SIZE):
                kept[oid] = record, b""
                size += len(record)
        self._size = size
        self._came += len(kept) - before
        self._low = (len(kept) + before) // 2
        self.runs_low = False

    def add_changed(self, records: Iterable[bytes]) -> None:
        """Take in records of objects that have changed, whose states here are to be dropped."""
        for record in records:
            oid = record[:8]
            if not (oid in self._records or self._size + len(record) > _MAX_SIZE):
                self._records[oid] = record, b""
                self._size += len(record)

    def adapt(self) -> None:
        """Choose how many records are to come along with the next one, by the use of those that came before."""
        if self._came >= _JUDGED_FROM:
            if 2 * self._used >= self._came:
                self.ahead = min(2 * self.ahead, self.limit)
            elif 8 * self._used < self._came:
                self.ahead = max(self.ahead // 2, min(self.limit, 1))
            self._came //= 2
            self._used //= 2

    def take(self, oid: bytes) -> bytes | None:
        """Return the record of this oid if it was loaded ahead, and forget it."""
        found = self._records.pop(oid, None)
        if found is None:
            return None
        record, family = found
        self._used += 1
        self._size -= len(record)
        if len(self._records) == self._low:
            self.runs_low = True
        if family in self._families:
            self._families.move_to_end(family)
        return record

    def forget(self, oids: Iterable[bytes]) -> None:
        """Forget the records of oids that are invalid, or that were committed here."""
        for oid in self._records.keys() & oids:
            record, _ = self._records.pop(oid)
            self._size -= len(record)

    def forget_all(self) -> None:
        """Forget all records, since any oid may be invalid."""
        self._records.clear()
        self._size = 0

    def note_loaded(self, record: bytes) -> None:
        """Remember what a loaded object refers to."""
        self._usual_size += (len(record) - self._usual_size) / 8
        family = refs_part(record)
        if len(family) > 8:
            self.note_family(family, self.limit)

    def note_family(self, family: bytes, at_a_time: int) -> None:
        """Remember oids, side by side and sorted, which are loaded one after the other, as many as this at a time."""
        if self.limit and len(family) > 8:
            self._families[family] = at_a_time
            self._families.move_to_end(family)
            if len(self._families) > _FAMILIES:
                self._families.popitem(last=False)

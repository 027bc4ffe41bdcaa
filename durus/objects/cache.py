"""The objects of one connection: one for each oid, some of them loaded, the others ghosts.

Statements OBJ-20 to OBJ-23.

If the C extension was built, _cache.c replaces the class. This one remains the reference for it.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING
from weakref import ref

from durus.error import ArgumentError
from durus.persistent import SAVED, ConnectionBase, PersistentObject, implementation, set_slot

_SWEEP_SLACK = 1000


class Cache:
    """The identity map of a connection, which holds about `size` objects in their loaded form."""

    def __init__(self, size: int) -> None:
        self._entries: dict[bytes, PersistentObject | ref[PersistentObject]] = {}
        """All objects in memory: loaded objects themselves, and weak references to ghosts, some of which may have been
        collected."""
        self._sweep_at = _SWEEP_SLACK
        self._loaded_count = 0
        self._oldest: list[tuple[int, bytes]] = []
        """Serials and oids of objects at the time this list was made, the least recently used last."""
        self._sizes: dict[bytes, int] = {}
        """The lengths of the records of objects, as far as they are known; some have left memory since then."""
        self.set_size(size)

    def get_size(self) -> int:
        """Return how many objects may stay loaded after the end of a transaction."""
        return self._size

    def set_size(self, size: int) -> None:
        """Set how many objects may stay loaded; ArgumentError unless it is at least 1."""
        if size < 1:
            raise ArgumentError(f"a cache of {size} objects is too small: it needs room for 1 at least")
        self._size = size

    def get_count(self) -> int:
        """Return how many objects are in memory, including ghosts."""
        self._sweep()
        return len(self._entries)

    def get_loaded_count(self) -> int:
        """Return how many objects are loaded."""
        return self._loaded_count

    def get(self, oid: bytes) -> PersistentObject | None:
        """Return the object of this oid if it is in memory."""
        found = self._entries.get(oid)
        return found() if isinstance(found, ref) else found

    def add(self, oid: bytes, obj: PersistentObject) -> None:
        """Add a ghost that was not in memory before."""
        self._entries[oid] = ref(obj)
        if len(self._entries) > self._sweep_at:
            self._sweep_and_wait()

    def _sweep_and_wait(self) -> None:
        """Sweep, and not again before there are many more oids than after that."""
        self._sweep()
        self._sweep_at = 2 * len(self._entries) + _SWEEP_SLACK

    def _sweep(self) -> None:
        """Remove the oids whose objects are no longer in memory."""
        for oid, found in self._entries.copy().items():  # because a finalizer may add others meanwhile
            if isinstance(found, ref) and found() is None and self._entries.get(oid) is found:
                del self._entries[oid]

    def note_loaded(self, oid: bytes, obj: PersistentObject) -> None:
        """Note that an object is loaded now."""
        found = self._entries.get(oid)
        if found is not obj:
            self._entries[oid] = obj
            self._loaded_count += found is None or isinstance(found, ref)

    def take_in(self, oid: bytes, obj: PersistentObject, connection: ConnectionBase) -> None:
        """Make a new object, which is stored now, the one of its oid; it counts as used in this transaction."""
        self.note_loaded(oid, obj)  # first, so that it is the object of its oid, whatever comes next
        set_slot(obj, "_p_oid", oid)
        set_slot(obj, "_p_connection", connection)
        set_slot(obj, "_p_serial", connection.transaction_serial)
        set_slot(obj, "_p_status", SAVED)

    def make_ghost(self, oid: bytes) -> None:
        """Drop the state of the object of this oid, if it is in memory."""
        obj = self.get(oid)
        if obj is not None:
            if self.is_loaded(oid):
                self._entries[oid] = ref(obj)
                self._loaded_count -= 1
            self._sizes.pop(oid, None)
            obj._p_set_status_ghost()

    def make_all_ghosts(self, connection: ConnectionBase) -> None:
        """Drop all states, and make each object one of this connection, wherever an interrupt has left it."""
        for oid, obj in self.objects().items():
            set_slot(obj, "_p_oid", oid)
            set_slot(obj, "_p_connection", connection)
            set_slot(obj, "_p_serial", 0)
            self.make_ghost(oid)  # whose finalizers may load it again
        self._loaded_count = len(self.loaded_objects())
        self._oldest = []

    def shrink(self, transaction_serial: int) -> None:
        """Make ghosts of the least recently used objects beyond the size. [OBJ-21]

        Objects that the current transaction has used or changed keep their state. [OBJ-23]
        """
        while self.is_overfull():
            if not self._oldest:
                # What was used since then is in none of the places of this list, so it is rebuilt when it is
                # used up, and not for each access.
                self._oldest = [(obj._p_serial, oid) for oid, obj in self._loaded()]
                self._oldest.sort(reverse=True)
                if self._oldest[-1][0] == transaction_serial:
                    self._oldest.clear()
                    return
            serial, oid = self._oldest.pop()
            obj = self._entries.get(oid)
            if isinstance(obj, PersistentObject) and obj._p_serial == serial != transaction_serial:
                self.make_ghost(oid)

    def note_size(self, oid: bytes, size: int) -> int:
        """Note how many bytes the record of an object in memory has; return how many more than was known."""
        if self.get(oid) is None:
            return 0
        more = size - self._sizes.get(oid, 0)
        self._sizes[oid] = size
        return more

    def shrink_bytes(self, limit: int) -> int:
        """Make ghosts of the least recently used objects until the records of the others have at most `limit` bytes.

        Return how many they have. To be called between two transactions, when there are no changes. [DB-44]
        """
        oldest = sorted((obj._p_serial, oid, self._sizes.get(oid, 0), obj) for oid, obj in self._loaded())
        self._sizes = {oid: size for _, oid, size, _ in oldest}
        total = sum(self._sizes.values())
        for serial, oid, size, obj in oldest:
            if total <= limit:
                break
            total -= size
            if self._entries.get(oid) is obj and obj._p_serial == serial:
                self.make_ghost(oid)
        self._oldest = []
        return total

    def is_overfull(self) -> bool:
        """Return whether more objects are loaded than the size allows."""
        return self._loaded_count > self._size

    def is_loaded(self, oid: bytes) -> bool:
        """Return whether the object of this oid is in memory and has its state."""
        return isinstance(self._entries.get(oid), PersistentObject)

    def objects(self) -> dict[bytes, PersistentObject]:
        """Return all objects in memory, including ghosts, by their oids and in the order of these."""
        found = ((oid, self.get(oid)) for oid in sorted(self._entries.copy()))  # a finalizer may add others meanwhile
        return {oid: obj for oid, obj in found if obj is not None}

    def loaded_objects(self) -> list[PersistentObject]:
        """Return the objects that have their state in memory, in the order of their oids."""
        return [obj for _, obj in sorted(self._loaded())]

    def _loaded(self) -> Iterator[tuple[bytes, PersistentObject]]:
        for oid, found in self._entries.copy().items():  # for the same reason
            if isinstance(found, PersistentObject):
                yield oid, found


Reference = Cache
"""The class above, whatever is in use."""

if not TYPE_CHECKING and implementation == "C":
    from durus._persistent import Cache

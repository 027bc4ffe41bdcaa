"""What others have changed: what is a conflict, and which states are outdated. Statements TXN-12 to TXN-15, TXN-80.

An oid is invalid from when the storage says that others have changed it until the state of its object is dropped. They
are dropped all at once: at the end of a transaction, or in its middle if it has accessed none of them. If it has
accessed one, that is a conflict, and the states stay as they are until the transaction ends.
"""

from collections.abc import Collection
from typing import TypeVar
from weakref import WeakSet

from durus.error import ConflictError, ReadConflictError, WriteConflictError
from durus.objects.cache import Cache
from durus.oid_array import OidArray
from durus.persistent import ConnectionBase, Watch

Conflict = TypeVar("Conflict", bound=ConflictError)

_MANY = 1 << 12
"""Fewer invalid oids are put into a set."""
_SEARCHED_TIMES = 16
"""How many times as many oids as objects there must be for a walk through the objects to take less time and memory."""


class Invalidations:
    """The invalid oids of a connection, and whoever watches which states it drops."""

    def __init__(self, connection: ConnectionBase, cache: Cache) -> None:
        self._connection = connection
        self._cache = cache
        self.oids: set[bytes] = set()
        """The invalid oids, always in the same set, without those in the arrays."""
        self._arrays: list[OidArray] = []
        """Invalid oids; there are so many that no set is made of them."""
        self.is_all = False
        """True if every oid may be invalid."""
        self.is_many = False
        """True if the set does not have all invalid oids."""
        self._watches: WeakSet[Watch] = WeakSet()

    def note(self, oids: Collection[bytes] | None) -> None:
        """Note what others have changed, None for anything. Its states are dropped later."""
        if oids is None:
            self.is_all = self.is_many = True
        elif len(oids) >= _MANY and isinstance(oids, OidArray):
            self._arrays.append(oids)
            self.is_many = True
        else:
            self.oids.update(oids)

    def has(self, oid: bytes) -> bool:
        """Return whether an oid is invalid, or may be."""
        return self.is_all or oid in self.oids or any(oid in array for array in self._arrays)

    def first_of(self, oids: Collection[bytes]) -> bytes | None:
        """Return the first of these oids that has() finds, None if there is none."""
        if not self.is_many and self.oids.isdisjoint(oids):
            return None
        return next(filter(self.has, oids), None)

    def has_conflict(self) -> bool:
        """Return whether the transaction has accessed what is invalid."""
        accessed = self._connection.accessed
        if self.is_all:
            return bool(accessed)
        if not accessed.isdisjoint(self.oids):
            return True
        return self.is_many and any(not array.isdisjoint(accessed) for array in self._arrays)

    def conflict(self) -> WriteConflictError:
        """Return the error of a commit on all invalid oids that the transaction has accessed. [TXN-13]"""
        accessed = self._connection.accessed
        found = filter(self.has, accessed) if self.is_many else (oid for oid in self.oids if oid in accessed)
        return WriteConflictError(sorted(found))

    def read_conflict(self, oid: bytes) -> ReadConflictError:
        """Return the error of a load of an oid. [TXN-14]"""
        return self.name_classes(ReadConflictError([oid]))

    def name_classes(self, conflict: Conflict) -> Conflict:
        """Add the classes of its objects to a conflict, for those in memory. [TXN-80]"""
        for oid in conflict.shown_oids():
            obj = self._cache.get(oid)
            if obj is not None:
                conflict.classes[oid] = f"{type(obj).__module__}.{type(obj).__qualname__}"
        return conflict

    def drop(self) -> None:
        """Drop the states of all invalid oids."""
        if self.is_all:
            self._cache.make_all_ghosts(self._connection)
            for watch in self._watches:
                watch.overflowed = True
        elif self.oids or self._arrays:
            self.drop_states(self.oids)
            for array in self._arrays:
                self._drop_many(array)
        else:
            return
        self.oids.clear()
        self._arrays.clear()
        self.is_all = self.is_many = False

    def _drop_many(self, oids: OidArray) -> None:
        """Do what drop_states() does, by a walk through what there are fewer of: these oids, or objects in memory."""
        if _SEARCHED_TIMES * self._cache.get_count() < len(oids):
            outdated = [oid for oid in self._cache.objects() if oid in oids]
        else:
            outdated = [oid for oid in oids if self._cache.get(oid) is not None]
        for oid in outdated:
            self._cache.make_ghost(oid)
        self.tell_watches(oids)

    def drop_states(self, oids: Collection[bytes]) -> None:
        """Turn the objects whose states are outdated into ghosts."""
        for oid in oids:
            self._cache.make_ghost(oid)
        if oids:
            self.tell_watches(oids)

    def watch(self) -> Watch:
        """Return a watch, which collects the oids of states that are dropped from now on."""
        watch = Watch()
        self._watches.add(watch)
        return watch

    def tell_watches(self, oids: Collection[bytes]) -> None:
        """Tell all watches of states that were dropped, or replaced."""
        for watch in self._watches:
            watch.note_dropped(oids)

"""A commit under way: what it stores, and what becomes of its objects. Statements TXN-6, TXN-8 and OBJ-56.

It has one of two ends. If it was stored, its new objects belong to the connection. Otherwise it is taken back: its
changed objects count as changed again, its new ones are as new as before, and their oids serve the next commit.
"""

from collections.abc import Callable, Iterator

from durus.objects.cache import Cache
from durus.persistent import GHOST, UNSAVED, ConnectionBase, PersistentObject, set_slot
from durus.serialize import ObjectWriter

Pickled = tuple[PersistentObject, bytes, bytes]
"""An object, its oid and its record."""


class PendingCommit:
    """The objects of a commit, and their records."""

    def __init__(self, connection: ConnectionBase, writer: ObjectWriter) -> None:
        self._connection = connection
        self._writer = writer
        self._changed: dict[bytes, PersistentObject] = {}
        """The changed objects, by oid. For the connection they are saved meanwhile."""
        self.records: list[Pickled] = []

    def pickle_root(self, root: PersistentObject, oid: bytes) -> None:
        """Make the records of a new root, and of what it reaches."""
        self.records = list(self._writer.records([(root, oid)]))

    def pickle_changes(self, load: Callable[[bytes], bytes]) -> None:
        """Make the records of all changed objects, and of the new ones that they reach.

        A changed object counts as saved from here on. So a change in any thread from now on is noted as a new one.
        """
        if self._connection.changed:
            self.records = list(self._writer.records(self._changed_objects()))
        self._writer.check_loads(self.records, load)

    def new_oids(self) -> list[bytes]:
        """Return the oids of the new objects."""
        return [oid for oid, _ in self._writer.new_objects.values()]

    def take_back(self) -> None:
        """Give the changes back to the connection, since they were not stored."""
        count_as_changed(self._connection, self._changed)

    def accept(self, cache: Cache) -> None:
        """Take its new objects into the connection and its cache, since they were stored."""
        for oid, new in self._writer.new_objects.values():
            cache.take_in(oid, new, self._connection)

    def _changed_objects(self) -> Iterator[tuple[PersistentObject, bytes]]:
        """Yield (object, oid) for all changed objects, including those that a __getstate__() changes meanwhile."""
        changed, pending = self._changed, self._connection.changed
        while pending and (new := [pair for pair in list(pending.items()) if pair[0] not in changed]):
            for oid, obj in new:
                changed[oid] = obj
                del pending[oid]
                yield obj, oid


def count_as_changed(connection: ConnectionBase, objects: dict[bytes, PersistentObject]) -> None:
    """Mark objects that counted as saved as changed again, if they still have their states. [OBJ-56]"""
    for oid, obj in objects.items():
        if obj._p_status != GHOST:
            connection.changed[oid] = obj
            set_slot(obj, "_p_status", UNSAVED)

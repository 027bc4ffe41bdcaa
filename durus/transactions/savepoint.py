"""States to which a transaction can go back. Statements TXN-50 to TXN-54.

A savepoint keeps the states of the changed objects, and of the new objects that these reach, as records in memory.
New objects have no oid, so a reference in such a record is a number that the savepoint gives to each object.

To go back, all these objects become ghosts of a connection to the kept records. So each is loaded as from a storage,
and one whose hash or state needs another object finds the former state of that one.
"""

from collections.abc import Iterator

from durus.btree import BTree
from durus.error import DurusKeyError
from durus.oid import oid_from_int
from durus.persistent import GHOST, UNSAVED, ConnectionBase, PersistentBase, PersistentObject, set_slot
from durus.serialize import ObjectReader, ObjectWriter, RecordConnection


class KeptStates:
    """The states of the changed objects of a connection at one time, and how to restore them."""

    def __init__(
        self,
        connection: ConnectionBase,
        root: PersistentObject,
        changed: dict[bytes, PersistentObject],
        reader: ObjectReader,
    ) -> None:
        """Keep the states of the changed objects of `connection`; they count as saved then, and are in `changed`.

        The caller marks the objects in `changed` as unsaved again, also after an error. UnstorableError if a state
        can't be pickled, ForeignReferenceError for an object of another connection.
        """
        writer = _NumberingWriter(connection, root, reader)
        records = list(writer.records(writer.numbered_changes(changed)))
        self.changed = changed
        self._new = [(number, obj) for number, obj in writer.new_objects.values()]
        self._kept = [(number, obj) for obj, number, _ in records]
        states = {number: record for _, number, record in records}
        self._states = RecordConnection(states, _no_other, is_strict=False, trust=reader.trust)
        for number, obj in (*writer.stored, *self._new):
            self._states.take_in(number, obj)

    def restore(self, connection: ConnectionBase) -> None:
        """Give all objects their kept states. To be called once. StateError if one can't be loaded.

        If this does not complete, make the stored objects ghosts, and call release_new().
        """
        for number, obj in self._kept:
            set_slot(obj, "_p_oid", number)
            set_slot(obj, "_p_connection", self._states)
            obj._p_set_status_ghost()
        for _, obj in self._kept:
            if obj._p_status == GHOST:
                self._states.load_state(obj)
        for oid, obj in self.changed.items():
            set_slot(obj, "_p_oid", oid)
            set_slot(obj, "_p_serial", connection.transaction_serial)
            set_slot(obj, "_p_connection", connection)
            set_slot(obj, "_p_status", UNSAVED)
        self.release_new()

    def release_new(self) -> None:
        """Make the new objects plain objects again, without oid and connection.

        One whose state can't be loaded stays a ghost of the kept records, and so can't be stored.
        """
        self._states.start_anew()
        while self._new:
            number, obj = self._new[-1]
            if obj._p_connection is self._states and obj._p_status == GHOST:
                try:
                    self._states.load_state(obj)
                except BaseException:
                    self._new.pop()  # otherwise it would be tried again and again
                    raise
            if obj._p_connection is self._states or obj._p_oid == number:
                set_slot(obj, "_p_status", UNSAVED)
                set_slot(obj, "_p_serial", 0)
                if isinstance(obj, BTree):
                    set_slot(obj, "_p_count", None)  # nothing else reports a tree without a connection
                set_slot(obj, "_p_connection", None)
                set_slot(obj, "_p_oid", None)  # last, because it says that the rest is done
            self._new.pop()


class _NumberingWriter(ObjectWriter):
    """Writes records with numbers of objects in place of oids."""

    def __init__(self, connection: ConnectionBase, root: PersistentObject, reader: ObjectReader) -> None:
        super().__init__(connection, root, self._next_number, reader.has_broken_classes(), reader)
        self._states = None  # C writes oids
        self._last_number = 0
        self._numbers: dict[bytes, bytes] = {}
        """The numbers of stored objects, by oid."""
        self.stored: list[tuple[bytes, PersistentObject]] = []
        """The stored objects, with their numbers."""

    def numbered_changes(self, changed: dict[bytes, PersistentObject]) -> Iterator[tuple[PersistentObject, bytes]]:
        """Yield the changed objects with their numbers, including those that a __getstate__ changes meanwhile."""
        while new := [(oid, obj) for oid, obj in list(self._connection.changed.items()) if oid not in changed]:
            for oid, obj in new:
                changed[oid] = obj
                yield obj, self._number(oid, obj)

    def reference(self, obj: PersistentBase) -> tuple[bytes, type]:
        oid, cls = super().reference(obj)
        if obj._p_connection is None or not isinstance(obj, PersistentObject):
            return oid, cls  # which is the number that it got as a new object
        return self._number(oid, obj), cls

    def _number(self, oid: bytes, obj: PersistentObject) -> bytes:
        number = self._numbers.get(oid)
        if number is None:
            number = self._numbers[oid] = self._next_number()
            self.stored.append((number, obj))
        return number

    def _next_number(self) -> bytes:
        self._last_number += 1
        return oid_from_int(self._last_number)


def _no_other(number: bytes) -> bytes:
    raise DurusKeyError(number)

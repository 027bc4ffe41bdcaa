"""Earlier states of objects: copies with such a state, and the records of one. Statements HIST-7, HIST-9, HIST-10."""

import contextlib
from typing import NamedTuple

from durus.btree import BNode, BTree
from durus.error import DurusKeyError, StateError
from durus.oid import format_oid
from durus.persistent import UNSAVED, ConnectionBase, PersistentObject, new_ghost, set_slot
from durus.records.record import split_oids, unpack_record
from durus.serialize import ObjectReader
from durus.storage import Commit, Moment, Storage


class Version(NamedTuple):
    """An object as a commit has stored it."""

    commit: Commit
    object: PersistentObject
    """A copy with that state, which belongs to no connection. The objects to which it refers are as they are now."""


def copy_of(connection: ConnectionBase, reader: ObjectReader, oid: bytes, data: bytes) -> PersistentObject:
    """Return a new object with the state in `data` and without a connection. StateError if it can't be loaded."""
    copy = new_ghost(reader.class_of_record(oid, data), oid, connection)
    give_state(copy, data, reader)
    set_slot(copy, "_p_serial", 0)
    set_slot(copy, "_p_connection", None)
    set_slot(copy, "_p_oid", None)
    return copy


def give_state(obj: PersistentObject, data: bytes, reader: ObjectReader) -> None:
    """Replace the state of an object, which is unsaved then. StateError if `data` can't be loaded."""
    obj._p_set_status_ghost()
    reader.load_state(obj, data)
    set_slot(obj, "_p_status", UNSAVED)
    if isinstance(obj, BTree):
        set_slot(obj, "_p_count", None)  # nothing else says how many items an earlier state has


def states_at(
    at: Moment | Storage, storage: Storage, reader: ObjectReader, obj: PersistentObject, oid: bytes
) -> dict[bytes, bytes]:
    """Return what _earlier_states() finds at a moment of a storage, or in another one."""
    if isinstance(at, Storage):
        return _earlier_states(at, reader, obj, oid)
    with contextlib.closing(storage.as_of(at)) as earlier:
        return _earlier_states(earlier, reader, obj, oid)


def _earlier_states(storage: Storage, reader: ObjectReader, obj: PersistentObject, oid: bytes) -> dict[bytes, bytes]:
    """Return the data of an object in a storage, and of the nodes of a BTree, by oid. [HIST-10]

    StateError if the object has no record there, or was of another class then.
    """
    found: dict[bytes, bytes] = {}
    pending = [oid]
    while pending:
        each = pending.pop()
        try:
            _, data, refs = unpack_record(storage.load(each))
        except DurusKeyError as error:
            raise StateError(f"oid {format_oid(each)} has no state at that time: it was first stored later") from error
        cls = reader.class_of_record(each, data)
        if each == oid and cls is not type(obj):
            raise StateError(
                f"oid {format_oid(oid)} was a {cls.__qualname__} at that time, and is a {type(obj).__qualname__} now"
            )
        if each == oid or issubclass(cls, BNode):
            found[each] = data
            if issubclass(cls, BNode | BTree):
                pending += [ref for ref in split_oids(refs) if ref not in found]
    return found

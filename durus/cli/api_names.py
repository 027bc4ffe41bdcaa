"""Which attributes of Durus's objects are for applications, and are completed. Statement CMD-34."""

from durus.btree import BTree
from durus.persistent import ConnectionBase, PersistentBase
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.persistent_set import PersistentSet

_PERSISTENT = frozenset({"_p_note_change", "_p_oid"})
_CONNECTION_STATE = frozenset({"accessed", "changed", "invalid_oids", "transaction_serial", "cache", "note_invalid"})
_STORED: tuple[tuple[type, frozenset[str]], ...] = (
    (PersistentDict, frozenset({"data"})),
    (PersistentList, frozenset({"data"})),
    (PersistentSet, frozenset({"s"})),
    (BTree, frozenset({"root", "note_change_of_bnode_containing_key", "set_bnode_minimum_degree"})),
)
"""The attributes in which the state of a collection is stored, and those that maintain them."""


def is_for_applications(obj: object, name: str) -> bool:
    """Return whether an attribute of an object is for applications; those of other objects than Durus's are."""
    cls = type(obj)
    if issubclass(cls, ConnectionBase):
        return name not in _CONNECTION_STATE and (name.startswith("__") or not hasattr(ConnectionBase, name))
    if issubclass(cls, PersistentBase):
        if name.startswith("_p_"):
            return name in _PERSISTENT
        return not any(issubclass(cls, base) and name in names for base, names in _STORED)
    return True

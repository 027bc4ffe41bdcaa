"""Durus: a persistent object system for Python.

An application keeps ordinary Python objects. Those that inherit from Persistent are stored, loaded on first use and
changed in transactions. This module has what a normal program needs; spec/ defines files and transactions.

    open                  opens a database: a file, a server, memory
    Database              what it returns: transactions, snapshots and retry for threads, tasks and processes
    Persistent            the base class of stored objects
    PersistentObject      the same, for classes whose attributes are all slots
    PersistentDict        a dict that is stored
    PersistentList        a list that is stored
    PersistentSet         a set that is stored
    BTree                 a sorted mapping for many items, loaded in parts
    ComputedAttribute     a value that is not stored: each client computes it
    Connection            the layer below Database: the objects of one storage, for one thread at a time
    FileStorage           a storage in a file
    MemoryStorage         a storage in memory
    ClientStorage         a storage that a server holds
    SharedStorage         one storage for several connections of a process
    DurusError            the base of all errors
    ConflictError         others have changed what the transaction used: run it again
    DisconnectedError     the connection to the server was lost
    OutcomeUnknownError   it was lost before the answer to a commit came
    ReadonlyError         a change of something that is read-only
    TransactionError      a call that does not fit the state of the transaction
    trust                 lists of classes for open(): trust.standard has the harmless ones of Python's library
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from durus import trust
    from durus.btree import BTree
    from durus.client_storage import ClientStorage
    from durus.connection import Connection
    from durus.database import Database
    from durus.error import (
        ConflictError,
        DisconnectedError,
        DurusError,
        OutcomeUnknownError,
        ReadonlyError,
        TransactionError,
    )
    from durus.file_storage import FileStorage
    from durus.opening import open
    from durus.persistent import ComputedAttribute, Persistent, PersistentObject
    from durus.persistent_dict import PersistentDict
    from durus.persistent_list import PersistentList
    from durus.persistent_set import PersistentSet
    from durus.shared_storage import SharedStorage
    from durus.storage import MemoryStorage

__version__ = "5.0.0.dev0"

__all__ = [
    "BTree",
    "ClientStorage",
    "ComputedAttribute",
    "ConflictError",
    "Connection",
    "Database",
    "DisconnectedError",
    "DurusError",
    "FileStorage",
    "MemoryStorage",
    "OutcomeUnknownError",
    "Persistent",
    "PersistentDict",
    "PersistentList",
    "PersistentObject",
    "PersistentSet",
    "ReadonlyError",
    "SharedStorage",
    "TransactionError",
    "open",
    "trust",
]

_MODULES = {
    "btree": ("BTree",),
    "client_storage": ("ClientStorage",),
    "connection": ("Connection",),
    "database": ("Database",),
    "error": (
        "ConflictError",
        "DisconnectedError",
        "DurusError",
        "OutcomeUnknownError",
        "ReadonlyError",
        "TransactionError",
    ),
    "file_storage": ("FileStorage",),
    "opening": ("open",),
    "persistent": ("ComputedAttribute", "Persistent", "PersistentObject"),
    "persistent_dict": ("PersistentDict",),
    "persistent_list": ("PersistentList",),
    "persistent_set": ("PersistentSet",),
    "shared_storage": ("SharedStorage",),
    "storage": ("MemoryStorage",),
    "trust": ("trust",),
}
"""The module of each name. It is imported when the name is first used, because all modules import this one."""
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module = import_module(f"{__name__}.{_MODULE_OF[name]}")
    value = module if name == _MODULE_OF[name] else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

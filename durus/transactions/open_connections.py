"""The open connections of this process, at most one for each storage. Statement TXN-35.

A connection need not be closed: one that nobody can reach any more is not open. But it is freed some time later, since
its objects and it hold each other. So garbage is collected before such a connection is counted.
"""

import gc
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary, WeakSet, ref

from durus.error import TransactionError
from durus.persistent import ConnectionBase
from durus.storage import Storage

C = TypeVar("C", bound=ConnectionBase)


class OpenConnections(Generic[C]):
    """Knows which connections are open, and which one each storage has."""

    def __init__(self) -> None:
        self._open: WeakSet[C] = WeakSet()
        self._of_storage: WeakKeyDictionary[Storage, ref[C]] = WeakKeyDictionary()

    def claim(self, storage: Storage, connection: C) -> None:
        """Take a storage for a connection, which may be added then; TransactionError if it has another open one."""
        if self._has_open(storage):
            gc.collect()
            if self._has_open(storage):
                raise TransactionError(
                    f"{storage!r} already has a Connection, and two on one storage would lose each other's changes; "
                    "make shared = SharedStorage(storage), and each Connection on a shared.new_client(), or close() "
                    "the first"
                )
        self._of_storage[storage] = ref(connection)

    def add(self, connection: C) -> None:
        """Note that a connection is open."""
        self._open.add(connection)

    def discard(self, connection: C) -> None:
        """Note that a connection is closed."""
        self._open.discard(connection)

    def reachable(self) -> list[C]:
        """Return the open connections; if there are several, without those that nobody can reach."""
        if len(self._open) > 1:
            gc.collect()
        return list(self._open)

    def _has_open(self, storage: Storage) -> bool:
        known = self._of_storage.get(storage)
        connection = None if known is None else known()
        return connection is not None and connection in self._open

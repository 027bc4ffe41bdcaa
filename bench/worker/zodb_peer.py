"""ZODB, with ZEO for client and server. Its FileStorage syncs each commit, unless its `fsync` is None."""

import importlib
import time
from collections.abc import Iterable, Iterator
from typing import Any

import transaction
import ZODB.DB
import ZODB.FileStorage
from BTrees.OOBTree import OOBTree
from persistent import Persistent
from persistent.list import PersistentList
from ZODB.utils import p64

from workloads import items_of

CACHE_SIZE = 1_000_000

Group = PersistentList
Tree = OOBTree


class Item(Persistent):  # type: ignore[misc]  # ZODB has no types
    def __init__(self, number: int) -> None:
        self.number = number
        self.name = f"item {number}"
        self.tags = ["small", "object"]


class ZodbDatabase:
    def __init__(self, storage: Any) -> None:
        self._manager = transaction.TransactionManager()
        self._db = ZODB.DB(storage, cache_size=CACHE_SIZE)
        self._connection = self._db.open(self._manager)
        self.root: Any = self._connection.root()
        self.commit = self._manager.commit
        self.abort = self._manager.abort
        self.close = self._db.close

    def pack(self) -> None:
        self._db.pack(time.time())

    def drop_states(self) -> None:
        self._connection.cacheMinimize()

    def load(self, oid: int) -> bytes:
        data: bytes = self._connection._storage.load(p64(oid))[0]
        return data

    def traverse(self) -> Iterator[Any]:
        return items_of(self)


def open(path: str, durable: bool) -> ZodbDatabase:
    module: Any = importlib.import_module("ZODB.FileStorage.FileStorage")
    if not durable:
        module.fsync = None
    return ZodbDatabase(module.FileStorage(path))


def serve(path: str, address: str) -> None:
    from ZEO.runzeo import main

    main(["-a", address, "-f", path])


def connect(address: str, ahead: bool = True) -> ZodbDatabase:
    from ZEO.ClientStorage import ClientStorage

    return ZodbDatabase(ClientStorage(address, cache_size=0))


def range_of(tree: Any, start: int, end: int) -> Iterable[tuple[int, str]]:
    found: Iterable[tuple[int, str]] = tree.items(start, end, excludemax=True)
    return found

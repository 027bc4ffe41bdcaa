"""Durus 4.3. It does not sync its file by itself, so this driver does so at the end of each commit."""

import os
from collections.abc import Callable, Iterator
from typing import Any

from durus.client_storage import ClientStorage
from durus.error import ConflictError
from durus.file_storage import FileStorage
from durus.storage_server import StorageServer
from durus_api import DurusDatabase, Group, Item, Tree, range_of

__all__ = ["Group", "Item", "Tree", "connect", "counter", "open", "range_of", "serve"]


class _SyncingStorage(FileStorage):
    def end(self, handle_invalidations: Any = None) -> None:
        super().end(handle_invalidations)
        shelf: Any = self.shelf  # type: ignore[attr-defined]  # a name of 4.3
        os.fsync(shelf.file.file.fileno())


class _Database(DurusDatabase):
    def traverse(self) -> Iterator[Item]:
        return self.crawl()


def open(path: str, durable: bool) -> DurusDatabase:
    return _Database((_SyncingStorage if durable else FileStorage)(path))


def serve(path: str, address: str) -> None:
    StorageServer(_SyncingStorage(path), address=address).serve()


def connect(address: str, ahead: bool = True) -> DurusDatabase:
    return _Database(ClientStorage(address=address))


def counter(address: str) -> Callable[[], None]:
    """Return a function that adds one to the counter in the root, and tries again after each conflict."""
    db = connect(address)

    def add_one() -> None:
        while True:
            try:
                db.root["counter"] = db.root.get("counter", 0) + 1
                db.commit()
            except ConflictError:
                db.abort()
            else:
                return

    return add_one

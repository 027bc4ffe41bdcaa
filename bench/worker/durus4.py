"""Durus 4.3. It does not sync its file by itself, so this driver does so at the end of each commit."""

import os
import struct
from collections.abc import Callable, Iterator
from typing import Any

from durus.client_storage import ClientStorage
from durus.error import ConflictError
from durus.file_storage import FileStorage
from durus.storage_server import StorageServer
from durus_api import DurusDatabase, Group, Item, Tree, range_of
from player import Conversation

__all__ = ["Group", "Item", "Tree", "commit_on_demand", "connect", "counter", "open", "range_of", "serve"]

_U32 = struct.Struct(">I")


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


def commit_on_demand(oid: bytes) -> Conversation:
    """Load an object once, and store it again in each transaction. spec/wire.md."""
    yield b"V" + _U32.pack(1)
    yield 4
    yield b"L" + oid
    yield 1
    (size,) = _U32.unpack((yield 4))
    entry = oid + (yield size)
    data = _U32.pack(len(entry)) + entry
    while True:
        yield None
        yield b"C"
        (count,) = _U32.unpack((yield 4))
        yield 8 * count  # what others have changed
        yield _U32.pack(len(data)) + data
        status = yield 1
        if status != b"O":
            raise RuntimeError(f"the answer to a commit is {status!r}")

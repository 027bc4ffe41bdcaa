"""This Durus."""

from collections.abc import Iterator

from durus.client_storage import ClientStorage
from durus.file_storage import FileStorage
from durus.storage_server import StorageServer
from durus_api import DurusDatabase, Group, Item, Tree, range_of
from workloads import items_of

__all__ = ["Group", "Item", "Tree", "connect", "open", "range_of", "serve"]


class _Database(DurusDatabase):
    def traverse(self) -> Iterator[Item]:
        return items_of(self)


def open(path: str, durable: bool) -> DurusDatabase:
    return _Database(FileStorage(path, durability="fsync" if durable else "os"))


def serve(path: str, address: str) -> None:
    StorageServer(FileStorage(path), address=address).serve()


def connect(address: str, ahead: bool = True) -> DurusDatabase:
    return _Database(ClientStorage(address=address, prefetch=100 if ahead else 0))

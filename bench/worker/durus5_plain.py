"""This Durus, with a server on the event loop of asyncio, as it is without uvloop."""

from durus.file_storage import FileStorage
from durus.storage_server import StorageServer
from durus5 import Group, Item, Tree, connect, open, range_of

__all__ = ["Group", "Item", "Tree", "connect", "open", "range_of", "serve"]


def serve(path: str, address: str) -> None:
    StorageServer(FileStorage(path), address=address).serve()

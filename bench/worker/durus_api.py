"""The driver code for the Python names that Durus 4.3 and this Durus have in common."""

from collections.abc import Iterable, Iterator
from typing import Any

from durus.btree import BTree
from durus.connection import Connection
from durus.persistent import Persistent
from durus.persistent_list import PersistentList
from durus.storage import Storage
from durus.utils import int8_to_str

CACHE_SIZE = 1_000_000

Group = PersistentList
Tree = BTree


class Item(Persistent):
    def __init__(self, number: int) -> None:
        self.number = number
        self.name = f"item {number}"
        self.tags = ["small", "object"]


class DurusDatabase:
    def __init__(self, storage: Storage) -> None:
        self.connection = Connection(storage, CACHE_SIZE)
        self.root: Any = self.connection.get_root()
        self.commit = self.connection.commit
        self.abort = self.connection.abort
        self.pack = self.connection.pack
        self.close = storage.close

    def drop_states(self) -> None:
        self.connection.set_cache_size(1)
        self.connection.abort()
        self.connection.set_cache_size(CACHE_SIZE)

    def load(self, oid: int) -> bytes:
        return self.connection.get_storage().load(int8_to_str(oid))

    def crawl(self) -> Iterator[Item]:
        for obj in self.connection.get_crawler():
            if isinstance(obj, Item):
                yield obj


def range_of(tree: "BTree[int, str]", start: int, end: int) -> Iterable[tuple[int, str]]:
    return tree.items_range(start, end)

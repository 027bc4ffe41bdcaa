"""An object store in memory, in which something can happen before each operation."""

from collections.abc import Callable
from typing import IO

from obstore.store import MemoryStore

from durus.backups.objects import ObjectTarget, Version
from durus.backups.obstore_store import ObstoreStore

URL = "memory://backup"


class Killed(BaseException):
    """The process that used the store has ended here."""


class ObservedStore:
    """The store of one process; several can share their objects. `before` is called with each operation."""

    def __init__(self, objects: MemoryStore, before: Callable[[str], object] = lambda operation: None) -> None:
        self._store = ObstoreStore(URL, lambda: objects)
        self._before = before
        self.url = URL

    def get(self, name: str) -> tuple[bytes, Version] | None:
        self._before("get")
        return self._store.get(name)

    def size(self, name: str) -> int | None:
        self._before("size")
        return self._store.size(name)

    def read_at(self, name: str, offset: int, size: int) -> bytes | None:
        self._before("read_at")
        return self._store.read_at(name, offset, size)

    def put(self, name: str, file: IO[bytes]) -> None:
        self._before("put")
        self._store.put(name, file)

    def replace(self, name: str, data: bytes, version: Version | None) -> Version:
        self._before("replace")
        return self._store.replace(name, data, version)

    def names(self) -> list[str]:
        self._before("names")
        return self._store.names()

    def remove(self, names: list[str]) -> None:
        for name in names:  # a store removes them one by one
            self._before("remove")
            self._store.remove([name])


class CountDown:
    """Does something at one operation of a store: at the one with the number `wanted`, from 1."""

    def __init__(self, wanted: int, action: Callable[[], object]) -> None:
        self.left = wanted
        """Not positive when it was done."""
        self._action = action

    def __call__(self, operation: str) -> None:
        self.left -= 1
        if self.left == 0:
            self._action()


def target_in(objects: MemoryStore, before: Callable[[str], object] = lambda operation: None) -> ObjectTarget:
    """Return a new process's view of the backup in these objects."""
    return ObjectTarget(ObservedStore(objects, before))

"""What the workloads need from any database.

Nothing in this folder imports the folder above it: only this folder is on the path, because each peer's Python has its
own `durus`.
"""

from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import Any, Protocol


class StoredItem(Protocol):
    """A small persistent object."""

    number: int
    name: str
    tags: list[str]


class Tree(Protocol):
    """A sorted mapping of the database."""

    def __setitem__(self, key: int, value: str) -> None: ...

    def __getitem__(self, key: int) -> str: ...


class Database(Protocol):
    """An open connection."""

    root: MutableMapping[str, Any]

    def commit(self) -> None: ...

    def abort(self) -> None: ...

    def pack(self) -> None: ...

    def close(self) -> None: ...

    def drop_states(self) -> None:
        """Turn all loaded objects into ghosts."""

    def load(self, oid: int) -> bytes:
        """Fetch one record from the storage, bypassing all caches."""

    def traverse(self) -> Iterator[StoredItem]:
        """Yield all items, in the fastest way to reach all objects."""


class Driver(Protocol):
    """The module of a peer."""

    Item: Callable[[int], StoredItem]
    Group: Callable[[Iterable[StoredItem]], Any]
    Tree: Callable[[], Tree]

    def open(self, path: str, durable: bool) -> Database:
        """Open a file; with `durable`, each commit is on the disk when it returns."""

    def serve(self, path: str, address: str) -> None:
        """Serve a file on a Unix socket, with durable commits, until this process is ended."""

    def connect(self, address: str, ahead: bool = True) -> Database:
        """Connect to a server; without `ahead`, each load is a request of its own."""

    def range_of(self, tree: Any, start: int, end: int) -> Iterable[tuple[int, str]]: ...

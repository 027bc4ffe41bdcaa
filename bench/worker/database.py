"""What the works need of a database, whichever it is. Nothing here, or beside it, imports the folder above:
this folder alone is on the path, since each peer's Python has its own `durus`."""

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
        """Make ghosts of all that is loaded."""

    def load(self, oid: int) -> bytes:
        """Fetch one record from the storage, past all caches."""

    def traverse(self) -> Iterator[StoredItem]:
        """Yield all items by the fastest way that there is to reach everything."""


class Driver(Protocol):
    """The module of a peer."""

    Item: Callable[[int], StoredItem]
    Group: Callable[[Iterable[StoredItem]], Any]
    Tree: Callable[[], Tree]

    def open(self, path: str, durable: bool) -> Database:
        """Open a file; with `durable` each commit is on the disk when it returns."""

    def serve(self, path: str, address: str) -> None:
        """Serve a file at a Unix socket, durable, until this process is ended."""

    def connect(self, address: str, ahead: bool = True) -> Database:
        """Connect to a server; without `ahead` each load is a request of its own."""

    def range_of(self, tree: Any, start: int, end: int) -> Iterable[tuple[int, str]]: ...

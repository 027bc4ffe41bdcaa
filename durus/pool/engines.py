"""Engines, which provide the storages for the connections of a Database. Statements DB-40 to DB-42."""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from durus.error import ClosedError, ReadonlyError, WrongProcessError
from durus.files.single_file_storage import SingleFileStorage
from durus.open_file import open_file_storage
from durus.pool.attempts import DEFAULT_SERVER_TRIES, DEFAULT_TRIES
from durus.progress import Progress
from durus.storage import Storage
from durus.text import command

if TYPE_CHECKING:
    from durus.pool.turn import TurnTakingClient
    from durus.shared_storage import SharedStorage


class Engine:
    """Makes a storage for each connection."""

    has_turns = True
    """True if an exclusive transaction keeps all others from committing, also those of other processes. [DB-12]"""

    @property
    def default_tries(self) -> int:
        """The default number of tries of a transaction. [DB-21]"""
        return DEFAULT_TRIES if self.has_turns else DEFAULT_SERVER_TRIES

    def new_storage(self) -> Storage:
        """Return a storage for one more connection."""
        raise NotImplementedError

    def is_current(self, storage: Storage) -> bool:
        """Return whether an existing storage will show at its next sync what a new one would."""
        return True

    def pack(self) -> Iterator[Progress]:
        """Pack in steps, or have a server start a pack."""
        storage = self.new_storage()
        try:
            storage.pack()
        finally:
            storage.close()
        return iter(())

    def leave_to_parent(self) -> None:
        """Release everything of the parent, in the child right after a fork."""

    def close(self) -> None:
        """Release what is held open."""


class EngineOfClients(Engine):
    """Each connection has its own storage, to a server or another kind of engine."""

    def __init__(self, new_client: Callable[[], Storage]) -> None:
        self._new_client = new_client

    def new_storage(self) -> Storage:
        return self._new_client()


class EngineOfServer(Engine):
    """Each connection has its own client of a server; all clients of this process share a turn to commit. [DB-14]"""

    def __init__(self, new_client: "Callable[[], TurnTakingClient]") -> None:
        from durus.pool.turn import ProcessTurn  # as above

        self._new_turn = ProcessTurn
        self._turn = ProcessTurn()
        self._new_client = new_client
        self.has_turns = False  # before a first client has spoken protocol 2

    def new_storage(self) -> "TurnTakingClient":
        client = self._new_client()
        client.turn = self._turn
        self.has_turns = client.protocol >= 2
        return client

    def pack(self) -> Iterator[Progress]:
        with contextlib.closing(self.new_storage()) as client:
            client.pack(wait=True)
        return iter(())

    def leave_to_parent(self) -> None:
        self._turn = self._new_turn()


class EngineOfOneStorage(Engine):
    """One storage that only this process uses, shared by all connections."""

    def __init__(self, storage: Storage) -> None:
        from durus.shared_storage import SharedStorage  # imported only when used

        self._name = str(storage)
        self._how_to_serve = ""
        if isinstance(storage, SingleFileStorage):
            self._how_to_serve = f": {command('serve', storage.get_filename())}"
        self._shared: SharedStorage | None = SharedStorage(storage)
        self._process = os.getpid()

    def _require_open(self) -> "SharedStorage":
        if self._process != os.getpid():
            raise WrongProcessError(
                f"{self._name} was opened in process {self._process}, which holds it exclusively, and is used in "
                f"process {os.getpid()}: open it after the fork, in one process, or have a server share "
                f"it{self._how_to_serve}"
            )
        if self._shared is None:
            raise ClosedError(f"{self._name} is closed: open it again")
        return self._shared

    def new_storage(self) -> Storage:
        return self._require_open().new_client()

    def is_current(self, storage: Storage) -> bool:
        self._require_open()
        return True

    def pack(self) -> Iterator[Progress]:
        client = self._require_open().new_client()
        with contextlib.closing(client):
            yield from client.get_packer()

    def close(self) -> None:
        shared, self._shared = self._shared, None
        if shared is not None:
            shared.close()


class EngineOfReadonlyFile(Engine):
    """A file that others may write: each connection opens it, and reopens it if it changed and can't be followed."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._signatures: WeakKeyDictionary[Storage, _Signature] = WeakKeyDictionary()
        """The signature of the file right before each storage was opened."""

    def new_storage(self) -> Storage:
        signature = _signature_of(self._path)
        storage = open_file_storage(self._path, readonly=True)
        self._signatures[storage] = signature
        return storage

    def is_current(self, storage: Storage) -> bool:
        return storage.follows or self._signatures.get(storage) == _signature_of(self._path)

    def pack(self) -> Iterator[Progress]:
        raise ReadonlyError(f"{self._path}: the database was opened with readonly=True and can't be packed")


def _signature_of(path: str) -> "_Signature":
    """Return a value that changes when the file changes, or, for SQLite, its write-ahead log."""
    found = []
    for name in path, path + "-wal":
        with contextlib.suppress(OSError):  # opening the file reports it
            status = os.stat(name)
            found.append((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)


_Signature = tuple[tuple[int, int, int, int], ...]

"""A storage server, in a thread of the test."""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from durus.client_storage import ClientStorage
from durus.sharing.address import SocketAddress
from durus.storage import Storage
from durus.storage_server import StorageServer


@contextmanager
def serving(storage: Storage, address: Path | tuple[str, int]) -> Iterator[SocketAddress]:
    """Serve a storage; at the end the server has stopped."""
    with running(StorageServer(storage, address=address)) as server:
        yield server.address


@contextmanager
def serving_with(server: StorageServer) -> Iterator[ClientStorage]:
    """Run a server, and yield a client of it; at the end the server has stopped."""
    with running(server), closing(ClientStorage(address=server.address)) as client:
        yield client


@contextmanager
def running(server: StorageServer) -> Iterator[StorageServer]:
    """Run a server; at the end it has stopped."""
    server.listen()
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join()

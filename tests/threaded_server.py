"""A storage server, in a thread of the test."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from durus.sharing.address import SocketAddress
from durus.storage import Storage
from durus.storage_server import StorageServer


@contextmanager
def serving(storage: Storage, address: Path | tuple[str, int]) -> Iterator[SocketAddress]:
    """Serve a storage; at the end the server has stopped."""
    server = StorageServer(storage, address=address)
    server.listen()
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield server.address
    finally:
        server.stop()
        thread.join()

"""A storage server on a Unix socket, in a thread of the test."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from durus.storage import Storage
from durus.storage_server import StorageServer


@contextmanager
def serving(storage: Storage, path: Path) -> Iterator[None]:
    """Serve a storage; at the end the server has stopped."""
    server = StorageServer(storage, address=path)
    server.listen()
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield
    finally:
        server.stop()
        thread.join()

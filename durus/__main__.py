"""The `durus` command, as `python -m durus` and `python path/to/durus/__main__.py` too.

The other functions are what applications of Durus 4.3 import to run a server of their own.
"""

import os
import sys

if not __package__:  # started as a script: its folder must not hide modules of the standard library
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from collections.abc import Callable

from durus.cli.main import main
from durus.cli.options import import_storage_class
from durus.cli.serve import log_to
from durus.client_storage import ClientStorage
from durus.file_storage import FileStorage
from durus.open_file import storage_class_of
from durus.sharing.address import AnyAddress
from durus.storage import Storage
from durus.storage_server import StorageServer

__all__ = ["get_storage", "get_storage_class", "main", "start_durus", "stop_durus"]


def get_storage_class(file: str) -> type[Storage]:
    """Return the storage class for `file`, by its first bytes; FileStorage if it does not exist."""
    return storage_class_of(file)


def get_storage(file: str | None, storage_class: str | None = None, **kwargs: bool) -> Storage:
    """Open the storage in a file.

    Args:
        file: the path of the file; None makes a temporary one.
        storage_class: the dotted name of the storage class; by default the format of the file decides.
        kwargs: `readonly` and `repair`.

    Raises:
        ArgumentError: there is no such storage class.
        DurusError: as the storage class raises it.
    """
    make: Callable[..., Storage] = FileStorage
    if storage_class:
        make = import_storage_class(storage_class)
    elif file is not None:
        make = storage_class_of(file)
    return make(file, **kwargs)


def start_durus(logfile: str | None, logginglevel: int, address: AnyAddress, storage: Storage, gcbytes: int) -> None:
    """Serve a storage until the server is stopped.

    Args:
        logfile: the path of the log file; None logs to stderr.
        logginglevel: the lowest level that is logged.
        address: where to listen.
        storage: the storage.
        gcbytes: as for StorageServer.

    Raises:
        AddressError: the server cannot listen on the address.
    """
    with log_to(logfile, logginglevel) as reopen:
        StorageServer(storage, address=address, gcbytes=gcbytes).serve(on_hangup=reopen)


def stop_durus(address: AnyAddress) -> None:
    """Stop the server on `address`; ServerUnreachableError if there is none."""
    ClientStorage(address=address).stop_server()


if __name__ == "__main__":
    sys.exit(main())

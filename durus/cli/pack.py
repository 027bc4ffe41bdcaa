"""`durus -p`: pack a file, or have a server do it."""

import argparse
import os

from durus.cli.options import add_address_arguments, address_of
from durus.cli.output import tell
from durus.cli.progress import show_progress
from durus.client_storage import ClientStorage
from durus.error import DurusError
from durus.file_storage import FileStorage
from durus.file_storage2 import FileStorage2
from durus.open_file import open_file_storage
from durus.sharing.address import SocketAddress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--file", metavar="F", help="the file to pack (default: have a server pack what it holds)")
    add_address_arguments(parser, "find the server on")


def run(options: argparse.Namespace) -> int:
    if not options.file:
        return _ask_server(address_of(options))
    if not os.path.exists(options.file):  # opening it would make it
        raise DurusError(f"{options.file}: there is no such file to pack")
    storage = open_file_storage(options.file)
    try:
        old = os.stat(options.file)
        show_progress(storage.get_packer())
        if not isinstance(storage, FileStorage | FileStorage2):
            storage.vacuum()
        new = os.stat(options.file)
    finally:
        storage.close()
    tell(f"{options.file}: {old.st_size} bytes packed into {new.st_size}{_kept(options.file, old)}")
    return 0


def _ask_server(address: SocketAddress) -> int:
    storage = ClientStorage(address=address)
    try:
        storage.pack()
    finally:
        storage.close()
    tell(f"durus: the server on {address} has begun to pack, and its log tells when it is done")
    return 0


def _kept(path: str, old: os.stat_result) -> str:
    kept = os.path.realpath(path) + ".prepack"
    is_kept = os.path.exists(kept) and os.path.samestat(os.stat(kept), old)
    return f"; the old file is kept as {kept}" if is_kept else ""

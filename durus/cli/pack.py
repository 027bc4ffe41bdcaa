"""`durus pack`: pack a file, or have a server do it."""

import argparse
import contextlib
import os
import time
from collections.abc import Iterator

from durus.cli.options import (
    UsageError,
    add_address_arguments,
    add_file_arguments,
    add_keep_prepack_argument,
    choose_server,
    is_address,
    open_address,
    require_file,
)
from durus.cli.output import tell
from durus.cli.progress import show_progress
from durus.cli.values import file_or_address, seconds
from durus.client_storage import ClientStorage
from durus.error import DurusError
from durus.open_file import open_file_storage
from durus.progress import Progress
from durus.sharing.address import SocketAddress
from durus.sharing.protocol2 import MAX_SECONDS
from durus.text import without_password
from durus.tools.server_pack import gen_server_pack

_TIMEOUT = 3600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_file_arguments(parser, "the file to pack (without it, a server packs what it holds)", file_or_address)
    add_address_arguments(parser, "find the server on")
    parser.set_defaults(if_in_use="if a server has it, give the address of the server instead of the file")
    parser.add_argument(
        "--wait", action="store_true", help="return when the server has packed; packing a file always waits"
    )
    parser.add_argument(
        "--timeout",
        type=seconds(MAX_SECONDS),
        metavar="SECONDS",
        help=f"with --wait: stop waiting after this many seconds, with an error ({_TIMEOUT:.0f})",
    )
    add_keep_prepack_argument(parser)


def run(options: argparse.Namespace) -> int:
    if options.timeout is not None and not options.wait:
        raise UsageError("--timeout goes with --wait")
    address = choose_server(options)
    if address is not None:
        return _wait_for_server(address, options.timeout or _TIMEOUT) if options.wait else _ask_server(address)
    if is_address(options.file):
        return _pack_other(options.file)
    require_file(options.file)  # opening it would create it
    storage = open_file_storage(options.file)
    storage.keep_prepack = options.keep_prepack
    try:
        old = os.stat(options.file)
        show_progress(storage.gen_pack())
        new = os.stat(options.file)
    finally:
        storage.close()
    tell(f"{options.file}: {old.st_size} bytes packed into {new.st_size}{_kept(options.file, old)}")
    return 0


def _pack_other(address: str) -> int:
    """Pack the storage of an address."""
    with contextlib.closing(open_address(address)) as storage:
        show_progress(storage.gen_pack())
    tell(f"{without_password(address)}: packed")
    return 0


def _ask_server(address: SocketAddress) -> int:
    storage = ClientStorage(address=address)
    try:
        storage.pack()
    finally:
        storage.close()
    tell(f"durus: the server on {address} has begun to pack; its log says when it is done, and --wait waits for it")
    return 0


def _wait_for_server(address: SocketAddress, timeout: float) -> int:
    """Ask the server to pack, and return when it has packed. [CMD-20]"""
    began = time.monotonic()
    storage = ClientStorage(address=address, reconnect=False)
    try:
        if storage.protocol == 1:
            show_progress(_gen_waiting(storage, address, began, timeout))
        else:
            storage.pack(wait=True, on_wait=lambda: _check_time(address, began, timeout))
    finally:
        storage.close()
    tell(f"durus: the server on {address} has packed, in {time.monotonic() - began:.1f} s")
    return 0


def _check_time(address: SocketAddress, began: float, timeout: float) -> float:
    """Return how long the server has packed; DurusError if that takes too long."""
    elapsed = time.monotonic() - began
    if elapsed >= timeout:
        raise DurusError(
            f"the server on {address} has not packed in {timeout:g} s: its log says if the pack failed; "
            "if it just takes long, give a longer --timeout"
        )
    return elapsed


def _gen_waiting(storage: ClientStorage, address: SocketAddress, began: float, timeout: float) -> Iterator[Progress]:
    for pause in gen_server_pack(storage):
        elapsed = _check_time(address, began, timeout)
        yield Progress("seconds that the server packs", int(elapsed), None)
        time.sleep(min(pause, timeout - elapsed))


def _kept(path: str, old: os.stat_result) -> str:
    kept = os.path.realpath(path) + ".prepack"
    is_kept = os.path.exists(kept) and os.path.samestat(os.stat(kept), old)
    return f"; the old file is kept as {kept}" if is_kept else ""

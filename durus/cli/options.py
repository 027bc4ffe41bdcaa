"""Options of several commands: the storage, and the address of its server."""

import argparse
import importlib
import os
from collections.abc import Callable
from typing import Any

from durus.cli.values import MAX_PORT, file_or_storage, whole_number
from durus.error import AddressError, ArgumentError, DurusError
from durus.file_storage import FileStorage
from durus.files.inspection import Inspection
from durus.open_file import inspect_file, open_file_storage, storage_class_of
from durus.sharing.address import SocketAddress
from durus.sharing.protocol import DEFAULT_HOST, DEFAULT_PORT
from durus.storage import Storage
from durus.text import without_password


class UsageError(Exception):
    """The options of a command contradict each other. [CMD-2]"""


def add_file_arguments(parser: argparse.ArgumentParser, file_help: str, checked: Callable[[str], str]) -> None:
    """Accept the file as an argument or as --file; `checked` is its type. [CMD-4]"""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("file", nargs="?", type=checked, default=argparse.SUPPRESS, metavar="FILE", help=file_help)
    group.add_argument("--file", type=checked, metavar="FILE", help="another way to give the file")
    group.add_argument(
        "--storage",
        dest="file",
        type=checked,
        metavar="ADDRESS",
        help="instead of a file, an address such as postgresql://user@host/name",
    )


def add_storage_arguments(
    parser: argparse.ArgumentParser, file_help: str, checked: Callable[[str], str] = file_or_storage
) -> None:
    add_file_arguments(parser, file_help, checked)
    parser.add_argument("--readonly", action="store_true", help="change nothing; works while another process writes")
    parser.add_argument("--repair", action="store_true", help="cut off an incomplete end, and keep it in another file")
    parser.add_argument(
        "--storage-class",
        metavar="CLASS",
        help="the storage class to use, as package.module.Class (default: chosen by the content of the file)",
    )


def add_inspected_argument(parser: argparse.ArgumentParser, verb: str) -> None:
    """Accept what inspect() takes."""
    parser.add_argument(
        "file",
        type=file_or_storage,
        metavar="FILE",
        help=f"the file to {verb}, or the address of a database; it may be in use",
    )


def add_address_arguments(parser: argparse.ArgumentParser, verb: str) -> None:
    parser.add_argument("--host", help=f"the host to {verb} ({DEFAULT_HOST})")
    parser.add_argument("--port", type=whole_number(0, MAX_PORT), help=f"the port to {verb} ({DEFAULT_PORT})")
    parser.add_argument(
        "--address", help=f"the Unix socket to {verb}, instead of host and port: a path, or @name on Linux"
    )


def add_at_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--at",
        metavar="TIME",
        help="the state of the last commit at this time or before, in ISO 8601 and in UTC unless it has an offset "
        "(default: the newest)",
    )


def add_keep_prepack_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keep-prepack",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep the file from before a pack, with .prepack after its name, or remove it when the new one is "
        "durable (default: keep)",
    )


def open_storage(options: argparse.Namespace) -> Storage:
    """Return the storage of the options --file, --storage, --readonly, --repair and --storage-class."""
    if options.file and is_address(options.file):
        if options.repair or options.storage_class:
            raise UsageError("--repair and --storage-class are for a file")
        return open_address(options.file, options.readonly)
    if not options.storage_class:
        if options.file:
            return open_file_storage(options.file, readonly=options.readonly, repair=options.repair)
        return FileStorage(readonly=options.readonly, repair=options.repair)
    storage_class = import_storage_class(options.storage_class)
    try:
        return storage_class(options.file, readonly=options.readonly, repair=options.repair)
    except TypeError as error:
        raise ArgumentError(f"{options.storage_class} can't be made of a file, readonly and repair: {error}") from error


def require_file(path: str) -> None:
    """Raise DurusError if there is no such file, for commands that must not make it."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise DurusError(f"{path}: there is no such file") from None


def is_address(name: str) -> bool:
    """Return whether what is given in place of a file is the address of a storage that is not a file. [CMD-5]"""
    if "://" not in name:
        return False
    from durus.opening import names_other_storage  # only if needed, because of its imports

    return names_other_storage(name)


def open_address(address: str, readonly: bool = False) -> Storage:
    """Return the storage of an address."""
    from durus.opening import open_other_storage

    return open_other_storage(address, readonly)


def inspect(name: str) -> Inspection:
    """Return an inspection of a file, or of the storage of an address."""
    if is_address(name):
        from durus.storage_inspection import StorageInspection

        return StorageInspection(open_address(name, readonly=True), without_password(name))
    return inspect_file(name)


def open_history(name: str) -> Storage | None:
    """Open the storage of a database that keeps its history, for reading only; None if it keeps none."""
    if is_address(name):
        return None
    storage_class = storage_class_of(name)
    return storage_class(name, readonly=True) if storage_class.keeps_history else None


def choose_server(options: argparse.Namespace) -> SocketAddress | None:
    """Return the server that a command is to use, None if it is to use the file. [CMD-4]"""
    if not options.file:
        return address_of(options)
    where = None
    if options.file.startswith("durus"):
        from durus.opening import server_named  # only if needed, because of its imports

        where = server_named(options.file)
    given = _of_a_server(options)
    if given:
        raise UsageError(f"{given[0]} is for a server, and {options.file} is named too: give one of the two")
    if where is None:
        return None
    options.file = None
    return _new_address(where)


def _of_a_server(options: argparse.Namespace) -> list[str]:
    """Return the options given that say where a server is."""
    return [f"--{name}" for name in ("address", "host", "port") if getattr(options, name) is not None]


def address_of(options: argparse.Namespace, **of_socket: Any) -> SocketAddress:
    """Return the address of the options --address, or --host and --port; `of_socket` is for the one of --address."""
    if options.address is None:
        host = DEFAULT_HOST if options.host is None else options.host
        return _new_address((host, DEFAULT_PORT if options.port is None else options.port))
    _, *others = _of_a_server(options)
    if others:
        raise UsageError(f"--address takes the place of host and port: leave out {others[0]}")
    return _new_address(options.address, **of_socket)


def _new_address(value: str | tuple[str, int], **options: Any) -> SocketAddress:
    """Return the address of SocketAddress.new(); UsageError if the value is none."""
    host, colon, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if colon and "/" not in host and port.isdecimal() and not os.path.exists(str(value)):
        raise UsageError(f"--address is for a Unix socket: for a TCP port, give --host {host} --port {port}")
    try:
        return SocketAddress.new(value, **options)
    except AddressError as error:
        raise UsageError(str(error)) from error


def import_storage_class(dotted: str) -> type[FileStorage]:
    module, _, name = dotted.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ArgumentError(f"the storage class {dotted} can't be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Storage)):
        raise ArgumentError(f"{dotted} is not a storage class")
    return found  # type: ignore[return-value]  # whether it takes the arguments of FileStorage is seen when it is called

"""`durus shell`: a Python shell on a file, or on what a server holds. Statements CMD-30 to CMD-36."""

import argparse
import os
import sys
import traceback
from types import CodeType

import durus
from durus.cli.leaving import Leaving
from durus.cli.options import (
    UsageError,
    add_address_arguments,
    add_storage_arguments,
    choose_server,
    is_address,
    open_storage,
)
from durus.cli.output import tell
from durus.cli.pretty import pp
from durus.cli.python_console import run_python
from durus.cli.values import file_or_address, trusted_classes, whole_number
from durus.client_storage import ClientStorage
from durus.connection import Connection
from durus.error import DurusError, ServerUnreachableError
from durus.objects.unstorable import CONSOLE
from durus.sharing.address import SocketAddress
from durus.sharing.reaching import wait_for_server
from durus.text import without_password
from durus.transactions.unnoted import debug_mode
from durus.utils import int8_to_str, str_to_int8

_TRIES = 50
_SECONDS_BETWEEN_TRIES = 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_storage_arguments(
        parser, "the file with the objects, created if it does not exist (without it: use a server)", file_or_address
    )
    parser.set_defaults(
        option_if_in_use="--readonly", if_in_use="give the address of its server instead of the file, or --readonly"
    )
    add_address_arguments(parser, "find the server on")
    parser.add_argument(
        "--cache_size",
        "--cache-size",
        type=whole_number(1),
        default=10000,
        metavar="N",
        help="how many objects to keep loaded (%(default)s)",
    )
    parser.add_argument(
        "--classes",
        action="extend",
        type=trusted_classes,
        metavar="NAMES",
        help="import and call only these names for the objects, separated by commas, such as 'shop.*,standard', where "
        "a * stands for any characters, and standard for durus.trust.standard (default: anything); may be repeated",
    )
    parser.add_argument(
        "--startup",
        default=os.environ.get("DURUSSTARTUP", ""),
        metavar="FILE",
        help="a Python file to run first, with the names of the shell (default: $DURUSSTARTUP)",
    )
    parser.add_argument("--plain", action="store_true", help="use Python's own console where IPython is installed too")


def run(options: argparse.Namespace) -> int:
    if "" not in sys.path:
        sys.path.insert(0, "")  # as in Python's own console, for the classes of the objects
    debug_mode(None)  # checks the environment, before a file is made [CMD-71]
    startup = _compiled(options.startup) if options.startup else None
    server = choose_server(options)
    is_new = server is None and not is_address(options.file) and not os.path.exists(options.file)
    storage = open_storage(options) if server is None else _open_client(options, server)
    try:
        connection = Connection(storage, cache_size=options.cache_size, classes=options.classes)
        names: dict[str, object] = {
            "__name__": CONSOLE,
            "__doc__": None,
            "connection": connection,
            "root": connection.get_root(),
            "durus": durus,
            "get": connection.get,
            "pp": pp,
            "sys": sys,
            "os": os,
            "int8_to_str": int8_to_str,
            "str_to_int8": str_to_int8,
        }
        if startup is not None:
            _run_startup(options.startup, startup, names)
        where = without_password(options.file) if server is None else server
        note = "changes can't be stored" if options.readonly else "connection.commit() stores changes"
        banner = f"Durus on {where}{', a new file' if is_new else ''}: connection, root and durus are defined; {note}"
        _run_shell(names, banner, Leaving(connection, _is_terminal(), options.readonly), options.plain)
    finally:
        storage.close()
    return 0


def _run_shell(names: dict[str, object], banner: str, leaving: Leaving, is_plain: bool) -> None:
    if not is_plain and _is_terminal() and os.environ.get("TERM") != "dumb":
        try:
            from durus.cli.ipython_console import run_ipython
        except ImportError:
            pass
        else:
            run_ipython(names, banner, leaving)
            return
    run_python(names, banner, leaving)


def _is_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _open_client(options: argparse.Namespace, address: SocketAddress) -> ClientStorage:
    """Return the storage of the server, which may be about to start."""
    if options.readonly or options.repair or options.storage_class:
        raise UsageError("--readonly, --repair and --storage-class are for a file: give its name too")
    try:
        return ClientStorage(address=address)
    except ServerUnreachableError:
        tell(f"durus: waiting for a server on {address}", file=sys.stderr)
    wait_for_server(address=address, maxtries=_TRIES, sleeptime=_SECONDS_BETWEEN_TRIES)
    return ClientStorage(address=address)


def _compiled(path: str) -> CodeType:
    """Return the code of a Python file, whose names are those of the shell."""
    try:
        with open(path, "rb") as file:
            source = file.read()
    except OSError as error:
        raise DurusError(f"the startup file {path} can't be read: {error.strerror}") from error
    try:
        return compile(source, path, "exec")
    except (SyntaxError, ValueError) as error:
        traceback.print_exception(error.with_traceback(None))
        raise DurusError(f"the startup file {path} is not Python, so the shell is not opened") from error


def _run_startup(path: str, code: CodeType, names: dict[str, object]) -> None:
    """Run the startup file in the namespace of the shell; if it fails, show where, and exit with 1."""
    try:
        exec(code, names)
    except Exception as error:
        frames = error.__traceback__
        traceback.print_exception(error.with_traceback(frames.tb_next if frames else None))
        raise DurusError(f"the startup file {path} failed, so the shell is not opened") from error

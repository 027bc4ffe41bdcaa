"""`durus -c`: a Python console on a file, or on what a server holds."""

import argparse
import code
import contextlib
import os
import sys
import traceback
from collections.abc import Iterator
from pprint import pprint

from durus.cli.options import add_address_arguments, add_storage_arguments, address_of, open_storage
from durus.cli.output import tell
from durus.client_storage import ClientStorage
from durus.connection import Connection
from durus.error import DurusError, ServerUnreachableError
from durus.sharing.address import wait_for_server
from durus.text import printable_lines
from durus.utils import int8_to_str, str_to_int8

_TRIES = 50
_SECONDS_BETWEEN_TRIES = 0.2
_HISTORY = os.path.join("~", ".durushistory")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_storage_arguments(parser, "the file with the objects, made if it is not there (default: use a server)")
    add_address_arguments(parser, "find the server on")
    parser.add_argument("--cache_size", type=int, default=10000, metavar="N", help="objects kept loaded (%(default)s)")
    parser.add_argument(
        "--startup",
        default=os.environ.get("DURUSSTARTUP", ""),
        metavar="FILE",
        help="a Python file to run first, with the names of the console (default: the variable DURUSSTARTUP)",
    )


def run(options: argparse.Namespace) -> int:
    if "" not in sys.path:
        sys.path.insert(0, "")  # as Python's own console has it, for the classes of the objects
    storage = open_storage(options) if options.file else _open_client(options)
    try:
        connection = Connection(storage, cache_size=options.cache_size)
        names: dict[str, object] = {
            "__name__": "__console__",
            "connection": connection,
            "root": connection.get_root(),
            "get": connection.get,
            "pp": pprint,
            "sys": sys,
            "os": os,
            "int8_to_str": int8_to_str,
            "str_to_int8": str_to_int8,
        }
        if options.startup:
            _run_file(options.startup, names)
        with _completion(names):
            place = options.file or address_of(options)
            banner = f"Durus on {place}: connection and root are there; connection.commit() stores changes"
            _Console(names).interact(banner, exitmsg="")
    finally:
        storage.close()
    return 0


class _Console(code.InteractiveConsole):
    """Shows errors as they are, but for what would move the cursor. [OBJ-79]"""

    def write(self, data: str) -> None:
        super().write(printable_lines(data))


def _open_client(options: argparse.Namespace) -> ClientStorage:
    """Return the storage of the server, which may be about to start."""
    if options.readonly or options.repair or options.storage_class:
        raise DurusError("--readonly, --repair and --storage-class are for a file: give its name with --file")
    address = address_of(options)
    try:
        return ClientStorage(address=address)
    except ServerUnreachableError:
        tell(f"durus: waiting for a server on {address}", file=sys.stderr)
    wait_for_server(address=address, maxtries=_TRIES, sleeptime=_SECONDS_BETWEEN_TRIES)
    return ClientStorage(address=address)


def _run_file(path: str, names: dict[str, object]) -> None:
    """Run a Python file in the namespace of the console; if it fails, show where in it, and end with 1."""
    try:
        with open(path, "rb") as file:
            source = file.read()
    except OSError as error:
        raise DurusError(f"the startup file can't be read: {error}") from error
    try:
        exec(compile(source, path, "exec"), names)
    except Exception as error:
        frames = error.__traceback__
        traceback.print_exception(error.with_traceback(frames.tb_next if frames else None))
        raise DurusError(f"the startup file {path} failed, so the console is not opened") from error


@contextlib.contextmanager
def _completion(names: dict[str, object]) -> Iterator[None]:
    """Give a terminal completion of names and a history that outlives the console."""
    if not sys.stdin.isatty():  # importing readline is enough to print on some terminals
        yield
        return
    try:
        import readline
        import rlcompleter
    except ImportError:
        yield
        return
    history = os.path.expanduser(_HISTORY)
    readline.set_completer(rlcompleter.Completer(names).complete)
    readline.parse_and_bind("tab: complete")
    with contextlib.suppress(OSError):  # there is none before the first console
        readline.read_history_file(history)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # a home that can't be written to keeps no history
            readline.write_history_file(history)

"""`durus -c`: a Python console on a file."""

import argparse
import code
import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Iterator
from pprint import pprint

from durus.connection import Connection
from durus.error import DurusError
from durus.file_storage import FileStorage
from durus.storage import Storage
from durus.utils import int8_to_str, str_to_int8

_HISTORY = os.path.join("~", ".durushistory")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--file", required=True, metavar="F", help="the file with the objects; made if it is not there")
    parser.add_argument("--readonly", action="store_true", help="look only; works while another process writes")
    parser.add_argument("--repair", action="store_true", help="cut off an end that was not written whole, and keep it")
    parser.add_argument("--cache_size", type=int, default=10000, metavar="N", help="objects kept loaded (%(default)s)")
    parser.add_argument(
        "--startup",
        default=os.environ.get("DURUSSTARTUP", ""),
        metavar="FILE",
        help="a Python file to run first, with the names of the console (default: the variable DURUSSTARTUP)",
    )
    parser.add_argument("--storage-class", metavar="DOTTED", help="the storage class to use, module and name")


def run(options: argparse.Namespace) -> int:
    if "" not in sys.path:
        sys.path.insert(0, "")  # as Python's own console has it, for the classes of the objects
    storage_class = _import_class(options.storage_class) if options.storage_class else FileStorage
    storage = storage_class(options.file, readonly=options.readonly, repair=options.repair)
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
            banner = f"Durus on {options.file}: connection and root are there; connection.commit() stores changes"
            code.interact(banner, local=names, exitmsg="")
    finally:
        storage.close()
    return 0


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


def _import_class(dotted: str) -> type[FileStorage]:
    module, _, name = dotted.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise DurusError(f"the storage class {dotted} can't be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Storage)):
        raise DurusError(f"{dotted} is not a storage class")
    return found  # type: ignore[return-value]  # it takes the arguments of FileStorage, or fails with what it lacks


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

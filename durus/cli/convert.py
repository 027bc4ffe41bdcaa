"""`durus convert`: copy a database to a new file, or to another kind of storage."""

import argparse
import contextlib
import os
from collections.abc import Callable

from durus.cli.options import UsageError, import_storage_class, is_address, open_address
from durus.cli.output import tell
from durus.cli.progress import show_progress
from durus.cli.values import file_or_storage
from durus.error import ArgumentError
from durus.open_file import open_file_storage
from durus.storage import Storage
from durus.text import without_password
from durus.tools.convert import copy_to_file, copy_to_storage
from durus.tools.python2 import Python2Records, Rules


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "old",
        type=file_or_storage,
        metavar="OLD",
        help="the file to copy, or the address of a database; it may be in use",
    )
    parser.add_argument(
        "new",
        type=file_or_storage,
        metavar="NEW",
        help="the file to make, which must not exist, or the address of an empty database",
    )
    parser.add_argument(
        "--storage-class",
        metavar="CLASS",
        help="the storage class of the new file (FileStorage)",
    )
    python2 = parser.add_argument_group("databases that Python 2 wrote")
    python2.add_argument(
        "--from-python2", action="store_true", help="turn each str of Python 2 into text or bytes, by rule"
    )
    python2.add_argument(
        "--bytes-attribute",
        action="append",
        default=[],
        metavar="NAME",
        help="an attribute or key whose value is bytes; module.Class.NAME for that of one class; may be repeated",
    )
    python2.add_argument("--encoding", metavar="E", help="the encoding of text that is not ASCII (default: an error)")


def run(options: argparse.Namespace) -> int:
    make_storage = _maker(options.storage_class) if options.storage_class else None
    if not options.from_python2 and (options.bytes_attribute or options.encoding):
        raise UsageError("--bytes-attribute and --encoding are for databases of Python 2: give --from-python2 too")
    rules = Rules(options.bytes_attribute, options.encoding)
    source = _open_source(options.old)
    translating = Python2Records(source, rules) if options.from_python2 else None
    try:
        if is_address(options.new):
            if make_storage:
                raise UsageError("--storage-class is for a file")
            with contextlib.closing(open_address(options.new)) as target:
                show_progress(copy_to_storage(translating or source, target))
        else:
            like = None if is_address(options.old) else options.old
            show_progress(copy_to_file(translating or source, options.new, make_storage, permissions_of=like))
    finally:
        source.close()
    if translating is not None:
        counts = f"{translating.texts} are text and {translating.byte_strings} bytes"
        tell(f"{without_password(options.old)}: of the strs of Python 2, {counts}")
    if is_address(options.old) or is_address(options.new):
        tell(f"{without_password(options.old)}: copied to {without_password(options.new)}")
        return 0
    sizes = [os.path.getsize(path) for path in (options.old, options.new)]
    tell(f"{options.old}: {sizes[0]} bytes copied to {options.new} with {sizes[1]}")
    return 0


def _open_source(name: str) -> Storage:
    """Open what is copied, as it is at this moment."""
    if not is_address(name):
        return open_file_storage(name, readonly=True)
    with contextlib.closing(open_address(name, readonly=True)) as storage:
        return storage.as_of_now()


def _maker(dotted: str) -> Callable[[str], Storage]:
    storage_class = import_storage_class(dotted)

    def make(path: str) -> Storage:
        try:
            return storage_class(path)
        except TypeError as error:
            raise ArgumentError(f"{dotted} can't be made of a file: {error}") from error

    return make

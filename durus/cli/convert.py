"""`durus convert`: copy a database to a new file, or to another kind of storage."""

import argparse
import os
from collections.abc import Callable

from durus.cli.options import UsageError, import_storage_class
from durus.cli.output import tell
from durus.cli.progress import show_progress
from durus.error import DurusError
from durus.open_file import open_file_storage
from durus.storage import Storage
from durus.tools.convert import copy_to_file
from durus.tools.python2 import Python2Records, Rules


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("old", metavar="OLD", help="the file to copy; it may be in use")
    parser.add_argument("new", metavar="NEW", help="the file to make, which must not exist")
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
    python2.add_argument("--encoding", metavar="E", help="the encoding of text that is not ASCII (there must be none)")


def run(options: argparse.Namespace) -> int:
    make_storage = _maker(options.storage_class) if options.storage_class else None
    if not options.from_python2 and (options.bytes_attribute or options.encoding):
        raise UsageError("--bytes-attribute and --encoding are for databases of Python 2: give --from-python2 too")
    rules = Rules(options.bytes_attribute, options.encoding)
    source = open_file_storage(options.old, readonly=True)
    translating = Python2Records(source, rules) if options.from_python2 else None
    try:
        show_progress(copy_to_file(translating or source, options.new, make_storage, permissions_of=options.old))
    finally:
        source.close()
    if translating is not None:
        tell(
            f"{options.old}: of the strs of Python 2, {translating.texts} are text and {translating.byte_strings} bytes"
        )
    sizes = [os.path.getsize(path) for path in (options.old, options.new)]
    tell(f"{options.old}: {sizes[0]} bytes copied to {options.new} with {sizes[1]}")
    return 0


def _maker(dotted: str) -> Callable[[str], Storage]:
    storage_class = import_storage_class(dotted)

    def make(path: str) -> Storage:
        try:
            return storage_class(path)
        except TypeError as error:
            raise DurusError(f"{dotted} can't be made of a file: {error}") from error

    return make

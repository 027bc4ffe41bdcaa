"""`durus export`: write what a database holds into a file for other programs. spec/export.md."""

import argparse
import contextlib
from collections.abc import Iterator

from durus.cli.options import UsageError, add_at_argument, add_inspected_argument, inspect, is_address
from durus.cli.output import number_of_objects, tell
from durus.cli.progress import show_progress
from durus.cli.values import file_name
from durus.file_storage import FileStorage
from durus.files.inspection import Records
from durus.storage_inspection import StorageRecords
from durus.text import without_password
from durus.tools.export import Export


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_inspected_argument(parser, "export")
    parser.add_argument(
        "--to",
        required=True,
        type=file_name,
        metavar="NEW",
        help="the file to make, which must not exist; its name ends in .jsonl, .sqlite or .csv",
    )
    parser.add_argument("--class", dest="class_name", metavar="NAME", help="only objects of this class")
    add_at_argument(parser)


def run(options: argparse.Namespace) -> int:
    path = without_password(options.file)
    with _records(options.file, options.at) as records:
        like = None if is_address(options.file) else options.file
        export = Export(records, options.to, options.class_name, like)
        show_progress(export.steps())
    tell(f"{path}: {number_of_objects(export.objects)} exported to {options.to}")
    if export.unreadable:
        tell(f"{path}: {export.unreadable} of them as stored bytes, the first because of this: {export.problem}")
    return 0


@contextlib.contextmanager
def _records(name: str, at: str | None) -> Iterator[Records]:
    """Return the records of a file or of the storage of an address, as they are now or were at a time."""
    if at is None:
        with contextlib.closing(inspect(name)) as inspection:
            yield inspection.records
        return
    if is_address(name):
        raise UsageError("--at is for a file")
    with contextlib.closing(FileStorage(name, at=at)) as storage:
        yield StorageRecords(storage)

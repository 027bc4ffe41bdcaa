"""`durus rename`: rename classes or modules in a file."""

import argparse

from durus.cli.options import require_file
from durus.cli.output import tell
from durus.cli.progress import show_progress
from durus.cli.values import file_name
from durus.open_file import open_file_storage
from durus.tools.rename import Renaming


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("old", metavar="OLD", help="the path in the file, as package.module.Class or package.module")
    parser.add_argument("new", metavar="NEW", help="the new path; package.module:Outer.Inner for a nested class")
    parser.add_argument(
        "file", type=file_name, metavar="FILE", help="the file to change, which no server may have open"
    )
    parser.set_defaults(option_if_in_use="--dry-run", if_in_use="close it there, or give --dry-run")
    parser.add_argument("--dry-run", action="store_true", help="show what would change, and change nothing")


def run(options: argparse.Namespace) -> int:
    require_file(options.file)  # opening it would create it
    storage = open_file_storage(options.file, readonly=options.dry_run)
    try:
        renaming = Renaming(storage, options.old, options.new)
        show_progress(renaming.find())
        if not options.dry_run:
            renaming.store()
    finally:
        storage.close()
    if not renaming.objects and not renaming.others:
        tell(f"{options.file}: nothing in it has the path {options.old}")
        return 0
    verb = "would be" if options.dry_run else "are now"
    for (old, new), count in sorted(renaming.objects.items()):
        tell(f"{options.file}: objects of {old} that {verb} of {new}: {count}")
    tell(f"{options.file}: other records that name them, and {verb} changed: {renaming.others}")
    return 0

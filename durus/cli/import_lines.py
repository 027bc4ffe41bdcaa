"""`durus import`: make a file from exported JSON lines. spec/export.md."""

import argparse

from durus.cli.output import number_of_objects, tell
from durus.cli.progress import show_progress
from durus.cli.values import file_name
from durus.tools.import_lines import Import


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "lines", type=file_name, metavar="LINES", help="the file of JSON lines that `durus export` has made"
    )
    parser.add_argument("new", type=file_name, metavar="NEW", help="the file to make, which must not exist")


def run(options: argparse.Namespace) -> int:
    work = Import(options.lines, options.new)
    show_progress(work.steps())
    tell(f"{options.lines}: {number_of_objects(work.objects)} imported to {options.new}")
    return 0

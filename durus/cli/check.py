"""`durus check`: verify a file and name its faults."""

import argparse
from contextlib import closing

from durus.cli.output import tell
from durus.open_file import inspect_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="F", help="the file to verify; it may be in use")


def run(options: argparse.Namespace) -> int:
    path: str = options.file
    faults = 0
    with closing(inspect_file(path)) as inspection:
        for finding in inspection.findings():
            faults += finding.is_fault
            tell(f"{path}: {finding}")
        result = f"{faults} fault{'s' if faults > 1 else ''}" if faults else "clean"
        tell(f"{path}: {result}: {inspection.figures()}")
    return 1 if faults else 0

"""`durus -p`: pack a file."""

import argparse
import os
import sys

from durus.file_storage import FileStorage
from durus.progress import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--file", required=True, metavar="F", help="the file to pack")


def run(options: argparse.Namespace) -> int:
    storage = FileStorage(options.file)
    try:
        before = os.path.getsize(options.file)
        for progress in storage.get_packer():
            _show(progress)
        after = os.path.getsize(options.file)
    finally:
        storage.close()
    _clear()
    print(f"{options.file}: {before} bytes packed into {after}; the old file is kept as {options.file}.prepack")
    return 0


def _show(progress: Progress) -> None:
    if sys.stderr.isatty():
        total = "" if progress.total is None else f" of {progress.total}"
        print(f"\r{progress.phase}: {progress.done}{total}\x1b[K", end="", file=sys.stderr, flush=True)


def _clear() -> None:
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)

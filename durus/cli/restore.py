"""`durus restore`: make a file from a backup. spec/backup.md."""

import argparse

from durus.backups.restore import Restore
from durus.cli.options import add_at_argument
from durus.cli.output import tell
from durus.cli.progress import show_progress
from durus.cli.values import backup_target, file_name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "target",
        type=backup_target,
        metavar="TARGET",
        help="the folder of the backup, or s3://, gs:// or az://BUCKET/PREFIX",
    )
    parser.add_argument("file", type=file_name, metavar="FILE", help="the file to make, which must not exist")
    add_at_argument(parser)


def run(options: argparse.Namespace) -> int:
    restore = Restore(options.target, options.file, options.at)
    show_progress(restore.steps())
    done = restore.result
    tell(
        f"{options.file}: {done.size} bytes from generation {done.generation} of {options.target}, "
        f"with the state of {done.time}"
    )
    return 0

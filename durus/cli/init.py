"""`durus init`: make the tables of a database in PostgreSQL. Statement CMD-41."""

import argparse
import contextlib

from durus.cli.options import UsageError, is_address, open_address
from durus.cli.output import tell
from durus.cli.values import file_or_storage
from durus.postgres.statements import VERSION
from durus.postgres_storage import PostgresStorage
from durus.text import without_password


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "address",
        type=file_or_storage,
        metavar="ADDRESS",
        help="where the database is to be, as postgresql://user@host/name?schema=durus",
    )
    parser.add_argument("--check", action="store_true", help="create nothing; only print the version of the tables")


def run(options: argparse.Namespace) -> int:
    shown = without_password(options.address)
    if not is_address(options.address):
        raise UsageError(f"{shown} is not an address of an engine: a file is made by the first program that opens it")
    with contextlib.closing(open_address(options.address, readonly=options.check)) as storage:
        if not isinstance(storage, PostgresStorage):
            raise UsageError(f"{shown} is not in PostgreSQL: only such a database has tables to make")
        if storage.made:
            tell(f"{shown}: made {', '.join(storage.made)}; the tables have version {VERSION}")
        else:
            tell(f"{shown}: the tables are there, of version {VERSION}")
    return 0

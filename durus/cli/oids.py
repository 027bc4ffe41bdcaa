"""An OID as an argument of a command."""

import argparse

from durus.cli.options import UsageError
from durus.oid import oid_from_int


def add_oid_argument(parser: argparse.ArgumentParser, help_text: str, *, is_optional: bool = False) -> None:
    parser.add_argument("oid", nargs="?" if is_optional else None, type=int, metavar="OID", help=help_text)


def oid_of(options: argparse.Namespace) -> bytes:
    """Return the oid that was given; UsageError if it is no such number."""
    if not 0 <= options.oid < 1 << 64:
        raise UsageError("an OID is a number from 0 to 2**64 - 1")
    return oid_from_int(options.oid)

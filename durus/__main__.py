"""The `durus` command."""

import argparse
import code
import os
import sys

if not __package__:  # started as a script: its folder must not stand in front of the standard library
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from durus.connection import Connection
from durus.error import DurusError
from durus.file_storage import FileStorage


def main() -> int:
    """Run the command that the arguments ask for; return the exit status."""
    parser = argparse.ArgumentParser(prog="durus", description="A persistent object system for Python.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("-c", action="store_true", help="open the file in an interactive client")
    what.add_argument("-p", action="store_true", help="pack the file: remove what the root does not reach")
    parser.add_argument("--file", required=True, metavar="F", help="the file that holds the objects")
    parser.add_argument("--readonly", action="store_true", help="look only; works beside a process that writes")
    parser.add_argument("--repair", action="store_true", help="cut off an end that was not written whole")
    options = parser.parse_args()
    try:
        storage = FileStorage(options.file, readonly=options.readonly, repair=options.repair)
        with Connection(storage) as connection:
            if options.p:
                connection.pack()
            else:
                _interact(connection)
    except DurusError as error:
        print(f"durus: {error}", file=sys.stderr)
        return 1
    return 0


def _interact(connection: Connection) -> None:
    names = {
        "connection": connection,
        "root": connection.get_root(),
        "get": connection.get,
        "os": os,
        "sys": sys,
    }
    code.interact(
        "connection, root and get are there; connection.commit() stores, connection.abort() reverts",
        local=names,
        exitmsg="",
    )


if __name__ == "__main__":
    sys.exit(main())

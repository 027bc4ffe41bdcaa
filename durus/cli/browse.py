"""`durus browse`: web pages that show what a database holds. Statements CMD-50 to CMD-56."""

import argparse
from contextlib import ExitStack, closing

from durus.browser.source import ServerRecords, Source
from durus.cli.options import inspect, open_history
from durus.cli.output import tell
from durus.cli.values import MAX_PORT, file_or_address, whole_number
from durus.client_storage import ClientStorage
from durus.error import DurusError
from durus.opening import server_named
from durus.text import without_password


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        type=file_or_address,
        metavar="FILE",
        help="the file, which may be in use, or the address of a server or of another database",
    )
    parser.add_argument(
        "--port", type=whole_number(0, MAX_PORT), default=0, help="the port of the web pages (one that is free)"
    )


def run(options: argparse.Namespace) -> int:
    try:
        from durus.browser.serve import serve
    except ImportError as error:
        raise DurusError(f"browse needs {error.name}, which is not installed: pip install 'durus[browse]'") from error
    name: str = options.file
    shown = without_password(name)

    def announce(address: str) -> None:
        tell(f"durus: {shown} can be browsed at {address} until Ctrl-C", flush=True)

    serve(lambda: open_source(name), options.port, announce)
    return 0


def open_source(name: str) -> Source:
    """Open a file, or the database of an address, for reading only."""
    shown = without_password(name)
    server = server_named(name)
    with ExitStack() as opened:
        if server is not None:
            client = opened.enter_context(closing(ClientStorage(address=server)))
            client.sync()
            facts = [("server", shown)]
            return Source(shown, facts, ServerRecords(client), opened.pop_all().close, renew=client.sync)
        inspection = opened.enter_context(closing(inspect(name)))
        past = open_history(name)
        if past is not None:
            opened.enter_context(closing(past))
        facts = list(inspection.heading().lines())
        return Source(shown, facts, inspection.records, opened.pop_all().close, past)

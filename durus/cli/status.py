"""`durus status`: show what a server does. Statements CMD-22 to CMD-24."""

import argparse
import contextlib
import json
from collections.abc import Iterator

from durus.cli.options import add_address_arguments, choose_server
from durus.cli.output import tell
from durus.cli.report import add_json_argument
from durus.cli.values import seconds, server_address
from durus.client_storage import ClientStorage
from durus.error import ProtocolError
from durus.sharing.protocol2 import MAX_SECONDS

_TIMEOUT = 10.0
_SHOWN_CLASSES = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        nargs="?",
        type=server_address,
        metavar="ADDRESS",
        help="the server, as durus://host:port, durus+tls://host:port or durus+unix:/path",
    )
    add_address_arguments(parser, "find the server on")
    add_json_argument(parser)
    parser.add_argument(
        "--timeout",
        type=seconds(MAX_SECONDS),
        default=_TIMEOUT,
        metavar="SECONDS",
        help="how long to wait for the server, at most (%(default)s)",
    )


def run(options: argparse.Namespace) -> int:
    address = choose_server(options)
    storage = ClientStorage(address=address, connect_timeout=options.timeout, timeout=options.timeout, reconnect=False)
    with contextlib.closing(storage):
        status = storage.server_status()
    lines = [json.dumps(status)] if options.json else list(_lines(status))
    for line in lines:
        tell(line)
    return 0


class _Part:
    """An object in the JSON of a status. ProtocolError where the server sends something else."""

    def __init__(self, values: object) -> None:
        if not isinstance(values, dict):
            raise ProtocolError(f"the status of the server has {values!r:.100} where an object must be")
        self._values: dict[str, object] = values

    def part(self, key: str) -> "_Part":
        return _Part(self._values.get(key))

    def parts(self, key: str) -> "list[_Part]":
        values = self._values.get(key)
        return [_Part(each) for each in values] if isinstance(values, list) else []

    def text(self, key: str) -> str:
        value = self._values.get(key)
        return "unknown" if value is None else str(value)

    def number(self, key: str) -> float:
        value = self._values.get(key)
        return value if isinstance(value, int | float) else 0

    def count(self, key: str) -> str:
        return f"{self.number(key):,.0f}"

    def duration(self, key: str) -> str:
        return _duration(self.number(key))

    def has(self, key: str) -> bool:
        return self._values.get(key) is not None


def _lines(values: dict[str, object]) -> Iterator[str]:
    """Yield the lines for people. [CMD-23]"""
    status = _Part(values)
    commits, writes, conflicts, clients = map(status.part, ("commits", "writes", "conflicts", "clients"))
    # Not as a table of keys and formats: half of the lines join several values.
    version, process = status.text("durus"), status.text("process")
    yield f"server        durus {version}, process {process}, running for {status.duration('uptime')}"
    yield f"listens on    {status.text('address')}"
    size = f", {status.count('size')} bytes" if status.has("size") else ""
    garbage = f", about {status.count('garbage')} of them garbage" if status.has("garbage") else ""
    yield f"file          {status.text('file') if status.has('file') else 'none'}{size}{garbage}"
    yield (
        f"commits       {commits.count('count')} of {commits.count('objects')} objects, {commits.count('bytes')} bytes"
        f"{_times(commits.part('seconds'))}"
    )
    failed = f", {writes.count('failed')} of them failed" if writes.number("failed") else ""
    yield f"writes        {writes.part('seconds').count('count')}{failed}{_times(writes.part('seconds'))}"
    yield f"conflicts     {conflicts.count('count')}{_classes(conflicts)}"
    yield (
        f"traffic       {status.count('loads')} loads, {status.count('received')} bytes in, "
        f"{status.count('sent')} bytes out"
    )
    yield f"pack          {_pack(status.part('pack'))}"
    if status.has("copies"):  # earlier servers do not tell
        yield f"copies        {_copies(status.part('copies'))}"
    refused = f"; refused because of a limit: {status.count('refused')}" if status.number("refused") else ""
    yield f"clients       {clients.count('count')}, of {status.count('connections')} since it started{refused}"
    for client in clients.parts("shown"):
        snapshot = ", holds a snapshot" if client.has("snapshot") and client.number("snapshot") else ""
        yield (
            f"  {client.text('name')} ({client.text('role')}), connected for {client.duration('seconds')}: "
            f"{client.text('doing')}{snapshot}"
        )


def _times(times: _Part) -> str:
    if not times.number("count"):
        return ""
    return f"; half in {times.duration('p50')}, 99 % in {times.duration('p99')}, all in {times.duration('max')}"


def _classes(conflicts: _Part) -> str:
    shown = [f"{each.text('name')} {each.count('count')}" for each in conflicts.parts("classes")[:_SHOWN_CLASSES]]
    return f", most often {', '.join(shown)}" if shown else ""


def _pack(pack: _Part) -> str:
    if pack.number("running"):
        return "in progress"
    since = f"; {pack.count('bytes_since')} bytes of commits since"
    if not pack.has("last"):
        return f"none since the server started{since}"
    last = pack.part("last")
    when = f"{last.duration('ago')} ago, in {last.duration('seconds')}"
    if last.has("error"):
        return f"failed {when}: {last.text('error')}"
    return f"{when}, {last.count('freed')} bytes freed{since}"


def _copies(copies: _Part) -> str:
    if not copies.has("ago"):
        return "none of the file by a client since the server started"
    return f"{copies.count('count')} of the file by clients, the last {copies.duration('ago')} ago"


def _duration(seconds: float) -> str:
    """Return a time in the two largest units that it has, such as `3 h 12 min`, or `1.5 ms`."""
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min {int(seconds % 60)} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"

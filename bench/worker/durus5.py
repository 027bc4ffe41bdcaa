"""This Durus; its servers are those of the command `durus serve`."""

import time
from collections.abc import Callable, Iterator

import durus
import durus.__main__
from durus.client_storage import ClientStorage
from durus.file_storage import FileStorage
from durus.sharing import protocol2
from durus.sharing.protocol import Version, encode_request, read_u32
from durus_api import DurusDatabase, Group, Item, Tree, range_of
from player import Conversation
from workloads import items_of

__all__ = [
    "Group",
    "Item",
    "Tree",
    "commit_on_demand",
    "connect",
    "counter",
    "open",
    "range_of",
    "seconds_of_report",
    "serve",
]


class _Database(DurusDatabase):
    def traverse(self) -> Iterator[Item]:
        return items_of(self)


def open(path: str, durable: bool) -> DurusDatabase:
    return _Database(FileStorage(path, durability="fsync" if durable else "os"))


def serve(path: str, address: str) -> None:
    durus.__main__.main(["serve", "--file", path, "--address", address])


def connect(address: str, ahead: bool = True) -> DurusDatabase:
    return _Database(ClientStorage(address=address, prefetch=100 if ahead else 0))


def counter(address: str) -> Callable[[], None]:
    """Return a function that adds one to the counter in the root."""
    db = durus.open(f"durus+unix:{address}")
    return lambda: db.run(_add_one)


def _add_one(root: durus.PersistentDict[str, int]) -> None:
    root["counter"] = root.get("counter", 0) + 1


def commit_on_demand(oid: bytes) -> Conversation:
    """Load an object once, and store it again in each transaction. spec/wire-2.md."""
    yield encode_request(Version(protocol2.VERSION_2))
    yield from read_u32()
    hello = protocol2.parse_hello((yield from protocol2.read_answer()))
    if not isinstance(hello, protocol2.Hello):
        raise RuntimeError(hello.text)
    serial = hello.serial
    yield protocol2.encode_load([oid], 0)
    (loaded,) = protocol2.parse_loaded((yield from protocol2.read_answer()).body)
    while True:
        yield None
        yield protocol2.encode_commit(serial, [oid], [loaded.record])
        answer = yield from protocol2.read_answer()
        if answer.kind != b"C":
            raise RuntimeError(f"the answer to a commit is {answer}")
        serial = protocol2.parse_point(answer.body).serial


def seconds_of_report(address: str) -> float:
    """Read all items as of one moment."""
    with durus.open(f"durus+unix:{address}") as db, db.snapshot() as root:
        start = time.perf_counter()
        for group in root.values():
            for item in group:
                item.number  # noqa: B018  # the read is the work
        return time.perf_counter() - start

"""Jobs of two clients, one after the other, with an interrupt at a random line of many; a dict is the oracle.

    python -m tests.model.deep interrupts --seed N

A job is a transaction, or a pack. If it was interrupted, the other client sees the state before it or the state after
it. From time to time a child is forked, which must be refused and must leave everything as it is.
"""

import os
import random
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from durus.btree import BNode, BTree
from durus.connection import Connection
from durus.error import DurusError, WrongProcessError
from durus.file_storage import FileStorage
from durus.file_storage2 import FileStorage2
from durus.persistent import Persistent
from durus.shared_storage import SharedStorage
from durus.sqlite_storage import SqliteStorage
from durus.storage import MemoryStorage, Storage
from tests.interrupts import interrupted_at

JOBS = 40
KEYS = "abcdefghij"
LINES = (30, 300, 3000)
"""The maximum numbers of the line at which an interrupt comes."""

KINDS: dict[str, Callable[[Path], Storage]] = {
    "memory": lambda path: MemoryStorage(),
    "shelf": lambda path: FileStorage(path, durability="os"),
    "dfs20": lambda path: FileStorage2(path, durability="os"),
    "sqlite": SqliteStorage,
}

Contents = dict[str, int]


class Item(Persistent):
    def __init__(self, name: str, n: int) -> None:
        self.name = name
        self.n = n


class Stop(Exception):
    """Ends a block, so that it is aborted."""


class World:
    """A storage with two clients, and the state that it must hold."""

    def __init__(self, make: Callable[[Path], Storage], path: Path, chance: random.Random) -> None:
        self.chance = chance
        self.counts: Counter[str] = Counter()
        self.contents: Contents = {}
        self.storage = make(path)
        shared = SharedStorage(self.storage)
        self.clients = [Connection(shared.new_client(), cache_size=chance.choice((2, 1000))) for _ in range(2)]
        with self.clients[0].transaction() as root:
            root["tree"] = BTree(BNode)

    def do_a_job(self) -> None:
        """Do a job, or a part of one."""
        self.counts["jobs"] += 1
        client, other = self.chance.sample(self.clients, 2)
        after = dict(self.contents)
        job = self.choose_job(client, after)
        where = None
        if self.chance.random() < 0.8:
            where = interrupted_at(self.chance.randrange(self.chance.choice(LINES)), job)
        else:
            job()
        found = self.read(other)
        if where is None:
            assert found == after, f"{found}, not {after}"
        else:
            self.counts["interrupts"] += 1
            assert found in (self.contents, after), f"{where}: {found}, neither {self.contents} nor {after}"
            self.check_next_call(client, where)
        self.contents = found

    def choose_job(self, client: Connection, after: Contents) -> Callable[[], None]:
        """Return a job; put its result into `after`."""
        kind = self.chance.choices(("change", "abort", "pack", "evict"), (12, 2, 2, 1))[0]
        changes = [(self.chance.choice(KEYS), self.chance.randrange(1000)) for _ in range(self.chance.randrange(1, 5))]
        removed = self.chance.choice(KEYS) if self.chance.random() < 0.3 else None
        if kind == "change":
            after.update(changes)
            after.pop(removed or "", None)
        if kind == "pack":
            return lambda: pack(client)
        if kind == "evict":
            return lambda: evict(client)
        return lambda: change(client, changes, removed, kind == "abort")

    def read(self, client: Connection) -> Contents:
        with client.transaction() as root:
            return contents_of(root)

    def check_next_call(self, client: Connection, where: str) -> None:
        """Check that at most one call is refused, and that nothing of the interrupted job is left in the client."""
        try:
            found = self.read(client)
        except DurusError:
            self.counts["refused"] += 1
            found = self.read(client)
        assert found == self.read(self.clients[0] if client is self.clients[1] else self.clients[1]), where

    def fork(self) -> None:
        """Let a child try to use each client, and end in one of several ways."""
        self.counts["forks"] += 1
        ends_at_once = self.chance.random() < 0.5
        process = os.fork()
        if not process:
            status = 1
            try:
                for client in self.clients:
                    try:
                        self.read(client)
                    except WrongProcessError:
                        status = 0
                    client.close()
                if not ends_at_once:
                    self.storage.close()
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


def change(client: Connection, changes: list[tuple[str, int]], removed: str | None, is_aborted: bool) -> None:
    try:
        with client.transaction() as root:
            tree: Any = root["tree"]
            for name, n in changes:
                item: Any = root.get(name)
                if item is None:
                    root[name] = Item(name, n)
                else:
                    item.n = n
                tree[name] = n
            if removed is not None and removed in root:
                del root[removed], tree[removed]
            if is_aborted:
                raise Stop
    except Stop:
        pass


def pack(client: Connection) -> None:
    client.abort()
    client.pack()


def evict(client: Connection) -> None:
    size = client.get_cache_size()
    client.abort()
    client.set_cache_size(1)
    client.shrink_cache()
    client.set_cache_size(size)


def contents_of(root: Any) -> Contents:
    items = {name: item for name, item in root.items() if name != "tree"}
    assert all(item.name == name for name, item in items.items()), "an object is in another one's place"
    contents = {name: item.n for name, item in items.items()}
    root["tree"].check()
    assert dict(root["tree"]) == contents, "the tree and the items differ"
    return contents


def run(seed: int) -> Counter[str]:
    """Do the jobs of a seed, reopen the storages that are in files, and return figures."""
    chance = random.Random(seed)
    name = chance.choice(sorted(KINDS))
    with tempfile.TemporaryDirectory(prefix="durus-interrupts-") as folder:
        path = Path(folder) / "f"
        world = World(KINDS[name], path, chance)
        for _ in range(JOBS):
            if chance.random() < 0.03:
                world.fork()
            world.do_a_job()
        world.storage.close()
        if path.exists():
            with Connection(KINDS[name](path)) as connection:
                assert contents_of(connection.get_root()) == world.contents
    return world.counts

"""Several threads use one connection, by mistake: calls may be refused, but nothing acknowledged may be lost.

    python -m tests.model.deep misuse --seed N

Each thread counts in a key of its own. In the end, the file is sound, and each count in it lies between the last one
that was acknowledged to the thread and the last one that it tried.
"""

import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from durus.connection import Connection
from durus.error import DurusError
from durus.file_storage import FileStorage
from durus.file_storage2 import FileStorage2
from durus.persistent import Persistent
from durus.shared_storage import SharedStorage
from durus.sqlite_storage import SqliteStorage
from durus.storage import Storage

THREADS = 4
ROUNDS = 30
SWITCH_INTERVAL = 1e-6

MAX_PAUSE = 0.001
"""Seconds between two rounds: a refused thread finishes its round immediately."""

KINDS: dict[str, Callable[[Path], Storage]] = {
    "shelf": lambda path: FileStorage(path, durability="os"),
    "dfs20": lambda path: FileStorage2(path, durability="os"),
    "sqlite": SqliteStorage,
}


class Cell(Persistent):
    def __init__(self) -> None:
        self.count = 0


class Worker(threading.Thread):
    def __init__(self, connection: Connection, name: str, seed: int) -> None:
        super().__init__()
        self.connection = connection
        self.key = name
        self.chance = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.tried = self.acknowledged = 0
        self.unexpected: BaseException | None = None

    def run(self) -> None:
        for _ in range(ROUNDS):
            try:
                self.chance.choices((self.count_on, self.abort, self.pack), (10, 2, 1))[0]()
            except DurusError as error:
                self.counts[type(error).__name__] += 1
            except BaseException as error:
                self.unexpected = error
                return
            time.sleep(self.chance.random() * MAX_PAUSE)

    def count_on(self) -> None:
        tried = self.tried + 1
        with self.connection.transaction() as root:
            self.tried = tried
            cell: Any = root[self.key]
            cell.count = tried
        self.acknowledged = tried
        self.counts["commits"] += 1

    def abort(self) -> None:
        self.connection.abort()

    def pack(self) -> None:
        self.connection.pack()


def run(seed: int) -> Counter[str]:
    """Let threads misuse a connection; return figures. AssertionError if something acknowledged was lost."""
    chance = random.Random(seed)
    kind = chance.choice(sorted(KINDS))
    interval = sys.getswitchinterval()
    is_shared = chance.random() < 0.5
    with tempfile.TemporaryDirectory(prefix="durus-misuse-") as folder:
        path = Path(folder) / "f"
        storage = KINDS[kind](path)
        connection = Connection(SharedStorage(storage).new_client() if is_shared else storage)
        with connection.transaction() as root:
            for number in range(THREADS):
                root[f"cell {number}"] = Cell()
        workers = [Worker(connection, f"cell {number}", chance.randrange(1 << 30)) for number in range(THREADS)]
        sys.setswitchinterval(SWITCH_INTERVAL)
        try:
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
        finally:
            sys.setswitchinterval(interval)
        connection.close()
        storage.close()
        with Connection(KINDS[kind](path)) as connection:
            root = connection.get_root()
            for worker in workers:
                if worker.unexpected is not None:
                    raise worker.unexpected
                cell: Any = root[worker.key]
                count = cell.count
                assert worker.acknowledged <= count <= worker.tried, f"{kind}: {count}, {worker.counts}"
    return sum((worker.counts for worker in workers), Counter())

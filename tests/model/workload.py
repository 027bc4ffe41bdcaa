"""Clients that work at random on a few shared objects, and log what they saw of each other for the history checker.

Every object holds the id of the transaction that wrote it, twice. A write sets the first, then reads the second, which
shows what it replaces without a read before the write, and sets that too. A state in which the two differ is torn.

    python -m tests.model.workload ADDRESS SEED CLIENTS FIRST LOG

runs clients in threads of a process of its own until its standard input ends.
"""

import json
import random
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import cast

from durus.btree import BTree
from durus.client_storage import ClientStorage
from durus.connection import Connection
from durus.error import (
    ConflictError,
    DisconnectedError,
    DurusError,
    NetworkError,
    OutcomeUnknownError,
    SnapshotEndedError,
)
from durus.opening import open_other_storage
from durus.persistent import Persistent
from durus.persistent_list import PersistentList
from durus.storage import Storage
from tests.model.history import INITIAL, Id, Key, Outcome, Transaction

REGISTERS = 10
TREE_KEYS = 300
_TIMEOUT = 1.0
"""Seconds that a client waits for an answer; some pauses of the server are longer."""
_LOADED = 8
"""The number of objects that may stay loaded; it is small, so that there is something to load."""
_PAUSE = 0.01
_REST = 0.002
"""Seconds between two snapshots of a client, which would else take all the time from writers and packs beside it."""


class Register(Persistent):
    first: Id
    second: Id

    def __init__(self, key: Key, version: Id) -> None:
        self.key = key
        self.first = self.second = version
        self.child: Register | None = None
        self.child_key: Key | None = None


class Torn(Exception):
    """An object was in a state that no transaction has left."""


def fill(storage: Storage) -> None:
    """Make the objects on which clients work."""
    connection = Connection(storage)
    root = connection.get_root()
    root["registers"] = PersistentList(Register(f"r{n}", INITIAL) for n in range(REGISTERS))
    root["tree"] = BTree()
    connection.commit()


class Client:
    """One client: it runs transactions one after the other, and logs each when its outcome is known."""

    def __init__(self, number: int, seed: int, connect: Callable[[], Storage], note: Callable[[Transaction], None]):
        self._number = number
        self._chance = random.Random(seed * 1000 + number)
        self._connect = connect
        self._note = note
        self._count = 0
        self._only_reads = number % 4 == 0
        """Every fourth client reads snapshots."""
        self._connection: Connection | None = None
        self._began = 0.0

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                if self._connection is None:
                    self._began = time.monotonic()
                    self._connection = Connection(self._connect(), cache_size=_LOADED, snapshot=self._only_reads)
                self._transaction(self._connection)
                if self._only_reads:
                    stop.wait(_REST)
            except (NetworkError, SnapshotEndedError):
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None
                stop.wait(_PAUSE)
        if self._connection is not None:
            self._connection.close()

    def _transaction(self, connection: Connection) -> None:
        self._count += 1
        work = _Work(connection, (self._number, self._count), self._chance)
        outcome: Outcome = "aborted"
        next_began = self._began
        error: DurusError | None = None
        try:
            work.do(self._only_reads)
            if self._chance.random() > 0.1:
                next_began = time.monotonic()
                outcome = "unknown"
                connection.commit()
                outcome = "committed"
        except ConflictError:
            outcome = "aborted"
        except OutcomeUnknownError as failure:
            error = failure
        except DurusError as failure:
            outcome, error = "aborted", failure
        self._note(Transaction(work.id, self._began, time.monotonic(), outcome, list(work.reads.items()), work.writes))
        if isinstance(error, DisconnectedError):
            raise error
        if outcome != "committed":
            next_began = time.monotonic()
            connection.abort()
        self._began = next_began


class _Work:
    """The operations of one transaction."""

    def __init__(self, connection: Connection, id: Id, chance: random.Random) -> None:
        self.id = id
        self.reads: dict[Key, Id] = {}
        self.writes: dict[Key, Id] = {}
        self._chance = chance
        root = connection.get_root()
        self._registers = cast("PersistentList[Register]", root["registers"])
        self._tree = cast("BTree[int, Id]", root["tree"])

    def do(self, only_reads: bool) -> None:
        reads = [
            [self._read_some],
            [self._read_some],
            [self._read_range],
            [self._read_some, self._read_range],
        ]
        steps = self._chance.choice(
            reads
            if only_reads
            else [
                *reads,
                [self._update_some],
                [self._update_some],
                [self._overwrite_some],
                [self._update_some, self._insert],
                [self._read_some, self._overwrite_some],
                [self._create],
                [self._create],
                [self._remove],
                [self._insert],
                [self._read_some, self._insert, self._create],
            ]
        )
        for step in steps:
            step()

    def _some(self) -> list[Register]:
        return self._chance.sample(list(self._registers), self._chance.randint(1, 4))

    def _read_some(self) -> None:
        for register in self._some():
            child = self._read(register)
            if child is not None:
                self._read(child)

    def _update_some(self) -> None:
        """Read some objects, and then write them or their children."""
        found = self._some()
        children = [self._read(register) for register in found]
        for register, child in zip(found, children, strict=True):
            if child is not None and self._chance.random() < 0.3:
                self._read(child)
                self._write(child)
            elif self._chance.random() < 0.7:
                self._write(register)

    def _overwrite_some(self) -> None:
        for register in self._some():
            self._write(register)

    def _create(self) -> None:
        register = self._some()[0]
        self._write(register)
        key = register.child_key = f"c{self.id[0]}.{self.id[1]}"
        register.child = Register(key, self.id)
        self.writes[key] = INITIAL

    def _remove(self) -> None:
        register = self._some()[0]
        if self._read(register) is not None:
            self._write(register)
            register.child = register.child_key = None

    def _read(self, register: Register) -> Register | None:
        """Note the version of a register; return its child."""
        if register.key not in self.writes:
            first, second = _id(register.first), _id(register.second)
            if first != second:
                raise Torn(f"{register.key} is of {first} and of {second}")
            if self.reads.setdefault(register.key, first) != first:
                raise Torn(f"{register.key} is of {first} and was of {self.reads[register.key]}")
        if (register.child.key if register.child is not None else None) != register.child_key:
            raise Torn(f"the child of {register.key} is {register.child and register.child.key}")
        return register.child

    def _write(self, register: Register) -> None:
        register.first = self.id
        if register.key not in self.writes:
            self.writes[register.key] = _id(register.second)
        register.second = self.id

    def _insert(self) -> None:
        for _ in range(self._chance.randint(1, 3)):
            number = self._chance.randrange(TREE_KEYS)
            if _tree_key(number) not in self.writes:
                self.writes[_tree_key(number)] = _id(self._tree.get(number, INITIAL))
                self._tree[number] = self.id

    def _read_range(self) -> None:
        start = self._chance.randrange(TREE_KEYS)
        end = min(start + self._chance.randint(1, 20), TREE_KEYS)
        found = dict(self._tree.items_range(start, end))
        for number in range(start, end):
            if _tree_key(number) not in self.writes:
                self.reads[_tree_key(number)] = _id(found.get(number, INITIAL))


def read_all(connection: Connection) -> dict[Key, Id]:
    """Return the version of every object that can be reached."""
    work = _Work(connection, (0, 1), random.Random(0))
    for register in work._registers:
        child = work._read(register)
        if child is not None:
            work._read(child)
    tree = dict(work._tree.items())
    return {**work.reads, **{_tree_key(n): _id(tree.get(n, INITIAL)) for n in range(TREE_KEYS)}}


def _tree_key(number: int) -> Key:
    return f"t{number}"


def _id(version: object) -> Id:
    """Return a version that was stored."""
    match version:
        case (int() as client, int() as number):
            return client, number
    raise Torn(f"{version!r} is not a version")


# Logs


def to_line(transaction: Transaction) -> str:
    return json.dumps(transaction) + "\n"


def from_lines(lines: Iterable[str]) -> Iterator[Transaction]:
    for line in lines:
        id, began, ended, outcome, reads, writes = json.loads(line)
        yield Transaction(
            tuple(id),
            began,
            ended,
            outcome,
            [(key, tuple(version)) for key, version in reads],
            {key: tuple(version) for key, version in writes.items()},
        )


def run_clients(clients: list[Client], stop: threading.Event) -> list[threading.Thread]:
    """Start the clients, each in a thread."""
    threads = [threading.Thread(target=client.run, args=(stop,), daemon=True) for client in clients]
    for thread in threads:
        thread.start()
    return threads


def connecting_to(address: str, seed: int) -> Callable[[], Storage]:
    """Return what makes a storage for one more client: of a server of Durus, or of an engine."""
    if "://" in address:
        return lambda: open_other_storage(address)
    target = (address.rpartition(":")[0], int(address.rpartition(":")[2])) if ":" in address else address
    chance = random.Random(seed)
    return lambda: ClientStorage(
        address=target, timeout=_TIMEOUT, connect_timeout=_TIMEOUT, protocol=chance.choice([1, 2])
    )


def main(address: str, seed: int, count: int, first: int, log: Path) -> None:
    stop = threading.Event()
    history: list[Transaction] = []
    connect = connecting_to(address, seed)
    clients = [Client(first + n, seed, connect, history.append) for n in range(count)]
    threads = run_clients(clients, stop)
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join()
    with log.open("w") as lines:
        lines.writelines(map(to_line, history))


if __name__ == "__main__":
    from tests.model import workload  # its classes have the names that are in the database

    workload.main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))

"""Every interleaving of two clients with a few operations each, compared with the rules of spec/transactions.md.

The root leads to y, and y leads to x or does not: a write of y removes the reference or restores it. So packs, whose
steps are operations too, can remove x. A second search has operations of a connection that reads snapshots.

    python -m tests.model.small_scope --operations N

Histories that have led to the same state continue in the same way, so each state is continued only once. The states
that are compared for this are those of the program itself: caches, read sets, changes, invalid oids and the storage.
States that differ only in which client is which are the same.
"""

import argparse
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import NamedTuple

from durus.connection import Connection
from durus.error import ConflictError, ReadConflictError
from durus.file_storage import FileStorage
from durus.persistent import Persistent, get_slot
from durus.progress import Progress
from durus.shared_storage import SharedStorage
from durus.storage import MemoryStorage, Storage
from tests.in_memory_file import MemoryFileSystem
from tests.model.nemesis import Figures

CLIENTS = (0, 1)
_READER = 2
CLIENT_OPERATIONS = ("read x", "read y", "write x", "write y", "commit", "abort", "pack")
"""`pack` begins a pack, or finishes the one in progress."""
SNAPSHOT_OPERATIONS = ("write x", "write y", "commit", "pack", "snapshot", "look x", "look y")
"""`snapshot` takes a new snapshot, and `look` reads from it; there is one reader, whichever client's step it is."""
_ALL = tuple(dict.fromkeys(CLIENT_OPERATIONS + SNAPSHOT_OPERATIONS))
OBJECTS = ("x", "y")

Step = tuple[int, str]
"""A client, and its operation."""


class State(NamedTuple):
    number: int
    is_linked: bool
    """The object refers to x."""


Result = State | tuple[str, tuple[str, ...]] | None
"""What a read returns, or the kind of the conflict and its objects."""
GONE = ("read", ("x",))
"""What a read of x returns if there is no x in the snapshot. [TXN-16]"""


# The rules


class Conflict(Exception):
    """A read conflict or a write conflict, and the objects that it names."""

    @property
    def result(self) -> Result:
        kind, objects = self.args
        return kind, tuple(sorted(objects))


@dataclass
class Client:
    seen: dict[str, State] = field(default_factory=dict)
    """The states that it has loaded or made."""
    accessed: set[str] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)
    invalid: set[str] = field(default_factory=set)
    stuck: set[str] = field(default_factory=set)
    """What it knows to be invalid after a conflict."""

    def drop_stuck(self) -> None:
        for name in self.stuck:
            self.seen.pop(name, None)
        self.stuck = set()

    def sync(self) -> None:
        self.stuck, self.invalid = self.stuck | self.invalid, set()

    def begin_next(self) -> None:
        self.sync()
        self.drop_stuck()
        self.accessed, self.changed = set(), set()


class Rules:
    """The required result of each step: TXN-2, TXN-4, TXN-7, TXN-10, TXN-12 to TXN-16, TXN-25, and TXN-60 to TXN-65."""

    def __init__(self) -> None:
        self.stored: dict[str, State | None] = {"x": State(0, False), "y": State(0, True)}
        self.snapshot = self.stored.copy()
        self.looked: set[str] = set()
        """What was read from it, and so stays in memory."""
        self.is_older_than_pack = False
        """The snapshot was taken before the pack in progress began."""
        self.clients = [Client(), Client()]
        self.is_packing = self.is_garbage = False
        """A pack removes what was garbage when it began and was not used since."""

    def do(self, step: Step, number: int) -> Result:
        client = self.clients[step[0]]
        try:
            match step[1].split():
                case ["read", name]:
                    return self.use(client, name)
                case ["write", name]:
                    before = self.use(client, name)
                    client.seen[name] = State(number, name == "y" and not before.is_linked)
                    client.changed.add(name)
                case ["commit"]:
                    self.commit(client)
                case ["abort"]:
                    for name in client.changed:
                        del client.seen[name]
                    client.begin_next()
                case ["pack"]:
                    self.pack()
                case ["snapshot"]:
                    for name in OBJECTS:
                        if self.snapshot[name] != self.stored[name]:
                            self.looked.discard(name)
                    self.snapshot, self.is_older_than_pack = self.stored.copy(), False
                case ["look", name]:
                    if self.snapshot[name] is None:
                        return GONE
                    self.looked.add(name)
                    return self.snapshot[name]
        except Conflict as conflict:
            return conflict.result
        return None

    def use(self, client: Client, name: str) -> State:
        if name not in client.seen:
            if name in client.stuck:
                raise Conflict("read", [name])
            if name in client.invalid:
                client.sync()
                if client.stuck & client.accessed:
                    raise Conflict("read", [name])
                client.drop_stuck()
            state = self.stored[name]
            if state is None:
                raise Conflict("read", [name])
            client.seen[name] = state
        client.accessed.add(name)
        return client.seen[name]

    def commit(self, client: Client) -> None:
        if client.changed:
            if not client.stuck & client.accessed:
                client.sync()
            if client.stuck & client.accessed:
                raise Conflict("write", client.stuck & client.accessed)
            client.drop_stuck()
            changes = {name: client.seen[name] for name in client.changed}
            refers = any(state.is_linked for state in changes.values())
            if refers and self.stored["x"] is None:
                raise Conflict("write", ["x"])
            self.stored.update(changes)
            self.is_garbage = self.is_garbage and not refers and "x" not in changes
            for other in self.clients:
                if other is not client:
                    other.invalid |= client.changed
        client.begin_next()

    def pack(self) -> None:
        y = self.stored["y"]
        if not self.is_packing:
            self.is_garbage = self.stored["x"] is not None and y is not None and not y.is_linked
        elif self.is_garbage:
            self.stored["x"] = None
            for client in self.clients:
                client.invalid.add("x")
            if not (self.is_older_than_pack or "x" in self.looked or self.is_x_reached_in_snapshot):
                self.snapshot["x"] = None
        self.is_packing = self.is_older_than_pack = not self.is_packing

    @property
    def is_x_reached_in_snapshot(self) -> bool:
        y = self.snapshot["y"]
        return y is not None and y.is_linked


# The program


class Node(Persistent):
    number = 0
    link: "Node | None" = None


def filled(storage: Storage) -> Storage:
    connection = Connection(storage)
    x, y = Node(), Node()
    y.link = x
    connection.get_root()["y"] = y
    connection.commit()
    return storage


_MEMORY = filled(MemoryStorage())
_FILES = MemoryFileSystem()
filled(FileStorage("/f", file_system=_FILES)).close()
_FILE = bytes(_FILES.files["/f"])


def memory_storage() -> Storage:
    storage = MemoryStorage()
    for oid, record in _MEMORY.gen_oid_record():
        storage._records[oid] = record
        storage.new_oid()
    return storage


def file_storage() -> Storage:
    return FileStorage("/f", file_system=MemoryFileSystem(f=_FILE))


def state_of(node: Node) -> State:
    return State(node.number, node.link is not None)


class Program:
    """Two connections of one storage, and one that reads snapshots of it, in one thread."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        shared = SharedStorage(storage)
        self._packer = shared.new_client()
        self._packing: Iterator[Progress] | None = None
        self.connections = [Connection(shared.new_client()) for _ in CLIENTS]
        self.reader = Connection(shared.new_client(), snapshot=True)
        self.objects: list[dict[str, Node]] = []
        for connection in (*self.connections, self.reader):
            y = connection.get_root()["y"]
            assert isinstance(y, Node)
            assert y.link is not None
            self.objects.append({"x": y.link, "y": y})
            connection.abort()
            for oid in (y._p_oid, y.link._p_oid):
                connection.abort()
                connection.cache.make_ghost(oid or b"")
        self.names = {obj._p_oid or b"": name for name, obj in self.objects[0].items()}

    def do(self, step: Step, number: int) -> Result:
        connection, objects = self.connections[step[0]], self.objects[step[0]]
        try:
            match step[1].split():
                case ["read", name]:
                    return state_of(objects[name])
                case ["look", name]:
                    return state_of(self.objects[_READER][name])
                case ["snapshot"]:
                    self.reader.abort()
                case ["write", name]:
                    objects[name].number = number
                    if name == "y":
                        objects[name].link = None if objects[name].link else objects["x"]
                case ["commit"]:
                    connection.commit()
                case ["abort"]:
                    connection.abort()
                case ["pack"]:
                    self.pack()
        except ConflictError as conflict:
            kind = "read" if isinstance(conflict, ReadConflictError) else "write"
            return kind, tuple(sorted(self.names.get(oid, "?") for oid in conflict.oids))
        return None

    def pack(self) -> None:
        if self._packing is None:
            self._packing = self._packer.get_packer()
            next(self._packing)
        else:
            for _ in self._packing:
                pass
            self._packing = None

    def named(self, oids: Iterable[bytes]) -> frozenset[str]:
        return frozenset(self.names[oid] for oid in oids if oid in self.names)

    def seen(self, client: int) -> dict[str, State]:
        """Return the states that a client has loaded, without an access."""
        found = {}
        for name, obj in self.objects[client].items():
            if not obj._p_is_ghost():
                attributes = get_slot(obj, "__dict__")
                found[name] = State(attributes.get("number", 0), attributes.get("link") is not None)
        return found

    def key_of_reader(self, rules: Rules) -> object:
        """Return all of the reader's state on which its next looks, and what is kept for it, can depend."""
        session = self.reader.storage._session  # type: ignore[attr-defined]  # as below
        shown = [(state, state == rules.stored[name]) for name, state in rules.snapshot.items()]
        known = self.seen(_READER).keys()
        sets = (self.named(self.reader.invalid_oids), self.named(session.invalid))
        links = [(state and state.is_linked, is_current) for state, is_current in shown]
        return repr((links, sorted(known), [sorted(each) for each in sets], rules.is_older_than_pack))

    def key_of(self, client: int, stored: dict[str, State | None]) -> object:
        """Return all of a client's state on which its next operations can depend."""
        connection, seen = self.connections[client], self.seen(client)
        states = [(name, state == stored[name], state.is_linked) for name, state in sorted(seen.items())]
        in_use = [obj._p_serial == connection.transaction_serial for obj in self.objects[client].values()]
        session = connection.storage._session  # type: ignore[attr-defined]  # the storage is a client of SharedStorage
        sets = (connection.changed, connection.accessed, connection.invalid_oids, session.invalid)
        return tuple(states), tuple(in_use), tuple(tuple(sorted(self.named(each))) for each in sets)


# All of them


Key = object

_RANDOM_HISTORIES = 200


def run_history(steps: list[Step], storage: Callable[[], Storage]) -> tuple[str | None, Key]:
    """Do the steps; return the first fault, and the state to which they led."""
    program, rules = Program(storage()), Rules()
    problem = None
    for number, step in enumerate(steps, 1):
        found, expected = program.do(step, number), rules.do(step, number)
        if found != expected:
            problem = problem or f"{steps[:number]}: {found} and not {expected}"
    for client in CLIENTS:
        seen, expected_client = program.seen(client), rules.clients[client]
        if seen != expected_client.seen:
            problem = problem or f"{steps}: client {client} has {seen} and not {expected_client.seen}"
        if program.named(program.connections[client].changed) != expected_client.changed:
            problem = problem or f"{steps}: client {client} would store other changes"
    done = Counter(client for client, _ in steps)
    for name, state in program.seen(_READER).items():
        if state != rules.snapshot[name]:
            problem = problem or f"{steps}: the reader has {state} and not {rules.snapshot[name]} of {name}"
    stored = tuple((name, state and state.is_linked) for name, state in rules.stored.items())
    clients = sorted((done[client], repr(program.key_of(client, rules.stored))) for client in CLIENTS)
    reader = program.key_of_reader(rules)
    program.storage.close()
    return problem, (stored, rules.is_packing, rules.is_garbage, tuple(clients), reader)


def explore(operations: int, storage: Callable[[], Storage], alphabet: tuple[str, ...] = CLIENT_OPERATIONS) -> Figures:
    """Go through all interleavings of two clients with this number of operations of the alphabet each."""
    figures = Figures()
    frontier: dict[Key, tuple[list[Step], int]] = {"start": ([], 1)}
    for _ in range(2 * operations):
        following: dict[Key, tuple[list[Step], int]] = {}
        for steps, count in frontier.values():
            done = Counter(client for client, _ in steps)
            for client in CLIENTS:
                for operation in alphabet if done[client] < operations else ():
                    history = [*steps, (client, operation)]
                    problem, key = run_history(history, storage)
                    figures.counts["histories run"] += 1
                    if problem is not None:
                        figures.violations.append(problem)
                    known = following.get(key)
                    following[key] = (history, count) if known is None else (known[0], known[1] + count)
        frontier = following
        figures.counts["states"] += len(frontier)
    figures.counts["interleavings covered"] = sum(count for _, count in frontier.values())
    return figures


def run(seed: int) -> Figures:
    """Try longer histories at random: there are too many for all."""
    chance = random.Random(seed)
    figures = Figures()
    for _ in range(_RANDOM_HISTORIES):
        steps = [(chance.choice(CLIENTS), chance.choice(_ALL)) for _ in range(chance.randrange(9, 25))]
        problem, _ = run_history(steps, chance.choice([memory_storage, file_storage]))
        figures.counts["histories run"] += 1
        figures.counts["steps compared"] += len(steps)
        if problem is not None:
            figures.violations.append(problem)
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operations", type=int, default=4, help="of each client")
    options = parser.parse_args()
    is_bad = False
    for storage, alphabet in product((memory_storage, file_storage), (CLIENT_OPERATIONS, SNAPSHOT_OPERATIONS)):
        figures = explore(options.operations, storage, alphabet)
        print(storage.__name__, ", ".join(alphabet), figures, sep="\n")
        is_bad = is_bad or bool(figures.violations)
    return int(is_bad)


if __name__ == "__main__":
    from tests.model import small_scope  # its classes have the names that are in the database

    sys.exit(small_scope.main())

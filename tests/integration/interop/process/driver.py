"""Does with the Durus that its Python has what the other end of its stdin asks for.

A test runs it twice, under Durus 4.3 and under this one, so all of it is in words that both know. A request is a
line of JSON, [name, arguments]; the answer is one too: ["ok", result], or ["error", type, message].

Values in a request and in a description are lists that start with a tag, or None, booleans and strings.
"""

import contextlib
import datetime
import decimal
import fractions
import json
import sys
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

import interop_model
from interop_model import Größe, Mixed, Outer, Own, Plain, Private, Slotted, Value

from durus import btree
from durus.client_storage import ClientStorage
from durus.connection import Connection
from durus.error import ConflictError
from durus.file_storage import FileStorage
from durus.persistent import ComputedAttribute, PersistentObject
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.persistent_set import PersistentSet
from durus.storage import get_census
from durus.storage_server import wait_for_server

Object = Any
"""A persistent object."""
Json = Any

NODES = [cls for name, cls in vars(btree).items() if name[:5] == "BNode"]

MAKERS: dict[str, Callable[[], Object]] = {
    "plain": Plain,
    "slotted": Slotted,
    "mixed": Mixed,
    "own": Own,
    "inner": Outer.Inner,
    "private": Private,
    "größe": Größe,
    "computed": ComputedAttribute,
    "dict": PersistentDict,
    "list": PersistentList,
    "set": PersistentSet,
    **{f"btree {cls.__name__}": partial(btree.BTree, cls) for cls in NODES},
}
SLOTS = ("größe", "named")


class Graph:
    """The objects of one database, numbered in the order in which a walk from the root comes upon them."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.objects: list[Object] = []
        self.description: list[Json] = []
        self._numbers: dict[int, int] = {}
        self._containers: dict[int, int] = {}
        self._number(connection.get_root())
        for obj in self.objects:  # which grows meanwhile
            self._containers = {}
            cls = type(obj)
            state = obj.__getstate__()
            if isinstance(state, dict):  # of attributes, whose order says nothing
                state = dict(sorted(state.items()))
            self.description.append([cls.__module__, cls.__qualname__, self._of(state), self._seen(obj)])

    def _number(self, obj: Object) -> int:
        if id(obj) not in self._numbers:
            self._numbers[id(obj)] = len(self.objects)
            self.objects.append(obj)
        return self._numbers[id(obj)]

    def _seen(self, obj: Object) -> Json:
        """Describe what the methods of a collection show."""
        if isinstance(obj, btree.BTree):
            return [[self._of(key), self._of(value)] for key, value in obj.items()]
        if isinstance(obj, PersistentDict):
            return [len(obj), *(self._of(key) for key in obj)]
        if isinstance(obj, PersistentList):
            return [len(obj), *(self._of(item) for item in obj)]
        return len(obj) if isinstance(obj, PersistentSet) else None

    def _of(self, value: Any) -> Json:
        """Describe a value; a container that occurs in a state twice only the first time."""
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, PersistentObject):
            return ["ref", self._number(value)]
        if isinstance(value, list | dict | set | bytearray | Value):
            if id(value) in self._containers:
                return ["same", self._containers[id(value)]]
            self._containers[id(value)] = len(self._containers)
        kind = type(value).__name__
        if isinstance(value, dict):
            return [kind, *([self._of(key), self._of(item)] for key, item in value.items())]
        if isinstance(value, list | tuple):
            return [kind, *map(self._of, value)]
        if isinstance(value, set | frozenset):
            return [kind, *map(self._of, sorted(value, key=in_order))]
        if isinstance(value, Value):
            return [kind, *([name, self._of(item)] for name, item in vars(value).items())]
        if isinstance(value, type):
            return [kind, value.__module__, value.__qualname__]
        return [kind, repr(value)]


def in_order(value: Any) -> str:
    """Return the sort key for a member of a set: an object in one is a Plain, and has an `id`."""
    return str(value.id) if isinstance(value, Plain) else f"{type(value).__name__} {value!r}"


class Changes:
    """Changes of a graph, made one after another."""

    def __init__(self, graph: Graph) -> None:
        self._objects = graph.objects

    def make(self, changes: list[Json]) -> None:
        for name, *arguments in changes:
            getattr(self, f"_{name}")(*arguments)

    def _at(self, number: int) -> Object:
        return self._objects[number % len(self._objects)]

    def _value(self, given: Json) -> Any:
        if not isinstance(given, list):
            return given
        tag, *parts = given
        match tag:
            case "ref":
                return self._at(parts[0])
            case "new":
                obj = MAKERS[parts[0]]()
                self._objects.append(obj)
                return obj
            case "list":
                return [self._value(part) for part in parts]
            case "tuple":
                return tuple(self._value(part) for part in parts)
            case "dict":
                return {self._value(key): self._value(item) for key, item in parts}
            case "set" | "frozenset":
                items = {self._value(part) for part in parts}
                return items if tag == "set" else frozenset(items)
            case "twice":
                item = self._value(parts[0])
                return [item, item, {"again": item}]
            case "cycle":
                inside: list[Any] = [self._value(parts[0])]
                inside.append(inside)
                return inside
            case "Value":
                value = Value()
                vars(value).update((name, self._value(item)) for name, item in parts)
                return value
            case "class":
                return getattr(interop_model, parts[0])
            case "large":
                return parts[0] * parts[1]
            case "literal":
                return LITERALS[parts[0]]
        return PARSERS[tag](parts[0])

    def _put(self, at: int, key: Json, given: Json) -> None:
        """Put a value into an object in the way of its kind."""
        obj = self._at(at)
        value = self._value(given)
        if isinstance(obj, btree.BTree):
            obj[key if isinstance(key, str) else repr(key)] = value
        elif isinstance(obj, PersistentDict):
            obj[self._value(key)] = value
        elif isinstance(obj, PersistentList):
            obj.insert(len(repr(key)) % (len(obj) + 1), value)
        elif isinstance(obj, PersistentSet):
            obj.add(value if isinstance(value, Plain) and hasattr(value, "id") else self._value(key))
        elif isinstance(obj, ComputedAttribute):
            obj.invalidate()
        elif isinstance(obj, Slotted) and not (isinstance(obj, Mixed) and isinstance(key, str)):
            setattr(obj, SLOTS[len(repr(key)) % len(SLOTS)], value)
        elif not isinstance(obj, btree.BNode):
            is_name = isinstance(key, str) and key.isprintable()  # 4.3 crashes at the name of half a surrogate pair
            setattr(obj, key if is_name and key[:2] != "__" else "attribute", value)

    def _put_plain(self, at: int, key: Json, number: int) -> None:
        """Put a new Plain with an id into an object; sets contain only such objects."""
        obj = Plain()
        obj.id = number
        self._objects.append(obj)
        self._put(at, key, ["ref", len(self._objects) - 1])

    def _hide(self, at: int, value: Json) -> None:
        """Fill the private slot of a Private."""
        self._at(at).hide(value)

    def _fill(self, at: int, size: int) -> None:
        obj = self._at(at)
        for number in range(size):
            self._put(at, f"ключ {number * 7919 % 1000}", [*(["new", "plain"] if number % 9 == 8 else ["int", number])])
        if isinstance(obj, Plain):
            obj.filled = list(range(size))

    def _thin(self, at: int, step: int) -> None:
        """Take out every so-many-th part of an object."""
        obj = self._at(at)
        if isinstance(obj, btree.BTree | PersistentDict):
            for key in list(obj)[::step]:
                del obj[key]
        elif isinstance(obj, PersistentList):
            del obj[::step]
        elif isinstance(obj, PersistentSet):
            for item in sorted(obj, key=in_order)[::step]:
                obj.discard(item)
        elif isinstance(obj, Plain | Outer.Inner | Own):
            for name in [name for name in vars(obj) if name != "id"][::step]:
                delattr(obj, name)
        elif isinstance(obj, Slotted):
            for name in [name for name in SLOTS if hasattr(obj, name)][::step]:
                delattr(obj, name)


PARSERS: dict[str, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
}
LITERALS: dict[str, Any] = {
    "moment": datetime.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=datetime.UTC),
    "day": datetime.date(1999, 12, 31),
    "span": datetime.timedelta(days=-1, microseconds=7),
    "decimal": decimal.Decimal("-12.340"),
    "fraction": fractions.Fraction(22, 7),
    "complex": complex(1.5, -2),
    "infinite": float("inf"),
    "range": range(3, 99, 2),
    "ellipsis": ...,
}


def place_of_durus() -> Json:
    """Return the file that the Durus in use comes from."""
    return btree.__file__


# Requests on files


def work_on_file(path: str, changes: list[Json], packs: bool) -> Json:
    """Change the contents of a file; return what is in memory before the commit, and what is loaded after it."""
    connection = Connection(FileStorage(path))
    graph = Graph(connection)
    Changes(graph).make(changes)
    in_memory = Graph(connection).description
    connection.commit()
    if packs:
        connection.pack()
    connection.storage.close()
    return in_memory


def describe_file(path: str) -> Json:
    """Return the description of what a file holds, and the oid of each object in it."""
    connection = Connection(FileStorage(path, readonly=True))
    graph = Graph(connection)
    oids = [int.from_bytes(obj._p_oid, "big") for obj in graph.objects]
    connection.storage.close()
    return [graph.description, oids]


def take_census(path: str) -> Json:
    """Return how many objects of each class there are, garbage among them."""
    storage = FileStorage(path, readonly=True)
    census = {getattr(name, "decode", lambda name=name: name)(): count for name, count in get_census(storage).items()}
    storage.close()
    return census


def pack_file(path: str) -> None:
    connection = Connection(FileStorage(path))
    connection.pack()
    connection.storage.close()


# Requests on servers


class Client:
    """A connection to a server that holds cells: Plains with a number `n` and a chain of further objects."""

    def __init__(self, address: str, options: dict[str, Any]) -> None:
        self.connection = Connection(ClientStorage(address=address, **options))
        self.cells: list[Object] = list(self.connection.get_root().get("cells", ()))
        for cell in self.cells:
            cell._p_load_state()
        self.connection.abort()

    def make_cells(self, count: int) -> None:
        self.cells = [Plain() for _ in range(count)]
        for cell in self.cells:
            cell.n, cell.chain = 0, None
        self.connection.get_root()["cells"] = PersistentList(self.cells)
        self.connection.commit()

    def read(self, number: int) -> int:
        return int(self.cells[number].n)

    def forget(self, number: int) -> None:
        """Drop the state of a cell that was not changed, so that the next read loads it."""
        self.cells[number]._p_set_status_ghost()

    def add(self, number: int) -> None:
        self.cells[number].n += 1

    def replace_chain(self, number: int, labels: list[int]) -> None:
        """Give a cell a chain of new objects; the old ones are garbage then."""
        cell = self.cells[number]
        cell.n += 1
        chain = None
        for label in labels:
            link = Plain()
            link.label, link.chain, chain = label, chain, link
        cell.chain = chain

    def commit(self) -> None:
        self.connection.commit()

    def abort(self) -> None:
        self.connection.abort()

    def pack(self) -> None:
        self.connection.abort()  # in 4.3 a pack does so, and here it wants it done
        self.connection.pack()

    def crawl(self) -> None:
        """Load all that the root reaches, many objects at a time."""
        self.connection.abort()
        for _ in self.connection.get_crawler(batch_size=7):
            pass

    def read_all(self) -> Json:
        """Return the number and the labels of the chain of each cell."""
        found = []
        for cell in self.cells:
            labels, link = [], cell.chain
            while link is not None:
                labels.append(link.label)
                link = link.chain
            found.append([cell.n, labels])
        return found

    def close(self) -> None:
        self.connection.storage.close()


clients: dict[str, Client] = {}


def connect(name: str, address: str, options: dict[str, Any]) -> None:
    clients[name] = Client(address, options)


def step(name: str, method: str, *arguments: Any) -> Json:
    """Let a client do something; return its result, or the kind of the conflict and its oids as cells."""
    client = clients[name]
    try:
        return ["done", getattr(client, method)(*arguments)]
    except ConflictError as conflict:
        numbers = {cell._p_oid: number for number, cell in enumerate(client.cells)}
        return [type(conflict).__name__, sorted(numbers.get(oid, -1) for oid in conflict.oids)]


def look(address: str) -> Json:
    """Return the number in each cell, as they are together at one moment."""
    while True:
        with contextlib.suppress(ConflictError):
            client = Client(address, {})
            found = client.read_all()
            client.close()
            return [n for n, _ in found]


def end_counting(address: str) -> None:
    """Set the last cell to 1, which tells the counting clients to end."""
    while True:
        with contextlib.suppress(ConflictError):
            client = Client(address, {})
            client.add(-1)
            client.commit()
            client.close()
            return


def count_up(address: str, own: int, shared: int) -> Json:
    """Add 1 to the client's own cell and to one of the first `shared` cells, until the last cell is no longer 0.

    Whatever ends a connection, a new one continues; the own cell shows whether a commit without an answer was stored.
    """
    conflicts = losses = 0
    client = None
    while True:
        try:
            if client is None:
                wait_for_server(address=address, sleeptime=0.05, maxtries=1000)
                client = Client(address, {})
            client.abort()  # a conflict came before, or nothing did
            if client.read(-1):
                client.close()
                return [conflicts, losses]
            n = client.read(own)
            if n % 5 == 3:
                client.replace_chain(own, list(range(30)))
            else:
                client.add(own)
            client.add(n % shared)
            client.commit()
            if n % 20 == 19:
                client.pack()
        except ConflictError:
            conflicts += 1
        except Exception:
            losses += 1
            client = None


FUNCTIONS = (place_of_durus, work_on_file, describe_file, take_census, pack_file, connect, step, look)
REQUESTS: dict[str, Callable[..., Json]] = {
    function.__name__: function for function in (*FUNCTIONS, end_counting, count_up)
}


def main() -> None:
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            answer = ["ok", REQUESTS[name](*arguments)]
        except Exception as error:
            answer = ["error", type(error).__name__, "".join(traceback.format_exception(error))[-1500:]]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

"""The BTree of the C extension compared with that in Python: the same programs run on both.

Two worlds have the same tree, made of nodes with the same oids, some of which are ghosts. After each step both must
have the same outcome, exactly the same error, and the same items in the same nodes, and must have loaded, accessed and
changed the same nodes.
"""

import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durus.btree import BNode, BNode4, BTree
from durus.persistent import (
    GHOST,
    SAVED,
    ConnectionBase,
    PersistentBase,
    PersistentObject,
    Watch,
    get_slot,
    implementation,
    set_slot,
    take_state,
)
from durus.utils import int8_to_str

pytestmark = pytest.mark.skipif(implementation != "C", reason="there is one form only")

EXAMPLES = 4000 if os.environ.get("HYPOTHESIS_PROFILE") == "deep" else 250
REFERENCE: type[BTree[Any, Any]] = [cls for cls in BTree.__mro__ if cls.__qualname__ == "BTree"][-1]


class Described(BNode[Any, Any]):
    """Has a __dict__, in which an attribute may hide an attribute of the class."""


class Noting(BNode[Any, Any]):
    """Does more when a change is noted."""

    __slots__ = ()
    noted: list[object] = []  # noqa: RUF012  # of the class

    def _p_note_change(self) -> None:
        Noting.noted.append(len(self.items))
        super()._p_note_change()


class Watched(BNode[Any, Any]):
    """Observes each access to it."""

    __slots__ = ()

    if implementation == "C":  # otherwise a type checker would accept any attribute

        def __getattribute__(self, name: str) -> Any:
            return super().__getattribute__(name)


class Sized(BNode[Any, Any]):
    """Is made with a degree of its own."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()
        self.items = []

    @property
    def minimum_degree(self) -> int:  # type: ignore[override]  # on purpose
        return 3


NODE_CLASSES = [BNode, BNode4, Described, Noting, Watched, Sized]


class Failure(Exception):
    """The exception that a comparison or a load raises, and nothing else."""


class Meddler:
    """A key that compares like a number, and does something at its n-th comparison from now on."""

    def __init__(self, number: float) -> None:
        self.number = number
        self.left = -1
        self.act: Callable[[], object] = lambda: None

    def compared(self, other: Any) -> float:
        self.left -= 1
        if self.left == 0:
            self.act()
        return self.number - float(getattr(other, "number", other))

    def __lt__(self, other: Any) -> bool:
        return self.compared(other) < 0

    def __gt__(self, other: Any) -> bool:
        return self.compared(other) > 0

    def __eq__(self, other: object) -> bool:
        return self.compared(other) == 0

    def __ge__(self, other: Any) -> bool:
        return self.compared(other) >= 0

    __hash__ = None  # type: ignore[assignment]  # not needed

    def __repr__(self) -> str:
        return f"Meddler({self.number})"


class Recorder(ConnectionBase):
    """Knows what is stored, and records the requests."""

    def __init__(self) -> None:
        super().__init__()
        self.states: dict[bytes, dict[str, Any]] = {}
        self.loads: list[bytes | None] = []
        self.releases = 0
        self.loads_left = -1
        self.transaction_serial = 1

    def load_state(self, obj: PersistentBase) -> None:
        self.loads.append(obj._p_oid)
        self.loads_left -= 1
        if self.loads_left == 0:
            raise Failure("a load")
        if obj._p_status == GHOST:
            state = self.states[obj._p_oid or b""]
            lists = {name: value[:] if type(value) is list else value for name, value in state.items()}
            take_state(obj, lists, False)

    def release(self, obj: PersistentBase) -> None:
        self.releases += 1

    def watch(self) -> Watch:
        return Watch()


def nodes_of(tree: BTree[Any, Any]) -> Iterator[BNode[Any, Any]]:
    """Yield the nodes of a tree whose states are in memory, without an access."""
    pending: list[BNode[Any, Any]] = [get_slot(tree, "root")]
    while pending:
        node = pending.pop()
        yield node
        if get_slot(node, "_p_status") != GHOST:
            pending += get_slot(node, "nodes") or []


class World:
    """A tree of one of the two implementations, and the connection that holds it."""

    def __init__(self, cls: type[BTree[Any, Any]], node_class: type[BNode[Any, Any]], keys: list[Any]) -> None:
        self.connection = Recorder()
        self.meddlers: list[Meddler] = []
        self.iterators: list[Iterator[Any]] = []
        self.oids = 0
        self.noted: list[object] = []
        Noting.noted = self.noted
        self.tree = cls(node_class)
        for key in keys:
            self.tree[self.own(key)] = "first"

    def own(self, key: Any) -> Any:
        """Return this world's key for a key that both worlds have."""
        if isinstance(key, Meddler):
            self.meddlers.append(Meddler(key.number))
            return self.meddlers[-1]
        return key

    def commit(self) -> None:
        """Store everything, and begin another transaction."""
        for obj in (self.tree, *nodes_of(self.tree)):
            if get_slot(obj, "_p_connection") is None:
                set_slot(obj, "_p_oid", int8_to_str(self.oids))
                set_slot(obj, "_p_connection", self.connection)
                self.oids += 1
            if get_slot(obj, "_p_status") != GHOST:
                names = ["root"] if isinstance(obj, REFERENCE) else ["items", "nodes"]
                state = {name: get_slot(obj, name) for name in names}
                state = {name: value[:] if type(value) is list else value for name, value in state.items()}
                self.connection.states[obj._p_oid or b""] = state
                set_slot(obj, "_p_status", SAVED)
        self.connection.accessed.clear()
        self.connection.changed.clear()
        self.connection.transaction_serial += 1

    def evict(self, modulus: int = 1) -> None:
        for obj in [self.tree, *nodes_of(self.tree)]:
            oid = get_slot(obj, "_p_oid")
            if oid is not None and get_slot(obj, "_p_status") == SAVED and oid[-1] % modulus == 0:
                obj._p_set_status_ghost()

    def everything(self) -> object:
        """Return the whole observable state, without an access."""

        def known(obj: PersistentObject) -> tuple[object, ...]:
            status = get_slot(obj, "_p_status")
            if status == GHOST:
                return obj._p_oid, status
            if isinstance(obj, REFERENCE):
                return obj._p_oid, status, known(get_slot(obj, "root"))
            items = [(repr(key), value) for key, value in get_slot(obj, "items")]
            nodes = get_slot(obj, "nodes")
            return type(obj), obj._p_oid, status, items, nodes and [known(node) for node in nodes]

        connection = self.connection
        try:
            count = get_slot(self.tree, "_p_count")
        except AttributeError:
            count = None
        return (
            known(self.tree),
            connection.loads,
            set(connection.accessed),
            list(connection.changed),
            connection.releases,
            self.noted,
            None if count is None else count.value,
        )

    def run(self, step: "Step") -> object:
        Noting.noted = self.noted
        try:
            found = step(self)
        except (Exception, Failure) as error:
            return type(error), re.sub("@[0-9a-f]+", "@", str(error))  # the address of a node without an oid
        return repr(found)


Step = Callable[[World], object]


def meddling(countdown: int, what: str, number: float) -> Step:
    """Make each meddler of the tree do something at a later comparison."""

    def act(world: World) -> None:
        match what:
            case "raise":
                raise Failure("a comparison")
            case "raise TypeError":
                raise TypeError("a comparison")
            case "evict":
                world.evict()
            case "insert":
                for n in range(8):
                    world.tree[number + n / 16] = "meddled"
            case "delete":
                for key in list(world.tree):
                    if not isinstance(key, Meddler) and abs(key - number) < 6:
                        del world.tree[key]
            case "clear":
                world.tree.clear()
            case "continue":
                for iterator in world.iterators:
                    next(iterator, None)

    def prepare(world: World) -> None:
        for meddler in world.meddlers:
            meddler.left, meddler.act = countdown, lambda: act(world)

    return prepare


def going_on(which: int, count: int) -> Step:
    def go_on(world: World) -> object:
        if not world.iterators:
            return None
        return [next(world.iterators[which % len(world.iterators)], "end") for _ in range(count)]

    return go_on


def beginning(make: Callable[[BTree[Any, Any]], Iterator[Any]]) -> Step:
    return lambda world: world.iterators.append(make(world.tree))


def failing_load(countdown: int) -> Step:
    def prepare(world: World) -> None:
        world.connection.loads_left = countdown

    return prepare


numbers = st.integers(-3, 60)
KEYS: dict[str, st.SearchStrategy[Any]] = {
    "int": numbers,
    "large int": numbers.map(lambda n: (n - 30) << 29),
    "str": numbers.map(lambda n: f"{'ab' if n % 3 else 'ä'}{n}"),
    "bytes": numbers.map(lambda n: b"%d" % n),
    "float": numbers.map(lambda n: n / 2) | st.just(float("nan")),
    "mixed": numbers | numbers.map(float) | st.booleans() | numbers.map(lambda n: n << 40),
    "tuple": st.tuples(numbers.map(lambda n: n // 8), st.text("ab", max_size=2)) | st.just((1, float("nan"))),
    "meddler": numbers | numbers | numbers.map(lambda n: n + 0.5) | numbers.map(lambda n: Meddler(n + 0.25)),
    "frozenset": st.frozensets(st.integers(0, 3)),
    "any": numbers | st.text("ab", max_size=2) | st.none() | st.tuples(numbers),
}


def steps(keys: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
    closed = st.booleans()
    places = st.integers(0, 5)
    return st.one_of(
        st.builds(lambda key: lambda world: world.tree.__setitem__(world.own(key), "set"), keys),
        st.builds(lambda key: lambda world: world.tree.__setitem__(world.own(key), "set"), keys),
        st.builds(lambda key: lambda world: world.tree.__delitem__(key), keys),
        st.builds(lambda key: lambda world: world.tree.__delitem__(key), keys),
        st.builds(
            lambda start, step: (
                lambda world: [
                    world.tree.__setitem__(key, n) for n, key in enumerate(range(start, start + 40 * step, step))
                ]
            ),
            numbers,
            st.sampled_from([1, 2, -1]),
        ),
        st.builds(
            lambda share, rest: (
                lambda world: [
                    world.tree.__delitem__(key) for n, key in enumerate(list(world.tree)) if n % share != rest
                ]
            ),
            st.integers(2, 12),
            places,
        ),
        st.builds(lambda key: lambda world: world.tree[key], keys),
        st.builds(lambda key: lambda world: world.tree.get(key), keys),
        st.builds(lambda key: lambda world: world.tree.get(key, default="none"), keys),
        st.builds(lambda key: lambda world: key in world.tree, keys),
        st.builds(lambda key: lambda world: world.tree.pop(key, "none"), keys),
        st.builds(lambda key: lambda world: world.tree.setdefault(world.own(key), "default"), keys),
        st.builds(lambda key: lambda world: world.tree.note_change_of_bnode_containing_key(key), keys),
        st.just(lambda world: world.tree.items()),
        st.just(lambda world: (world.tree.keys(), world.tree.values(), list(reversed(world.tree)))),
        st.just(lambda world: len(world.tree)),
        st.just(lambda world: world.tree.check()),
        st.just(lambda world: world.tree.clear()),
        st.just(lambda world: (world.tree.get_min_item(), world.tree.get_max_item())),
        st.builds(
            lambda a, b, c, d: lambda world: list(world.tree.items_range(a, b, c, d)), keys, keys, closed, closed
        ),
        st.builds(
            lambda a, b, c, d: lambda world: list(world.tree.irange(a, b, c, d)),
            keys,
            keys,
            st.tuples(closed, closed),
            closed,
        ),
        st.builds(lambda a, b, c, d: beginning(lambda tree: tree.items_range(a, b, c, d)), keys, keys, closed, closed),
        st.builds(lambda a, c: beginning(lambda tree: tree.items_from(a, c)), keys, closed),
        st.builds(lambda a, c: beginning(lambda tree: tree.items_backward_from(a, c)), keys, closed),
        st.sampled_from(
            [
                beginning(BTree.iteritems),
                beginning(BTree.items_backward),
                beginning(iter),
                beginning(BTree.itervalues),
                beginning(reversed),
            ]
        ),
        st.builds(going_on, places, st.integers(1, 12)),
        st.builds(going_on, places, st.integers(1, 12)),
        st.just(World.commit),
        st.builds(lambda modulus: lambda world: world.evict(modulus), st.integers(1, 4)),
        st.builds(failing_load, st.integers(1, 5)),
        st.builds(
            meddling,
            st.integers(1, 9),
            st.sampled_from(["raise", "raise TypeError", "evict", "insert", "delete", "clear", "continue"]),
            numbers.map(float),
        ),
    )


Program = tuple[type[BNode[Any, Any]], list[Any], list[Step]]


def programs(kind: str) -> st.SearchStrategy[Program]:
    keys = KEYS[kind]
    is_sorted = kind in ("int", "large int", "str", "meddler")
    first = st.lists(keys, max_size=80) if is_sorted else st.just([])
    return st.tuples(st.sampled_from(NODE_CLASSES), first, st.lists(steps(keys), min_size=1, max_size=25))


def compare(program: Program) -> None:
    node_class, keys, found = program
    c, python = (World(cls, node_class, keys) for cls in (BTree, REFERENCE))
    assert c.everything() == python.everything()
    for step in found:
        assert c.run(step) == python.run(step)
        assert c.everything() == python.everything()


@pytest.mark.spec("OBJ-31", "OBJ-33", "OBJ-50", "OBJ-51")
@pytest.mark.parametrize("kind", KEYS)
def test_both_forms_do_the_same(kind: str) -> None:
    settings(max_examples=EXAMPLES, deadline=None)(given(programs(kind))(compare))()

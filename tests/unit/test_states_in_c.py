"""What the C extension loads of states, against the Python it stands for: same values, same errors, same ghosts."""

import datetime
import decimal
import enum
import gc
import io
import pickle
import sys
import tracemalloc
import types
import uuid
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from durus.error import DurusError, RecordError
from durus.objects.cache import Cache
from durus.objects.pickling import class_pickle
from durus.objects.unpickling import ENCODE, RENAMED_MODULES, VALUE_TYPES
from durus.oid import oid_from_int
from durus.persistent import (
    GHOST,
    SAVED,
    ConnectionBase,
    Persistent,
    PersistentObject,
    StateReader,
    implementation,
    layout_of,
    new_ghost,
)
from durus.persistent_dict import PersistentDict
from durus.records.record import pack_record
from durus.records.stored_state import decompress_state
from durus.serialize import ObjectReader
from tests.no_memory import call_without_memory, in_a_process_alone

pytestmark = pytest.mark.skipif(implementation != "C", reason="there is one form only")

OID = oid_from_int(1)
NAME = __name__


class Node(Persistent):
    pass


class Slotted(PersistentObject):
    __slots__ = ("a", "b", "c")


class Both(Persistent):
    __slots__ = ("a",)


class Renamed(PersistentObject):
    __slots__ = ("__private", "a")


class Custom(Persistent):
    def __setstate__(self, state: Any) -> None:
        super().__setstate__({"custom": repr(state)})


class Color(enum.Enum):
    RED = 1


HERE = datetime.timezone(datetime.timedelta(hours=1))
CLASSES: list[type[PersistentObject]] = [Node, Slotted, Both, Renamed, Custom, PersistentDict]


class Reference:
    """Stands for a reference in what is pickled."""

    def __init__(self, number: int, cls: object) -> None:
        self.pair = oid_from_int(number), cls

    def __hash__(self) -> int:
        return hash(self.pair[0])


class Pickler(pickle.Pickler):
    def persistent_id(self, obj: object) -> Any:
        return obj.pair if isinstance(obj, Reference) else None


def pickled(value: object, protocol: int) -> bytes:
    file = io.BytesIO()
    Pickler(file, protocol).dump(value)
    return file.getvalue()


def data_of(cls: type, state: object, protocol: int = 4, memo: bytes = b"", is_compressed: bool = False) -> bytes:
    stored = pickled(state, protocol)
    names = f"{cls.__module__}\n{cls.__qualname__}\n".encode()
    return b"\x80\x02c" + names + memo + b"." + (zlib.compress(stored) if is_compressed else stored)


def record_of(cls: type, state: object, **options: Any) -> bytes:
    return pack_record(OID, data_of(cls, state, **options), b"")


class World:
    """A ghost, beside an object that is in memory, a ghost that is and one that was."""

    def __init__(self, cls: type[PersistentObject], with_c: bool = True) -> None:
        self.connection = ConnectionBase()
        self.cache = Cache(1000)
        self.reader = ObjectReader(self.connection, self.cache, lambda oid: None)
        if not with_c:
            self.reader._states = None
        self.obj: Any = self.add(1, cls)
        self.loaded = self.add(2, Node)
        self.loaded._p_status = SAVED
        self.cache.note_loaded(oid_from_int(2), self.loaded)
        self.ghost = self.add(3, Slotted)
        self.add(4, Node)

    def add(self, number: int, cls: type[PersistentObject]) -> PersistentObject:
        obj = new_ghost(cls, oid_from_int(number), self.connection)
        self.cache.add(oid_from_int(number), obj)
        return obj

    def load(self, record: bytes) -> object:
        """Return what came of loading the ghost, in a form to compare."""
        try:
            self.reader.load_record(self.obj, record)
        except Exception as error:
            outcome: object = type(error), str(error)
        else:
            outcome = self.reader.load_count
        state = [(name, getattr(type(self.obj), name).__get__(self.obj)) for name in self.obj._p_gen_data_slots()]
        attributes = object.__getattribute__(self.obj, "__dict__") if type(self.obj).__dictoffset__ else None
        ghosts = set(self.cache.objects())
        return outcome, self.obj._p_status, name_of(type(self.obj)), shown([state, attributes]), ghosts


def name_of(cls: type) -> str:
    """Return the name of a class: each reader makes stand-ins of its own."""
    return f"{cls.__module__}.{cls.__qualname__}"


def shown(value: object, seen: dict[int, int] | None = None) -> object:
    """Return a value in a form that can be compared, which shows what is the same object."""
    seen = {} if seen is None else seen
    if isinstance(value, PersistentObject):
        return name_of(type(value)), value._p_oid
    if isinstance(value, dict | list | tuple | set | frozenset) or (isinstance(value, str) and len(value) > 1):
        if id(value) in seen:
            return "the same", seen[id(value)]
        seen[id(value)] = len(seen)
    if isinstance(value, dict):
        return [(shown(key, seen), shown(each, seen)) for key, each in value.items()]
    if isinstance(value, list | tuple):
        return name_of(type(value)), [shown(each, seen) for each in value]
    return name_of(type(value)), repr(value) if not isinstance(value, set | frozenset) else sorted(map(repr, value))


def check_memo(record: bytes) -> None:
    """Leave out what may be a LONG_BINPUT with a large number: pickle takes memory for all numbers below it."""
    places = (place for place, byte in enumerate(record) if byte == pickle.LONG_BINPUT[0])
    assume(all(int.from_bytes(record[place + 1 : place + 5], "little") < 1 << 20 for place in places))


def same_in_both(cls: type[PersistentObject], record: bytes) -> object:
    in_c, in_python = World(cls).load(record), World(cls, with_c=False).load(record)
    assert in_c == in_python
    return in_c


def load_in_c(world: World, record: bytes) -> bool:
    assert world.reader._states is not None
    return world.reader._states.load(world.obj, record)


zones = st.sampled_from([None, datetime.UTC, HERE, datetime.timezone(-HERE.utcoffset(None), "there")])
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(1 << 64), 1 << 64),
    st.floats(),
    st.text(max_size=6),
    st.binary(max_size=6),
    st.dates(),
    st.datetimes(),
    st.timedeltas(),
    st.times(timezones=zones),
    st.datetimes(timezones=zones),
    st.decimals(),
    zones,
    st.sampled_from(
        [Color.RED, uuid.UUID(int=5), datetime.datetime.now(datetime.UTC), Node, len, "x" * 300, b"y" * 300, 1j]
    ),
)
keys = st.one_of(
    st.text(max_size=3), st.integers(-5, 5), st.none(), st.booleans(), st.floats(), st.tuples(st.integers(0, 3))
)
references = st.builds(Reference, st.integers(1, 7), st.sampled_from([Node, Slotted, PersistentDict, int, "no class"]))
values = st.recursive(
    scalars | references,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(keys | references, inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.sets(keys, max_size=4)
        | st.frozensets(keys, max_size=4)
        | st.lists(inner, min_size=1, max_size=2).map(lambda parts: [parts, parts])
    ),
    max_leaves=12,
)
states = st.dictionaries(st.sampled_from(["a", "b", "c", "_v_d", "_Old__private", "data", "é"]), values) | values


@pytest.mark.spec("REC-12", "REC-14")
@given(
    cls=st.sampled_from(CLASSES),
    state=states,
    protocol=st.integers(2, pickle.HIGHEST_PROTOCOL),
    memo=st.sampled_from([b"", b"q\x00", b"q\x01", b"q\n", b"r\x02\x00\x00\x00", b"\x94"]),
    is_compressed=st.booleans(),
)
@example(cls=Slotted, state={"a": 1}, protocol=2, memo=b"q\n", is_compressed=False)
def test_states_are_loaded_as_python_loads_them(
    cls: type[PersistentObject], state: object, protocol: int, memo: bytes, is_compressed: bool
) -> None:
    same_in_both(cls, record_of(cls, state, protocol=protocol, memo=memo, is_compressed=is_compressed))


@pytest.mark.spec("REC-4", "REC-12", "REC-14", "OBJ-71")
@given(
    cls=st.sampled_from(CLASSES),
    state=states,
    protocol=st.integers(2, pickle.HIGHEST_PROTOCOL),
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 2), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_changed_bytes_are_loaded_or_refused_as_python_does_it(
    cls: type[PersistentObject], state: object, protocol: int, changes: list[tuple[int, int, int]]
) -> None:
    data = bytearray(data_of(cls, state, protocol=protocol))
    for place, kind, byte in changes:
        index = place % (len(data) + 1)
        data[index : index + (kind > 0)] = b"" if kind == 2 else bytes([byte])
    check_memo(bytes(data))
    same_in_both(cls, pack_record(OID, bytes(data) or b"\x80", b""))


WORDS = [
    *(bytes([byte]) for byte in b"(.NJKMGCBX}])\x8f\x85\x86\x87aestu\x90\x91\x94qhrjQcRb0128\x88\x89\x8a\x8c\x93"),
    b"K\x01",
    b"\x8c\x01a",
    b"C\x08" + OID,
    f"c{NAME}\nNode\n".encode(),
    b"cbuiltins\nint\n",
    b"cdecimal\nDecimal\n\x8c\x011\x85R",
    b"cdatetime\ntimedelta\nK\x01\x85R",
    b"cdatetime\ntimezone\n",
    b"\x85R",
    b"q\x00",
    b"h\x00",
    b"\x95\x02" + bytes(7),
    b"\x8a\x02\xff\x80",
]


@pytest.mark.spec("REC-12", "REC-14", "OBJ-71")
@given(cls=st.sampled_from(CLASSES), words=st.lists(st.sampled_from(WORDS), max_size=12))
def test_any_order_of_opcodes_means_what_it_means_to_python(cls: type[PersistentObject], words: list[bytes]) -> None:
    data = data_of(cls, {})[: -len(pickled({}, 4))] + b"\x80\x04" + b"".join(words)
    check_memo(data)
    same_in_both(cls, pack_record(OID, data, b""))


TAKEN: dict[str, tuple[type[PersistentObject], object]] = {
    "attributes": (Node, {"a": 1, "b": [1.5, None, True, "x", b"y", (1, 2, 3, 4)], "c": {1: {2, 3}, (1, "a"): []}}),
    "slots": (Slotted, {"a": -1, "b": 1 << 40}),
    "references": (Node, {"a": [Reference(number, Node) for number in range(2, 9)]}),
    "the same twice": (Node, {"a": [Reference(7, Node), Reference(7, Node)]}),
    "items": (PersistentDict, {"data": {"a": Reference(2, Node)}}),
    "a frozenset and a class": (Node, {"a": frozenset({1, 2}), "b": Node}),
    "dates and times": (Node, {"a": [datetime.date(2026, 1, 2), datetime.datetime(2026, 1, 2), datetime.timedelta(3)]}),
    "times in zones": (
        Node,
        {"a": [datetime.time(1, tzinfo=HERE), datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)]},
    ),
    "Decimals": (Node, {"a": [decimal.Decimal("1.50"), decimal.Decimal("nan"), decimal.Decimal("-1e999")]}),
    "many bytes": (Node, {"a": [b"x" * 70_000, list(range(3000)), dict.fromkeys(range(3000)), "y" * 70_000]}),
}


@pytest.mark.parametrize("name", TAKEN)
@pytest.mark.parametrize("is_compressed", [False, True])
def test_usual_states_are_loaded_in_c(name: str, is_compressed: bool) -> None:
    cls, state = TAKEN[name]
    record = record_of(cls, state, is_compressed=is_compressed)
    world = World(cls)
    assert load_in_c(world, record)
    assert world.obj._p_status == SAVED
    same_in_both(cls, record)


def test_states_share_short_texts_and_each_keeps_its_own_apart() -> None:
    world = World(Node)
    twice = "".join(["sha", "red"]), "".join(["sha", "red"])
    assert twice[0] is not twice[1]
    state = {"first": twice[0], "other": [twice[1], twice[0], ("é" * 9, "y" * 41, "first")]}
    objects: list[Any] = [world.add(number, Node) for number in (20, 21)]
    for obj in objects:
        assert world.reader._states is not None
        assert world.reader._states.load(obj, pack_record(obj._p_oid or b"", data_of(Node, state), b""))
    one, two = objects
    assert one.first is two.first
    assert one.other[0] is not one.first
    assert one.other[1] is one.first
    assert one.other[2] == two.other[2] == ("é" * 9, "y" * 41, "first")
    assert [sys.intern(name) is name for name in vars(one)] == [True, True]


def test_a_state_that_contains_itself_is_not_the_dict_of_its_object() -> None:
    state: dict[str, object] = {"name": "a"}
    state["state"] = state
    for with_c in True, False:
        world = World(Node, with_c)
        world.load(record_of(Node, state))
        assert world.obj._p_status == SAVED
        inner = world.obj.state
        assert inner is not vars(world.obj)
        assert inner["state"] is inner


def test_texts_that_take_the_places_of_others_are_loaded_as_they_are() -> None:
    world = World(Node)
    for seed in range(30):
        texts = [f"{seed}{'x' * (number % 45)}{number * seed % 97}" for number in range(600)]
        obj: Any = world.add(100 + seed, Node)
        state = {"a": texts, **dict.fromkeys(texts[:300])}
        assert world.reader._states is not None
        assert world.reader._states.load(obj, pack_record(obj._p_oid, data_of(Node, state), b""))
        assert vars(obj) == state


@pytest.mark.spec("REC-33")
def test_memory_for_the_memo_is_in_proportion_to_the_state() -> None:
    steps, state = 2500, b"\x80\x02}"
    for number in range(steps):
        state += b"r" + (5 * steps * number - 5 * sum(range(number))).to_bytes(4, "little")
    world = World(Node)
    record = pack_record(OID, class_pickle(Node) + state + b".", b"")
    assert world.reader._states is not None
    tracemalloc.start()
    try:
        assert not world.reader._states.load(world.obj, record)
        assert tracemalloc.get_traced_memory()[1] < 100 * len(state)
    finally:
        tracemalloc.stop()


def test_states_that_share_the_memo_of_their_class_are_loaded_in_c() -> None:
    file = io.BytesIO()
    pickler = Pickler(file, 2)
    for value in Node, {"a": [Reference(2, Node), Node, "x", b"x\xff", (1, 2, 3, 4)], "b": {"a": Reference(7, Node)}}:
        pickler.dump(value)
    assert file.getvalue().count(b"Node") == 1
    world, record = World(Node), pack_record(OID, file.getvalue(), b"")
    assert load_in_c(world, record)
    assert world.obj.a[1] is Node
    same_in_both(Node, record)


@pytest.mark.parametrize(
    ("cls", "state"),
    [
        (Custom, {}),
        (Both, {"a": 1}),
        (Slotted, {"d": 1}),
        (Node, None),
        (Node, {"a": Color.RED}),
        (Node, {"a": 1 << 80}),
    ],
)
def test_what_is_unusual_is_left_to_python(cls: type[PersistentObject], state: object) -> None:
    world = World(cls)
    assert not load_in_c(world, record_of(cls, state))
    assert world.obj._p_status == GHOST
    same_in_both(cls, record_of(cls, state))


def test_a_class_is_looked_up_anew_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    world, record = World(Node), record_of(Node, {"a": Reference(9, Slotted)})
    assert load_in_c(world, record)

    class Slotted2(PersistentObject):
        pass

    monkeypatch.setattr(sys.modules[NAME], "Slotted", Slotted2)
    world.obj._p_set_status_ghost()
    gc.collect()
    assert load_in_c(world, record)
    assert type(world.obj.a) is Slotted2
    monkeypatch.setattr(sys.modules[NAME], "Node", Slotted2)
    world.obj._p_set_status_ghost()
    assert not load_in_c(world, record)


def test_a_class_that_changes_how_it_takes_states_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world, record = World(Node), record_of(Node, {"a": 1})
    assert load_in_c(world, record)
    monkeypatch.setattr(Node, "__setstate__", Custom.__setstate__, raising=False)
    world.obj._p_set_status_ghost()
    assert not load_in_c(world, record)


def test_names_of_python_2_are_left_to_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("commands")
    assert "commands" in RENAMED_MODULES
    monkeypatch.setitem(sys.modules, "commands", module)
    module.__dict__["Node"] = Node
    names = f"c{NAME}\nNode\n".encode()
    record = record_of(Node, {"a": Node}, protocol=2)
    assert load_in_c(World(Node), record)
    assert not load_in_c(World(Node), record.replace(names, b"ccommands\nNode\n"))


def state_reader(world: World, decompress: Callable[[bytes], bytes]) -> StateReader:
    return StateReader(
        world.connection,
        world.cache,
        PersistentObject,
        layout_of,
        decompress,
        RENAMED_MODULES,
        ENCODE,
        VALUE_TYPES,
        DurusError,
    )


def test_what_comes_from_outside_comes_out() -> None:
    record = record_of(Node, {"a": 1}, is_compressed=True)
    for error in KeyboardInterrupt(), ValueError("of a signal handler"), RecordError("too large"):

        def fail(stored: bytes, error: BaseException = error) -> bytes:
            raise error

        world = World(Node)
        reader = state_reader(world, fail)
        if isinstance(error, DurusError):
            assert not reader.load(world.obj, record)  # Python meets it, and adds the oid
        else:
            with pytest.raises(type(error)):
                reader.load(world.obj, record)
        assert world.obj._p_status == GHOST


def test_an_object_that_is_used_while_it_is_loaded_keeps_what_it_got() -> None:
    world = World(Node)

    def use_it(stored: bytes) -> bytes:
        assert world.reader._states is not None
        assert world.reader._states.load(world.obj, record_of(Node, {"a": "first"}))
        return decompress_state(stored)

    assert state_reader(world, use_it).load(world.obj, record_of(Node, {"a": "second"}, is_compressed=True))
    assert world.obj.a == "first"


@pytest.mark.parametrize("wrong", [(), (1,), (1, b""), (None, b"", 1), (Node(), "no bytes")])
def test_wrong_arguments_are_refused(wrong: tuple[Any, ...]) -> None:
    reader: Any = World(Node).reader._states
    with pytest.raises(TypeError):
        reader.load(*wrong)
    with pytest.raises(TypeError):
        StateReader(*wrong)


def failing_allocations(world: Callable[[], World], record: bytes) -> Iterator[World]:
    """Load with each allocation failing once."""
    for number in range(60):
        tried = world()
        assert load_in_c(tried, record)  # the first time it asks Python for the layout of the class
        tried.obj._p_set_status_ghost()
        call_without_memory(number, load_in_c, tried, record)
        yield tried


@pytest.mark.parametrize("cls", [Node, Slotted])
@in_a_process_alone
def test_without_memory_an_object_is_loaded_or_a_ghost(cls: type[PersistentObject]) -> None:
    state = {"a": [Reference(8, Node), {1: (2.5, "x")}], "b": list(range(50)), "c": {"y" * 40, 1 << 40}}
    record = record_of(cls, state)
    whole = World(cls)
    expected = whole.load(record)
    outcomes = set()
    for world in failing_allocations(lambda: World(cls), record):
        outcomes.add(world.obj._p_status)
        if world.obj._p_status == GHOST:
            assert world.load(record) == expected
    assert outcomes == {GHOST, SAVED}


def test_nothing_is_left_behind() -> None:
    good = record_of(Node, {"a": [Reference(8, Node), {1: (2.5, "x" * 99)}], "b": {1, 2}}, memo=b"q\x01")
    counts = []
    world = World(Node)
    for _ in range(4):
        for _ in range(100):
            for record in [good, *(good[:end] for end in range(60, len(good), 7))]:
                world.obj._p_set_status_ghost()
                load_in_c(world, record)
        gc.collect()
        counts.append((sys.getallocatedblocks(), sys.getrefcount(None), sys.getrefcount(Node)))
    assert max(abs(after - before) for before, after in zip(counts[-2], counts[-1], strict=True)) < 20

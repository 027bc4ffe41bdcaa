"""What the C extension stores of states, against the Python it stands for: the same bytes, the same errors."""

import copyreg
import datetime
import decimal
import enum
import gc
import random
import sys
import uuid
from abc import ABCMeta
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durus import serialize
from durus.error import ConflictError
from durus.objects.pickling import layout_to_store
from durus.objects.unpickling import VALUE_TYPES
from durus.oid import oid_from_int
from durus.persistent import (
    SAVED,
    UNSAVED,
    ConnectionBase,
    Persistent,
    PersistentObject,
    StateWriter,
    get_slot,
    implementation,
    set_slot,
)
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.records.stored_state import compress_state
from durus.serialize import ObjectWriter
from tests.no_memory import NO_MEMORY, call_without_memory, in_a_process_alone

pytestmark = pytest.mark.skipif(implementation != "C", reason="there is one form only")

NAME = __name__


class Node(Persistent):
    pass


class Slotted(PersistentObject):
    __slots__ = ("_v_d", "a", "b", "c")


class Both(Persistent):
    __slots__ = ("a",)


class Bare(PersistentObject):
    __slots__ = ()


class OnlyVolatile(PersistentObject):
    __slots__ = ("_v_a",)


class Private(PersistentObject):
    __slots__ = ("__private", "a")


class Custom(Persistent):
    def __getstate__(self) -> Any:
        return {"custom": sorted(vars(self), key=repr)}


class Asked(Persistent):
    def __getattr__(self, name: str) -> Any:
        if name == "computed":
            return 1
        raise AttributeError(name)


class OddDict(Persistent):
    @property
    def __dict__(self) -> Any:  # type: ignore[override]  # which no class should do
        return {"odd": 1}


class Outer(Persistent):
    class Inner(Persistent):
        pass


class Meta(type):
    pass


class OfMeta(Persistent, metaclass=Meta):
    pass


class Color(enum.Enum):
    RED = 1


class Text(str):
    pass


class Number(int):
    pass


class Mapping(dict[Any, Any]):
    pass


Pair = namedtuple("Pair", "x y")  # the class of a value, as applications have it


class Plain:
    def __init__(self) -> None:
        self.part = [1]


CLASSES: list[type[PersistentObject]] = [
    Node,
    Slotted,
    Both,
    Bare,
    OnlyVolatile,
    Private,
    Custom,
    Asked,
    OddDict,
    Outer.Inner,
    OfMeta,
    PersistentDict,
    PersistentList,
]


class Zone(datetime.tzinfo):
    def utcoffset(self, moment: datetime.datetime | None) -> datetime.timedelta:
        return HOUR

    dst = tzname = utcoffset  # type: ignore[assignment]  # a name is not asked for


class Money(decimal.Decimal):
    pass


HOUR = datetime.timedelta(hours=1)
MADE_BY_CALLS: list[object] = [
    *(
        datetime.date(2026, 1, 2),
        datetime.time(3, 4, fold=1),
        datetime.datetime(2026, 1, 2, 3),
        datetime.timedelta(-1, 2),
    ),
    *(datetime.UTC, datetime.timezone(HOUR), datetime.timezone(HOUR, "here"), datetime.time(1, tzinfo=datetime.UTC)),
    *(
        datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
        datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone(HOUR)),
    ),
    *(decimal.Decimal("1.50"), decimal.Decimal("nan"), decimal.Decimal("-1e999"), decimal.Decimal(1 << 200)),
]


class World:
    """An object to store, and others to which its state may refer: stored, new, and of another connection."""

    def __init__(self, cls: type[PersistentObject] = Node, is_new: bool = False) -> None:
        self.connection = ConnectionBase()
        self.other = ConnectionBase()
        self.root = self.add(0, Node)
        self.obj: Any = cls() if is_new else self.add(1, cls)
        kinds = Node, Slotted, Outer.Inner, OfMeta, PersistentDict
        self.stored = [self.add(number, kind) for number, kind in enumerate(kinds, 2)]
        self.new: list[PersistentObject] = [Node(), PersistentList([Node()]), Node()]
        self.foreign = self.add(9, Node, self.other)
        self.last = 100
        self.objects = [self.obj, self.root, *self.stored, *self.new, self.foreign]
        self.classes: list[object] = [Node, Slotted, int, type(None)]

    def add(
        self, number: int, cls: type[PersistentObject], connection: ConnectionBase | None = None
    ) -> PersistentObject:
        obj = cls()
        set_slot(obj, "_p_oid", oid_from_int(number))
        set_slot(obj, "_p_connection", self.connection if connection is None else connection)
        return obj

    def new_oid(self) -> bytes:
        self.last += 1
        return oid_from_int(self.last)

    def writer(self, with_c: bool) -> ObjectWriter:
        self.last = 100
        writer = ObjectWriter(self.connection, self.root, self.new_oid, False)
        if not with_c:
            writer._states = None
        return writer

    def give(self, attributes: dict[Any, Any]) -> None:
        """Give the object attributes, as far as it has room for them."""
        for name, value in attributes.items():
            try:
                if get_slot(type(self.obj), "__dictoffset__") and type(self.obj) is not OddDict:
                    get_slot(self.obj, "__dict__")[name] = value
                else:
                    set_slot(self.obj, name, value)
            except (AttributeError, TypeError):
                pass

    def store(self, with_c: bool) -> object:
        """Return what came of storing the object and all new ones it reaches, in a form to compare."""
        writer = self.writer(with_c)
        set_slot(self.obj, "_p_status", UNSAVED)
        oid = self.obj._p_oid or self.new_oid()
        if self.obj._p_oid is None:
            writer.new_objects[id(self.obj)] = oid, self.obj
        records: list[object] = []
        try:
            records.extend((id(obj), number, record) for obj, number, record in writer.records([(self.obj, oid)]))
        except Exception as error:
            outcome: object = type(error), str(error), getattr(error, "__notes__", None)
        else:
            outcome = None
        new = [(number, id(obj)) for number, obj in writer.new_objects.values()]
        return outcome, records, new, self.obj._p_status, [id(obj) for obj, _ in writer._risky]

    def record_in_c(self) -> bytes | None:
        writer = self.writer(with_c=True)
        assert writer._states is not None
        return writer._states.record(self.obj, self.obj._p_oid, self.connection, writer.new_objects, writer._take_in)


def same_in_both(world: World) -> Any:
    in_python, in_c = world.store(with_c=False), world.store(with_c=True)
    assert in_c == in_python
    return in_c


BORDERS = [(1 << bits) + more for bits in (7, 8, 15, 16, 31, 32, 39, 40, 47, 48, 55, 56, 63, 64) for more in (-1, 0, 1)]

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 66), 1 << 66),
    st.sampled_from([sign * number for sign in (1, -1) for number in BORDERS]),
    st.floats(),
    st.text(max_size=6),
    st.binary(max_size=6),
    st.sampled_from(MADE_BY_CALLS),
    st.sampled_from(
        [
            *("a", "data", NAME, "Node", "_p_", "\ud800", "é" * 128, "x" * 255, "y" * 256, "z" * 600),
            *(b"\x91\x94", b"_p_", b"x" * 255, b"y" * 256, bytes(8), b"C\x08" + bytes(7) + b"\x91\x94"),
            *(Color.RED, 1j, len, range(3), bytearray(b"x"), datetime.datetime(2026, 1, 2, tzinfo=Zone())),
            *(Text("t"), Number(3), Mapping(a=1), OrderedDict(a=1), Pair(1, 2), Plain(), lambda: 0),
        ]
    ),
)
keys = st.one_of(
    st.text(max_size=3), st.integers(-5, 5), st.none(), st.booleans(), st.floats(), st.tuples(st.integers(0, 3))
)
NAMES = ["a", "b", "c", "data", "_v_d", "_v_a", "_Private__private", "é", NAME]
ODD_NAMES = ["_p_x", "__getstate__", "_p", "_v", 1, Text("a"), ("a",)]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    world = World(draw(st.sampled_from(CLASSES)), draw(st.booleans()))
    shared: list[Any] = [*world.objects, *world.classes, draw(keys), [], {}, set(), frozenset([1]), ("x",), "text" * 3]
    some = scalars | st.sampled_from(shared)
    values = st.recursive(
        some,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(keys, inner, max_size=4)
            | st.lists(inner, max_size=4).map(tuple)
            | st.sets(keys, max_size=4)
            | st.frozensets(keys, max_size=4)
            | st.lists(inner, min_size=1, max_size=2).map(lambda parts: [parts, parts])
        ),
        max_leaves=12,
    )
    for each in shared:
        if type(each) is list:
            each.extend(draw(st.lists(some, max_size=3)))
    names = st.sampled_from(NAMES + draw(st.sampled_from([[], [], ODD_NAMES])))
    world.give(draw(st.dictionaries(names, values, max_size=5)))
    return world


@pytest.mark.spec("REC-7", "REC-10", "REC-11", "REC-14")
@given(worlds())
def test_states_are_stored_as_python_stores_them(world: World) -> None:
    same_in_both(world)


zones = st.none() | st.just(datetime.UTC) | st.timedeltas(HOUR * -23, HOUR * 23).map(datetime.timezone)
usual = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats()
    | st.text(st.characters(codec="utf-8"), max_size=300)
    | st.binary(max_size=300)
    | st.sampled_from(["a", "b", "shared"])
    | st.dates()
    | st.times(timezones=zones)
    | st.datetimes(timezones=zones)
    | st.timedeltas()
    | st.decimals(),
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.dictionaries(keys, inner, max_size=6)
        | st.lists(inner, max_size=6).map(tuple)
        | st.sets(keys, max_size=6)
        | st.frozensets(keys, max_size=6)
        | st.lists(inner, min_size=1, max_size=2).map(lambda parts: (parts, parts))
    ),
    max_leaves=30,
)


@pytest.mark.spec("REC-11")
@given(st.sampled_from([Node, Slotted, Private]), st.dictionaries(st.sampled_from(["a", "b", "c", "_v_d"]), usual))
def test_usual_states_are_stored_in_c(cls: type[PersistentObject], state: dict[str, object]) -> None:
    world = World(cls)
    world.give(state)
    assert world.record_in_c() is not None
    assert world.obj._p_status == SAVED
    assert same_in_both(world)[0] is None


@pytest.mark.spec("REC-7", "REC-14")
@given(st.lists(st.tuples(st.integers(0, 6), st.booleans())))
def test_references_are_stored_in_c(choices: list[tuple[int, bool]]) -> None:
    world = World()
    objects = [world.obj, world.root, *world.stored[:2], world.stored[4], *world.new]
    world.give(
        {"a": [(objects[index], [objects[index]]) if is_twice else objects[index] for index, is_twice in choices]}
    )
    assert world.record_in_c() is not None
    assert same_in_both(world)[0] is None


SIZES = [*range(6), *range(252, 260), *range(997, 1003), *range(1998, 2003)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "make",
    [
        list,
        tuple,
        set,
        frozenset,
        dict.fromkeys,
        lambda numbers: [str(number) for number in numbers],
        lambda numbers: [text for number in numbers for text in [f"{number}"] * 2],
        lambda numbers: ("x" * len(numbers), b"x" * len(numbers)),
        lambda numbers: "\U0001f600" * len(numbers),
    ],
)
def test_containers_of_any_size_are_stored_as_python_stores_them(make: Callable[[range], object], size: int) -> None:
    world = World()
    world.give({"a": make(range(size)), "b": 1})
    assert same_in_both(world)[0] is None
    assert world.record_in_c() is not None


@pytest.mark.parametrize("size", [*range(65_460, 65_560, 3), 1 << 17])
@pytest.mark.parametrize("kind", [str, bytes])
def test_states_of_about_a_frame_are_stored_as_python_stores_them(kind: type, size: int) -> None:
    world = World()
    whole = "x" * size if kind is str else b"x" * size
    for value in whole, [whole[:30_000], whole[30_000:]], [whole[:7]] * 3 + [whole] * 2 + [whole[:70], 1]:
        world.give({"a": value})
        assert same_in_both(world)[0] is None
        assert world.record_in_c() is not None


@pytest.mark.spec("REC-11")
@pytest.mark.parametrize("seed", range(12))
def test_states_of_many_frames_are_stored_as_python_stores_them(seed: int) -> None:
    generator, world = random.Random(seed), World([Node, Slotted][seed % 2])

    def value(depth: int) -> object:
        kind = generator.randrange(10)
        if kind < 2 and depth < 3:
            items = range(generator.choice([1, 3, 300, 1000, 1500] if depth == 1 else [1, 3]))
            return [value(depth + 1) for _ in items] if kind else {number: value(depth + 1) for number in items}
        if kind < 4:
            return generator.choice([*world.stored[:2], *world.new])
        if kind == 4:
            return generator.choice(MADE_BY_CALLS)
        size = generator.choice([1, 10, 300, 3000 if depth < 2 else 5, 70_000 if depth < 2 else 7])
        return generator.choice(["x" * size, b"y" * size, size, {size}, "é" * size])

    world.give({name: [value(1) for _ in range(25)] for name in ("a", "b", "c")})
    assert same_in_both(world)[0] is None
    record = world.record_in_c()
    assert record is not None
    assert len(record) > 1000


def test_a_very_large_state_is_left_to_python() -> None:
    world = of(Node, a=[b"x" * (1 << 20)] * 3 + [bytes(1 << 20) for _ in range(15)])
    assert world.record_in_c() is None
    assert of(Node, a="x" * (1 << 24)).record_in_c() is None
    assert of(Node, a="x" * (1 << 23)).record_in_c() is not None


def test_a_type_that_is_to_be_pickled_by_a_function_is_left_to_python(monkeypatch: pytest.MonkeyPatch) -> None:
    world = of(Node, a=datetime.date(2026, 1, 2))
    assert world.record_in_c() is not None
    monkeypatch.setitem(copyreg.dispatch_table, datetime.date, lambda date: (Plain, ()))
    assert world.record_in_c() is None
    assert same_in_both(world)[0] is None


@pytest.mark.parametrize("depth", [10, 24, 25, 26, 48, 49, 50, 51, 52, 200, 100_000])
def test_deep_states_are_left_to_python(depth: int) -> None:
    world = World()
    value: object = 1
    for _ in range(depth):
        value = [value] if depth % 2 else (value, {})
    world.give({"a": value})
    if depth > 1000:
        assert world.record_in_c() is None  # how deep pickle goes depends on its callers
    else:
        assert same_in_both(world)[0] is None
        assert (world.record_in_c() is None) == (depth > 49)


def cyclic(kind: str) -> object:
    value: list[Any] = []
    value.append({"list": (value,), "tuple": (1, 2, 3, value), "dict": {"x": value}}[kind])
    return value if kind != "tuple" else value[0]


@pytest.mark.parametrize("kind", ["list", "tuple", "dict"])
def test_values_that_contain_themselves_are_stored_as_python_stores_them(kind: str) -> None:
    world = World()
    world.give({"a": cyclic(kind)})
    world.give({"b": get_slot(world.obj, "__dict__")})
    assert same_in_both(world)[0] is None


def in_its_own_state() -> World:
    world = World()
    world.give({"__getstate__": lambda: {"a": 1}})
    return world


def of(cls: type[PersistentObject], **attributes: object) -> World:
    world = World(cls)
    world.give(attributes)
    return world


def with_dict_of_a_subclass() -> World:
    world = World()
    world.obj.__dict__ = Mapping(a=1)
    return world


@pytest.mark.parametrize(
    "make",
    [
        in_its_own_state,
        with_dict_of_a_subclass,
        lambda: of(Custom, a=1),
        lambda: of(Both, a=1),
        lambda: of(Bare),
        lambda: of(OnlyVolatile),
        lambda: of(Asked, a=1),
        lambda: of(OddDict),
        lambda: of(Node, a=Color.RED),
        lambda: of(Node, a=uuid.UUID(int=5)),
        lambda: of(Node, a=datetime.datetime(2026, 1, 2, tzinfo=Zone())),
        lambda: of(Node, a=Money("1.5")),
        lambda: of(Node, a=1 << 63),
        lambda: of(Node, a="\ud800"),
        lambda: of(Node, a=Outer.Inner()),
        lambda: of(Node, a=OfMeta()),
        lambda: of(Node, a=Node),
        lambda: of(Node, a=frozenset([1]), b=Node()),
        lambda: of(Node, _p_x=1),
    ],
)
def test_what_is_unusual_is_left_to_python(make: Callable[[], World]) -> None:
    world = make()
    assert world.record_in_c() is None
    same_in_both(world)


@pytest.mark.spec("TXN-37")
@pytest.mark.parametrize("wrong", [{"__getstate__": None}, {"_p_x": 1}])
def test_an_object_whose_state_is_not_taken_is_not_saved(wrong: dict[str, object]) -> None:
    world = World()
    world.give(wrong)
    assert world.record_in_c() is None
    assert world.obj._p_status == UNSAVED
    same_in_both(world)


def test_a_class_that_changes_how_it_makes_states_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = of(Node, a=1)
    assert world.record_in_c() is not None
    for name, value in [
        ("__getstate__", Custom.__getstate__),
        ("__getattribute__", lambda self, name: get_slot(self, name)),
    ]:
        with monkeypatch.context() as patch:
            patch.setattr(Node, name, value, raising=False)
            assert world.record_in_c() is None
            same_in_both(world)
    with monkeypatch.context() as patch:
        patch.setattr(PersistentObject, "__getstate__", lambda self: {"patched": 1})
        assert world.record_in_c() is None
        same_in_both(world)
    assert world.record_in_c() is not None


def test_a_class_is_looked_up_anew_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    world = of(Node, a=PersistentDict())
    assert world.record_in_c() is not None
    monkeypatch.setattr(sys.modules[PersistentDict.__module__], "PersistentDict", Node)
    assert world.record_in_c() is None
    same_in_both(world)
    monkeypatch.delitem(sys.modules, PersistentDict.__module__)
    assert world.record_in_c() is None


def test_a_class_with_an_extension_code_is_left_to_python() -> None:
    world = of(Node, a=world_node())
    copyreg.add_extension(NAME, "Node", 0xF123)
    try:
        assert world.record_in_c() is None
        same_in_both(world)
    finally:
        copyreg.remove_extension(NAME, "Node", 0xF123)
    assert world.record_in_c() is not None


def world_node() -> Node:
    return Node()


def test_more_classes_than_are_remembered() -> None:
    classes = [type(f"Made{number}", (Node,), {"__module__": NAME}) for number in range(70)]
    for cls in classes:
        setattr(sys.modules[NAME], cls.__name__, cls)
    try:
        for cls in [*classes, *classes[::-1]]:
            world = of(cls, a=cls.__name__)
            assert world.record_in_c() is not None
            same_in_both(world)
    finally:
        for cls in classes:
            delattr(sys.modules[NAME], cls.__name__)


def test_classes_are_not_kept_in_memory() -> None:
    class Local(Node):
        pass

    counts = sys.getrefcount(Local)
    Local.__qualname__ = "Local"
    vars(sys.modules[NAME])["Local"] = Local
    assert of(Local, a=1).record_in_c() is not None
    del vars(sys.modules[NAME])["Local"]
    gc.collect()
    assert sys.getrefcount(Local) == counts


def test_a_ghost_and_an_object_that_was_not_used_are_left_to_python() -> None:
    world = of(Node, a=1)
    world.connection.transaction_serial = 7
    assert world.record_in_c() is None
    set_slot(world.obj, "_p_serial", 7)
    assert world.record_in_c() is not None
    world.obj._p_set_status_ghost()
    assert world.record_in_c() is None


def state_writer(compress: Callable[[bytes], bytes] = compress_state, layout: Any = layout_to_store) -> StateWriter:
    return StateWriter(PersistentObject, layout, compress, 512, {}, ABCMeta, {}, VALUE_TYPES)


@pytest.mark.spec("OBJ-70")
@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), ValueError("of a signal handler"), ConflictError(), MemoryError()]
)
def test_what_comes_from_outside_comes_out(error: BaseException) -> None:
    def fail(*args: object) -> Any:
        raise error

    world = of(Node, a=Node(), b="x" * 1000)
    for writer, take_in in [
        (state_writer(compress=fail), lambda obj: world.new_oid()),
        (state_writer(layout=fail), lambda obj: world.new_oid()),
        (state_writer(), fail),
    ]:
        with pytest.raises(type(error)) as raised:
            writer.record(world.obj, oid_from_int(1), world.connection, {}, take_in)
        assert raised.value is error


@pytest.mark.spec("OBJ-70")
def test_an_interrupt_tells_what_was_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    world = of(Node, a=Node())
    monkeypatch.setattr(World, "new_oid", lambda self: exec("raise KeyboardInterrupt"))
    for with_c in True, False:
        with pytest.raises(KeyboardInterrupt) as raised:
            list(world.writer(with_c).records([(world.obj, oid_from_int(1))]))
        assert "while the state of <Node 1> was stored" in "\n".join(raised.value.__notes__)


@pytest.mark.parametrize("container", [[Node()], {"x": Node()}, {"x": Node(), "y": 2}, {Node()}, (Node(), [Node(), 1])])
@pytest.mark.parametrize("change", ["clear", "grow"])
def test_what_changes_while_it_is_stored(container: Any, change: str) -> None:
    """Another thread may change it while the storage is asked for an oid."""
    world = of(Node, a=container)
    changing = container[1] if isinstance(container, tuple) else container

    def take_in(obj: PersistentObject) -> bytes:
        if change == "clear":
            changing.clear()
            get_slot(world.obj, "__dict__").clear()
        elif isinstance(changing, dict):
            changing.update({number: [number] for number in range(50)})
        elif isinstance(changing, list):
            changing[:0] = [[number] for number in range(50)]
        else:
            changing.update(range(50))
        return world.new_oid()

    record = state_writer().record(world.obj, oid_from_int(1), world.connection, {}, take_in)
    assert record is None or len(record) > 12


@pytest.mark.spec("TXN-37")
def test_slots_that_change_while_they_are_stored_are_stored_as_they_were() -> None:
    world = of(Slotted, a=Node(), b="before", c=[1])

    def take_in(obj: PersistentObject) -> bytes:
        set_slot(world.obj, "b", "after")
        set_slot(world.obj, "c", None)
        return world.new_oid()

    record = state_writer().record(world.obj, oid_from_int(1), world.connection, {}, take_in)
    assert record is not None
    assert b"before" in record
    assert b"after" not in record


@pytest.mark.spec("REC-14")
def test_a_class_that_changes_while_the_oid_is_taken_is_the_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "Passing", type("Passing", (Persistent,), {"__module__": NAME}))
    part = globals()["Passing"]()
    world = of(Node, a=part)

    def take_in(obj: PersistentObject) -> bytes:
        set_slot(part, "__class__", Node)
        del globals()["Passing"]
        gc.collect()
        return world.new_oid()

    record = state_writer().record(world.obj, oid_from_int(1), world.connection, {}, take_in)
    assert record is not None
    assert b"Node" in record.partition(b"C\x08")[2]


@pytest.mark.parametrize("oid", [None, 5, b"short", bytearray(8)])
def test_an_oid_that_is_none_is_left_to_python(oid: Any) -> None:
    world = of(Node, a=Node())
    assert state_writer().record(world.obj, oid_from_int(1), world.connection, {}, lambda obj: oid) is None
    new: Any = {id(get_slot(world.obj, "__dict__")["a"]): oid}
    assert state_writer().record(world.obj, oid_from_int(1), world.connection, new, lambda obj: bytes(8)) is None


def test_a_reference_to_an_object_without_an_oid_is_left_to_python() -> None:
    world = of(Node, a=Node())
    stored = world.add(3, Node)
    set_slot(stored, "_p_oid", None)
    world.give({"a": stored})
    assert world.record_in_c() is None


def test_each_further_reference_to_an_object_names_its_oid_by_the_memo() -> None:
    world = of(Node)
    stored, other = world.add(3, Node), world.add(4, Node)
    world.give({"a": [stored, other, stored, Node(), stored], "b": oid_from_int(3)})
    assert world.record_in_c() is not None
    assert world.store(with_c=True) == world.store(with_c=False)


@pytest.mark.parametrize(
    "layout",
    [1, (), (b"",), ("", ()), (b"", []), (b"", (1,)), (b"", (("a",),)), (b"", ((1, 2),)), (b"", (("a", Slotted.a),))],  # type: ignore[attr-defined]  # slots
)
def test_a_layout_that_does_not_fit_is_left_to_python(layout: Any) -> None:
    world = of(Node, a=1)
    assert state_writer(layout=lambda cls: layout).record(world.obj, bytes(8), world.connection, {}, len) is None  # type: ignore[arg-type]  # it is not called


@pytest.mark.parametrize(
    "wrong", [(), (1,), (1, b"", 1, {}, len), (Node(), b"", 1, {}, len), (Node(), bytes(8), 1, 1, 1)]
)
def test_wrong_arguments_are_refused(wrong: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError):
        state_writer().record(*wrong)
    with pytest.raises(TypeError):
        StateWriter(*wrong)


def many_kinds(cls: type[PersistentObject]) -> World:
    world = World(cls)
    world.give(
        {
            "a": [world.stored[0], world.new[0], {1: (2.5, "x"), "é": b"y"}, world.obj, (1, 2, 3, 4)],
            "b": [str(number) for number in range(100)],
            "c": {"y" * 40, 1 << 40},
            "d": MADE_BY_CALLS,
            "_v_d": 1,
        }
    )
    return world


@pytest.mark.parametrize("cls", [Node, Slotted])
@in_a_process_alone
def test_without_memory_a_record_is_made_or_left_to_python(cls: type[PersistentObject]) -> None:
    expected = many_kinds(cls).record_in_c()
    assert expected is not None
    found = []
    for number in range(300):
        world = many_kinds(cls)
        writer = world.writer(with_c=True)
        states: Any = writer._states
        arguments: Any = world.obj, world.obj._p_oid, world.connection, {}, lambda obj: oid_from_int(101)
        record = call_without_memory(number, states.record, *arguments)
        found.append(record)
        assert record in (expected, None, NO_MEMORY)
        assert states.record(*arguments) == expected
    assert found[-1] == expected
    assert None in found


def test_nothing_is_left_behind() -> None:
    world = many_kinds(Node)
    odd = [many_kinds(Node), many_kinds(Slotted), of(Node, a=[{1: ("x", Color.RED)}]), of(Custom, a=1)]
    odd[0].give({"d": {1: [2, (3, Color.RED)]}})
    counts = []
    for _ in range(4):
        for _ in range(300):
            for each in [world, *odd]:
                each.record_in_c()
        gc.collect()
        counts.append((sys.getallocatedblocks(), sys.getrefcount(None), sys.getrefcount(Node)))
    assert max(abs(after - before) for before, after in zip(counts[-2], counts[-1], strict=True)) < 150


def test_the_writer_of_all_connections_is_the_one_in_c() -> None:
    assert type(serialize._STATES) is StateWriter

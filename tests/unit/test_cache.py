"""The identity map, in C and in Python: the same after the same steps, whatever runs meanwhile."""

import gc
import random
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from durus.error import ArgumentError
from durus.objects.cache import Cache, Reference
from durus.oid import oid_from_int
from durus.persistent import (
    GHOST,
    SAVED,
    ConnectionBase,
    Persistent,
    PersistentBase,
    PersistentObject,
    _attributes_in_memory,
    implementation,
    new_ghost,
    set_slot,
    take_state,
)
from tests.no_memory import NO_MEMORY, call_without_memory, in_a_process_alone

FORMS: list[Any] = [Cache] if Cache is Reference else [Cache, Reference]
in_c = pytest.mark.skipif(implementation != "C", reason="only the one in C is made of pointers and tables")
each_form = pytest.mark.parametrize("form", FORMS, ids=["used", "reference"][: len(FORMS)])

OID, OTHER = oid_from_int(1), oid_from_int(2)


class Node(Persistent):
    pass


class Slotted(PersistentObject):
    __slots__ = ("_v_c", "a", "b")


class Both(Persistent):
    __slots__ = ("a",)


class Inner(Both):
    """Has a slot of the name of another one, which it hides."""

    __slots__ = ("a",)


class Custom(Persistent):
    """Has a state of its own beside the usual one."""

    def _p_clear_state(self) -> None:
        super()._p_clear_state()
        Custom.cleared += 1

    cleared = 0


CLASSES: list[type[PersistentObject]] = [Node, Slotted, Both, Inner, Custom]


class World(ConnectionBase):
    """A connection to objects whose states are their oids."""

    def __init__(self, form: Callable[[int], Cache], size: int = 3) -> None:
        super().__init__()
        self.transaction_serial = 1
        self.cache = form(size)
        self.held: dict[int, PersistentObject] = {}

    def ghost(self, oid: bytes, cls: type[PersistentObject] = Node) -> Any:
        ghost = new_ghost(cls, oid, self)
        self.cache.add(oid, ghost)
        return ghost

    def loaded(self, oid: bytes, cls: type[PersistentObject] = Node) -> Any:
        ghost = self.ghost(oid, cls)
        self.load_state(ghost)
        return ghost

    def load_state(self, obj: PersistentBase) -> None:
        assert isinstance(obj, PersistentObject)
        take_state(obj, {"a": obj._p_oid}, False)
        assert obj._p_oid is not None
        self.cache.note_loaded(obj._p_oid, obj)

    def picture(self) -> object:
        """Return all that can be told of the objects in memory."""
        objects = self.cache.objects()
        return (
            [(oid, type(obj), obj._p_oid, obj._p_status, obj._p_serial, kept(obj)) for oid, obj in objects.items()],
            [obj._p_oid for obj in self.cache.loaded_objects()],
            [self.cache.is_loaded(oid) for oid in objects],
            self.cache.get_loaded_count(),
            self.cache.get_count(),
            self.cache.is_overfull(),
            {label: obj is objects.get(oid_from_int(label)) for label, obj in self.held.items()},
        )


class Using:
    """Uses an object when it is freed."""

    def __init__(self, world: World, oid: bytes) -> None:
        self.world = world
        self.oid = oid

    def __del__(self) -> None:
        obj: Any = self.world.cache.get(self.oid)
        if obj is None:
            obj = self.world.ghost(self.oid)
        assert obj.a == obj._p_oid


def kept(obj: PersistentObject) -> list[str]:
    """Return the names of the attributes that an object has in memory, in slots and otherwise."""
    return [name for name, _ in _attributes_in_memory(obj, "")]


numbers = st.integers(0, 12)


class Machine(RuleBasedStateMachine):
    """Does the same with both forms."""

    def __init__(self) -> None:
        super().__init__()
        self.worlds = [World(form) for form in (Cache, Reference)]

    @rule(number=numbers, cls=st.sampled_from(CLASSES))
    def make(self, number: int, cls: type[PersistentObject]) -> None:
        for world in self.worlds:
            oid = oid_from_int(number)
            found = world.cache.get(oid)
            world.held[number] = world.ghost(oid, cls) if found is None else found

    @rule(number=numbers, cls=st.sampled_from(CLASSES))
    def store_a_new_one(self, number: int, cls: type[PersistentObject]) -> None:
        for world in self.worlds:
            oid = oid_from_int(number)
            new: Any = cls()
            new.a = oid
            if not world.cache.is_loaded(oid):
                world.held[number] = new
                world.cache.take_in(oid, new, world)
                assert new._p_connection is world

    @rule(number=numbers)
    def let_go(self, number: int) -> None:
        for world in self.worlds:
            world.held.pop(number, None)

    @rule(number=numbers)
    def use(self, number: int) -> None:
        for world in self.worlds:
            obj: Any = world.cache.get(oid_from_int(number))
            if obj is not None and obj._p_oid == oid_from_int(number):
                assert obj.a == obj._p_oid

    @rule(number=numbers, used=numbers)
    def leave_something_that_uses_another_one(self, number: int, used: int) -> None:
        for world in self.worlds:
            obj: Any = world.cache.get(oid_from_int(number))
            if obj is not None and world.cache.is_loaded(oid_from_int(number)) and obj._p_status == SAVED:
                name = "_v_c" if isinstance(obj, Slotted) else "_v_x"
                set_slot(obj, name, Using(world, oid_from_int(used)))

    @rule(number=numbers)
    def make_ghost(self, number: int) -> None:
        for world in self.worlds:
            world.cache.make_ghost(oid_from_int(number))

    @rule()
    def make_all_ghosts(self) -> None:
        for world in self.worlds:
            world.cache.make_all_ghosts(world)

    @rule()
    def end_transaction(self) -> None:
        for world in self.worlds:
            world.transaction_serial += 1
            world.cache.shrink(world.transaction_serial)

    @rule()
    def shrink(self) -> None:
        for world in self.worlds:
            world.cache.shrink(world.transaction_serial)

    @rule(size=st.integers(1, 8))
    def set_size(self, size: int) -> None:
        for world in self.worlds:
            world.cache.set_size(size)

    @rule(size=st.integers(0, 20), limit=st.integers(0, 300))
    def shrink_bytes(self, size: int, limit: int) -> None:
        for world in self.worlds:
            for number, oid in enumerate(world.cache.objects()):
                world.cache.note_size(oid, size + number)
        first, second = (world.cache.shrink_bytes(limit) for world in self.worlds)
        assert first == second

    @rule(number=numbers, cls=st.sampled_from(CLASSES))
    def put_another_one_in_its_place(self, number: int, cls: type[PersistentObject]) -> None:
        for world in self.worlds:
            if not world.cache.is_loaded(oid_from_int(number)):
                world.held[number] = world.ghost(oid_from_int(number), cls)

    @precondition(lambda self: self.worlds[0].held)
    @rule(data=st.data(), oid=st.sampled_from([None, oid_from_int(99), OID]))
    def give_another_oid_and_let_go(self, data: st.DataObject, oid: bytes | None) -> None:
        number = data.draw(st.sampled_from(sorted(self.worlds[0].held)))
        for world in self.worlds:
            if world.held[number]._p_status == GHOST:
                set_slot(world.held[number], "_p_oid", oid)
                del world.held[number]

    @invariant()
    def both_are_the_same(self) -> None:
        first, second = (world.picture() for world in self.worlds)
        assert first == second

    def teardown(self) -> None:
        for world in self.worlds:
            world.held.clear()


TestMachine = pytest.mark.spec("OBJ-20", "OBJ-21", "OBJ-23")(in_c(Machine.TestCase))


@in_c
@given(
    steps=st.lists(
        st.tuples(
            st.booleans(),
            st.integers(0, 40) | st.integers(0, 40).map(lambda n: n << 32) | st.integers(0, 40).map(lambda n: n << 58),
        ),
        max_size=200,
    )
)
def test_the_table_has_what_was_put_in_and_not_taken_out(steps: list[tuple[bool, int]]) -> None:
    world = World(Cache)
    held: dict[int, Any] = {}
    for is_taken_in, number in steps:
        if is_taken_in and number not in held:
            held[number] = world.ghost(oid_from_int(number))
        elif not is_taken_in:
            held.pop(number, None)
    assert world.cache.objects() == {oid_from_int(number): held[number] for number in sorted(held)}
    assert all(world.cache.get(oid_from_int(number)) is obj for number, obj in held.items())
    assert world.cache.get_count() == len(held)


@each_form
def test_many_ghosts_come_and_go(form: Callable[[int], Cache]) -> None:
    world = World(form)
    held = {number: world.ghost(oid_from_int(number * 8)) for number in range(5000)}
    order = list(held)
    random.Random(1).shuffle(order)
    for number in order[:4990]:
        del held[number]
    assert list(world.cache.objects().values()) == [held[number] for number in sorted(held)]
    assert world.cache.get_count() == 10
    del held
    assert (world.cache.get_count(), world.cache.objects()) == (0, {})


@in_c
def test_a_ghost_takes_no_other_object() -> None:
    world = World(Cache)
    oids = [oid_from_int(number) for number in range(1000)]
    gc.collect()
    before = len(gc.get_objects())
    held = [world.ghost(oid) for oid in oids]
    assert len(gc.get_objects()) - before <= len(held) + 10
    assert weakref.getweakrefcount(held[0]) == 0


class Reborn(Persistent):
    """Remains in memory when it is to be freed."""

    def __del__(self) -> None:
        reborn.append(self)


reborn: list[PersistentObject] = []


@each_form
def test_an_object_that_lives_on_remains_that_of_its_oid(form: Callable[[int], Cache]) -> None:
    world = World(form)
    ghost: Any = world.ghost(OID, Reborn)
    del ghost
    assert world.cache.get(OID) is reborn.pop()
    assert world.cache.get(OID) is None  # its finalizer is called once


class Asking(Persistent):
    """Asks for itself when it is to be freed."""

    def __del__(self) -> None:
        assert isinstance(self._p_connection, World)
        reborn.extend(obj for obj in [self._p_connection.cache.get(OID)] if obj is not None)


@each_form
def test_a_finalizer_gets_the_object_itself(form: Callable[[int], Cache]) -> None:
    world = World(form)
    ghost: Any = world.ghost(OID, Asking)
    address = id(ghost)
    del ghost
    assert id(reborn[0]) == address
    assert world.cache.get(OID) is reborn.pop()
    assert world.cache.get_count() == 0


class Called:
    """Calls a function when it is freed."""

    def __init__(self, function: Callable[[], object]) -> None:
        self.function = function

    def __del__(self) -> None:
        self.function()


@pytest.mark.spec("OBJ-20")
@each_form
@pytest.mark.parametrize("cls", [Node, Slotted])
def test_an_object_that_is_being_freed_is_gone(form: Callable[[int], Cache], cls: type[PersistentObject]) -> None:
    world = World(form)
    ghost = world.ghost(OID, cls)
    met: list[Any] = []

    def meet() -> None:
        met.append(world.cache.get(OID))
        met.append(world.ghost(OID))

    set_slot(ghost, "a", Called(meet))  # a ghost has no state; this goes past the library
    del ghost
    assert met[0] is None
    assert world.cache.get(OID) is met[1]
    assert world.cache.get_count() == 1
    del met[:]
    assert world.cache.get_count() == 0


@each_form
def test_a_ghost_in_a_cycle_of_its_own_is_collected(form: Callable[[int], Cache]) -> None:
    world = World(form)
    ghost = world.ghost(OID)
    set_slot(ghost, "me", ghost)
    del ghost
    gc.collect()
    assert world.cache.get(OID) is None
    assert world.cache.get_count() == 0


@each_form
def test_what_is_met_while_garbage_is_cleared_can_be_used(form: Callable[[int], Cache]) -> None:
    world = World(form)
    ghost = world.ghost(OID)
    met: list[Any] = []

    def meet() -> None:
        met.append(world.cache.get(OID) or world.ghost(OID))

    def make_first(obj: PersistentObject) -> Called:
        # What it leaves is not known as garbage yet, so its finalizer is called when the attributes are cleared.
        return Called(lambda: set_slot(obj, "last", Called(meet)))

    set_slot(ghost, "first", make_first(ghost))
    del ghost
    gc.collect()
    assert met[0]._p_connection is world
    assert (met[0]._p_oid, met[0].a) == (OID, OID)
    assert world.cache.get(OID) is met[0]


@each_form
@pytest.mark.parametrize("is_loaded", [False, True])
def test_a_world_that_is_garbage_is_collected_with_what_uses_it(form: Callable[[int], Cache], is_loaded: bool) -> None:
    world = World(form)
    objects = [world.loaded(oid_from_int(number)) for number in range(10)]
    for number, obj in enumerate(objects):
        set_slot(obj, "next", objects[number - 1])
        set_slot(obj, "last", Called(partial(world.cache.get, OID)))
    if not is_loaded:
        world.cache.make_all_ghosts(world)
    world.held = dict(enumerate(objects))
    gone = weakref.ref(objects[0]), weakref.ref(world)
    del world, objects, obj
    for _ in range(3):
        gc.collect()
    assert [each() for each in gone] == [None, None]


@each_form
def test_ghosts_outlive_their_cache(form: Callable[[int], Cache]) -> None:
    world = World(form)
    ghosts = [world.ghost(oid_from_int(number)) for number in range(100)]
    world.cache = form(1)
    del ghosts[::2]
    for ghost in ghosts:
        world.cache.add(ghost._p_oid, ghost)
    assert world.cache.get_count() == len(ghosts)


@each_form
def test_a_connection_that_is_dropped_may_change_the_object_that_is_taken_in(form: Callable[[int], Cache]) -> None:
    class Dropped(World):
        def __del__(self) -> None:
            set_slot(obj, "_p_connection", None)

    obj, world = Node(), World(form)
    set_slot(obj, "_p_connection", Dropped(form))
    world.cache.take_in(OID, obj, world)
    assert world.cache.get(OID) is obj
    assert (obj._p_serial, obj._p_status) == (world.transaction_serial, SAVED)


@each_form
def test_an_object_may_be_loaded_in_two_caches(form: Callable[[int], Cache]) -> None:
    world, other = World(form), World(form)
    obj = world.loaded(OID)
    other.cache.note_loaded(OTHER, obj)
    world.cache.make_ghost(OID)
    assert (world.cache.get(OID), other.cache.get(OTHER)) == (obj, obj)
    assert (world.cache.get_loaded_count(), other.cache.get_loaded_count()) == (0, 1)
    del other
    assert world.cache.get(OID) is obj
    del obj
    assert world.cache.get(OID) is None


@in_c
def test_a_ghost_is_that_of_the_last_cache() -> None:
    world, other = World(Cache), World(Cache)
    ghost = world.ghost(OID)
    other.cache.add(OTHER, ghost)
    assert (world.cache.get(OID), other.cache.get(OTHER)) == (None, ghost)
    other.cache.add(OID, ghost)
    assert (other.cache.get(OID), other.cache.get(OTHER)) == (ghost, None)
    del ghost
    assert (world.cache.get_count(), other.cache.get_count()) == (0, 0)


@pytest.mark.spec("OBJ-21")
@each_form
def test_a_finalizer_may_make_objects_while_the_oldest_are_listed(form: Callable[[int], Cache]) -> None:
    world = World(form, 20)
    for number in range(100):
        world.loaded(oid_from_int(number))
    cycle: list[Any] = [Using(world, oid_from_int(number)) for number in range(100, 300)]
    cycle.append(cycle)
    del cycle
    gc.set_threshold(1)
    try:
        world.transaction_serial += 1
        world.cache.shrink(world.transaction_serial)
    finally:
        gc.set_threshold(700, 10, 10)
    gc.collect()
    world.transaction_serial += 1
    world.cache.shrink(world.transaction_serial)
    assert world.cache.get_loaded_count() == 20


@pytest.mark.spec("OBJ-21", "OBJ-23")
@each_form
def test_the_least_recently_used_go_first_and_none_that_is_in_use(form: Callable[[int], Cache]) -> None:
    world = World(form, 4)
    objects = [world.loaded(oid_from_int(number)) for number in range(10)]
    for serial, number in enumerate([3, 1, 4, 5, 9, 2, 6, 8, 7, 0], 1):
        world.transaction_serial = serial
        assert objects[number].a == oid_from_int(number)
    world.cache.shrink(10)
    assert world.cache.loaded_objects() == [objects[number] for number in (0, 6, 7, 8)]
    world.cache.set_size(1)
    world.transaction_serial = 10
    for number in (6, 7):
        assert objects[number].a
    world.cache.shrink(10)
    assert world.cache.loaded_objects() == [objects[number] for number in (0, 6, 7)]
    world.cache.shrink(11)
    assert world.cache.get_loaded_count() == 1


@pytest.mark.spec("OBJ-82")
@each_form
@pytest.mark.parametrize("cls", CLASSES)
def test_nothing_of_a_state_is_left_in_a_ghost(form: Callable[[int], Cache], cls: type[PersistentObject]) -> None:
    world = World(form)
    obj = world.loaded(OID, cls)
    set_slot(obj, "_v_c", 1)
    if isinstance(obj, Inner):
        Both.a.__set__(obj, 1)  # type: ignore[attr-defined]  # a slot
    assert kept(obj)
    world.cache.make_ghost(OID)
    assert kept(obj) == []
    assert obj.a == OID


@pytest.mark.spec("DB-44")
@each_form
def test_the_least_recently_used_go_until_the_others_have_few_bytes(form: Callable[[int], Cache]) -> None:
    world = World(form, 100)
    objects = [world.loaded(oid_from_int(number)) for number in range(10)]
    for number, obj in enumerate(objects):
        world.transaction_serial += 1
        assert obj.a == obj._p_oid
        assert world.cache.note_size(oid_from_int(number), 100 + number) == 100 + number
    assert world.cache.note_size(oid_from_int(9), 9) == 9 - 109
    assert world.cache.note_size(oid_from_int(99), 1 << 40) == 0  # of no object in memory
    assert world.cache.shrink_bytes(1000) == sum(range(100, 109)) + 9
    assert world.cache.get_loaded_count() == 10
    assert world.cache.shrink_bytes(400) == 106 + 107 + 108 + 9
    assert world.cache.loaded_objects() == objects[6:]
    assert world.cache.note_size(oid_from_int(5), 105) == 105  # a ghost counts again when it is loaded
    world.cache.note_size(oid_from_int(9), 1 << 40)
    assert world.cache.shrink_bytes(400) == 0
    assert world.cache.loaded_objects() == []


@each_form
def test_a_size_is_a_number_from_1_on(form: Any) -> None:
    cache = form(1)
    for size in (1, 10**30, float("inf"), 2.5, True):
        cache.set_size(size)
        assert cache.get_size() == size
    for size in (0, -1, -(10**30), 0.5):
        with pytest.raises(ArgumentError, match="too small"):
            cache.set_size(size)
        with pytest.raises(ArgumentError, match="too small"):
            form(size)
    wrong: Any
    for wrong in ("many", None):
        with pytest.raises(TypeError):
            cache.set_size(wrong)
    with pytest.raises(TypeError):
        form()
    assert cache.get_size() is True


@each_form
def test_what_is_no_oid_has_no_object(form: Any) -> None:
    cache = form(1)
    for oid in (b"", b"123456789", None, 1, "12345678"):
        assert cache.get(oid) is None
        assert not cache.is_loaded(oid)
        cache.make_ghost(oid)


@in_c
def test_wrong_arguments_are_refused() -> None:
    cache: Any = Cache(1)
    wrong: list[tuple[str, tuple[object, ...]]] = [
        ("add", (b"", Node())),
        ("add", (OID, 1)),
        ("add", (OID,)),
        ("note_loaded", (None, Node())),
        ("note_loaded", (OID, PersistentObject)),
        ("take_in", (OID, Node(), None)),
        ("take_in", (OID, 1, World(Cache))),
        ("take_in", (OID, Node())),
        ("make_all_ghosts", (None,)),
        ("shrink", ("1",)),
        ("shrink", (1 << 64,)),
        ("note_size", (OID,)),
        ("note_size", (OID, "1")),
        ("note_size", (OID, -1)),
        ("shrink_bytes", ("1",)),
    ]
    for name, arguments in wrong:
        with pytest.raises((TypeError, OverflowError)):
            getattr(cache, name)(*arguments)
    assert cache.get_count() == 0


class Refusing(Persistent):
    def _p_clear_state(self) -> None:
        raise KeyboardInterrupt


@each_form
def test_an_interrupt_leaves_a_ghost_that_can_be_dropped_again(form: Callable[[int], Cache]) -> None:
    world = World(form, 1)
    objects = [world.loaded(oid_from_int(number), Refusing if number == 2 else Node) for number in range(5)]
    with pytest.raises(KeyboardInterrupt):
        world.cache.shrink(9)
    assert objects[2]._p_status == GHOST
    with pytest.raises(KeyboardInterrupt):
        world.cache.make_all_ghosts(world)
    world.cache.shrink(9)
    assert world.cache.get_loaded_count() == 1
    assert all(world.cache.get(obj._p_oid) is obj for obj in objects)


def all_of(results: Iterable[object]) -> None:
    """Make all calls of an iterator, in C alone: a short time in which no other thread needs memory."""
    deque(results, maxlen=0)


OIDS = [oid_from_int(number) for number in range(60)]

STEPS: dict[str, Callable[[World, list[Any]], object]] = {
    "add": lambda world, new: all_of(map(world.cache.add, OIDS[20:], new)),
    "note_loaded": lambda world, new: all_of(map(world.cache.note_loaded, OIDS, world.held.values())),
    "take_in": lambda world, new: all_of(map(world.cache.take_in, OIDS[20:], new, [world] * 40)),
    "make_ghost": lambda world, new: all_of(map(world.cache.make_ghost, OIDS)),
    "make_all_ghosts": lambda world, new: world.cache.make_all_ghosts(world),
    "shrink": lambda world, new: world.cache.shrink(9),
    "shrink_bytes": lambda world, new: world.cache.shrink_bytes(-1),
    "objects": lambda world, new: world.cache.objects(),
    "loaded_objects": lambda world, new: world.cache.loaded_objects(),
    "let go": lambda world, new: world.held.clear(),
}


@in_c
@pytest.mark.parametrize("name", STEPS)
@in_a_process_alone
def test_without_memory_each_oid_keeps_its_object(name: str) -> None:
    number, has_failed = 0, True
    while has_failed or number < 60:
        world = World(Cache)
        for each in range(20):
            make = world.ghost if each % 5 == 0 else world.loaded
            world.held[each] = make(oid_from_int(each), CLASSES[each % len(CLASSES)])
        new = [new_ghost(Node, oid, world) for oid in OIDS[20:]]
        before: dict[int, Any] = dict(world.held)
        has_failed = call_without_memory(number, STEPS[name], world, new) is NO_MEMORY
        for each, obj in before.items():
            found: Any = world.cache.get(oid_from_int(each))
            assert found is obj
            assert obj._p_status == GHOST or obj.a == oid_from_int(each)
        loaded = [oid for oid in world.cache.objects() if world.cache.is_loaded(oid)]
        assert len(loaded) == len(world.cache.loaded_objects()) == world.cache.get_loaded_count()
        world.held.clear()
        del before, loaded, new, obj, found
        world.cache.make_all_ghosts(world)
        assert world.cache.get_count() == 0
        number += 1


@each_form
def test_nothing_is_left_behind(form: Callable[[int], Cache]) -> None:
    counts = []
    for _ in range(10):
        for _ in range(50):
            world = World(form)
            for step in STEPS.values():
                step(world, [new_ghost(Node, oid, world) for oid in OIDS[20:]])
            for number in range(30):
                set_slot(world.loaded(oid_from_int(number), CLASSES[number % len(CLASSES)]), "a", 1)
            world.cache.shrink(7)
        del world
        gc.collect()
        counts.append((sys.getallocatedblocks(), sys.getrefcount(None), len(gc.get_objects())))
    # A leak of one block in each world shows in every round; what Python keeps for the next use comes and goes, and
    # becomes less in the first rounds.
    growth = [max(now - before for before, now in zip(*pair, strict=True)) for pair in pairwise(counts[5:])]
    assert min(growth) < 45, counts

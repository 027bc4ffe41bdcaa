"""Objects and classes that people have and that are not the common ones: what is stored of them can be loaded."""

import abc
import collections
import copy
import dataclasses
import functools
import pickle
import signal
import sys
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest

from durus import persistent, serialize
from durus.connection import Connection, gen_every_instance
from durus.error import ReadConflictError, UnstorableError
from durus.persistent import Persistent, PersistentObject
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.storage import MemoryStorage


class Thing(Persistent):
    """Anything."""


def a_connection() -> tuple[Connection, Any]:
    connection = Connection(MemoryStorage())
    return connection, connection.get_root()


def another(connection: Connection) -> Connection:
    """Return a connection to a copy of what the storage of this one holds."""
    storage = MemoryStorage()
    storage.begin()
    for oid, record in connection.storage.gen_oid_record():
        storage.store(oid, record)
    storage.end()
    return Connection(storage)


def loaded_again(value: object) -> Any:
    """Return what another connection finds where this value was stored."""
    connection, root = a_connection()
    root["x"] = value
    connection.commit()
    return another(connection).get_root()["x"]


# Names and slots


@pytest.mark.spec("OBJ-60")
@pytest.mark.parametrize("name", ["_p_password", "_p_jar", "_p_changed", "_p_x\u4e2d"])
def test_names_of_this_library_are_refused_when_they_are_set(name: str) -> None:
    connection, root = a_connection()
    root["x"] = thing = Thing()
    for _ in range(2):
        with pytest.raises(AttributeError, match="belong to Durus"):
            setattr(thing, name, 1)
        connection.commit()
    thing._p_set_status_ghost()
    with pytest.raises(AttributeError, match="belong to Durus"):
        setattr(thing, name, 1)
    assert thing._p_is_ghost()


@pytest.mark.spec("OBJ-60")
@pytest.mark.parametrize("name", ["_p_password", "_p_oid"])
def test_names_of_this_library_are_refused_in_classes(name: str) -> None:
    with pytest.raises(TypeError, match=f"'{name}'.*belong to Durus"):
        type("Odd", (Persistent,), {name: 1, "__module__": __name__})
    with pytest.raises(TypeError, match="belong to Durus"):
        type("Odd", (PersistentObject,), {"__slots__": (name,), "__module__": __name__})


class Noted(Persistent):
    noted: ClassVar[list[object]] = []

    def _p_note_change(self) -> None:
        Noted.noted.append(self)
        super()._p_note_change()


@pytest.mark.spec("OBJ-60")
def test_a_class_may_override_a_method_of_this_library() -> None:
    connection, root = a_connection()
    noted: Any = Noted()
    root["x"] = noted
    connection.commit()
    noted.n = 1
    assert Noted.noted == [noted]


@pytest.mark.spec("OBJ-60")
def test_names_of_this_library_are_refused_in_states_that_are_stored_but_not_in_those_that_are_loaded() -> None:
    connection, root = a_connection()
    thing: Any = Thing()
    root["x"] = thing
    vars(thing)["_p_password"] = "x"
    with pytest.raises(UnstorableError, match=r"Thing.*'_p_password'.*belong to Durus"):
        connection.commit()
    del vars(thing)["_p_password"]
    thing._q_assword = "x"
    connection.commit()
    assert thing._p_oid is not None
    record = connection.storage.load(thing._p_oid).replace(b"_q_assword", b"_p_assword")
    connection.storage.begin()
    connection.storage.store(thing._p_oid, record)
    connection.storage.end()
    found: Any = another(connection)[thing._p_oid]
    found.n = 1
    assert found._p_assword == "x"


class Row(PersistentObject):
    __slots__ = (name for name in ("a", "b"))


class Base(PersistentObject):
    __slots__ = ("__secret", "n")

    def set(self, value: object) -> None:
        self.__secret = value

    def get(self) -> object:
        return self.__secret


class Renamed(Base):
    __slots__ = ()


class Hiding(Base):
    __slots__ = ()
    own = Base.__dict__["n"]

    @property
    def n(self) -> Any:
        return 2 * self.own


class WithDefault(Base):
    n = 5


class Twice(Base):
    __slots__ = ("n",)


@pytest.mark.spec("OBJ-61")
def test_slots_from_an_iterator_are_stored() -> None:
    row: Any = Row()
    row.a, row.b = 1, 2
    found = loaded_again(row)
    assert (found.a, found.b) == (1, 2)


@pytest.mark.spec("OBJ-61")
def test_private_slots_of_a_class_with_another_name_are_stored() -> None:
    Base.__name__ = "Another"
    try:
        renamed = Renamed()
        renamed.set(7)
        assert loaded_again(renamed).get() == 7
    finally:
        Base.__name__ = "Base"


@pytest.mark.spec("OBJ-61")
def test_a_slot_that_a_property_hides_is_stored() -> None:
    hiding = Hiding()
    hiding.own = 3
    assert loaded_again(hiding).n == 6


@pytest.mark.spec("OBJ-61")
def test_an_attribute_that_lies_past_a_slot_is_stored_as_it_is() -> None:
    thing = WithDefault()
    thing.n = 3
    found = loaded_again(thing)
    assert (found.n, vars(found)) == (3, {"n": 3})


@pytest.mark.spec("OBJ-61")
@pytest.mark.parametrize("cls", [WithDefault, Twice])
def test_two_values_of_one_name_are_refused(cls: type[Base]) -> None:
    connection, root = a_connection()
    thing: Any = cls()
    root["x"] = thing
    thing.n = 3
    Base.__dict__["n"].__set__(thing, 4)
    with pytest.raises(UnstorableError, match=r"two values named 'n'"):
        connection.commit()


@pytest.mark.spec("OBJ-61")
def test_a_class_that_a_decorator_makes_of_another_has_slots_of_its_own() -> None:
    class Plain(Persistent):
        n: int = 1

    Plain().__getstate__()
    made: Any = dataclasses.dataclass(slots=True)(Plain)(2)  # type: ignore[call-arg]  # which the decorator adds
    assert made.__getstate__() == {"n": 2}


@pytest.mark.spec("OBJ-62")
def test_private_slots_are_taken_over_from_a_class_of_another_name() -> None:
    renamed: Any = Renamed()
    renamed.__setstate__({"_Old__secret": 5, "n": 1})
    assert (renamed.get(), renamed.n) == (5, 1)


def test_a_value_without_a_slot_is_an_error_that_names_it() -> None:
    with pytest.raises(AttributeError, match="Renamed has no slot 'm'"):
        Renamed().__setstate__({"m": 5})


# What is missing or has changed


class Shape(Persistent):
    n: int

    def area(self) -> int:
        return self.n


class AbstractShape(Persistent, abc.ABC):
    @abc.abstractmethod
    def area(self) -> int: ...


@pytest.mark.spec("OBJ-29", "OBJ-67")
def test_an_object_of_a_class_that_has_become_abstract_is_loaded_and_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    connection, root = a_connection()
    root["x"] = shape = Shape()
    shape.n = 1
    connection.commit()
    monkeypatch.setattr(sys.modules[__name__], "Shape", AbstractShape)
    second = another(connection)
    found: Any = second.get_root()["x"]
    assert (type(found), found.n) == (AbstractShape, 1)
    found.n = 2
    second.commit()
    again: Any = another(second).get_root()
    assert again["x"].n == 2
    with pytest.raises(TypeError, match="abstract"):
        AbstractShape()  # type: ignore[abstract]  # on purpose


class Trial(Persistent):
    def plan(self) -> str:
        return "trial"


class Paid(Trial):
    def plan(self) -> str:
        return "paid"


@pytest.mark.spec("OBJ-65")
def test_an_object_that_has_changed_its_class_is_of_that_for_those_that_refer_to_it() -> None:
    connection, root = a_connection()
    user: Any = Trial()
    root["x"] = user
    user.name = "ann"
    connection.commit()
    user.__class__ = Paid
    connection.commit()
    second, third = another(connection), another(connection)
    found: Any = second.get_root()["x"]
    assert found.plan() == "paid"
    second.cache.make_ghost(user._p_oid)
    assert found.name == "ann"
    found = third.get_root()["x"]
    assert list(gen_every_instance(third, Paid)) == [found]


@pytest.mark.spec("OBJ-65")
def test_an_object_of_other_slots_than_its_reference_tells_stays_of_that_class() -> None:
    connection, root = a_connection()
    root["x"] = PersistentList([1])
    connection.commit()
    held: Any = another(connection).get_root()["x"]
    record = connection.storage.load(held._p_oid).replace(b"_list\nPersistentList", b"_dict\nPersistentDict")
    record = record[:8] + (int.from_bytes(record[8:12], "big")).to_bytes(4, "big") + record[12:]
    connection.storage.begin()
    connection.storage.store(held._p_oid, record)
    connection.storage.end()
    second: Any = another(connection).get_root()["x"]
    assert isinstance(second, PersistentList)
    assert second.data == [1]


# Exceptions from outside


class SoftTimeLimitExceeded(Exception):
    """What a job queue cuts a job off with."""


class Timed(Persistent):
    """A signal interrupts it while its state is made, or set."""

    when = ""

    def __getstate__(self) -> Any:
        if Timed.when == "getstate":
            signal.raise_signal(signal.SIGALRM)
        return super().__getstate__()

    def __setstate__(self, state: Any) -> None:
        if Timed.when == "setstate":
            Timed.when = ""
            signal.raise_signal(signal.SIGALRM)
        super().__setstate__(state)


class TimedValue:
    when = ""

    def __reduce__(self) -> Any:
        if TimedValue.when == "reduce":
            TimedValue.when = ""
            signal.raise_signal(signal.SIGALRM)
        return TimedValue, ()


@pytest.fixture(params=[SoftTimeLimitExceeded, TimeoutError, KeyboardInterrupt, MemoryError, ValueError])
def outside(request: pytest.FixtureRequest) -> Iterator[type[BaseException]]:
    """Make SIGALRM raise an exception."""

    def handle(*_: object) -> None:
        raise request.param

    before = signal.signal(signal.SIGALRM, handle)
    yield request.param
    signal.signal(signal.SIGALRM, before)
    Timed.when = TimedValue.when = ""


@pytest.mark.spec("OBJ-70", "TXN-6")
@pytest.mark.parametrize("when", ["getstate", "reduce"])
def test_an_exception_from_outside_comes_out_of_a_commit_as_itself(outside: type[BaseException], when: str) -> None:
    connection, root = a_connection()
    timed: Any = Timed()
    root["x"] = timed
    connection.commit()
    timed.value, timed.new = TimedValue(), Thing()
    Timed.when = TimedValue.when = when
    with pytest.raises(outside) as caught:
        connection.commit()
    assert type(caught.value) is outside
    notes = [
        note for note in caught.value.__notes__ if not note.startswith("when serializing")
    ]  # pickle's own, from 3.14
    assert notes == [f"while the state of <Timed {timed._p_format_oid()}> was stored; it is reached as root['x']"]
    Timed.when = TimedValue.when = ""
    assert timed.new._p_oid is None
    assert timed._p_is_unsaved()
    connection.commit()
    found: Any = another(connection).get_root()["x"]
    assert type(found.new) is Thing


@pytest.mark.spec("OBJ-71")
def test_an_exception_from_outside_comes_out_of_a_load_as_itself(outside: type[BaseException]) -> None:
    connection, root = a_connection()
    timed: Any = Timed()
    root["x"] = timed
    timed.n = 1
    connection.commit()
    timed._p_set_status_ghost()
    Timed.when = "setstate"
    with pytest.raises(outside) as caught:
        timed.n  # noqa: B018 (reading is the point)
    assert type(caught.value) is outside
    assert caught.value.__notes__ == [f"while the state of oid 1 ({__name__}.Timed) was loaded"]
    assert timed._p_is_ghost()
    connection.abort()
    assert timed.n == 1


# What is stored can be loaded


class Button(Persistent):
    def __init__(self) -> None:
        self.label = "ok"

    def press(self) -> str:
        return f"pressed {self.label}"

    def __hidden(self) -> str:
        return f"hidden {self.label}"

    def hidden(self) -> Callable[[], str]:
        return self.__hidden

    alias = functools.partialmethod(press)


@pytest.mark.spec("OBJ-72")
def test_methods_of_the_object_itself_and_of_one_another_are_stored() -> None:
    one: Any = Button()
    two: Any = Button()
    one.own, one.hers, two.hers = one.press, two.press, one.press
    one.calls = [functools.partial(one.press), one.hidden()]
    found = loaded_again(one)
    assert [found.own(), found.hers(), found.own.__self__.hers.__self__.hers()] == ["pressed ok"] * 3
    assert [call() for call in found.calls] == ["pressed ok", "hidden ok"]


class Bound:
    """A descriptor that binds a function."""

    def __init__(self, function: Callable[..., str]) -> None:
        self.function = function

    def __get__(self, owner: object, cls: type) -> Any:
        return types.MethodType(self.function, owner)


class Kind(type):
    def make(cls) -> str:
        return cls.__name__


class Pressed(Button, metaclass=Kind):
    @Bound
    def bound(self) -> str:
        return f"bound {self.label}"

    @classmethod
    def of_class(cls) -> str:
        return cls.__name__

    def press(self) -> str:
        return "other"

    def inherited(self) -> Callable[[], str]:
        return super().press


@pytest.mark.spec("OBJ-72")
def test_methods_of_all_kinds_are_stored() -> None:
    one: Any = Pressed()
    one.calls = [one.bound, one.of_class, Pressed.make, [1].copy, "a".upper]
    assert [call() for call in loaded_again(one).calls] == ["bound ok", "Pressed", "Pressed", [1], "A"]


@pytest.mark.spec("OBJ-72")
def test_a_method_that_a_subclass_hides_is_refused_in_place_of_storing_another() -> None:
    connection, root = a_connection()
    one: Any = Pressed()
    root["x"] = one
    one.call = one.inherited()
    assert one.call() == "pressed ok"
    with pytest.raises(UnstorableError, match=r"press.* is not found in Pressed under any name"):
        connection.commit()


@pytest.mark.spec("OBJ-72")
def test_a_method_that_its_class_has_under_no_name_is_refused() -> None:
    connection, root = a_connection()
    button: Any = Button()
    root["x"] = button
    button.call = (lambda self: 1).__get__(button)
    with pytest.raises(UnstorableError, match=r"\.call.*<lambda>.* is not found in Button under any name.*root\['x'\]"):
        connection.commit()


class Named(Persistent):
    """Its hash needs its state."""

    name: Any = None

    def __init__(self, name: str) -> None:
        self.name = name

    def __hash__(self) -> int:
        return hash(self.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Named) and self.name == other.name


@pytest.mark.spec("OBJ-73")
@pytest.mark.parametrize(
    "hold", [lambda *each: set(each), lambda *each: dict.fromkeys(each), lambda *each: [{(one, 1): 2 for one in each}]]
)
def test_objects_that_hold_one_another_by_their_hash_are_stored(hold: Callable[..., Any]) -> None:
    ann: Any = Named("ann")
    bob: Any = Named("bob")
    values = {"ann": ann, "bob": bob}
    ann.friends, bob.friends = (hold(ann, bob) for _ in range(2))
    found = loaded_again(values)
    keys = [found["bob"], found["ann"]]
    for one in keys:
        friends = one.friends[0] if isinstance(one.friends, list) else one.friends
        assert len(friends) == 2
        assert all((key in friends or (key, 1) in friends) for key in keys)
        assert all(one._p_is_saved() for one in keys)


@pytest.mark.spec("OBJ-74")
@pytest.mark.parametrize("hold", [lambda one: frozenset([one]), lambda one: collections.Counter([one])])
def test_what_needs_the_object_itself_to_be_loaded_is_refused_with_the_way_to_it(hold: Callable[[Any], Any]) -> None:
    connection, root = a_connection()
    ann: Any = Named("ann")
    root["x"] = ann
    ann.friends = hold(ann)
    if isinstance(ann.friends, collections.Counter):
        ann.friends = Copying(ann.friends)
    with pytest.raises(UnstorableError, match=r"Named.*could not be loaded again.*root\['x'\]"):
        connection.commit()
    ann.friends = hold(Named("bob"))
    if isinstance(ann.friends, collections.Counter):
        ann.friends = Copying(ann.friends)
    connection.commit()


class Counting(Named):
    """Its hash changes it, and may fail."""

    fails = False

    def __hash__(self) -> int:
        self.hashed = True
        if Counting.fails:
            raise ValueError("not now")
        return super().__hash__()


@pytest.mark.spec("OBJ-56", "OBJ-73")
def test_an_object_that_was_changed_while_it_failed_to_load_is_not_stored_without_its_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connection, root = a_connection()
    root["x"] = ann = Counting("ann")
    ann.friends = {ann}  # type: ignore[attr-defined]  # persistent objects have any attributes
    connection.commit()
    ann._p_set_status_ghost()
    monkeypatch.setattr(Counting, "fails", True)
    with pytest.raises(Exception, match="not now"):
        ann.name  # noqa: B018  # reading is the point
    root["bad"] = lambda: None
    with pytest.raises(Exception, match="can't be"):
        connection.commit()
    monkeypatch.undo()
    del root["bad"]
    connection.commit()
    assert another(connection).get_root()["x"].name == "ann"


@pytest.mark.spec("OBJ-56")
def test_an_object_whose_changes_were_dropped_is_not_stored_without_its_state() -> None:
    connection, root = a_connection()
    root["x"] = ann = Named("ann")
    connection.commit()
    ann.name = "bob"
    ann._p_set_status_ghost()
    root["bad"] = lambda: None
    with pytest.raises(UnstorableError):
        connection.commit()
    del root["bad"]
    connection.commit()
    assert another(connection).get_root()["x"].name == ann.name == "ann"


class Copying:
    """It copies the dict from which it is made."""

    def __init__(self, value: Any) -> None:
        self.value = dict(value)

    def __reduce__(self) -> Any:
        return Copying, (self.value,)


class OddError(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")


class NoSetState(Persistent):
    def __getstate__(self) -> Any:
        return (1, 2)


class Unfinished(Persistent):
    __slots__ = ()

    def __getstate__(self) -> Any:
        return ["a list"]


@pytest.mark.spec("OBJ-74")
@pytest.mark.parametrize("make", [NoSetState, Unfinished, lambda: PersistentDict(error=OddError(1, "x"))])
def test_a_state_that_can_not_be_loaded_again_is_refused(make: Callable[[], object]) -> None:
    connection, root = a_connection()
    root["x"] = make()
    with pytest.raises(UnstorableError, match=r"could not be loaded again.*root\['x'\]") as caught:
        connection.commit()
    assert "nothing was written" in str(caught.value)
    del root["x"]
    connection.commit()


class Finalized:
    count = 0

    def __reduce__(self) -> Any:
        return Finalized, ()

    def __del__(self) -> None:
        Finalized.count += 1


class Point(collections.namedtuple("Point", "x y")):
    __slots__ = ()


@dataclasses.dataclass(frozen=True)
class Frozen:
    other: object


@pytest.mark.spec("OBJ-74")
def test_what_can_be_loaded_is_stored_and_nothing_else_is_loaded_for_it() -> None:
    connection, root = a_connection()
    root["other"] = other = Thing()
    root["x"] = [Point(1, 2), Frozen(other), {Frozen(1): 2}, frozenset([other]), KeyError("x")]
    connection.commit()
    count = connection.get_load_count()
    other._p_set_status_ghost()
    root["x"] = [*root["x"]]
    connection.commit()
    assert other._p_is_ghost()
    assert connection.get_load_count() == count
    found: Any = another(connection).get_root()["x"]
    assert found[2] == {Frozen(1): 2}


@pytest.mark.spec("OBJ-74")
def test_no_finalizer_of_an_application_is_called_by_a_commit() -> None:
    connection, root = a_connection()
    root["x"] = value = Finalized()
    connection.commit()
    assert Finalized.count == 0
    del value


@pytest.mark.spec("OBJ-74")
def test_a_conflict_that_the_load_comes_upon_is_left_to_the_commit() -> None:
    connection, root = a_connection()
    root["y"] = bob = Named("bob")
    connection.commit()

    def load(oid: bytes) -> bytes:
        raise ReadConflictError([oid])

    root["x"] = frozenset([bob])
    writer = serialize.ObjectWriter(connection, connection.root, connection.storage.new_oid, False)
    writer.check_loads(list(writer.records([(connection.root, bytes(8))])), load)


class Meta(type):
    def __eq__(cls, other: object) -> Any:
        return f"{cls.__name__} = {other}"


class Field(Persistent, metaclass=Meta):
    pass


class Made(Persistent):
    name: str

    def __new__(cls, name: str) -> "Made":
        made = super().__new__(cls)
        made.name = name
        return made


class MadeDict(PersistentDict[Any, Any]):
    def __new__(cls, name: str) -> "MadeDict":
        return super().__new__(cls)

    def __init__(self, name: str) -> None:
        super().__init__()
        self["name"] = name


@pytest.mark.spec("OBJ-75")
def test_a_class_without_a_hash_is_stored() -> None:
    with pytest.raises(TypeError):
        hash(Field)
    assert type(loaded_again(Field())) is Field
    assert type(loaded_again([Field(), Field()])[1]) is Field


@pytest.mark.spec("OBJ-75", "OBJ-14")
def test_a_class_whose_new_needs_arguments_is_stored_and_copied() -> None:
    made = Made("x")
    for copied in (loaded_again(made), copy.copy(made), copy.deepcopy(made), pickle.loads(pickle.dumps(made, 0))):
        assert (type(copied), copied.name) == (Made, "x")
    assert MadeDict("x").copy().data == {"name": "x"}


class Optional(Persistent):
    count = 0

    def __new__(cls, *names: str) -> "Optional":
        cls.count += 1
        return super().__new__(cls)


@pytest.mark.spec("OBJ-14")
def test_a_new_that_needs_no_arguments_makes_the_copies() -> None:
    made = Optional()
    assert type(copy.copy(made)) is Optional
    assert Optional.count == 2


# Finalizers


class Noting:
    """Notes what an object says when it is let go."""

    seen: ClassVar[list[object]] = []

    def __init__(self, owner: Any) -> None:
        self.owner = owner

    def __getstate__(self) -> Any:
        return {}

    def __del__(self) -> None:
        owner = vars(self).get("owner")
        if owner is not None:
            Noting.seen.append(owner.n)


class SlotOwner(PersistentObject):
    __slots__ = ("first", "n")

    first: Any
    n: int


@pytest.mark.spec("OBJ-76")
@pytest.mark.parametrize("cls", [Thing, SlotOwner])
def test_a_finalizer_that_an_eviction_runs_sees_the_state_of_the_object(cls: type[Any]) -> None:
    connection, root = a_connection()
    root["x"] = owner = cls()
    owner.first, owner.n = Noting(owner), 7
    connection.commit()
    Noting.seen.clear()
    connection.cache.make_ghost(owner._p_oid)
    assert Noting.seen == [7]
    assert (owner._p_status, owner.n) == (0, 7)


@pytest.mark.spec("OBJ-76")
def test_a_weak_reference_that_an_eviction_ends_sees_the_state_of_the_object() -> None:
    connection, root = a_connection()
    owner: Any = SlotOwner()
    root["x"] = owner
    owner.first, owner.n = Copying({}), 7
    seen: list[object] = []
    reference = weakref.ref(owner.first, lambda _: seen.append(owner.n))
    connection.commit()
    connection.cache.make_ghost(owner._p_oid)
    assert (seen, reference()) == ([7], None)


# Records that are too large


class Huge(bytes):
    def __len__(self) -> int:
        return 1 << 32

    def __radd__(self, other: object) -> "Huge":
        return self


@pytest.mark.spec("REC-32")
def test_a_state_of_4_gib_is_refused_with_the_name_of_its_object(monkeypatch: pytest.MonkeyPatch) -> None:
    connection, root = a_connection()
    root["x"] = Thing()
    monkeypatch.setattr(serialize, "_STATES", None)  # C leaves large states to Python
    monkeypatch.setattr(serialize, "compress_state", Huge)
    with pytest.raises(
        UnstorableError, match=r"PersistentDict 0> can't be stored: oid 0: 4294967296 bytes of data.*root"
    ):
        connection.commit()
    monkeypatch.undo()
    connection.commit()


def test_the_error_for_an_object_whose_repr_fails_is_still_that_of_the_object() -> None:
    class Local(Persistent):
        def __repr__(self) -> str:
            raise ZeroDivisionError

    connection, root = a_connection()
    root["x"] = Local()
    with pytest.raises(UnstorableError, match="Local"):
        connection.commit()


@pytest.mark.spec("OBJ-61")
def test_the_slots_of_a_class_are_found_while_another_thread_notes_something_in_the_class() -> None:
    class Slotted(PersistentObject):
        __slots__ = ("a", "b")

    slots = persistent._find_slots(Slotted)
    assert next(slots).name == "a"
    type.__setattr__(Slotted, "_p_data_slots", ())
    assert [slot.name for slot in slots] == ["b"]

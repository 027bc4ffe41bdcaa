"""Connection(debug=True): a change that nobody noted is found and named, and nothing else is."""

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import io
import ipaddress
import itertools
import pathlib
import random
import re
import uuid
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

import durus
from durus.btree import BTree
from durus.connection import Connection
from durus.error import TransactionError, UnnotedChangeError, UnnotedChangeWarning
from durus.objects.difference import differences
from durus.persistent import ComputedAttribute, Persistent, PersistentObject
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.persistent_set import PersistentSet
from durus.shared_storage import SharedStorage
from durus.storage import MemoryStorage
from durus.transactions.unnoted import Debug, debug_mode

NAN = float("nan")


class Person(Persistent):
    it: Any
    n: Any

    def __init__(self, **values: object) -> None:
        vars(self).update(values)


class Slotted(PersistentObject):
    __slots__ = ("items",)

    items: list[object]


class Value:
    """Has no __eq__."""

    def __init__(self, *parts: object) -> None:
        self.parts = list(parts)


class Unequal(Value):
    __hash__ = None  # type: ignore[assignment]  # it is never equal

    def __eq__(self, other: object) -> bool:
        raise ArithmeticError("no comparison")


class Lazy(Value):
    @functools.cached_property
    def total(self) -> int:
        return len(self.parts)


class Counting(Persistent):
    """Counts how often it was loaded."""

    loads: int

    def __setstate__(self, state: Any) -> None:
        super().__setstate__({**state, "loads": state.get("loads", 0) + 1})


class Shortened(Value):
    """Is loaded as a value of another class."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Value, tuple(self.parts)


class Restless(Value):
    """Is never pickled twice in the same way."""

    numbers = itertools.count()

    def __reduce__(self) -> tuple[Any, ...]:
        return Value, (next(Restless.numbers),)


class WithSlots:
    __slots__ = ("a", "b")

    a: object


class Colour(enum.Enum):
    RED = 1


class Pair(NamedTuple):
    one: object
    two: object


@dataclasses.dataclass(frozen=True)
class Frozen:
    part: object


class Stamped(Persistent):
    """Has a state that is made again each time, and contains a list."""

    def __init__(self) -> None:
        self.items: list[int] = [1]

    def __getstate__(self) -> dict[str, object]:
        return {"items": self.items, "stamp": uuid.uuid4(), "object": Value(next(Restless.numbers)), "set": {"a", "b"}}


class Refusing(Persistent):
    def __init__(self) -> None:
        self.items: list[int] = [1]

    refuses = False

    def __getstate__(self) -> dict[str, object]:
        if Refusing.refuses:
            raise ValueError("not now")
        return {"items": self.items}


class OwnState(Persistent):
    def __init__(self) -> None:
        self.items: list[int] = [1]

    def __getstate__(self) -> tuple[object, ...]:
        return 1, self.items

    def __setstate__(self, state: Any) -> None:
        self.items = state[1]


class Upgraded(Persistent):
    """Has a __setstate__ that adds something."""

    added: list[int]

    def __setstate__(self, state: Any) -> None:
        super().__setstate__({"added": [1], **state})


class ByName(Persistent):
    def __init__(self, name: str) -> None:
        self.name = name
        self.friends: set[ByName] = set()

    def __hash__(self) -> int:
        return hash(self.name)

    def __eq__(self, other: object) -> bool:
        return self is other


class Area(Persistent):
    def __init__(self) -> None:
        self.side = 2

    @functools.cached_property
    def area(self) -> int:
        return self.side**2


def holding_itself() -> list[object]:
    result: list[object] = [1]
    result.append(result)
    return result


def shuffled() -> set[str]:
    """Return a set whose order changes when it is made again."""
    result = {str(n) for n in range(100)}
    for n in range(0, 100, 2):
        result.discard(str(n))
    return result


def with_slots() -> WithSlots:
    result = WithSlots()
    result.a = [1]
    return result


ODD: dict[str, Callable[[], object]] = {
    "atoms": lambda: (1, 1.5, -0.0, NAN, "ä", b"b", bytearray(b"c"), True, None, 1j, complex(NAN, 1), ..., 10**40),
    "containers": lambda: [{1: [2], NAN: 3, (1, NAN): 4}, {5}, frozenset({6, (7, frozenset({8}))}), (9,)],
    "sets": lambda: [shuffled(), frozenset(shuffled()), {frozenset(shuffled()), frozenset({1})}],
    "values": lambda: [Value(1, [2]), Unequal(1), {Value(3): Value(4)}, {Value(5)}, with_slots()],
    "collections": lambda: [
        collections.OrderedDict(a=1),
        collections.defaultdict(list, a=[1]),
        collections.Counter("abca"),
        collections.deque([1, [2]], 5),
        collections.ChainMap({}, {"a": 1}),
    ],
    "dates": lambda: [datetime.datetime(2020, 1, 2), datetime.timedelta(1), {datetime.date(2020, 1, 1): 1}],
    "numbers": lambda: [decimal.Decimal("1.50"), decimal.Decimal("NaN"), fractions.Fraction(1, 3), range(3)],
    "library": lambda: [
        uuid.UUID(int=1),
        re.compile("a+"),
        pathlib.PurePath("a/b"),
        random.Random(1),
        io.BytesIO(b"x"),
    ],
    "globals": lambda: [len, Value, Colour.RED, {Colour.RED: 1}, holding_itself, Value.__init__, list[int], int | str],
    "tuples": lambda: [Pair(1, [2]), Frozen([1]), {Pair(1, 2)}, {Frozen(1): 2}, ValueError("a", 1)],
    "cycles": holding_itself,
    "restless": lambda: [Restless(1), {"a": Restless(2)}],
    "shortened": lambda: [Shortened(1), {"a": Shortened(2)}],
    "iterators": lambda: [iter([1, 2])],
    "persistent": lambda: [
        Person(a=1),
        {Person(b=2)},
        {Person(c=3): 4},
        Person(d=1)._p_note_change,
        PersistentSet([1]),
    ],
}


def connect(debug: Any = True) -> tuple[Connection, Any]:
    connection = Connection(MemoryStorage(), debug=debug)
    return connection, connection.get_root()


def reload(connection: Connection) -> None:
    connection.abort()
    connection.cache.make_all_ghosts(connection)


def message(call: Callable[[], object]) -> str:
    with pytest.raises(UnnotedChangeError) as caught:
        call()
    return str(caught.value)


# What is found

CHANGES: dict[str, tuple[object, Callable[[Any], object], str]] = {
    "append": ([1, 2, 3], lambda it: it.append(4), ".it[3] was added"),
    "insert": ([1, 2, 3], lambda it: it.insert(0, 4), ".it[0] was added"),
    "pop": ([1, 2, 3], lambda it: it.pop(1), ".it[1] was removed"),
    "item": ([1, 2, 3], lambda it: it.__setitem__(1, 5), ".it[1] was changed"),
    "type": ([1, 2, 3], lambda it: it.__setitem__(1, 2.0), ".it[1] was changed"),
    "bool": ([1, 2, 3], lambda it: it.__setitem__(0, True), ".it[0] was changed"),
    "key": ({"a": 1}, lambda it: it.update(b=2), ".it['b'] was added"),
    "no key": ({"a": 1, "b": 2}, lambda it: it.pop("a"), ".it['a'] was removed"),
    "deep": ({"a": [{"b": [1]}]}, lambda it: it["a"][0]["b"].append(2), ".it['a'][0]['b'][1] was added"),
    "member": ({1, 2}, lambda it: it.add(3), ".it{3} was added"),
    "no member": ({1, 2}, lambda it: it.remove(2), ".it{2} was removed"),
    "bytes": (bytearray(b"a"), lambda it: it.append(1), ".it was changed"),
    "value": (Value(1), lambda it: it.parts.append(2), ".it.parts[1] was added"),
    "attribute": (Value(1), lambda it: setattr(it, "more", 2), ".it.more was added"),
    "slot": (with_slots(), lambda it: it.a.append(2), ".it.a[1] was added"),
    "deque": (collections.deque([1]), lambda it: it.append(2), ".it[1] was added"),
    "counter": (collections.Counter("a"), lambda it: it.update("ab"), ".it['b'] was added, .it['a'] was changed"),
    "ordered": (collections.OrderedDict(a=1), lambda it: it.update(b=1), ".it['b'] was added"),
    "frozen": (Frozen([1]), lambda it: it.part.append(2), ".it.part[1] was added"),
    "zero": ([0.0], lambda it: it.__setitem__(0, -0.0), ".it[0] was changed"),
    "cycle": (holding_itself(), lambda it: it.append(3), ".it[2] was added"),
    "many": ([1] * 9, lambda it: it.__setitem__(slice(9), [2] * 9), "was changed, and 6 more"),
    "reference": ([Person()], lambda it: it.append(Person()), ".it[1] was added"),
    "unpicklable": ([1], lambda it: it.append(lambda: 1), ".it[1] was added"),
}


@pytest.mark.spec("OBJ-85", "OBJ-87")
@pytest.mark.parametrize("is_reloaded", [True, False])
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_that_nobody_noted_is_named(name: str, is_reloaded: bool) -> None:
    value, change, told = CHANGES[name]
    connection, root = connect()
    root["person"] = person = Person(it=pickled_copy(value))
    connection.commit()
    if is_reloaded:
        reload(connection)
    change(person.it)
    found = message(connection.commit)
    assert f"Person oid {person._p_format_oid()}: " in found
    assert told in found
    assert "_p_note_change()" in found


def pickled_copy(value: object) -> Any:
    import copy

    return copy.deepcopy(value)


@pytest.mark.spec("OBJ-85")
def test_nothing_is_stored_and_the_transaction_stays_open() -> None:
    connection, root = connect()
    root["a"], root["b"] = one, two = Person(it=[]), Person(it=[])
    connection.commit()
    root["n"] = 1
    one.it.append(1)
    two.it.append(1)
    assert issubclass(UnnotedChangeError, TransactionError)
    with pytest.raises(UnnotedChangeError) as caught:
        connection.commit()
    assert len(caught.value.changes) == 2
    assert connection.changed == {root._p_oid: root}
    one._p_note_change()
    with pytest.raises(UnnotedChangeError):
        connection.commit()
    two._p_note_change()
    connection.commit()
    reload(connection)
    assert (one.it, two.it, root["n"]) == ([1], [1], 1)


@pytest.mark.spec("OBJ-85")
def test_a_change_is_found_in_the_transaction_after_a_commit_of_the_object() -> None:
    connection, root = connect()
    root["a"] = person = Person(it=[])
    connection.commit()
    for n in range(3):
        person.it.append(n)
        person._p_note_change()
        connection.commit()
    person.it.append(3)
    assert ".it[3] was added" in message(connection.commit)


@pytest.mark.spec("OBJ-85")
@pytest.mark.parametrize("make", [lambda: PersistentDict(a=[1]), lambda: PersistentList([[1]]), PersistentDict])
def test_changes_past_the_methods_of_a_collection_are_found(make: Callable[[], Any]) -> None:
    connection, root = connect()
    root["it"] = it = make()
    connection.commit()
    if it:
        (it["a"] if isinstance(it, PersistentDict) else it[0]).append(2)
    else:
        it.data["x"] = 1
    assert ".data[" in message(connection.commit)


@pytest.mark.spec("OBJ-85")
def test_a_list_in_a_tree_and_one_in_a_slot_are_found() -> None:
    connection, root = connect()
    root["tree"], root["slotted"] = tree, slotted = BTree[int, list[int]](), Slotted()
    tree[1] = [1]
    slotted.items = [1]
    connection.commit()
    tree[1].append(2)
    slotted.items.append(2)
    found = message(connection.commit)
    assert ".items[0][1][1] was added" in found
    assert ".items[1] was added" in found


@pytest.mark.spec("OBJ-85")
def test_a_tuple_as_state_is_compared() -> None:
    connection, root = connect()
    root["it"] = it = OwnState()
    connection.commit()
    it.items.append(2)
    assert "[1][1] was added" in message(connection.commit)


@pytest.mark.spec("OBJ-85")
def test_shrinking_the_cache_looks_before_it_evicts() -> None:
    connection, root = connect()
    root["a"] = person = Person(it=[])
    connection.commit()
    person.it.append(1)
    connection.set_cache_size(1)
    assert ".it[0] was added" in message(connection.shrink_cache)
    assert not person._p_is_ghost()
    person._p_note_change()
    connection.commit()


@pytest.mark.spec("OBJ-86")
def test_an_abort_warns_and_forgets_the_change() -> None:
    connection, root = connect()
    root["a"] = person = Person(it=[])
    connection.commit()
    person.it.append(1)
    with pytest.warns(UnnotedChangeWarning, match=r"\.it\[0\] was added") as caught:
        connection.abort()
    assert caught[0].filename == __file__
    assert person._p_is_ghost()
    assert person.it == []
    connection.abort()


@pytest.mark.spec("OBJ-86")
def test_an_abort_does_not_tell_again_what_an_error_has_told() -> None:
    connection, root = connect()
    root["a"] = person = Person(it=[])
    root["b"] = other = Person(it=[])
    connection.commit()
    for _ in range(2):
        with pytest.raises(UnnotedChangeError, match=r"\.it\[0\]"), connection.transaction():
            person.it.append(1)
    person.it.append(1)
    message(connection.commit)
    other.it.append(1)
    with pytest.warns(UnnotedChangeWarning, match=r"^not noted as a change: Person oid 2: \.it\[0\] was added;"):
        connection.abort()
    person.it.append(1)
    with pytest.warns(UnnotedChangeWarning, match="Person oid 1"):
        connection.abort()


@pytest.mark.spec("OBJ-86")
def test_what_was_told_and_then_noted_is_told_again_in_the_next_transaction() -> None:
    connection, root = connect()
    root["a"] = person = Person(it=[])
    connection.commit()
    person.it.append(1)
    message(connection.commit)
    person._p_note_change()
    connection.commit()
    person.it.remove(1)
    person._p_note_change()
    connection.commit()
    person.it.append(1)
    with pytest.warns(UnnotedChangeWarning, match="Person oid 1"):
        connection.abort()


def append_and_fail(root: Any) -> None:
    root["a"].it.append(1)
    raise ZeroDivisionError


@pytest.mark.spec("OBJ-86")
@pytest.mark.parametrize("mode", [True, "warn"])
def test_the_end_of_a_snapshot_tells_what_was_changed_in_it(mode: Debug) -> None:
    with durus.open("memory:", debug=mode) as db:
        with db.transaction() as root:
            root["a"] = Person(it=[])
        for _ in range(2):
            expected = pytest.raises(UnnotedChangeError) if mode is True else pytest.warns(UnnotedChangeWarning)
            with expected, db.snapshot() as root:
                root["a"].it.append(1)
        with db.snapshot() as root:
            assert root["a"].it == []
        with pytest.warns(UnnotedChangeWarning), pytest.raises(ZeroDivisionError), db.snapshot() as root:
            append_and_fail(root)
        with db.snapshot() as root:
            assert root["a"].it == []


@pytest.mark.spec("OBJ-86")
def test_the_end_of_a_connection_of_a_database_tells_what_is_lost_with_it() -> None:
    with durus.open("memory:", debug=True) as db:
        with db.transaction() as root:
            root["a"] = Person(it=[])
        with pytest.warns(UnnotedChangeWarning), db.connection() as connection:
            connection.get_root()["a"].it.append(1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(UnnotedChangeError), db.connection() as connection:
                connection.get_root()["a"].it.append(1)
            with pytest.raises(ZeroDivisionError), db.connection() as connection:
                append_and_fail(connection.get_root())
        assert db.stats().idle == 1


@pytest.mark.spec("OBJ-86")
def test_an_abort_whose_warning_is_an_error_is_done_all_the_same() -> None:
    connection, root = connect()
    root["a"] = person = Person(it=[])
    connection.commit()
    person.it.append(1)
    serial = connection.transaction_serial
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ".it[0]" in message(connection.abort)
    assert connection.transaction_serial == serial + 1
    root["n"] = 1
    connection.commit()
    assert person.it == []


@pytest.mark.spec("OBJ-85")
def test_a_commit_is_refused_until_the_change_is_noted_also_if_the_warning_is_the_error() -> None:
    connection, root = connect("warn")
    root["a"] = person = Person(it=[])
    connection.commit()
    person.it.append(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ".it[0]" in message(connection.commit)
        assert ".it[0]" in message(connection.commit)
        connection.abort()
    assert person.it == []


@pytest.mark.spec("OBJ-85")
def test_warn_warns_once_for_a_record() -> None:
    connection, root = connect("warn")
    root["a"] = person = Person(it=[])
    connection.commit()
    person.it.append(1)
    root["n"] = 1
    with pytest.warns(UnnotedChangeWarning, match=r"Person oid 1: \.it\[0\] was added") as caught:
        connection.commit()
    assert caught[0].filename == __file__
    person.it.append(2)
    connection.commit()
    person._p_note_change()
    connection.commit()
    person.it.append(3)
    with pytest.warns(UnnotedChangeWarning, match=r"\.it\[2\] was added"):
        connection.commit()


# What is not a change


@pytest.mark.spec("OBJ-87")
@pytest.mark.parametrize("name", ODD)
def test_odd_values_are_no_change(name: str) -> None:
    connection, root = connect()
    root["person"] = person = Person(it=ODD[name]())
    connection.commit()
    connection.commit()
    reload(connection)
    repr(person.it)
    for _ in range(2):
        root["n"] = root.get("n", 0) + 1
        connection.commit()
    connection.abort()


@pytest.mark.spec("OBJ-87")
def test_what_is_computed_and_kept_is_no_change() -> None:
    connection, root = connect()
    root["values"] = values = Person(
        it=[Lazy(1), ipaddress.ip_network("10.0.0.0/8")], keys={ipaddress.ip_network("10.0.0.0/9")}
    )
    root["area"], root["total"] = area, total = Area(), ComputedAttribute()
    connection.commit()
    reload(connection)
    it: Any = values
    assert (it.it[0].total, it.it[1].is_private, next(iter(it.keys)).is_private) == (1, True, True)
    hash(it.it[1])
    assert (area.area, total.get(lambda: 3)) == (4, 3)
    it._v_kept = 1
    connection.commit()
    connection.abort()


@pytest.mark.spec("OBJ-87")
def test_what_is_made_anew_each_time_is_no_change_and_hides_none() -> None:
    connection, root = connect()
    root["stamped"] = stamped = Stamped()
    connection.commit()
    reload(connection)
    stamped.items  # noqa: B018  # it is loaded
    connection.commit()
    stamped.items.append(2)
    found = message(connection.commit)
    assert found.count("was") == 1
    assert ".items[1] was added" in found


@pytest.mark.spec("OBJ-87")
def test_a_state_that_can_not_be_made_now_is_not_looked_at() -> None:
    connection, root = connect()
    root["it"] = it = Refusing()
    connection.commit()
    Refusing.refuses = True
    try:
        it.items.append(1)
        connection.commit()
    finally:
        Refusing.refuses = False


@pytest.mark.spec("OBJ-87")
def test_objects_that_hold_one_another_by_their_hashes_are_no_change() -> None:
    connection, root = connect()
    one, two = ByName("one"), ByName("two")
    one.friends, two.friends = {two}, {one}
    root["one"] = one
    connection.commit()
    reload(connection)
    assert two in one.friends
    connection.commit()
    one.friends.remove(two)
    assert "was removed" in message(connection.commit)


@pytest.mark.spec("OBJ-87", "OBJ-40")
def test_an_upgrade_by_setstate_is_no_change() -> None:
    connection, root = connect()
    root["it"] = it = Upgraded()
    connection.commit()
    reload(connection)
    assert it.added == [1]
    connection.commit()
    it.added.append(2)
    assert ".added[1] was added" in message(connection.commit)


@pytest.mark.spec("OBJ-87")
def test_a_value_that_is_loaded_as_one_of_another_class_is_no_change_beside_another_pickle() -> None:
    connection, root = connect()
    order = {"a": 1, "b": 2}
    root["it"] = Person(it=[Shortened(1)], order=order)
    connection.commit()
    order["a"] = order.pop("a")
    connection.commit()


@pytest.mark.spec("OBJ-87")
def test_what_a_setstate_counts_is_no_change() -> None:
    connection, root = connect()
    root["it"] = it = Counting()
    connection.commit()
    for _ in range(3):
        reload(connection)
        assert it.loads == 1
        connection.commit()


@pytest.mark.spec("OBJ-87")
def test_looking_is_no_access() -> None:
    connection, root = connect()
    root["it"] = it = Person(it=[])
    connection.commit()
    connection.abort()
    root["n"] = 1
    connection._check_unnoted(connection._unnoted)  # type: ignore[arg-type]  # it has debug=True
    assert it._p_oid not in connection.accessed
    assert it._p_connection is connection


@pytest.mark.spec("OBJ-85")
def test_what_others_have_changed_is_compared_with_what_they_stored() -> None:
    shared = SharedStorage(MemoryStorage())
    one, two = Connection(shared.new_client(), debug=True), Connection(shared.new_client(), debug=True)
    first: Any = Person(it=[])
    one.get_root()["a"] = first
    one.commit()
    two.abort()
    second: Any = two.get_root()["a"]
    for n in range(3):
        second.it = [*second.it, n]
        two.commit()
        one.abort()
        assert first.it == second.it
        one.commit()
    first.it.append(3)
    second.it = []
    two.commit()
    assert ".it[3] was added" in message(one.commit)


@pytest.mark.spec("OBJ-85")
def test_savepoints_and_debug_go_together() -> None:
    connection, root = connect()
    root["a"] = person = Person(it=[])
    connection.commit()

    def run() -> None:
        with connection.savepoint():
            person.n = 1
            raise KeyError

    with pytest.raises(KeyError):
        run()
    root["n"] = 1
    connection.commit()
    connection.abort()


# How it is turned on


@pytest.mark.spec("OBJ-88")
@pytest.mark.parametrize(("told", "mode"), [("", False), ("0", False), ("1", True), ("warn", "warn")])
def test_the_environment_turns_it_on(monkeypatch: pytest.MonkeyPatch, told: str, mode: object) -> None:
    monkeypatch.setenv("DURUS_DEBUG", told)
    assert debug_mode(None) is mode or debug_mode(None) == mode
    assert debug_mode(False) is False
    assert debug_mode(True) is True
    assert (Connection(MemoryStorage())._unnoted is not None) is bool(mode)


@pytest.mark.spec("OBJ-88")
def test_other_words_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="'warn', not 'loud'"):
        Connection(MemoryStorage(), debug="loud")  # type: ignore[call-overload]  # on purpose
    monkeypatch.setenv("DURUS_DEBUG", "loud")
    with pytest.raises(ValueError, match="DURUS_DEBUG is 'loud'"):
        Connection(MemoryStorage())


@pytest.mark.spec("OBJ-88")
def test_without_debug_nothing_is_kept_and_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DURUS_DEBUG", raising=False)
    connection = Connection(MemoryStorage())
    assert connection._unnoted is None
    connection.get_root()["a"] = person = Person(it=[])
    connection.commit()
    person.it.append(1)
    connection.commit()


# The comparison by itself


@pytest.mark.spec("OBJ-87")
def test_at_most_fifty_differences_are_looked_for() -> None:
    assert len(differences(Person, {"a": list(range(100))}, {"a": [0.5] * 100})) == 50


@pytest.mark.spec("OBJ-87")
def test_ends_that_are_the_same_are_no_difference() -> None:
    found = differences(Person, {"a": [1, [2], 3, 4]}, {"a": [1, [2], 9, 8, 3, 4]})
    assert [("".join(each.path), each.what) for each in found] == [(".a[2]", "was added"), (".a[3]", "was added")]


@pytest.mark.spec("OBJ-87")
def test_a_value_that_occurs_many_times_is_looked_at_once() -> None:
    def nested(*more: int) -> list[object]:
        inner: list[object] = [1]
        for _ in range(60):
            inner = [inner, inner]
        return [inner, *more, (inner, {"a": inner})]

    assert [each.what for each in differences(Person, {"a": nested()}, {"a": nested(7)})] == ["was added"]
    assert not differences(Person, {"a": nested(7)}, {"a": nested(7)})

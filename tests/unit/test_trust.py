"""Loading only what is on a list: what a record can do to a program that gives one, and what it can't."""

import copy
import copyreg
import datetime
import decimal
import enum
import ipaddress
import json
import pathlib
import pickle
import re
import sys
import types
import uuid
import zoneinfo
from array import array
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import durus
from durus import trust
from durus.btree import BTree
from durus.cli.main import main
from durus.connection import Connection
from durus.error import (
    ArgumentError,
    ClassNotFoundError,
    MissingAttributeError,
    RecordError,
    StateError,
    UnstorableError,
    UntrustedClassError,
)
from durus.objects.broken import BrokenObject, BrokenValue
from durus.objects.trust import Trust
from durus.oid import oid_from_int
from durus.persistent import Persistent
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.persistent_set import PersistentSet
from durus.records.record import pack_record, unpack_record
from durus.serialize import class_pickle
from durus.storage import MemoryStorage

HERE = __name__
ONE, TWO = oid_from_int(1), oid_from_int(2)
STRUCK: list[object] = []
"""What a record has called that was not to be called."""


def strike(*arguments: object) -> object:
    """What must not be called."""
    STRUCK.append(arguments)
    return None


class Striking:
    """What must not be made or filled."""

    def __new__(cls, *arguments: object) -> Any:
        strike(*arguments)
        return object.__new__(cls)

    def __setstate__(self, state: object) -> None:
        strike(state)


class Holder(Persistent):
    """What a program trusts."""

    kind = "holder"

    class Part(NamedTuple):
        """Nested in it."""

        n: int

    def greet(self, name: str = "you") -> str:
        """What may be stored as a method."""
        return f"hello {name}"

    @classmethod
    def build(cls, name: str) -> str:
        return f"{cls.__name__} {name}"

    imported = strike  # under this name it was not defined


class Stranger(Persistent):
    """What a program does not trust."""

    def greet(self) -> str:
        return "hello"


class Plain:
    """A plain class with attributes."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plain) and other.n == self.n

    def __hash__(self) -> int:
        return self.n


class Color(enum.Enum):
    RED = 1
    GREEN = 2


@pytest.fixture(autouse=True)
def nothing_struck() -> Iterator[None]:
    STRUCK.clear()
    yield
    STRUCK.clear()


def storage_of(*records: tuple[bytes, bytes]) -> MemoryStorage:
    """Return a storage into which these (oid, data) were put as they are."""
    storage = MemoryStorage()
    Connection(storage).close()
    again = MemoryStorage()
    again.begin()
    again.store(oid_from_int(0), storage.load(oid_from_int(0)))
    for oid, data in records:
        again.store(oid, pack_record(oid, data, b""))
    again.end()
    return again


def loaded(state: bytes, *classes: Any, cls: type = Holder) -> Any:
    """Return object 1 as it is loaded from a state by a connection that trusts some classes."""
    obj: Any = Connection(storage_of((ONE, class_pickle(cls) + state)), classes=classes or [Holder]).get(1)
    obj._p_load_state()
    return obj


def named(module: str, name: str) -> bytes:
    """Return the steps that put what has a name on the stack."""
    return b"".join(b"\x8c" + bytes([len(each)]) + each.encode() for each in (module, name)) + b"\x93"


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def state_with(steps: bytes) -> bytes:
    """Return the pickle of a state whose attribute `value` these steps make."""
    return b"\x80\x04}" + text("value") + steps + b"s."


STRIKE = named(HERE, "strike")
ATTACKS = {
    "reduce": STRIKE + b"(t\x52",
    "reduce of a text name": f"c{HERE}\nstrike\n(tR".encode(),
    "inst": f"(N(K\x01i{HERE}\nstrike\n0".encode() + b"\x31N",
    "obj": b"(" + STRIKE + b"K\x01o",
    "newobj": named(HERE, "Striking") + b")\x81",
    "newobj_ex": named(HERE, "Striking") + b")}\x92",
    "a class of Python 2": f"(i{HERE}\nStriking\n".encode(),
    "build": named(HERE, "Plain") + b")\x81" + named(HERE, "Striking") + b")\x81Nb0N",
    "reconstructor": named("copyreg", "_reconstructor") + b"(" + named(HERE, "Striking") + b"cbuiltins\nobject\nNtRNb",
    "newobj by name": named("copyreg", "__newobj__") + b"(" + named(HERE, "Striking") + b"tR",
    "getattr of a module": named("builtins", "getattr")
    + b"("
    + named("sys", "modules")
    + text("get")
    + b"tR("
    + text(HERE)
    + b"tR",
}
ATTACKS["inst"] = b"(K\x01" + f"i{HERE}\nstrike\n".encode()


@pytest.mark.spec("OBJ-100")
@pytest.mark.parametrize("attack", [name for name in ATTACKS if name not in ("build", "getattr of a module")])
def test_an_attack_works_where_all_is_trusted(attack: str) -> None:
    obj: Any = Connection(storage_of((ONE, class_pickle(Holder) + state_with(ATTACKS[attack])))).get(1)
    obj._p_load_state()
    assert STRUCK


@pytest.mark.spec("OBJ-100", "OBJ-101")
@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("classes", [[Holder], [Holder, *trust.standard], [f"{HERE}.Holder", f"{HERE}.Pl*"]])
def test_nothing_is_called_that_is_not_on_the_list(attack: str, classes: list[Any]) -> None:
    try:
        obj = loaded(state_with(ATTACKS[attack]), *classes)
        vars(obj)
        repr(obj)
    except StateError:
        pass
    assert not STRUCK


@pytest.mark.spec("OBJ-100")
def test_a_value_that_is_refused_is_a_stand_in_that_names_it_and_is_stored_again_as_it_was() -> None:
    data = class_pickle(Holder) + state_with(STRIKE + b"(K\x05t\x52")
    storage = storage_of((ONE, data))
    connection = Connection(storage, classes=[Holder])
    obj: Any = connection.get(1)
    with pytest.raises(MissingAttributeError, match=f"{HERE}.strike is not in the list `classes` and was not imported"):
        _ = obj.value.anything
    obj.other = 1
    connection.commit()
    del obj.other
    connection.commit()
    copied: Any = Connection(storage_of((ONE, unpack_record(storage.load(ONE))[1]))).get(1)
    assert copied.value is None
    assert STRUCK == [(5,)]


@pytest.mark.spec("OBJ-63")
def test_a_list_of_what_stands_in_for_a_class_has_an_end() -> None:
    state = state_with(named("builtins", "list") + b"(" + STRIKE + b"tR")
    assert isinstance(loaded(state, Holder, "builtins.list").value, BrokenValue)


@pytest.mark.spec("OBJ-100")
def test_an_object_of_a_class_that_is_refused_is_broken_and_says_so() -> None:
    connection = Connection(storage_of((ONE, class_pickle(Stranger) + b"\x80\x04}\x8c\x01nK\x05s.")), classes=[Holder])
    obj: Any = connection.get(1)
    assert isinstance(obj, BrokenObject)
    assert obj.n == 5
    for use in (lambda: obj.greet, lambda: len(obj), lambda: type(obj)()):
        with pytest.raises((ClassNotFoundError, MissingAttributeError), match=f"{HERE}.Stranger is not in the list"):
            use()
    with pytest.raises(UntrustedClassError, match="Stranger") as caught:
        type(obj)()
    assert caught.value.name == HERE
    obj.n = 6
    connection.commit()
    assert b"Stranger" in connection.get_stored_pickle(ONE)


@pytest.mark.spec("OBJ-100")
def test_nothing_is_imported_for_a_name_that_is_not_on_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stranger_module.py").write_text(f"import {HERE} as here\nhere.strike()\nclass Thing: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    by_value = loaded(state_with(named("stranger_module", "Thing")), Holder)
    assert by_value is not None
    cls = b"\x80\x04cstranger_module\nThing\n."
    obj = Connection(storage_of((ONE, cls + b"\x80\x04}.")), classes=[Holder]).get(1)
    assert isinstance(obj, BrokenObject)
    reference = b"\x80\x04}" + text("value") + b"C\x08" + TWO + named("stranger_module", "Thing") + b"\x86Qs."
    refers: Any = Connection(
        storage_of((ONE, class_pickle(Holder) + reference), (TWO, cls + b"\x80\x04}.")), classes=[Holder]
    ).get(1)
    assert isinstance(refers.value, BrokenObject)
    assert not STRUCK
    assert "stranger_module" not in sys.modules


@pytest.mark.spec("OBJ-100")
def test_a_class_that_is_refused_is_not_looked_for_in_a_module_that_imports_on_demand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = types.ModuleType("lazy_module")
    vars(module)["__getattr__"] = strike
    monkeypatch.setitem(sys.modules, "lazy_module", module)
    data = b"\x80\x04clazy_module\nThing\n.\x80\x04}."
    connection = Connection(storage_of((ONE, data), (TWO, data)), classes=[Holder, "lazy_module.Other"])
    for oid in (1, 2, 1):
        obj: Any = connection.get(oid)
        obj._p_load_state()
        obj._p_set_status_ghost()
    connection.abort()
    obj._p_load_state()
    assert not STRUCK
    connection = Connection(storage_of((ONE, data), (TWO, data)), classes=["lazy_module.*"])
    for oid in (1, 2, 1):
        by_pattern: Any = connection.get(oid)
        assert isinstance(by_pattern, BrokenObject)
        by_pattern._p_load_state()
        by_pattern._p_set_status_ghost()
    assert not STRUCK


# Which names a list covers


@pytest.mark.spec("OBJ-101")
def test_entries_are_names_patterns_classes_and_modules() -> None:
    here = sys.modules[HERE]
    for entry in (f"{HERE}.Plain", f"{HERE}.P*n", f"{HERE}.*", Plain, here, "*"):
        assert loaded(state_with(named(HERE, "Plain") + b")\x81"), Holder, entry).value.__class__ is Plain
    assert loaded(state_with(named(HERE, "Plain") + b")\x81"), Holder, f"{HERE}.Plai").value.__class__ is not Plain
    assert (
        loaded(state_with(named(HERE, "Plain") + b")\x81"), Holder, "unit.test_trust.Plain").value.__class__
        is not Plain
    )


@pytest.mark.spec("OBJ-101")
@pytest.mark.parametrize(
    "classes", ["shop.*", [b"shop.Person"], ["shop"], ["shop Person"], ["shop..Person"], 5, [None]]
)
def test_what_is_no_list_of_names_is_refused(classes: Any, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="classes"):
        durus.open(tmp_path / "new.durus", classes=classes)
    with pytest.raises(ArgumentError, match="classes"):
        Connection(tmp_path / "new.durus", classes=classes)
    assert not list(tmp_path.iterdir())


@pytest.mark.spec("OBJ-101")
@pytest.mark.parametrize("debug", [False, True])
def test_own_classes_and_that_of_the_root_are_always_on_the_list(tmp_path: Path, debug: bool) -> None:
    with durus.open(tmp_path / "f", root_class=Holder) as db, db.transaction() as root:
        vars(root).update(all=[PersistentDict(a=1), PersistentList([1]), PersistentSet([1]), BTree(a=1), Persistent()])
        root._p_note_change()
    with (
        durus.open(tmp_path / "f", root_class=Holder, classes=[], debug=debug) as db,
        db.transaction() as root,
    ):
        a, b, c, d, e = vars(root)["all"]
        assert (dict(a), list(b), set(c), dict(d), type(e)) == ({"a": 1}, [1], {1}, {"a": 1}, Persistent)


STANDARD = [
    datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC),
    datetime.date(2026, 1, 2),
    datetime.timedelta(1),
    decimal.Decimal("1.5"),
    Fraction(1, 3),
    uuid.UUID(int=5),
    OrderedDict(a=1),
    Counter("aab"),
    defaultdict(list, a=[1]),
    deque([1, 2]),
    array("i", [1, 2]),
    ipaddress.ip_address("::1"),
    ipaddress.ip_network("10.0.0.0/8"),
    pathlib.PurePosixPath("/a"),
    pathlib.Path("a"),
    zoneinfo.ZoneInfo("UTC"),
    re.compile("a+"),
    range(5),
    1 + 2j,
    bytearray(b"a"),
    list[int],
    types.SimpleNamespace(a=1),
    {1, 2},
    frozenset({1}),
    b"bytes",
    "text",
]


@pytest.mark.spec("OBJ-101")
@pytest.mark.parametrize("protocol", range(5))
@pytest.mark.parametrize("value", STANDARD, ids=repr)
def test_the_standard_list_has_what_is_often_stored(value: object, protocol: int) -> None:
    if value == zoneinfo.ZoneInfo("UTC") and protocol < 2:
        pytest.skip("it needs a newer protocol")
    assert loaded(pickle.dumps({"value": value}, protocol), Holder, *trust.standard).value == value


@pytest.mark.spec("OBJ-101")
def test_the_standard_list_has_nothing_that_opens_imports_or_gets_attributes() -> None:
    allowed = Trust(trust.standard)
    for name in ("open", "eval", "exec", "getattr", "setattr", "__import__", "compile", "type", "map", "super", "vars"):
        assert not allowed.allows("builtins", name)
    assert not allowed.allows("pathlib", "Path.unlink")
    assert not any("*" in name for name in trust.standard)


def module_at(monkeypatch: pytest.MonkeyPatch, name: str, **names: object) -> types.ModuleType:
    module = types.ModuleType(name)
    vars(module).update(names)
    monkeypatch.setitem(sys.modules, name, module)
    return module


@pytest.mark.spec("OBJ-102")
@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("shop", "here.strike"),
        ("shop", "strike"),
        ("shop", "Order.run"),
        ("shop", "Order.struck"),
        ("shop", "Order.__init__.__globals__"),
        ("shop", "Order.__init__.__globals__.get"),
        ("shop", "Order.__subclasses__"),
        ("shop", "Order.__init_subclass__"),
        ("shop", "Order.__reduce_ex__"),
        ("shop", "order.run"),
        ("shop", "__loader__.load_module"),
    ],
)
def test_a_pattern_does_not_cover_what_a_module_has_imported(
    module: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = type("Order", (), {"__module__": "shop", "run": strike, "struck": staticmethod(strike), "__init__": strike})
    module_at(monkeypatch, "shop", here=sys.modules[HERE], strike=strike, Order=order, order=order())
    STRUCK.clear()
    value = loaded(state_with(named(module, name) + b"(tR"), Holder, "shop.*").value
    assert not STRUCK
    with pytest.raises(MissingAttributeError, match=r"shop\."):
        _ = value.anything


@pytest.mark.spec("OBJ-102")
def test_os_path_covers_no_os_system(tmp_path: Path) -> None:
    for module, name in (("os.path", "os.system"), ("os", "path.os.system"), ("posixpath", "os.system")):
        mark = tmp_path / "mark"
        state = state_with(named(module, name) + b"(" + text(f"touch {mark}") + b"tR")
        loaded(state, Holder, "os.path.*", "posixpath.*", "os.path.os.system")
        assert not mark.exists()


@pytest.mark.spec("OBJ-102")
def test_a_name_that_is_listed_itself_may_stand_for_what_was_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    module_at(monkeypatch, "shop", Plain=Plain, Holder=Holder)
    state = state_with(named("shop", "Plain") + b")\x81")
    assert type(loaded(state, Holder, "shop.Plain").value) is Plain
    assert type(loaded(state, Holder, "shop.*", Plain).value) is Plain
    assert type(loaded(state, Holder, "shop.*").value) is not Plain
    cls = b"\x80\x04cshop\nHolder\n."
    assert type(Connection(storage_of((ONE, cls + b"\x80\x04}.")), classes=["shop.Holder"]).get(1)) is Holder


@pytest.mark.spec("OBJ-102")
def test_names_of_python_2_count_as_those_of_python_3() -> None:
    assert loaded(b"\x80\x02}U\x05valuec__builtin__\nset\n]\x85Rs.", Holder, "builtins.set").value == set()
    assert loaded(b"\x80\x02}U\x05valuec__builtin__\nset\n]\x85Rs.", Holder).value != set()


# What getattr and other steps are for


@pytest.mark.spec("OBJ-103")
def test_nested_classes_methods_and_members_of_enums_are_found_by_their_names() -> None:
    parts = [f"{HERE}.Holder.Part"]
    methods = [f"{HERE}.Holder.greet", f"{HERE}.Holder.build"]
    for protocol in range(5):
        nested = pickle.dumps({"value": Holder.Part(3)}, protocol)
        assert loaded(nested, Holder, *parts, "builtins.tuple").value == Holder.Part(3)
        assert type(loaded(nested, Holder).value) is not Holder.Part
        assert loaded(pickle.dumps({"value": Color.RED}, protocol), Holder, Color).value is Color.RED
        bound = pickle.dumps({"value": Holder.build}, protocol)
        assert loaded(bound, Holder, *methods).value("x") == "Holder x"
        assert issubclass(loaded(bound, Holder).value, BrokenValue)


@pytest.mark.spec("OBJ-103")
def test_a_method_that_is_stored_as_a_value_needs_its_name_on_the_list(tmp_path: Path) -> None:
    with durus.open(tmp_path / "f") as db, db.transaction() as root:
        root["holder"] = holder = Holder()
        vars(holder)["own"] = holder.greet
        root["greet"] = holder.greet
    lists: list[tuple[list[Any], bool]] = [
        ([Holder], False),
        ([Holder, f"{HERE}.Holder.greet"], True),
        ([f"{HERE}.*"], True),
    ]
    for classes, is_whole in lists:
        with durus.open(tmp_path / "f", classes=classes) as db, db.transaction() as root:
            for value in root["greet"], root["holder"].own:
                if is_whole:
                    assert value() == "hello you"
                else:
                    with pytest.raises(MissingAttributeError, match=r"Holder\.greet is not in the list"):
                        _ = value.anything
            root["again"] = 1


@pytest.mark.spec("OBJ-103")
@pytest.mark.parametrize(
    ("steps", "classes"),
    [
        (named(HERE, "Holder.greet") + text("__globals__"), [f"{HERE}.*"]),
        (named(HERE, "Holder") + text("imported"), [f"{HERE}.Holder*"]),
        (named(HERE, "Holder") + text("__init__"), [f"{HERE}.*"]),
        (named(HERE, "Holder") + text("mro"), [f"{HERE}.*"]),
        (named(HERE, "Color") + text("__class__"), [f"{HERE}.*"]),
        (text("a") + text("format"), [f"{HERE}.*", *trust.standard]),
        (named("pathlib", "PosixPath") + b")R" + text("touch"), trust.standard),
        (b"}" + text("get"), trust.standard),
    ],
)
def test_getattr_gives_nothing_else(steps: bytes, classes: list[Any]) -> None:
    state = state_with(named("builtins", "getattr") + b"(" + steps + b"tR")
    try:
        value = loaded(state, Holder, *classes).value
    except StateError:
        return
    assert isinstance(value, BrokenValue) or issubclass(value, BrokenValue)


@pytest.mark.spec("OBJ-103")
def test_encode_makes_bytes_and_looks_for_no_codec() -> None:
    assert loaded(pickle.dumps({"value": b"\xff"}, 2), Holder).value == b"\xff"
    state = state_with(named("_codecs", "encode") + b"(" + text("a") + text("rot13") + b"tR")
    assert loaded(state, Holder).value != "n"


@pytest.fixture
def extension() -> Iterator[int]:
    copyreg.add_extension(HERE, "strike", 77)
    yield 77
    copyreg.remove_extension(HERE, "strike", 77)


@pytest.mark.spec("OBJ-104")
@pytest.mark.parametrize("is_used_before", [False, True])
@pytest.mark.parametrize("step", [b"\x82\x4d", b"\x83\x4d\0", b"\x84\x4d\0\0\0"])
def test_a_number_of_the_extension_registry_counts_as_its_name(
    extension: int, step: bytes, is_used_before: bool
) -> None:
    if is_used_before:
        assert pickle.loads(b"\x80\x04" + step + b".") is strike
    loaded(state_with(step + b"(tR"), Holder)
    assert not STRUCK
    loaded(state_with(step + b"(tR"), Holder, strike_name())
    assert STRUCK == [()]


def strike_name() -> str:
    return f"{HERE}.strike"


CHANGES = {
    "a class": named(HERE, "Plain") + b"N}" + text("n") + b"K\x05s\x86b",
    "a persistent class": named(HERE, "Holder") + b"N}" + text("kind") + b"K\x05s\x86b",
    "a function": named(HERE, "Holder.greet") + b"N}" + text("__defaults__") + text("them") + b"\x85s\x86b",
    "a bound method": named(HERE, "Holder.build") + b"N}" + text("x") + b"K\x05s\x86b",
    "a member of an enum": named(HERE, "Color") + b"(K\x01tR}" + text("_value_") + b"K\x05sb",
    "a member by name": named("builtins", "getattr")
    + b"("
    + named(HERE, "Color")
    + text("RED")
    + b"tR}"
    + text("_value_")
    + b"K\x05sb",
    "an object that was found": named(HERE, "STRUCK") + b"K\x05a",
    "an object that was found, with several": named(HERE, "STRUCK") + b"(K\x05K\x06e",
    "an alias": named("types", "GenericAlias")
    + b"("
    + named(HERE, "Holder.greet")
    + b")tR}"
    + text("struck")
    + b"K\x05sb",
    "a stand-in": named("nowhere", "Thing") + b"N}" + text("_p_is_loading") + b"K\x05s\x86b",
}


@pytest.mark.spec("OBJ-104")
@pytest.mark.parametrize("change", CHANGES)
def test_what_was_not_made_is_not_changed(change: str) -> None:
    with pytest.raises((RecordError, StateError), match="would change"):
        loaded(state_with(CHANGES[change]), f"{HERE}.*", f"{HERE}.STRUCK", "types.GenericAlias")
    assert not vars(Holder.greet)
    assert not STRUCK
    assert not hasattr(Plain, "n")
    assert Holder.kind == "holder"
    assert Holder.greet(Holder()) == "hello you"
    assert Color.RED.value == 1


VALUES = [Plain(1), {"a": Plain(1)}, [Plain(1), Plain(2)], {Plain(3)}, (Color.RED, Holder.Part(1)), [1, "a", None]]


@pytest.mark.spec("OBJ-100")
@pytest.mark.parametrize("value", VALUES, ids=["object", "dict", "list", "set", "enum and namedtuple", "plain"])
def test_what_is_on_the_list_is_loaded_as_without_one(value: object) -> None:
    for protocol in range(5):
        state = pickle.dumps({"value": value, "again": [value]}, protocol)
        obj = loaded(state, f"{HERE}.*", *trust.standard)
        assert (obj.value, obj.again) == (value, [value])


@pytest.mark.spec("OBJ-100")
def test_a_class_that_is_a_value_is_the_class() -> None:
    for value in (Plain, [Plain], {Plain: 1}, {"a": (Plain, Holder)}):
        assert loaded(pickle.dumps({"value": value}, 4), f"{HERE}.*").value == value


@pytest.mark.spec("OBJ-100")
def test_objects_that_hold_one_another_in_sets_are_loaded(tmp_path: Path) -> None:
    with durus.open(tmp_path / "f") as db, db.transaction() as root:
        one, two = Node(1), Node(2)
        one.others, two.others = {two, one}, {one}
        root["one"] = one
    with durus.open(tmp_path / "f", classes=[Node]) as db, db.transaction() as root:
        one = root["one"]
        assert sorted(each.n for each in one.others) == [1, 2]
        (two,) = [each for each in one.others if each.n == 2]
        assert [each.n for each in two.others] == [1]


class Node(Persistent):
    """Its hash needs its state."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.others: Any = set()

    def __hash__(self) -> int:
        return hash(self.n)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Node) and other.n == self.n


# Storing


@pytest.mark.spec("OBJ-105")
def test_a_commit_of_what_could_not_be_loaded_again_is_refused() -> None:
    connection = Connection(MemoryStorage(), classes=[Holder])
    root: Any = connection.get_root()
    for value in (Plain(1), Stranger(), [strike]):
        root["value"] = value
        with pytest.raises(UnstorableError, match=f"{HERE}.(Plain|Stranger|strike) is not in the list"):
            connection.commit()
        connection.abort()
    root["value"] = Holder()
    connection.commit()


@pytest.mark.spec("OBJ-100")
def test_the_list_holds_for_savepoints_trials_and_searches_for_changes() -> None:
    state = state_with(b"(" + STRIKE + b")R" + named(HERE, "Striking") + b")\x81l")
    for debug in (False, True):
        connection = Connection(storage_of((ONE, class_pickle(Holder) + state)), classes=[Holder, Frozen], debug=debug)
        root: Any = connection.get_root()
        obj: Any = connection.get(1)
        root["frozen"] = Frozen()
        root["refers"] = frozenset({obj})
        vars(obj)["note"] = []
        obj._p_note_change()
        savepoint = connection.savepoint()
        savepoint.__enter__()
        obj.more = 1
        savepoint.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
        assert len(obj.value) == 2
        assert "more" not in vars(obj)
        connection.commit()
        vars(obj)["note"].append(1)
        if debug:
            with pytest.raises(durus.TransactionError):
                connection.commit()
        vars(obj)["note"].pop()
        connection.abort()
    assert not STRUCK


class Frozen(Persistent):
    """Its state is tried before it is stored."""

    def __getstate__(self) -> Any:
        return {"copy": copy.copy(vars(self))}


# Any program of steps


FRAGMENTS = [
    STRIKE,
    named(HERE, "Striking"),
    named(HERE, "Holder"),
    named(HERE, "Plain"),
    named(HERE, "Color"),
    named("builtins", "getattr"),
    named("builtins", "list"),
    named("collections", "deque"),
    named("copyreg", "_reconstructor"),
    named("copyreg", "__newobj__"),
    f"c{HERE}\nHolder.greet\n".encode(),
    b"C\x08" + ONE,
    b"C\x08" + TWO,
    b"Q",
    text("greet"),
    text("__class__"),
    text("__globals__"),
    text("__defaults__"),
    text("__setstate__"),
    *(bytes([code]) for code in b"(tR)}]Nb0oaseu2\x85\x86\x87\x81\x92\x94\x8f\x90\x91l"),
    b"h\0",
    b"h\1",
    b"K\1",
    b"\x88",
]


def own_names(cls: type) -> dict[str, object]:
    """Return the attributes of a class, without those that Durus keeps there."""
    return {name: value for name, value in vars(cls).items() if not name.startswith("_p_")}


@pytest.mark.spec("OBJ-100", "OBJ-104")
@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=14))
def test_no_program_of_steps_calls_or_changes_what_is_not_on_the_list(fragments: list[bytes]) -> None:
    before = own_names(Holder), own_names(Plain), Holder.greet.__defaults__, vars(Color.RED).copy()
    state = b"\x80\x04" + b"".join(fragments) + b"."
    connection = Connection(
        storage_of((ONE, class_pickle(Holder) + state), (TWO, class_pickle(Stranger) + state)),
        classes=[Holder, Plain, Color, f"{HERE}.Holder.greet", *trust.standard],
    )
    for oid in (1, 2):
        obj: Any = connection.get(oid)
        try:
            obj._p_load_state()
        except (StateError, ValueError):
            continue
        repr(obj)
    assert not STRUCK
    now = own_names(Holder), own_names(Plain), Holder.greet.__defaults__, vars(Color.RED).copy()
    assert now == before


# What a database needs


@pytest.mark.spec("CMD-14")
def test_check_lists_what_the_list_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "f"
    with durus.open(path) as db, db.transaction() as root:
        root["all"] = [Holder(), BTree(a=1), datetime.date(2026, 1, 2), Color.RED, Plain(1), Holder().greet, b"bytes"]
    assert main(["check", str(path), "--classes", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["needs"] == ["datetime.date", f"{HERE}.Color", f"{HERE}.Holder", f"{HERE}.Plain"] or found[
        "needs"
    ] == ["datetime.date", f"{HERE}.Color", f"{HERE}.Color.RED", f"{HERE}.Holder", f"{HERE}.Plain"]
    assert found["needed_methods"] == ["greet"]
    classes = [*found["needs"], f"{HERE}.Holder.greet"]
    with durus.open(path, classes=classes) as db, db.snapshot() as root:
        holder, tree, *values, method, _ = root["all"]
        assert (type(holder), dict(tree), values) == (
            Holder,
            {"a": 1},
            [datetime.date(2026, 1, 2), Color.RED, Plain(1)],
        )
        assert method() == "hello you"
    assert main(["check", str(path), "--classes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  datetime.date (in durus.trust.standard)" in lines
    assert f"  {HERE}.Holder" in lines
    assert lines[-1].endswith("and these methods, each as module.Class.method: greet")
    assert main(["check", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["needs"] is None

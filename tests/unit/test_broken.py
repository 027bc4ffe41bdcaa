"""Objects whose class can't be imported: what is left of them, and how they come back."""

import abc
import copy
import dataclasses
import datetime
import enum
import functools
import gc
import importlib
import pickle
import sys
import types
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import pytest

from durus.connection import Connection, gen_every_instance, touch_every_reference
from durus.error import ClassNotFoundError, MissingAttributeError, StateError
from durus.objects.broken import BrokenObject
from durus.oid import oid_from_int
from durus.persistent import Persistent, PersistentObject
from durus.persistent_list import PersistentList
from durus.records.contents import read_contents, split_data
from durus.records.record import pack_record
from durus.serialize import ObjectReader, class_pickle
from durus.storage import MemoryStorage
from durus.utils import int8_to_str

MODULE = "module_that_comes_and_goes"


class Holder(Persistent):
    """Holds something by value."""

    def method(self) -> None:
        """It is gone later."""


class Odd(Persistent):
    """Its state is a tuple."""

    def __getstate__(self) -> Any:
        return (1, "two")

    def __setstate__(self, state: Any) -> None:
        vars(self)["pair"] = state


class Gone(Persistent):
    """The class that is missing later."""


class Value:
    """A plain class that is missing later."""


@pytest.fixture
def break_classes(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Store root["gone"], root["odd"] and root["holder"]; the function returned makes their classes unavailable."""
    module = types.ModuleType(MODULE)
    names = {"Gone": Gone, "Odd": Odd, "Value": Value}
    for name, base in names.items():
        vars(module)[name] = type(name, (base,), {"__module__": MODULE})
    sys.modules[MODULE] = module
    with Connection(tmp_path / "f") as connection:
        root: Any = connection.get_root()
        root["gone"], root["odd"], root["holder"] = vars(module)["Gone"](), vars(module)["Odd"](), Holder()
        root["gone"].n = 1
        root["gone"].other = root["gone"]
        root["holder"].value = vars(module)["Value"]()
        connection.commit()
    yield lambda: sys.modules.update({MODULE: types.ModuleType(MODULE)})
    del sys.modules[MODULE]


ONE, TWO = oid_from_int(1), oid_from_int(2)


def connection_to(*records: tuple[bytes, bytes]) -> Connection:
    """Return a connection to a storage into which these (oid, data) were put as they are."""
    storage = MemoryStorage()
    Connection(storage)
    storage.begin()
    for oid, data in records:
        storage.store(oid, pack_record(oid, data, b""))
    storage.end()
    return Connection(storage)


def another(connection: Connection) -> Connection:
    """Return a connection to a copy of what the storage of this one holds."""
    storage = MemoryStorage()
    storage.begin()
    for oid, record in connection.storage.gen_oid_record():
        storage.store(oid, record)
    storage.end()
    return Connection(storage)


def referring_to(oid: bytes, cls: bytes, protocol: int = 4) -> bytes:
    """Return the data of a Holder whose `other` is a reference to `oid`; `cls` are the steps that make its class."""
    return class_pickle(Holder) + b"\x80" + bytes([protocol]) + b"}U\x05otherC\x08" + oid + cls + b"\x86Qs."


def restore_classes(module: types.ModuleType) -> None:
    sys.modules[MODULE] = module


def stored(connection: Connection, obj: PersistentObject) -> bytes:
    assert obj._p_oid is not None
    return connection.storage.load(obj._p_oid)


@pytest.mark.spec("OBJ-27", "OBJ-28", "REC-15", "REC-16")
def test_an_object_of_a_missing_class_keeps_identity_state_and_class(
    tmp_path: Path, break_classes: Callable[[], None]
) -> None:
    module = sys.modules[MODULE]
    break_classes()
    with Connection(tmp_path / "f") as connection:
        root: Any = connection.get_root()
        gone = root["gone"]
        before = stored(connection, gone)
        assert isinstance(gone, BrokenObject)
        assert (gone.n, gone.other) == (1, gone)
        assert f"{MODULE}.Gone {gone._p_format_oid()}" in repr(gone)
        root["again"] = gone
        connection.commit()
        connection.pack()
        assert stored(connection, gone) == before
        restore_classes(module)
    with Connection(tmp_path / "f") as connection:
        root = connection.get_root()
        assert type(root["again"]) is vars(module)["Gone"]
        assert root["again"] is root["gone"] is root["gone"].other


@pytest.mark.spec("OBJ-27", "OBJ-28")
def test_a_changed_broken_object_is_stored_under_its_missing_class(
    tmp_path: Path, break_classes: Callable[[], None]
) -> None:
    module = sys.modules[MODULE]
    break_classes()
    with Connection(tmp_path / "f") as connection:
        root: Any = connection.get_root()
        root["gone"].n += 1
        root["gone"].friend = root["odd"]
        connection.commit()
        root["gone"].n = 9
        connection.abort()
        assert root["gone"].n == 2
        restore_classes(module)
    with Connection(tmp_path / "f") as connection:
        root = connection.get_root()
        assert type(root["gone"]) is vars(module)["Gone"]
        assert (root["gone"].n, root["gone"].friend.pair) == (2, (1, "two"))


@pytest.mark.spec("OBJ-27", "OBJ-28")
def test_a_state_that_is_no_dict_is_kept_and_refuses_attributes(
    tmp_path: Path, break_classes: Callable[[], None]
) -> None:
    break_classes()
    with Connection(tmp_path / "f") as connection:
        odd: Any = connection.get_root()["odd"]
        with pytest.raises(ClassNotFoundError, match=f"'x' can't be set.*{MODULE}"):
            odd.x = 1
        assert not connection.changed
        assert odd.__getstate__() == (1, "two")
        before = stored(connection, odd)
        odd._p_note_change()
        connection.commit()
        assert stored(connection, odd) == before
        odd._p_set_status_ghost()
        assert odd.__getstate__() == (1, "two")


@pytest.mark.spec("OBJ-29", "OBJ-63")
def test_a_value_of_a_missing_class_is_a_stand_in(tmp_path: Path, break_classes: Callable[[], None]) -> None:
    break_classes()
    with Connection(tmp_path / "f") as connection:
        root: Any = connection.get_root()
        assert repr(root["holder"].value) == f"<broken {MODULE}.Value value>"
        assert root["gone"].n == 1


class Colour(enum.Enum):
    RED = 1


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Pair(NamedTuple):
    x: int
    y: object


@dataclasses.dataclass
class Data:
    n: int


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    n: int


class OddError(Exception):
    pass


class Numbers(list[Any]):
    pass


class Names(dict[str, Any]):
    pass


class Keywords:
    def __init__(self, n: int) -> None:
        self.n = n

    def __new__(cls, *, n: int = 0) -> "Keywords":
        return super().__new__(cls)

    def __getnewargs_ex__(self) -> Any:
        return (), {"n": self.n}


class Zone(datetime.tzinfo):
    def tzname(self, when: object) -> str:
        return "zone"

    def dst(self, when: object) -> None:
        return None

    def utcoffset(self, when: object) -> datetime.timedelta:
        return datetime.timedelta(0)

    def __reduce__(self) -> Any:
        return Zone, ()


T = TypeVar("T")


class Generic1(Generic[T]):
    pass


class Outer2:
    class Inner2:
        pass


def function() -> None:
    """A function that is missing later."""


def other_function() -> None:
    """Another one."""


VALUES: dict[str, Callable[[], Any]] = {
    "Colour": lambda: Colour.RED,
    "Access": lambda: Access.READ | Access.WRITE,
    "Pair": lambda: Pair(1, [2]),
    "Data": lambda: Data(3),
    "Frozen": lambda: {Frozen(3): Frozen(4)},
    "OddError": lambda: OddError("x", 1),
    "Numbers": lambda: Numbers([1, 2]),
    "Names": lambda: Names(a=1),
    "Keywords": lambda: object.__new__(Keywords),
    "Zone": lambda: datetime.datetime(2000, 1, 1, tzinfo=Zone()),
    "Generic1": lambda: [Generic1[int], Generic1[str] | None, list[Generic1[int]]],
    "Outer2": lambda: [Outer2.Inner2(), Outer2.Inner2],
    "function": lambda: [function, functools.partial(function)],
    "Value": lambda: defaultdict(Value, a=Value()),
}


def of_missing(connection: Connection, name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Store a value, and return the connection from which its class is missing."""
    vars(Keywords)  # its instances below are made past __init__()
    value = VALUES[name]()
    if isinstance(value, Keywords):
        value.n = 5
    root: Any = connection.get_root()
    holder: Any = Holder()
    root["x"] = holder
    holder.before, holder.value, holder.after = "first", [value, value], Holder()
    connection.commit()
    monkeypatch.delattr(sys.modules[__name__], name)
    return another(connection)


@pytest.mark.spec("OBJ-29", "OBJ-63")
@pytest.mark.parametrize("name", VALUES)
def test_a_state_with_a_missing_value_is_read_and_stored_again_byte_for_byte(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Connection(MemoryStorage())
    there = getattr(sys.modules[__name__], name)
    connection = of_missing(first, name, monkeypatch)
    before = connection.storage.load(ONE)
    holder: Any = connection.get_root()["x"]
    assert (holder.before, type(holder.after)) == ("first", Holder)
    assert f"<broken {__name__}.{name}" in repr(holder.value) or "broken" in repr(holder.value)
    assert holder.value[0] is holder.value[1]
    assert copy.deepcopy(holder.value[0]) is not None
    holder._p_note_change()
    connection.commit()
    assert connection.storage.load(ONE) == before
    holder.before = "other"
    connection.commit()
    monkeypatch.setattr(sys.modules[__name__], name, there, raising=False)
    value = another(connection).get_root()["x"].value[0]
    assert repr(value).partition(" at ")[0] == repr(VALUES[name]()).partition(" at ")[0] or name in (
        "Keywords",
        "Value",
    )


@pytest.mark.spec("OBJ-63")
def test_a_missing_value_has_the_attributes_in_its_state_and_refuses_others_by_the_name_of_its_class(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    value: Any = of_missing(Connection(MemoryStorage()), "Data", monkeypatch).get_root()["x"].value[0]
    assert (value.n, hasattr(value, "m"), getattr(value, "m", 5)) == (3, False, 5)
    with pytest.raises(MissingAttributeError, match=f"'m'.*Data.*{__name__}"):
        value.m()
    with pytest.raises(ClassNotFoundError, match="Data"):
        type(value)(1)
    assert copy.copy(value) is value


class EmptyColour(enum.Enum):
    BLUE = 2


class WiderPair(NamedTuple):
    x: int
    y: object
    z: object


class AbstractData(abc.ABC):
    @abc.abstractmethod
    def method(self) -> None: ...


class SlotsOnly:
    __slots__ = ("m",)


class Strict(Exception):
    def __init__(self, one: int) -> None:
        super().__init__(one)


class Refusing:
    def __setstate__(self, state: object) -> None:
        raise KeyError("no")


@pytest.mark.spec("OBJ-29", "OBJ-63")
@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("Colour", EmptyColour),
        ("Pair", WiderPair),
        ("Data", AbstractData),
        ("Data", SlotsOnly),
        ("Data", Refusing),
        ("Data", function),
        ("Data", 5),
        ("OddError", Strict),
        ("Keywords", Value),
        ("Generic1", Value),
    ],
)
def test_a_value_that_its_class_no_longer_makes_is_a_stand_in_and_stored_again_byte_for_byte(
    name: str, changed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Connection(MemoryStorage())
    there = getattr(sys.modules[__name__], name)
    connection = of_missing(first, name, monkeypatch)
    monkeypatch.setattr(sys.modules[__name__], name, changed, raising=False)
    before = connection.storage.load(ONE)
    holder: Any = connection.get_root()["x"]
    assert (holder.before, type(holder.after)) == ("first", Holder)
    assert "<broken" in repr(holder.value)
    monkeypatch.setattr(sys.modules[__name__], name, there, raising=False)
    holder._p_note_change()
    connection.commit()
    assert connection.storage.load(ONE) == before
    monkeypatch.setattr(sys.modules[__name__], name, changed, raising=False)
    holder.risky = Frozen(1)
    connection.commit()
    assert another(connection)[1].risky == Frozen(1)  # type: ignore[union-attr]  # it is a Holder


@pytest.mark.spec("OBJ-63", "OBJ-29")
def test_a_method_that_is_gone_is_a_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = Connection(MemoryStorage())
    root: Any = connection.get_root()
    holder: Any = Holder()
    root["x"] = holder
    holder.other, holder.own, holder.n = root.get, Odd().__setstate__, 1
    holder.mine = holder.method
    connection.commit()
    monkeypatch.delattr(Holder, "method")
    found: Any = another(connection).get_root()["x"]
    assert (found.n, repr(found.mine)) == (1, f"<broken {__name__}.Holder.method value>")


def test_a_value_of_python_that_can_not_be_made_is_still_an_error() -> None:
    connection = connection_to((ONE, class_pickle(Holder) + b"\x80\x04}U\x01acdatetime\ndate\nU\x01x\x85Rs."))
    with pytest.raises(StateError, match=r"oid 1.*TypeError"):
        connection[1].a  # type: ignore[union-attr]  # noqa: B018 (reading is the point)


@pytest.mark.spec("OBJ-63", "REC-11")
@pytest.mark.parametrize("has_attributes", [False, True])
@pytest.mark.parametrize("protocol", range(6))
def test_a_value_of_a_missing_class_is_a_stand_in_in_all_protocols(
    monkeypatch: pytest.MonkeyPatch, protocol: int, has_attributes: bool
) -> None:
    value = Value()
    vars(value).update({"n": 1} if has_attributes else {})
    connection = connection_to((ONE, class_pickle(Holder) + pickle.dumps({"value": value}, protocol)))
    holder: Any = connection[1]
    assert vars(holder.value) == vars(value)
    monkeypatch.delattr(sys.modules[__name__], "Value")
    holder._p_set_status_ghost()
    assert getattr(holder.value, "n", None) == (1 if has_attributes else None)
    holder._p_note_change()
    connection.commit()
    monkeypatch.undo()
    again: Any = another(connection)[1]
    assert (type(again.value), vars(again.value)) == (Value, vars(value))


@pytest.mark.spec("OBJ-64")
@pytest.mark.parametrize("other", [other_function, Value, 5, sys], ids=["function", "class", "number", "module"])
def test_a_name_that_stands_for_something_else_leaves_the_holder_usable(
    monkeypatch: pytest.MonkeyPatch, other: object
) -> None:
    first = Connection(MemoryStorage())
    root: Any = first.get_root()
    root["x"], root["other"] = Gone(), 5
    root["x"].n = 1
    first.commit()
    before = first.storage.load(ONE)
    monkeypatch.setattr(sys.modules[__name__], "Gone", other)
    connection = another(first)
    found: Any = connection.get_root()["x"]
    assert (connection.get_root()["other"], found.n, isinstance(found, BrokenObject)) == (5, 1, True)
    connection.get_root()["again"] = found
    connection.commit()
    assert connection.storage.load(ONE) == before
    monkeypatch.undo()
    assert type(another(connection).get_root()["again"]) is Gone


@pytest.mark.spec("OBJ-69")
def test_a_method_of_a_broken_object_is_refused_by_the_name_of_its_class() -> None:
    broken: Any = connection_to((ONE, b"\x80\x04cgone\nA\n." + pickle.dumps({"n": 1}, 4)))[1]
    with pytest.raises(MissingAttributeError, match=r"<broken gone.A 1> has no attribute 'count'.*'A'.*'gone'"):
        broken.count()
    assert (hasattr(broken, "count"), getattr(broken, "count", 3), bool(broken)) == (False, 3, True)
    for use in (len, iter, lambda it: it["x"], lambda it: "x" in it, lambda it: it()):
        with pytest.raises(ClassNotFoundError, match="gone"):
            use(broken)


@pytest.mark.spec("OBJ-66", "OBJ-28")
def test_a_broken_object_becomes_one_of_its_class_when_that_can_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = connection_to((ONE, f"\x80\x04c{MODULE}\nGone\n.".encode("latin-1") + pickle.dumps({"n": 1}, 4)))
    broken: Any = connection[1]
    assert (broken.n, isinstance(broken, BrokenObject)) == (1, True)
    monkeypatch.syspath_prepend(tmp_path)
    source = (
        "from durus.persistent import Persistent\nclass Gone(Persistent):\n    def twice(self): return 2 * self.n\n"
    )
    (tmp_path / f"{MODULE}.py").write_text(source)
    importlib.invalidate_caches()
    connection.abort()
    broken._p_set_status_ghost()
    assert (broken.twice(), type(broken).__name__, isinstance(broken, BrokenObject)) == (2, "Gone", False)
    broken.n = 2
    connection.commit()
    del sys.modules[MODULE]


@pytest.mark.spec("OBJ-66")
def test_a_broken_object_of_a_class_with_slots_is_another_when_nothing_refers_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connection = connection_to((ONE, f"\x80\x04c{MODULE}\nGone\n.".encode("latin-1") + pickle.dumps({"data": [1]}, 4)))
    broken: Any = connection[1]
    assert broken.data == [1]
    module = types.ModuleType(MODULE)
    vars(module)["Gone"] = type("Gone", (PersistentList,), {"__module__": MODULE, "__slots__": ()})
    monkeypatch.setitem(sys.modules, MODULE, module)
    connection.cache.make_ghost(ONE)
    assert (broken.data, isinstance(broken, BrokenObject)) == ([1], True)
    connection.cache.make_ghost(ONE)
    del broken
    gc.collect()
    found: Any = connection[1]
    assert (type(found).__name__, list(found)) == ("Gone", [1])


@pytest.mark.spec("OBJ-71")
def test_an_exception_from_outside_amid_an_import_comes_out_as_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "import sys\nsys.tries.append(1)\nif len(sys.tries) == 1: raise sys.outside\n"
    program += "from durus.persistent import Persistent\nclass Gone(Persistent): pass\n"
    (tmp_path / f"{MODULE}.py").write_text(program)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "tries", [], raising=False)
    monkeypatch.setattr(sys, "outside", OddError("cut off"), raising=False)
    connection = connection_to((ONE, f"\x80\x04c{MODULE}\nGone\n.".encode("latin-1") + pickle.dumps({}, 4)))
    with pytest.raises(OddError, match="cut off"):
        connection[1]
    connection.abort()
    assert type(connection[1]).__name__ == "Gone"
    del sys.modules[MODULE]


@pytest.mark.spec("OBJ-27")
def test_no_instance_of_a_missing_class_can_be_made(tmp_path: Path, break_classes: Callable[[], None]) -> None:
    break_classes()
    with Connection(tmp_path / "f") as connection:
        gone: Any = connection.get_root()["gone"]
        for make in (type(gone), lambda: copy.copy(gone)):
            with pytest.raises(ClassNotFoundError, match="Gone"):
                make()


@pytest.mark.spec("OBJ-27", "OBJ-28")
def test_broken_objects_can_be_found_and_touched(tmp_path: Path, break_classes: Callable[[], None]) -> None:
    break_classes()
    with Connection(tmp_path / "f") as connection:
        root: Any = connection.get_root()
        assert set(gen_every_instance(connection, BrokenObject)) == {root["gone"], root["odd"]}
        touch_every_reference(connection, "Gone")
        assert set(connection.changed) == {int8_to_str(0), root["gone"]._p_oid}
        connection.commit()


@pytest.mark.spec("OBJ-27", "OBJ-28", "REC-10", "REC-15")
@pytest.mark.parametrize("owner", ["OuterThatIsGone", "Holder"])
@pytest.mark.parametrize(("protocol", "builtins"), [(2, "__builtin__"), (3, "builtins")])
def test_a_missing_nested_class_in_the_form_of_4_3_makes_broken_objects(
    owner: str, protocol: int, builtins: str
) -> None:
    steps = f"c{builtins}\ngetattr\nc{__name__}\n{owner}\nU\x05Inner".encode() + b"\x86R"
    start = b"\x80" + bytes([protocol])
    data = start + steps + b"." + start + b"}U\x01nK\x07s."
    connection = connection_to((ONE, referring_to(TWO, steps, protocol)), (TWO, data))
    holder: Any = connection[1]
    inner = holder.other
    assert inner is connection[2]
    assert isinstance(inner, BrokenObject)
    assert (inner.n, inner._p_oid) == (7, TWO)
    assert f"{__name__}.{owner}.Inner" in repr(inner)
    inner.n = 8
    connection.commit()
    assert stored(connection, inner)[12:].startswith(f"\x80\x04c{__name__}\n{owner}.Inner\n.".encode("latin-1"))


def test_a_state_that_holds_getattr_itself_can_be_stored_again() -> None:
    connection = connection_to((ONE, class_pickle(Holder) + pickle.dumps({"function": getattr}, 2)))
    holder: Any = connection[1]
    holder.n = 1
    connection.commit()
    assert holder.function is getattr


class Outer:
    class Inner(Persistent):
        """A nested class."""


@pytest.fixture
def looked_for(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The modules and names that find_class() was called for, in order."""
    calls: list[tuple[str, str]] = []
    find_class = ObjectReader.find_class

    def noted(self: ObjectReader, module: str, name: str, find: Callable[[str, str], Any]) -> Any:
        calls.append((module, name))
        return find_class(self, module, name, find)

    monkeypatch.setattr(ObjectReader, "find_class", noted)
    return calls


@pytest.mark.parametrize("name", ["Gone", "Outer.Inner", "NotThere", "Outer.NotThere"])
def test_the_class_of_many_objects_is_looked_for_once(name: str, looked_for: list[tuple[str, str]]) -> None:
    data = f"\x80\x04c{__name__}\n{name}\n.".encode("latin-1") + b"\x80\x04}."
    connection = connection_to((ONE, data), (TWO, data))
    looked_for.clear()
    assert type(connection[1]) is type(connection[2])
    assert looked_for == [(__name__, name)]


@pytest.mark.spec("OBJ-28")
def test_objects_are_of_a_class_that_the_application_imports_after_it_was_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = f"\x80\x04c{MODULE}\nOuter.Inner\n.".encode("latin-1") + b"\x80\x04}."
    connection = connection_to((ONE, data), (TWO, data))
    assert isinstance(connection[1], BrokenObject)
    monkeypatch.setitem(sys.modules, MODULE, types.ModuleType(MODULE))
    vars(sys.modules[MODULE])["Outer"] = Outer
    assert type(connection[2]) is Outer.Inner


@pytest.mark.spec("OBJ-28")
def test_a_module_that_can_not_be_imported_is_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"{MODULE}.py").write_text("import sys\nsys.tries.append(1)\nraise ImportError\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "tries", [], raising=False)
    reference = f"c{MODULE}\nGone\n".encode()
    data = class_pickle(Holder) + b"\x80\x04}U\x01a" + reference + b"s."
    connection = connection_to((ONE, data), (TWO, data))
    first: Any = connection[1]
    second: Any = connection[2]
    assert first.a is second.a
    assert vars(sys)["tries"] == [1]


@pytest.mark.spec("OBJ-27", "REC-15")
@pytest.mark.parametrize(
    ("program", "reason"), [("1 / 0", "ZeroDivisionError: division by zero"), ("class", "SyntaxError: invalid syntax")]
)
def test_whatever_a_module_raises_makes_its_classes_missing_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, reason: str
) -> None:
    (tmp_path / f"{MODULE}.py").write_text(program)
    monkeypatch.syspath_prepend(tmp_path)
    gone = f"c{MODULE}\nGone\n".encode()
    connection = connection_to((ONE, referring_to(TWO, gone)), (TWO, b"\x80\x04" + gone + b"." + b"\x80\x04K\x07."))
    holder: Any = connection[1]
    assert isinstance(holder.other, BrokenObject)
    assert holder.other.__getstate__() == 7
    with pytest.raises(ClassNotFoundError, match=reason):
        type(holder.other)()
    with pytest.raises(ClassNotFoundError, match=reason):
        holder.other.n = 1


@pytest.mark.spec("REC-15", "REC-16")
@pytest.mark.parametrize("path", ["gone\nB\n", f"{__name__}\nHolder\n"])
def test_a_reference_is_stored_with_the_class_that_the_record_names(path: str) -> None:
    record = b"\x80\x04c" + path.encode() + b".\x80\x04}."
    connection = connection_to((ONE, referring_to(TWO, b"cgone\nA\n")), (TWO, record))
    holder: Any = connection[1]
    assert holder.other is connection[2]
    holder.n = 1
    connection.commit()
    names = read_contents(connection.get_stored_pickle(ONE)).machine.namings
    assert [f"{each.name.module}\n{each.name.qualname}\n" for each in names[1:]] == [path]


@pytest.mark.spec("REC-15")
def test_an_object_without_record_is_of_the_missing_class_of_the_reference() -> None:
    holder: Any = connection_to((ONE, referring_to(TWO, b"cgone\nA\n")))[1]
    assert repr(holder.other) == "<broken gone.A 2 ghost>"


@pytest.mark.spec("OBJ-27", "OBJ-28")
@pytest.mark.parametrize(
    "state",
    [OrderedDict(n=1), defaultdict(list, n=[1]), {"__getstate__": 1}, {"_p_oid": 1, "n": 2}, {"__class__": 5}, {1: 2}],
    ids=repr,
)
def test_a_state_that_is_no_plain_dict_of_attributes_is_kept_as_it_is(state: dict[Any, Any]) -> None:
    connection = connection_to((ONE, b"\x80\x04cgone\nA\n." + pickle.dumps(state, 4)))
    broken: Any = connection[1]
    assert broken.__getstate__() == state
    with pytest.raises(ClassNotFoundError, match="'n' can't be set"):
        broken.n = 3
    broken._p_note_change()
    connection.commit()
    stored_state = pickle.loads(split_data(connection.get_stored_pickle(ONE))[1])
    assert (type(stored_state), stored_state) == (type(state), state)


@pytest.mark.spec("OBJ-27")
def test_private_names_are_attributes_of_a_broken_object() -> None:
    broken: Any = connection_to((ONE, b"\x80\x04cgone\nA\n." + pickle.dumps({"_A__n": 1, "_x": 2}, 4)))[1]
    broken._x += 1
    assert broken.__getstate__() == {"_A__n": 1, "_x": 3}

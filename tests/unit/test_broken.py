"""Objects whose class can't be imported: what is left of them, and how they come back."""

import copy
import pickle
import sys
import types
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from durus.broken import BrokenObject
from durus.connection import Connection, gen_every_instance, touch_every_reference
from durus.contents import read_contents, split_data
from durus.error import ClassNotFoundError
from durus.oid import oid_from_int
from durus.persistent import Persistent, PersistentObject
from durus.record import pack_record
from durus.serialize import ObjectReader, class_pickle
from durus.storage import MemoryStorage
from durus.utils import int8_to_str

MODULE = "module_that_comes_and_goes"


class Holder(Persistent):
    """Holds something by value."""


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


@pytest.mark.spec("OBJ-29", "REC-17")
def test_a_value_of_a_missing_class_is_an_error_of_its_holder_alone(
    tmp_path: Path, break_classes: Callable[[], None]
) -> None:
    break_classes()
    with Connection(tmp_path / "f") as connection:
        root: Any = connection.get_root()
        with pytest.raises(ClassNotFoundError, match=f"Holder.*Value.*{MODULE}"):
            root["holder"].value  # noqa: B018  # reading is the point
        assert root["gone"].n == 1


@pytest.mark.spec("OBJ-29", "REC-11")
@pytest.mark.parametrize("has_attributes", [False, True])
@pytest.mark.parametrize("protocol", [0, 1])
def test_a_value_of_a_missing_class_is_an_error_in_old_protocols_too(
    monkeypatch: pytest.MonkeyPatch, protocol: int, has_attributes: bool
) -> None:
    value = Value()
    vars(value).update({"n": 1} if has_attributes else {})
    connection = connection_to((ONE, class_pickle(Holder) + pickle.dumps({"value": value}, protocol)))
    holder: Any = connection[1]
    assert vars(holder.value) == vars(value)
    holder._p_set_status_ghost()
    monkeypatch.delattr(sys.modules[__name__], "Value")
    with pytest.raises(ClassNotFoundError, match=f"Holder.*Value.*{__name__}"):
        holder.value  # noqa: B018  # reading is the point


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
    assert repr(holder.other) == "<broken gone.A 2>"


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

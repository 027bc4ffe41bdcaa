"""Attributes whose names begin with `_v_`: never stored, no change, and gone with the state."""

import copy
import pickle
from typing import Any

import pytest

from durus.connection import Connection
from durus.persistent import ConnectionBase, Persistent, PersistentObject, new_ghost
from durus.shared_storage import SharedStorage
from durus.storage import MemoryStorage


class Page(Persistent):
    _v_title: str
    _v_late = None

    def __init__(self, text: str) -> None:
        self.text = text


class Slotted(PersistentObject):
    __slots__ = ("_v_cache", "n")

    n: int
    _v_cache: int


class Both(Persistent):
    __slots__ = ("_v_cache",)

    _v_cache: int


class Older(Persistent):
    """Writes what a program without volatile attributes does."""

    def __getstate__(self) -> dict[str, object]:
        return {"text": "old", "_v_title": "stored"}


Stored = tuple[Connection, Any]


@pytest.fixture(params=[lambda: Page("a"), Slotted, Both], ids=["dict", "slots", "both"])
def stored(request: pytest.FixtureRequest) -> Stored:
    """A connection, and an object that is stored in it."""
    connection = Connection(MemoryStorage())
    obj = request.param()
    obj.n = 1
    connection.get_root()["x"] = obj
    connection.commit()
    return connection, obj


def drop_state(connection: Connection, obj: PersistentObject) -> None:
    connection.cache.make_ghost(obj._p_oid or b"")
    assert obj._p_is_ghost()


@pytest.mark.spec("OBJ-80", "OBJ-82")
def test_a_volatile_attribute_is_not_stored_and_goes_with_the_state(stored: Stored) -> None:
    connection, obj = stored
    obj._v_cache = 7
    obj.n = 2
    connection.commit()
    assert (obj._v_cache, obj.n) == (7, 2)
    drop_state(connection, obj)
    assert not hasattr(obj, "_v_cache")
    assert obj.n == 2


@pytest.mark.spec("OBJ-80")
def test_what_can_not_be_pickled_may_be_volatile(stored: Stored) -> None:
    connection, obj = stored
    obj._v_cache = lambda: 1
    obj.n = 3
    connection.commit()
    assert "_v_cache" not in obj.__getstate__()
    assert "_v_cache" not in list(obj._p_gen_data_slots())


@pytest.mark.spec("OBJ-81")
def test_setting_and_deleting_one_is_an_access_and_no_change(stored: Stored) -> None:
    connection, obj = stored
    connection.abort()
    assert obj._p_oid not in connection.accessed
    obj._v_cache = 1
    assert obj._p_oid in connection.accessed
    assert obj._p_is_saved()
    connection.abort()
    del obj._v_cache
    assert obj._p_oid in connection.accessed
    assert obj._p_is_saved()
    assert not connection.changed
    with pytest.raises(AttributeError):
        del obj._v_cache


@pytest.mark.spec("OBJ-81")
def test_setting_one_of_a_ghost_loads_that_ghost_and_no_more(stored: Stored) -> None:
    connection, obj = stored
    drop_state(connection, obj)
    before = connection.get_load_count()
    obj._v_cache = 5
    assert connection.get_load_count() == before + 1
    assert (obj._v_cache, obj.n) == (5, 1)
    assert obj._p_is_saved()
    drop_state(connection, obj)
    with pytest.raises(AttributeError):
        del obj._v_cache
    assert obj._p_is_saved()


@pytest.mark.spec("OBJ-82")
def test_an_abort_of_a_change_drops_them(stored: Stored) -> None:
    connection, obj = stored
    obj.n = 9
    obj._v_cache = 9
    connection.abort()
    assert not hasattr(obj, "_v_cache")


@pytest.mark.spec("OBJ-82")
def test_a_change_by_another_client_drops_them() -> None:
    shared = SharedStorage(MemoryStorage())
    one, two = Connection(shared.new_client()), Connection(shared.new_client())
    one.get_root()["x"] = page = Page("a")
    one.commit()
    two.abort()
    page._v_title = "A"
    one.commit()
    assert page._v_title == "A"
    two.get_root()["x"].text = "b"
    two.commit()
    one.abort()
    assert not hasattr(page, "_v_title")
    assert page.text == "b"


@pytest.mark.spec("OBJ-80")
def test_copies_do_not_have_them() -> None:
    page = Page("a")
    page._v_title = "A"
    for made in (copy.copy(page), copy.deepcopy(page), pickle.loads(pickle.dumps(page))):
        assert made.text == "a"
        assert not hasattr(made, "_v_title")
    assert page._v_title == "A"


@pytest.mark.spec("OBJ-80")
def test_names_that_only_look_like_one_are_stored() -> None:
    page: Any = Page("a")
    names = ["_v", "v_", "_va_", "x_v_", "a_", "_v1", "__v_x", "_V_x", "_w_v_"]
    for name in names:
        setattr(page, name, name)
    page._v_x = page._v_ = 1
    vars(page)[3] = "no text"
    assert page.__getstate__() == {"text": "a", 3: "no text"} | {name: name for name in names}


@pytest.mark.spec("OBJ-80")
def test_one_that_was_set_past_setattr_is_not_stored_either() -> None:
    page = Page("a")
    object.__setattr__(page, "_v_title", "A")
    assert page.__getstate__() == {"text": "a"}


@pytest.mark.spec("OBJ-80")
def test_one_that_another_program_has_stored_is_loaded_and_not_stored_again() -> None:
    connection = Connection(MemoryStorage())
    connection.get_root()["x"] = old = Older()
    connection.commit()
    oid = old._p_oid or b""
    drop_state(connection, old)
    data = connection.get_stored_pickle(oid)
    page: Any = connection.get(oid)
    connection._reader.load_state(page, data.replace(b"Older", b"Page"))
    assert type(page) is Page
    assert page._v_title == "stored"
    assert page.__getstate__() == {"text": "old"}


@pytest.mark.spec("OBJ-81")
def test_a_default_on_the_class_is_seen() -> None:
    page = Page("a")
    assert page._v_late is None
    page._v_late = 1  # type: ignore[assignment]  # so does an application that computes it late
    del page._v_late
    assert page._v_late is None


@pytest.mark.spec("OBJ-81")
def test_a_name_of_wide_letters_may_be_volatile() -> None:
    name = "_v_\u4e2d"
    ghost = new_ghost(Page, bytes(8), ConnectionBase())
    with pytest.raises(NotImplementedError):  # it would load the state
        setattr(ghost, name, 1)
    with pytest.raises(NotImplementedError):
        delattr(ghost, name)

"""What the C extension reads of PersistentDict, PersistentList and PersistentSet, against the Python it stands for.

Each read is done on a ghost: both must have the same outcome, load it once, and note one access.
"""

from collections.abc import Callable
from typing import Any

import pytest

from durus.persistent import ConnectionBase, PersistentBase, implementation, new_ghost, take_state
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.persistent_set import PersistentSet

pytestmark = pytest.mark.skipif(implementation != "C", reason="there is one form only")

STATES: dict[type[Any], dict[str, Any]] = {
    PersistentDict: {"data": {1: "a", None: "b", "x": None}},
    PersistentList: {"data": ["a", 1, None]},
    PersistentSet: {"s": {1, "a", None}},
}
KEYS: list[Any] = [0, 1, -1, 3, -4, None, "x", "a", [], 1 << 80, slice(1), slice(None, None, -1), 1.5]
READS: dict[str, Callable[[Any, Any], object]] = {
    "[]": lambda obj, key: obj[key],
    "in": lambda obj, key: key in obj,
    "len": lambda obj, key: len(obj),
    "bool": lambda obj, key: bool(obj),
    "iter": lambda obj, key: list(iter(obj)),
    "get": lambda obj, key: obj.get(key),
    "get or": lambda obj, key: obj.get(key, "other"),
    "get by name": lambda obj, key: obj.get(key, failobj="other"),
    "get too much": lambda obj, key: obj.get(key, 1, 2),
    "get nothing": lambda obj, key: obj.get(),
    "reversed": lambda obj, key: list(reversed(obj)),
    "called": lambda obj, key: type(obj).__getitem__(obj, key),
}


class Loader(ConnectionBase):
    """Loads a state, or raises."""

    def __init__(self, state: dict[str, Any] | None) -> None:
        super().__init__()
        self.state = state
        self.transaction_serial = 7
        self.loads = 0

    def load_state(self, obj: PersistentBase) -> None:
        self.loads += 1
        if self.state is None:
            raise LookupError("there is no record")
        take_state(obj, self.state, False)


def reference_of(cls: type[Any]) -> type[Any]:
    return [base for base in cls.__mro__ if base.__qualname__ == cls.__qualname__][-1]


def outcome(cls: type[Any], state: dict[str, Any] | None, read: Callable[[Any, Any], object], key: object) -> object:
    connection = Loader(state)
    obj = new_ghost(cls, bytes(8), connection)
    try:
        found: object = read(obj, key)
    except Exception as error:
        found = type(error), str(error)
    return found, connection.loads, set(connection.accessed), connection.changed, obj._p_status


@pytest.mark.spec("OBJ-5", "OBJ-6")
@pytest.mark.parametrize("cls", STATES)
@pytest.mark.parametrize("name", READS)
def test_both_forms_read_the_same(cls: type[Any], name: str) -> None:
    reference = reference_of(cls)
    assert reference is not cls
    for key in KEYS:
        for state in (STATES[cls], {}, None):
            assert outcome(cls, state, READS[name], key) == outcome(reference, state, READS[name], key)


@pytest.mark.parametrize("cls", STATES)
def test_a_subclass_may_intercept_its_attributes(cls: type[Any]) -> None:
    seen = []
    attribute = next(iter(STATES[cls]))

    class Intercepting(cls):  # type: ignore[misc]  # a class that is known when it runs
        def __getattribute__(self, name: str) -> Any:
            seen.append(name)
            return super().__getattribute__(name)

    obj = Intercepting()
    for read in len, list, lambda obj: None in obj:
        seen.clear()
        read(obj)
        assert attribute in seen
    replaced = type("Replaced", (cls,), {attribute: property(lambda self: STATES[cls][attribute])})
    assert len(new_ghost(replaced, bytes(8), Loader({}))) == 3


@pytest.mark.parametrize("cls", STATES)
def test_a_class_may_be_changed_after_it_was_used(cls: type[Any]) -> None:
    class Changed(cls):  # type: ignore[misc]  # a class that is known when it runs
        pass

    obj = Changed()
    assert len(obj) == 0
    attribute = next(iter(STATES[cls]))
    setattr(Changed, attribute, property(lambda self: STATES[cls][attribute]))
    assert len(obj) == 3
    delattr(Changed, attribute)
    assert len(obj) == 0

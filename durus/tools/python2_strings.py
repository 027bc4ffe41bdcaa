"""Finds the place of each str of Python 2 in the objects of a record. Statements REC-24 and REC-25.

A record is read as a tree of stand-ins: nothing that it names is imported or run. The strs in it are numbered by the
steps of its pickles that create or fetch them. A pickle has no jumps, so the steps are in the pickles in that order.
"""

import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple

from durus.error import RecordError
from durus.records.contents import split_data

_FETCHES = (pickle.GET, pickle.BINGET, pickle.LONG_BINGET)
STRING_STEPS = frozenset(code[0] for code in (pickle.STRING, pickle.BINSTRING, pickle.SHORT_BINSTRING, *_FETCHES))
"""The steps of which each use of a str is one."""

IsBytesAttribute = Callable[[str, str], bool]
"""Takes the path of a class and the name of an attribute or key."""

_BYTES_IN_FIRST_ARGUMENT = {f"datetime.{name}" for name in ("datetime", "date", "time")}
_SHOWN_LENGTH = 40


class Use:
    """One use of a str of Python 2; `maker` is the number of the use that created it."""

    def __init__(self, value: bytes, maker: int, number: int) -> None:
        self.value = value
        self.maker = maker
        self.number = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Use) and self.value == other.value

    def __hash__(self) -> int:
        return hash(self.value)

    def __repr__(self) -> str:
        return repr(self.value)[1:]


class Place(NamedTuple):
    """The place of a str in the state of an object."""

    path: str
    """Such as `.photos[3].title`."""
    pattern: str
    """The path with `[*]` for any index or key."""
    is_bytes: bool
    """True if it must be bytes because of its place."""


class _Thing:
    """Stands for what a pickle names, and for its instances, and keeps their parts."""

    args: tuple[object, ...]
    items: list[object]
    state: object

    def __new__(cls, *args: object) -> "_Thing":
        self = object.__new__(cls)
        self.args, self.items, self.state = args, [], None
        return self

    def __init__(self, *args: object) -> None:
        """Take any arguments."""

    def __call__(self, *args: object) -> "_Thing":
        return type(self)(self, *args)

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __setitem__(self, key: object, value: object) -> None:
        self.items += [{key: value}]

    def append(self, item: object) -> None:
        self.items.append(item)

    def class_name(self) -> str:
        """Return the path of the class that it is an instance of."""
        cls = type(self)
        if cls.__qualname__ == "_reconstructor" and self.args and isinstance(self.args[0], type):
            cls = self.args[0]
        return f"{cls.__module__}.{cls.__qualname__}"


class _Machine(pickle._Unpickler):
    """Runs pickles; the unpickler of the module pickle can't tell which step a str comes from."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, pickles: bytes) -> None:
        super().__init__(io.BytesIO(pickles))
        self.uses: list[Use | None] = []
        self.oids: set[int] = set()
        """The uses of strs as oids of references."""

    def _decode_string(self, value: bytes) -> Use:
        number = len(self.uses)
        use = Use(value, number, number)
        self.uses.append(use)
        return use

    def find_class(self, module: str, name: str) -> type[_Thing]:
        return type(name, (_Thing,), {"__module__": module, "__qualname__": name})

    def persistent_load(self, reference: Any) -> None:
        match reference:
            case (Use() as oid, type()) if len(oid.value) == 8:
                self.oids.add(oid.number)
            case (bytes() as oid, type()) if len(oid) == 8:
                pass
            case _:
                raise RecordError(f"a reference must be a pair of 8-byte oid and class, not {reference!r}")


def _fetching(load: Callable[[Any], None]) -> Callable[[Any], None]:
    """Return a step that fetches from the memo, and counts that as a use of its own."""

    def fetch(machine: _Machine) -> None:
        load(machine)
        stack: list[object] = machine.stack  # type: ignore[attr-defined]  # not in the stubs
        found = stack[-1]
        use = Use(found.value, found.maker, len(machine.uses)) if isinstance(found, Use) else None
        machine.uses.append(use)
        if use is not None:
            stack[-1] = use

    return fetch


for _code in _FETCHES:
    _Machine.dispatch[_code[0]] = _fetching(_Machine.dispatch[_code[0]])


class _Part(NamedTuple):
    """A part of a value: the steps that lead to it, and whether it is bytes; None if that depends on its container."""

    value: object
    step: str
    general_step: str
    is_bytes: bool | None


class Reading:
    """The strs in the data of a record."""

    def __init__(self, data: bytes) -> None:
        class_pickle, state_pickle = split_data(data)
        machine = _Machine(class_pickle + state_pickle)
        cls = machine.load()
        if not isinstance(cls, type):
            raise RecordError("its data does not begin with a class")
        self._object: _Thing = cls()
        self._object.state = machine.load()
        self._oids = machine.oids
        self.class_name = self._object.class_name()
        self.uses = machine.uses
        """In the order of the steps; None if something other than a str is fetched."""

    def places(self, is_bytes_attribute: IsBytesAttribute) -> list[Place]:
        """Return the place of each use; for a value in several places, one of them."""
        found: dict[int, Place] = {number: Place("", "", True) for number in self._oids}
        seen: set[tuple[int, bool]] = set()
        pending: list[tuple[object, str, Place]] = [(self._object, self.class_name, Place("", "", False))]
        while pending:
            value, class_name, place = pending.pop()
            if isinstance(value, Use):
                if place.is_bytes or value.number not in found:
                    found[value.number] = place
                continue
            if (id(value), place.is_bytes) in seen:
                continue
            seen.add((id(value), place.is_bytes))
            if isinstance(value, _Thing):
                class_name = value.class_name()
            for part, step, general_step, is_bytes in _parts(value, class_name, is_bytes_attribute):
                new = Place(
                    place.path + step,
                    place.pattern + general_step,
                    place.is_bytes if is_bytes is None else is_bytes,
                )
                pending.append((part, class_name, new))
        nowhere = Place("", "", False)
        return [found.get(number, nowhere) for number in range(len(self.uses))]


def read_strings(data: bytes) -> Reading:
    """Return the strs of Python 2 in the data of a record; RecordError if it can't be read."""
    try:
        return Reading(data)
    except RecordError:
        raise
    except Exception as error:  # anything other than a pickle can make the machine raise anything
        raise RecordError(f"its data can't be read: {type(error).__name__}: {error}") from error


def _parts(value: object, class_name: str, is_bytes_attribute: IsBytesAttribute) -> Iterator[_Part]:
    def named(names: dict[object, object], of_attributes: bool) -> Iterator[_Part]:
        for name, item in names.items():
            text = name.value.decode("latin-1") if isinstance(name, Use) else name
            is_bytes = (isinstance(text, str) and is_bytes_attribute(class_name, text)) or None
            if of_attributes:
                yield _Part(name, f" the name {name!r}", " a name", False)
                yield _Part(item, f".{text}", f".{text}", is_bytes)
            else:
                yield _Part(name, f" the key {repr(name)[:_SHOWN_LENGTH]}", " a key", False)
                yield _Part(item, f"[{repr(name)[:_SHOWN_LENGTH]}]", "[*]", is_bytes)

    if isinstance(value, dict):
        yield from named(value, False)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield _Part(item, f"[{number}]", "[*]", None)
    elif isinstance(value, _Thing):
        for number, item in enumerate(value.args):
            is_bytes = (number == 0 and value.class_name() in _BYTES_IN_FIRST_ARGUMENT) or None
            yield _Part(item, f"({number})", "(*)", is_bytes)
        for number, item in enumerate(value.items):
            yield _Part(item, f"[{number}]", "[*]", None)
        states = value.state if isinstance(value.state, tuple) else (value.state,)
        if all(isinstance(state, dict | None) for state in states):  # that of slots is a pair of dicts
            for state in states:
                yield from named(state or {}, True)
        else:
            yield _Part(value.state, ".__getstate__()", ".__getstate__()", None)

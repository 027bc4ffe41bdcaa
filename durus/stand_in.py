"""Reading pickles without importing or running anything that they name. For checks and lists.

Every class or function in a pickle becomes a class of its own that takes whatever a pickle does to it.
"""

import io
import pickle
from typing import Any, NamedTuple

from durus.error import RecordError
from durus.record import parse_class_pickle
from durus.serialize import decompress_state


class StandIn:
    """Stands for what a pickle names, and for its instances; each name gets a subclass."""

    def __new__(cls, *args: object, **kwargs: object) -> "StandIn":
        return object.__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        """Take any arguments."""

    def __call__(self, *args: object, **kwargs: object) -> "StandIn":
        return self

    def __setstate__(self, state: object) -> None:
        """Take any state."""

    def __setitem__(self, key: object, value: object) -> None:
        """Take any item."""

    def append(self, item: object) -> None:
        """Take any item."""

    def add(self, item: object) -> None:
        """Take any item."""


class Contents(NamedTuple):
    """What the data of a record says, as far as it can be told without its classes."""

    class_name: str
    """Module and qualified name, with a dot between."""
    refs: set[bytes]
    """The oids that the state refers to."""


_HARMLESS: dict[tuple[str, str], object] = {
    (module, kind.__name__): kind
    for module in ("builtins", "__builtin__")
    for kind in (set, frozenset, list, dict, tuple, complex)
}


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """What pickles of protocol 2 call to make bytes."""
    return text.encode("latin-1" if encoding == "latin1" else "utf-8")


def _bytes(*arguments: object) -> bytes:
    """What pickles call for bytes and bytearrays: never with a number, which would ask for so much memory."""
    return bytes(each for value in arguments[:1] if isinstance(value, bytes) for each in value)


def _stand_in(module: str, name: str) -> type[StandIn]:
    return type(name, (StandIn,), {"__module__": module, "__qualname__": name})


def _attribute(owner: object, name: str) -> object:
    """What pickles of protocol 2 call for a nested class."""
    return _stand_in(owner.__module__, f"{owner.__qualname__}.{name}") if isinstance(owner, type) else StandIn()


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.refs: set[bytes] = set()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _encode
        if name == "getattr" and module in ("builtins", "__builtin__"):
            return _attribute
        if name in ("bytes", "bytearray") and module in ("builtins", "__builtin__"):
            return _bytes
        return _HARMLESS.get((module, name)) or _stand_in(module, name)

    def persistent_load(self, reference: Any) -> object:
        match reference:
            case (bytes() as oid, type()) if len(oid) == 8:
                self.refs.add(oid)
                return StandIn()
        raise RecordError(f"a reference must be a pair of 8-byte oid and class, not {reference!r}")


def read_contents(data: bytes) -> Contents:
    """Return what `data` of a record says; RecordError if it can't be read."""
    try:
        return _read_contents(data)
    except RecordError:
        raise
    except Exception as error:
        raise RecordError(f"its data can't be read: {type(error).__name__}: {error}") from error


def _read_contents(data: bytes) -> Contents:
    known = parse_class_pickle(data)
    file = io.BytesIO(data)
    if known is None:
        _Unpickler(file).load()
    end = file.tell() if known is None else known.end
    pickles = io.BytesIO(data[:end] + decompress_state(data[end:]))
    unpickler = _Unpickler(pickles)
    cls = unpickler.load()
    if not isinstance(cls, type):
        raise RecordError(f"its data names {cls!r} where a class must stand")
    unpickler.load()
    if pickles.read(1):
        raise RecordError("its data goes on behind the state")
    return Contents(f"{cls.__module__}.{cls.__qualname__}", unpickler.refs)

"""Reading pickles without importing or running anything that they name. For checks and lists.

Every class or function in a pickle becomes a class of its own that takes whatever a pickle does to it.
"""

import contextlib
import io
import pickle
from collections.abc import Iterator
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
    names: list[tuple[str, str]]
    """Module and name of each class or function that the pickles name, each time that they do."""
    references: list[bytes]
    """The oid of each reference in the state, each time that it stands there."""


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
        self.names: list[tuple[str, str]] = []
        self.references: list[bytes] = []

    def find_class(self, module: str, name: str) -> Any:
        self.names.append((module, name))
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
                self.references.append(oid)
                return StandIn()
        raise RecordError(f"a reference must be a pair of 8-byte oid and class, not {reference!r}")


def read_contents(data: bytes) -> Contents:
    """Return what `data` of a record says; RecordError if it can't be read."""
    with _as_record_error():
        return _read_contents(data)


def _read_contents(data: bytes) -> Contents:
    pickles = io.BytesIO(b"".join(_split_data(data)))
    unpickler = _Unpickler(pickles)
    cls = unpickler.load()
    if not isinstance(cls, type):
        raise RecordError(f"its data names {cls!r} where a class must stand")
    unpickler.load()
    if pickles.read(1):
        raise RecordError("its data goes on behind the state")
    return Contents(f"{cls.__module__}.{cls.__qualname__}", unpickler.names, unpickler.references)


def split_data(data: bytes) -> tuple[bytes, bytes]:
    """Return the class pickle and the state pickle, decompressed, in `data` of a record.

    RecordError if it does not start with a pickle.
    """
    with _as_record_error():
        return _split_data(data)


def _split_data(data: bytes) -> tuple[bytes, bytes]:
    known = parse_class_pickle(data)
    if known is not None:
        end = known.end
    else:
        file = io.BytesIO(data)
        _Unpickler(file).load()
        end = file.tell()
    return data[:end], decompress_state(data[end:])


@contextlib.contextmanager
def _as_record_error() -> Iterator[None]:
    try:
        yield
    except RecordError:
        raise
    except Exception as error:  # a pickle that is none can make the machine raise anything
        raise RecordError(f"its data can't be read: {type(error).__name__}: {error}") from error

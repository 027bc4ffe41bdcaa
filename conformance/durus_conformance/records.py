"""What a testee has written as a record, read by a reader of the kit's own. Nothing that a pickle names is imported.

It is stricter than a reader has to be: it takes the class and the protocol of a writer, and refs as they must be.
"""

import io
import json
import pickle
import zlib
from typing import Any

Json = Any
_SAFE = 2**53
_ZLIB = b"\x78"
_MAX_SIZE = 2**24
"""No example has a state of this many bytes."""


class Malformed(Exception):
    """The record is not one that a writer makes."""


class _Made:
    """A value that a call or a class makes: what makes it, and what is given to it then."""

    def __init__(self, how: str, name: str, arguments: tuple[Any, ...]) -> None:
        self.how, self.name, self.arguments = how, name, arguments
        self.state: Any = None
        self.items: list[Any] = []
        self.pairs: list[tuple[Any, Any]] = []

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def append(self, item: Any) -> None:
        self.items.append(item)

    def extend(self, items: list[Any]) -> None:
        self.items += items

    def __setitem__(self, key: Any, value: Any) -> None:
        self.pairs.append((key, value))


class _Named(type):
    """The class of what a pickle names: a class or a function, which one is not known."""

    def __call__(cls, *arguments: Any) -> Any:
        if cls.__qualname__ == "builtins getattr" and isinstance(arguments[0], _Named):
            return _named(f"{arguments[0].__qualname__}.{arguments[1]}")
        value = _value_of_call(cls.__qualname__, arguments)
        return value if value is not None else _Made("$call", cls.__qualname__, arguments)


def _value_of_call(name: str, arguments: tuple[Any, ...]) -> Any:
    """Return the value of the calls of PICKLE-5, None for others."""
    match name, arguments:
        case "_codecs encode", (str() as text, "latin1" | "latin-1"):
            return text.encode("latin1")
        case "builtins bytes", ():
            return b""
        case ("builtins set", ()) | ("builtins set", (list(),)):
            return set(*arguments)
        case ("builtins frozenset", ()) | ("builtins frozenset", (list(),)):
            return frozenset(*arguments)
    return None


def _named(path: str) -> _Named:
    def new(cls: type, *arguments: Any, **named: Any) -> _Made:
        if named:
            return _Made("$call", "copyreg __newobj_ex__", (cls, arguments, named))
        return _Made("$new", path, arguments)

    return _Named(path, (), {"__new__": new})


class _Reference:
    def __init__(self, oid: int, cls: _Named) -> None:
        self.oid, self.cls = oid, cls


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return _named(f"{module} {name}")

    def persistent_load(self, id: Any) -> Any:
        if not isinstance(id, tuple) or len(id) != 2 or not isinstance(id[0], bytes) or len(id[0]) != 8:
            raise Malformed(f"it has the reference {id!r}")
        if not isinstance(id[1], _Named):
            raise Malformed(f"a reference to oid {int.from_bytes(id[0])} has no class")
        return _Reference(int.from_bytes(id[0]), id[1])


def contents(record: bytes) -> Json:
    """Return what a record holds, as the JSON of an example has it, or `{"fault": text}`."""
    try:
        return _contents(record)
    except Malformed as fault:
        return {"fault": str(fault)}


def _contents(record: bytes) -> Json:
    length = int.from_bytes(record[8:12])
    data, refs = record[12 : 12 + length], record[12 + length :]
    if not length or len(data) != length or len(refs) % 8:
        raise Malformed("it has lengths that do not fit")
    class_pickle, state_pickle = _split(data)
    try:
        stream = io.BytesIO(class_pickle + state_pickle)
        unpickler = _Unpickler(stream)
        cls, state, rest = unpickler.load(), unpickler.load(), stream.read()
    except Malformed:
        raise
    except Exception as error:  # whatever pickle raises for what it can't read
        raise Malformed(f"its pickles can't be read: {error!r}") from error
    if rest:
        raise Malformed(f"{len(rest)} bytes follow its state")
    found: list[int] = []
    shown = _plain(state, found)
    oid = int.from_bytes(record[:8])
    listed = [int.from_bytes(refs[at : at + 8]) for at in range(0, len(refs), 8)]
    if listed != sorted(set(found) - {oid}):
        raise Malformed(f"its refs are {listed}, and its state refers to {found}")
    return {"oid": str(oid), "class": cls.__qualname__, "state": shown, "refs": [str(each) for each in listed]}


def shared(record: bytes) -> list[list[str]]:
    """Return the places of each list, dict or set that is in several places of the state; nothing if it can't be read.

    The record may be any that a reader has to read. A place is the keys and the indexes that lead to it.
    """
    data = record[12 : 12 + int.from_bytes(record[8:12])]
    try:
        stream = io.BytesIO(data)
        _Unpickler(stream).load()
        state = data[stream.tell() :]
        if state.startswith(_ZLIB):
            state = zlib.decompressobj().decompress(state, _MAX_SIZE)
        unpickler = _Unpickler(io.BytesIO(data[: stream.tell()] + state))
        unpickler.load()  # the state may use its memo [REC-12]
        value = unpickler.load()
    except Exception:  # contents() says what is wrong
        return []
    places: dict[int, list[str]] = {}
    _note_places(value, "", places)
    return [each for each in places.values() if len(each) > 1]


def _note_places(value: Any, place: str, places: dict[int, list[str]]) -> None:
    """Note where each value is that can be changed; what is in it is looked at once."""
    parts: list[tuple[Any, Any]] = []
    if isinstance(value, list | dict | set):
        found = places.setdefault(id(value), [])
        found.append(place)
        if len(found) > 1:
            return
    match value:
        case list() | tuple():
            parts = list(enumerate(value))
        case dict():
            parts = list(value.items())
        case _Made():
            parts = [("args", value.arguments), ("state", value.state), ("items", value.items)]
            parts += [(f"pairs.{index}", pair) for index, pair in enumerate(value.pairs)]
    for key, part in parts:
        _note_places(part, f"{place}.{key}" if place else str(key), places)


def _split(data: bytes) -> tuple[bytes, bytes]:
    """Return the pickles of the class [REC-10] and of the state, not compressed any more."""
    module, _, rest = data[3:].partition(b"\n")
    name, _, rest = rest.partition(b"\n")
    if data[:3] != b"\x80\x04c" or not module or not name or rest[:1] != b".":
        raise Malformed(f"its class is not written as REC-10 says: {data[:60].hex()}")
    state = rest[1:]
    if state.startswith(_ZLIB):
        stream = zlib.decompressobj()
        try:
            state = stream.decompress(state, _MAX_SIZE)
        except zlib.error as error:
            raise Malformed(f"its state can't be decompressed: {error}") from error
        if not stream.eof or stream.unused_data:
            raise Malformed("its compressed state is too long, or bytes follow it")
    if state[:2] != b"\x80\x04":
        raise Malformed(f"its state is not a pickle of protocol 4: {state[:20].hex()}")
    return data[: len(data) - len(rest) + 1], state


def _plain(value: Any, refs: list[int]) -> Json:
    """Return a value as the JSON of an example has it, and note the oids to which it refers."""
    match value:
        case None | bool():
            return value
        case str():
            return value if _is_unicode(value) else {"$text": value.encode("utf-8", "surrogatepass").hex()}
        case int():
            return value if -_SAFE < value < _SAFE else {"$int": str(value)}
        case float():
            return {"$float": repr(value)}
        case bytes():
            return {"$bytes": value.hex()}
        case _Reference():
            refs.append(value.oid)
            return {"oid": str(value.oid), "class": value.cls.__qualname__}
        case list():
            return [_plain(each, refs) for each in value]
        case dict() if all(isinstance(key, str) and key[:1] != "$" and _is_unicode(key) for key in value):
            return {key: _plain(each, refs) for key, each in value.items()}
        case dict():
            return {"$dict": [[_plain(key, refs), _plain(each, refs)] for key, each in value.items()]}
        case tuple():
            return {"$tuple": [_plain(each, refs) for each in value]}
        case set() | frozenset():
            return {f"${type(value).__name__}": sorted((_plain(each, refs) for each in value), key=json.dumps)}
        case _Named():
            return {"$global": value.__qualname__}
        case _Made():
            return _made(value, refs)
    raise Malformed(f"it has a {type(value).__name__}, for which there is no opcode")


def _is_unicode(text: str) -> bool:
    """Return whether each parser of JSON takes this text: it has no surrogate."""
    return not any("\ud800" <= each <= "\udfff" for each in text)


def _made(value: _Made, refs: list[int]) -> Json:
    found: dict[str, Json] = {value.how: value.name, "args": [_plain(each, refs) for each in value.arguments]}
    if value.items:
        found["items"] = _plain(value.items, refs)
    if value.pairs:
        found["pairs"] = [[_plain(key, refs), _plain(each, refs)] for key, each in value.pairs]
    return found if value.state is None else {**found, "state": _plain(value.state, refs)}

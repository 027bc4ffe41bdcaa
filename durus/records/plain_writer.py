"""Writes the data of a record from the form of spec/export.md, without its classes. Statements EXP-1 to EXP-10.

C writes the usual states.
"""

import base64
import binascii
import math
import struct
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from durus.error import RecordError
from durus.implementation import implementation
from durus.oid import FIRST_RESERVED_OID, oid_from_int
from durus.records.pickle_machine import MAX_NAME
from durus.records.plain_forms import MAX_KEY
from durus.records.stored_state import compress_state

Json: TypeAlias = object
"""What json.loads() returns."""

_MAX_DEPTH = 320
"""How deep values may contain one another; more than a form allows, because shared values can be inside others."""


class Written(NamedTuple):
    """The data of a record, and the oids that its state refers to."""

    data: bytes
    refs: set[bytes]


def write_plain(cls: Json, state: Json) -> Written:
    """Return the data for a class and a state in their forms; RecordError if one has another form."""
    class_pickle = _kept_class_pickle(cls) if isinstance(cls, str) else _class_pickle(cls)
    refs: set[bytes] = set()
    pickled = usual_steps(state, refs, _kept_name_steps)
    if pickled is None:
        writer = _Writer()
        try:
            writer.save(state)
        except RecursionError:
            raise _too_deep() from None
        pickled, refs = bytes(writer.out) + b".", writer.refs
    return Written(class_pickle + compress_state(pickled), refs)


def usual_steps(state: Json, refs: set[bytes], name_steps: Callable[[str], bytes]) -> bytes | None:
    """Return what _Writer writes of a usual state, and add its references; None if that must do it. C does it."""
    return None


if not TYPE_CHECKING and implementation == "C":
    from durus import _persistent

    usual_steps = _persistent.usual_steps


def _class_pickle(cls: Json) -> bytes:
    module, qualname = _names(cls)
    if "\n" in module or "\n" in qualname or not module or not qualname:
        raise RecordError(f'"class" must be module:name, not {cls!r}')
    return b"\x80\x04c" + _utf8(module) + b"\n" + _utf8(qualname) + b"\n."


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _names(cls: Json) -> tuple[str, str]:
    match cls:
        case str() if ":" in cls:
            module, _, qualname = cls.partition(":")
        case [str() as module, str() as qualname]:
            pass
        case _:
            raise RecordError(f"a class must be module:name, not {_shown(cls)}")
    if len(module) + len(qualname) > MAX_NAME:
        raise RecordError(f"a class has a name of {len(module) + len(qualname)} characters")
    return module, qualname


def _name_steps(cls: Json) -> bytes:
    """Return the steps that name a class, and note it."""
    module, qualname = _names(cls)
    return _text_step(module) + _text_step(qualname) + b"\x93\x94"


def _text_step(text: str) -> bytes:
    data = _utf8(text)
    if len(data) < 256:
        return b"\x8c%c%b" % (len(data), data)
    if len(data) < 1 << 32:
        return b"X" + len(data).to_bytes(4, "little") + data
    return b"\x8d" + len(data).to_bytes(8, "little") + data


_kept_class_pickle = lru_cache(maxsize=1000)(_class_pickle)
_kept_name_steps = lru_cache(maxsize=1000)(_name_steps)
_kept_text_step = lru_cache(maxsize=10000)(_text_step)
"""Most objects name few classes, and have the same attributes."""


def _shown(value: Json) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _too_deep() -> RecordError:
    return RecordError("its values are nested too deep, or one contains itself where that can't be")


class _Writer:
    """Writes one state pickle. Containers are noted as pickle does it, so that one can contain itself."""

    def __init__(self) -> None:
        self.out = bytearray(b"\x80\x04")
        self.refs: set[bytes] = set()
        self._memo: dict[int, int] = {}
        """The numbers of the values that were written, by the id() of their forms."""
        self._names: dict[bytes, int] = {}
        """The numbers of the names that were written, by their steps."""
        self._count = 0
        self._shared: dict[int, Json] = {}
        """The forms of shared values, by their numbers."""
        self._shared_ids: set[int] = set()
        self._depth = 0

    def save(self, value: Json) -> None:
        """Write the steps that make a value."""
        out = self.out
        kind = type(value)
        if kind is str:
            if not (self._memo and self._is_again(value)):
                self._text(value)  # type: ignore[arg-type]  # mypy does not follow `kind`
                self._note_shared(value)
        elif value is None:
            out += b"N"
        elif kind is bool:
            out += b"\x88" if value else b"\x89"
        elif kind is int:
            self._int(value)  # type: ignore[arg-type]  # likewise
        elif kind is float:
            if not math.isfinite(value):  # type: ignore[arg-type]  # likewise
                raise RecordError(f'a number must be finite, and {value} is not: {{"$float": ...}} has others')
            out += b"G" + struct.pack(">d", value)
        else:
            self._depth += 1
            if self._depth > _MAX_DEPTH:
                raise _too_deep()
            if isinstance(value, list):
                self._list(value)
            elif isinstance(value, dict):
                self._dict(value)
            else:
                raise RecordError(f"{_shown(value)} is not a value of JSON")
            self._depth -= 1

    # Shared values

    def _is_again(self, value: Json) -> bool:
        """Fetch a value that was written before."""
        number = self._memo.get(id(value))
        if number is None:
            return False
        self._fetch(number)
        return True

    def _fetch(self, number: int) -> None:
        self.out += b"h" + bytes((number,)) if number < 256 else b"j" + number.to_bytes(4, "little")

    def _note(self, value: Json) -> None:
        self.out.append(0x94)
        self._memo[id(value)] = self._count
        self._count += 1

    def _note_shared(self, value: Json) -> None:
        if id(value) in self._shared_ids:
            self._note(value)

    # Values

    def _text(self, text: str) -> None:
        self.out += _text_step(text) if len(text) > MAX_KEY else _kept_text_step(text)

    def _int(self, value: int) -> None:
        if 0 <= value < 256:
            self.out += b"K" + bytes((value,))
        elif 0 <= value < 1 << 16:
            self.out += b"M" + value.to_bytes(2, "little")
        elif -(1 << 31) <= value < 1 << 31:
            self.out += b"J" + value.to_bytes(4, "little", signed=True)
        else:
            data = value.to_bytes((value if value >= 0 else ~value).bit_length() // 8 + 1, "little", signed=True)
            if len(data) < 256:
                self.out += b"\x8a" + bytes((len(data),)) + data
            else:
                self.out += b"\x8b" + len(data).to_bytes(4, "little") + data

    def _bytes(self, data: bytes) -> None:
        if len(data) < 256:
            self.out += b"C" + bytes((len(data),)) + data
        elif len(data) < 1 << 32:
            self.out += b"B" + len(data).to_bytes(4, "little") + data
        else:
            self.out += b"\x8e" + len(data).to_bytes(8, "little") + data

    def _name(self, cls: Json) -> None:
        steps = _kept_name_steps(cls) if isinstance(cls, str) else _name_steps(cls)
        number = self._names.get(steps)
        if number is not None:
            self._fetch(number)
            return
        self.out += steps
        self._names[steps] = self._count
        self._count += 1

    def _list(self, value: list[Json]) -> None:
        if self._is_again(value):
            return
        self.out += b"]"
        self._note(value)
        self._items(value, b"e")

    def _items(self, items: list[Json], step: bytes) -> None:
        if items:
            self.out += b"("
            for item in items:
                self.save(item)
            self.out += step

    def _pairs(self, pairs: list[Json]) -> None:
        if pairs:
            self.out += b"("
            for pair in pairs:
                if not (isinstance(pair, list) and len(pair) == 2):
                    raise RecordError(f"a list of a key and a value is expected, not {_shown(pair)}")
                self.save(pair[0])
                self.save(pair[1])
            self.out += b"u"

    def _dict(self, value: dict[str, Json]) -> None:
        first = next(iter(value), "")
        if first[:1] != "$":
            if self._is_again(value):
                return
            out = self.out
            out += b"}"
            self._note(value)
            if value:
                out += b"("
                for key, item in value.items():
                    if key[:1] == "$":
                        raise RecordError(f"a key that starts with $ belongs into a $dict, and {_shown(key)} does not")
                    self._text(key)
                    self.save(item)
                out += b"u"
            return
        form = _FORMS.get(first)
        if form is None:
            raise RecordError(f"there is no form {_shown(first)}; a key that starts with $ belongs into a $dict")
        if len(value) > 1 and (extra := value.keys() - {first, *form.others}):
            raise RecordError(f"a {first} has no {_shown(sorted(extra)[0])}")
        if form.is_new and self._is_again(value):
            return
        form.write(self, value)

    # Forms

    def _dict_form(self, value: dict[str, Json]) -> None:
        self.out += b"}"
        self._note(value)
        self._pairs(_list_in(value, "$dict"))

    def _set(self, value: dict[str, Json]) -> None:
        self.out += b"\x8f"
        self._note(value)
        self._items(_list_in(value, "$set"), b"\x90")

    def _tuple(self, value: dict[str, Json]) -> None:
        items = _list_in(value, "$tuple")
        if not items:
            self.out += b")"
            return
        self._gather(value, items, b"t")

    def _frozenset(self, value: dict[str, Json]) -> None:
        self._gather(value, _list_in(value, "$frozenset"), b"\x91")

    def _gather(self, value: dict[str, Json], items: list[Json], step: bytes) -> None:
        self.out += b"("
        for item in items:
            self.save(item)
        if id(value) in self._memo:  # it was written inside one of the items
            self.out += b"1"
            self._fetch(self._memo[id(value)])
        else:
            self.out += step
            self._note(value)

    def _made(self, value: dict[str, Json]) -> None:
        how = next(iter(value))
        made_by = value[how]
        if isinstance(made_by, dict):
            self.save(made_by)
        else:
            self._name(made_by)
        args = value.get("args", [])
        if isinstance(args, list):
            self.out += b"("
            for each in args:
                self.save(each)
            self.out += b"t"
        else:  # a tuple that is shared
            self.save(args)
        if "kwargs" in value:
            self.save(value["kwargs"])
        self.out += b"\x92" if "kwargs" in value else b"R" if how == "$call" else b"\x81"
        if id(value) in self._memo:  # it was written inside an argument
            self.out += b"0"
            self._fetch(self._memo[id(value)])
            return
        self._note(value)
        for key, part in value.items():
            if key == "items":
                self._items(_list_in(value, key), b"e")
            elif key == "pairs":
                self._pairs(_list_in(value, key))
            elif key == "state":
                self.save(part)
                self.out += b"b"

    def _id(self, value: dict[str, Json]) -> None:
        number = value["$id"]
        if type(number) is not int or "$value" not in value or number in self._shared:
            raise RecordError(f'{{"$id": number, "$value": value}} is expected once, not {_shown(value)}')
        self._shared[number] = value["$value"]
        self._shared_ids.add(id(value["$value"]))
        self.save(value["$value"])

    def _same(self, value: dict[str, Json]) -> None:
        number = value["$same"]
        if type(number) is not int or number not in self._shared:
            raise RecordError(f'no value before has the "$id" {_shown(number)}')
        self.save(self._shared[number])

    def _reference(self, value: dict[str, Json]) -> None:
        number = value["$ref"]
        if type(number) is not int or not 0 <= number < _FIRST_RESERVED or "class" not in value:
            raise RecordError(f'{{"$ref": oid, "class": name}} is expected, not {_shown(value)}')
        oid = oid_from_int(number)
        self.refs.add(oid)
        self._bytes(oid)
        self._name(value["class"])
        self.out += b"\x86Q"

    def _class(self, value: dict[str, Json]) -> None:
        self._name(value["$class"])

    def _bytes_form(self, value: dict[str, Json]) -> None:
        self._bytes(_decoded(value, "$bytes"))
        self._note_shared(value)

    def _bytearray(self, value: dict[str, Json]) -> None:
        self._name("builtins:bytearray")
        self._bytes(_decoded(value, "$bytearray"))
        self.out += b"\x85R"
        self._note(value)

    def _big_int(self, value: dict[str, Json]) -> None:
        text = _text_in(value, "$int")
        try:
            self._int(int(text, 16) if "x" in text else int(text))
        except ValueError as error:
            raise RecordError(f'"$int" must be a number as text, not {_shown(text)}') from error
        self._note_shared(value)

    def _float(self, value: dict[str, Json]) -> None:
        text = _text_in(value, "$float")
        try:
            data = struct.pack(">d", float(text)) if text in ("nan", "inf", "-inf") else bytes.fromhex(text)
        except ValueError as error:
            raise RecordError(f'"$float" must be nan, inf, -inf or 16 hex digits, not {_shown(text)}') from error
        if len(data) != 8:
            raise RecordError(f'"$float" must be nan, inf, -inf or 16 hex digits, not {_shown(text)}')
        self.out += b"G" + data

    def _datetime(self, value: dict[str, Json]) -> None:
        key = next(iter(value))
        text = _text_in(value, key)
        try:
            made = (datetime if key == "$datetime" else time).fromisoformat(text)
        except ValueError as error:
            raise RecordError(f"{key} must be in ISO 8601, not {_shown(text)}") from error
        fold = value.get("fold", 0)
        if type(fold) is not int or fold not in (0, 1):
            raise RecordError(f'"fold" must be 0 or 1, not {_shown(fold)}')
        offset = made.utcoffset()
        plain = made.replace(tzinfo=None, fold=fold)
        self._name(f"datetime:{key[1:]}")
        self.out += b"("
        self._bytes(plain.__reduce_ex__(4)[1][0])  # type: ignore[arg-type]  # the first argument is the state
        if offset is not None:
            self._name("datetime:timezone")
            self._delta(offset)
            self.out += b"\x85R"
        elif "zone" in value:
            self.save(value["zone"])
        self.out += b"tR"

    def _date(self, value: dict[str, Json]) -> None:
        text = _text_in(value, "$date")
        try:
            made = date.fromisoformat(text)
        except ValueError as error:
            raise RecordError(f'"$date" must be in ISO 8601, not {_shown(text)}') from error
        self._name("datetime:date")
        self._bytes(made.__reduce__()[1][0])  # type: ignore[arg-type]  # likewise
        self.out += b"\x85R"

    def _timedelta(self, value: dict[str, Json]) -> None:
        parts = value["$timedelta"]
        match parts:
            case [int() as days, int() as seconds, int() as microseconds]:
                try:
                    self._delta(timedelta(days, seconds, microseconds))
                    return
                except OverflowError:
                    pass
        raise RecordError(f'"$timedelta" must be days, seconds and microseconds, not {_shown(parts)}')

    def _delta(self, delta: timedelta) -> None:
        self._name("datetime:timedelta")
        for part in (delta.days, delta.seconds, delta.microseconds):
            self._int(part)
        self.out += b"\x87R"

    def _decimal(self, value: dict[str, Json]) -> None:
        self._name("decimal:Decimal")
        self._text(_text_in(value, "$decimal"))
        self.out += b"\x85R"

    def _uuid(self, value: dict[str, Json]) -> None:
        digits = _text_in(value, "$uuid").replace("-", "")
        try:
            number = int(digits, 16)
        except ValueError:
            number = -1
        if number < 0 or len(digits) != 32:
            raise RecordError(f'"$uuid" must be 32 hex digits, not {_shown(value["$uuid"])}')
        self._name("uuid:UUID")
        self.out += b")\x81}"
        self._text("int")
        self._int(number)
        self.out += b"sb"


_FIRST_RESERVED = int.from_bytes(FIRST_RESERVED_OID, "big")


def _list_in(value: dict[str, Json], key: str) -> list[Json]:
    found = value[key]
    if not isinstance(found, list):
        raise RecordError(f'"{key}" must be a list, not {_shown(found)}')
    return found


def _text_in(value: dict[str, Json], key: str) -> str:
    found = value[key]
    if not isinstance(found, str):
        raise RecordError(f'"{key}" must be a text, not {_shown(found)}')
    return found


def _decoded(value: dict[str, Json], key: str) -> bytes:
    try:
        return base64.b64decode(_text_in(value, key), validate=True)
    except binascii.Error as error:
        raise RecordError(f'"{key}" must be base64, not {_shown(value[key])}') from error


class _Form(NamedTuple):
    """How a form is written, and what it may have besides its first key."""

    write: Callable[[_Writer, dict[str, Json]], None]
    others: tuple[str, ...] = ()
    is_new: bool = True
    """True if the value is a new one, so that it can be shared."""


_INSTANCE = ("args", "kwargs", "items", "pairs", "state")
_FORMS = {
    "$bytearray": _Form(_Writer._bytearray),
    "$bytes": _Form(_Writer._bytes_form),
    "$call": _Form(_Writer._made, ("args", "items", "pairs", "state")),
    "$class": _Form(_Writer._class, is_new=False),
    "$date": _Form(_Writer._date),
    "$datetime": _Form(_Writer._datetime, ("fold", "zone")),
    "$decimal": _Form(_Writer._decimal),
    "$dict": _Form(_Writer._dict_form),
    "$float": _Form(_Writer._float),
    "$frozenset": _Form(_Writer._frozenset),
    "$id": _Form(_Writer._id, ("$value",), is_new=False),
    "$int": _Form(_Writer._big_int),
    "$new": _Form(_Writer._made, _INSTANCE),
    "$ref": _Form(_Writer._reference, ("class",), is_new=False),
    "$same": _Form(_Writer._same, is_new=False),
    "$set": _Form(_Writer._set),
    "$time": _Form(_Writer._datetime, ("fold", "zone")),
    "$timedelta": _Form(_Writer._timedelta),
    "$tuple": _Form(_Writer._tuple),
    "$uuid": _Form(_Writer._uuid),
}

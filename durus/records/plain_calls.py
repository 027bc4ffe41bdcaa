"""The calls in pickles that give values of usual types, and the forms of these values. Statement EXP-5.

Only classes of Python's datetime are called, to read the bytes in which they keep a moment.
"""

from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone

from durus.records.plain_forms import MAX_KEY, Form, Plain, class_text


def value_of_call(name: Plain, arguments: list[Plain]) -> Plain:
    """Return the form of what a call of this name gives, None if that is the call itself. [EXP-5] [EXP-6]"""
    make = _CALLS.get(name) if isinstance(name, str) else None
    return None if make is None else make(arguments)


def _datetime(args: list[Plain]) -> Plain:
    match args:
        case [bytes() as raw] | [bytes() as raw, _] if len(raw) == 10:
            moment = datetime(raw)  # type: ignore[arg-type, call-arg]  # as pickles of the class make it
            return _with_zone("$datetime", moment, args)
    return None


def _time(args: list[Plain]) -> Plain:
    match args:
        case [bytes() as raw] | [bytes() as raw, _] if len(raw) == 6:
            return _with_zone("$time", time(raw), args)  # type: ignore[arg-type]  # likewise
    return None


def _with_zone(key: str, value: datetime | time, args: list[Plain]) -> Form:
    text = value.isoformat()
    type(value).fromisoformat(text)  # ValueError for what is not a time, which the class has taken as it was
    form = Form({key: text})
    if value.fold:
        form["fold"] = 1
    match args[1:]:
        case [{"$call": "datetime:timezone", "args": [{"$timedelta": [days, seconds, microseconds]}], **others}] if (
            not others
        ):
            offset = timezone(timedelta(days, seconds, microseconds))
            form[key] = value.replace(tzinfo=offset).isoformat()
        case [zone]:
            form["zone"] = zone
    return form


def _date(args: list[Plain]) -> Plain:
    match args:
        case [bytes() as raw] if len(raw) == 4:
            text = date(raw).isoformat()  # type: ignore[arg-type, call-arg]  # likewise
            date.fromisoformat(text)
            return Form({"$date": text})
    return None


def _timedelta(args: list[Plain]) -> Plain:
    match args:
        case [int() as days, int() as seconds, int() as microseconds]:
            whole = timedelta(days, seconds, microseconds)
            if [whole.days, whole.seconds, whole.microseconds] == args and bool not in map(type, args):
                return Form({"$timedelta": [days, seconds, microseconds]})
    return None


def _decimal(args: list[Plain]) -> Plain:
    match args:
        case [str() as text] if len(text) <= MAX_KEY:
            return Form({"$decimal": text})
    return None


def _collection(key: str) -> Callable[[list[Plain]], Plain]:
    def make(args: list[Plain]) -> Plain:
        match args:
            case [list() as items]:
                return Form({key: items.copy()})
        return None

    return make


def _bytearray(args: list[Plain]) -> Plain:
    match args:
        case []:
            return bytearray()
        case [bytes() as data]:
            return bytearray(data)
    return None


def _encoded(args: list[Plain]) -> Plain:
    match args:
        case [str() as text, "latin1" | "latin-1" | "iso-8859-1"]:
            return text.encode("latin-1")
    return None


def _nested(args: list[Plain]) -> Plain:
    match args:
        case [{"$class": str() as owner}, str() as name]:
            return Form({"$class": class_text(owner.partition(":")[0], f"{owner.partition(':')[2]}.{name}")})
    return None


_CALLS: dict[str, Callable[[list[Plain]], Plain]] = {
    "_codecs:encode": _encoded,
    "builtins:bytearray": _bytearray,
    "builtins:frozenset": _collection("$frozenset"),
    "builtins:getattr": _nested,
    "builtins:set": _collection("$set"),
    "datetime:date": _date,
    "datetime:datetime": _datetime,
    "datetime:time": _time,
    "datetime:timedelta": _timedelta,
    "decimal:Decimal": _decimal,
}

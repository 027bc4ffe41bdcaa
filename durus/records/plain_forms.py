"""The forms of values that JSON lacks, and what can be asked of values in these forms. Statements EXP-2 to EXP-9."""

import base64
import json
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

from durus.error import RecordError
from durus.implementation import implementation
from durus.records.pickle_machine import MAX_NAME

Plain: TypeAlias = object
"""None, a bool, an int, a finite float, a str, bytes, a bytearray, a list, a dict with short str keys, or a Form."""

MAX_DEPTH = 150
"""How deep the JSON of a state may be nested. [EXP-10]"""
MAX_KEY = 100
"""How many characters a key of a JSON object, or a text that is repeated where it occurs again, may have. [EXP-9]"""
_WITH_PARTS = (list, dict)
"""The types of values that children() and references() look into."""


class NoFormError(RecordError):
    """The data of a record can be loaded, but has no form. [EXP-10]"""


class Form(dict[str, Plain]):
    """A value that JSON lacks, in the form of spec/export.md; a dict of the state is a plain dict."""

    __slots__ = ()


@lru_cache(maxsize=1000)
def class_text(module: str, qualname: str) -> str | tuple[str, str]:
    """Return a name as `module:qualname`, or as a pair if there is a colon in one of the two. [EXP-4]"""
    if len(module) + len(qualname) > MAX_NAME:
        raise RecordError(f"its data has a name of {len(module) + len(qualname)} characters")
    return (module, qualname) if ":" in module or ":" in qualname else f"{module}:{qualname}"


def dotted(cls: str | tuple[str, str]) -> str:
    """Return the name that class_text() made, with a dot in place of the colon, as people write it."""
    return cls.replace(":", ".") if isinstance(cls, str) else ".".join(cls)


def to_json(value: Plain) -> str:
    """Return a plain value as JSON, in ASCII."""
    text = usual_json(value)
    return _ENCODER.encode(value) if text is None else text


def usual_json(value: Plain) -> str | None:
    """Return a usual value as JSON; None if the encoder must do it. Without C, this is always so."""
    return None


@lru_cache(maxsize=1000)
def json_of_name(name: Plain) -> str:
    """Return a name, as class_text() has it, as JSON."""
    return to_json(name)


def _bytes_form(value: object) -> Form:
    if isinstance(value, bytes | bytearray):
        return Form({"$bytearray" if isinstance(value, bytearray) else "$bytes": base64.b64encode(value).decode()})
    raise TypeError(f"{type(value).__name__} is not a plain value")


_ENCODER = json.JSONEncoder(default=_bytes_form, check_circular=False)


def children(value: Plain) -> Iterator[tuple[str | int, Plain]]:
    """Yield the parts of a plain value, each with its key in it."""
    if isinstance(value, list):
        yield from enumerate(value)
    elif isinstance(value, dict):
        yield from value.items()


def references(state: Plain) -> list[tuple[str, Form]]:
    """Return each reference in a state, with the path to it: `.lines[3]`, `.data['key']`. [EXP-43]"""
    usual = usual_references(state, _KIT)
    if usual is not None:
        return usual
    found: list[tuple[str, Form]] = []
    _find(found, "", state, True)
    return found


def usual_references(state: Plain, kit: tuple[object, ...]) -> list[tuple[str, Form]] | None:
    """Return what references() does in the usual case; None if it must look itself. Without C, this is always so."""
    return None


def _find(found: list[tuple[str, Form]], path: str, part: Plain, has_attributes: bool) -> None:
    if isinstance(part, list):
        for number, each in enumerate(part):
            if isinstance(each, _WITH_PARTS):
                _find(found, f"{path}[{number}]", each, False)
    elif isinstance(part, Form) and "$ref" in part:
        found.append((path, part))
    elif isinstance(part, dict):
        for step in _steps(path, part, has_attributes):
            _find(found, *step)


def target_of(reference: Form) -> tuple[int, str]:
    """Return oid and class of a reference, the class with a dot after its module."""
    match reference:
        case {"$ref": int() as number, "class": (str() | tuple()) as cls}:
            return number, dotted(cls)
    raise RecordError("a reference in its data lacks an oid or a class")


def _steps(path: str, part: dict[str, Plain], has_attributes: bool) -> Iterator[tuple[str, Plain, bool]]:
    """Yield the parts of a dict that have parts, with their paths, and whether their keys are names of attributes."""
    is_form = isinstance(part, Form)
    for key, value in part.items():
        if key == "$dict" or (is_form and key == "pairs"):
            for pair in value if isinstance(value, list) else ():
                match pair:
                    case [name, item]:
                        yield f"{path}[{_short(name)}]", item, False
                        yield f"{path} key", name, False
        elif not isinstance(value, _WITH_PARTS):
            continue
        elif is_form:
            yield path, value, key == "state" or (key == "$value" and has_attributes)
        else:
            yield (f"{path}.{key}" if has_attributes else f"{path}[{key!r}]"), value, False


def _short(key: Plain) -> str:
    text = repr(key[:MAX_KEY]) if isinstance(key, str) else to_json(key)
    return text if len(text) <= MAX_KEY + 2 else f"{text[:MAX_KEY]}..."


_KIT = (Form, _short, "$ref")
"""What usual_references() takes."""

if not TYPE_CHECKING and implementation == "C":
    from durus import _persistent

    usual_json = _persistent.usual_json
    usual_references = _persistent.usual_references

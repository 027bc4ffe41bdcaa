"""Values as short texts with links, and their parts. Statement CMD-53.

A value is what records.plain has read, and can be hostile. A text of it takes no more time and space than its limit:
what is longer is cut before it is looked at.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Literal, NamedTuple

from durus.error import ArgumentError
from durus.records.plain_forms import Form, Plain, dotted, target_of
from durus.text import printable

MAX_NAME = 120
"""How many characters of a name are shown."""
_MAX_TEXT = 200
"""How many characters of a text, or bytes, are shown inside of another value."""
_CALLS = ("$call", "$new")
_TEXTS = ("$date", "$datetime", "$time", "$decimal", "$uuid", "$float")
_BRACKETS = {"$tuple": "()", "$set": "{}", "$frozenset": "{}"}


class Piece(NamedTuple):
    """A piece of a text."""

    text: str
    oid: int | None = None
    """The object that it stands for."""


class Shown(NamedTuple):
    """A value as a text."""

    pieces: list[Piece]
    is_cut: bool
    """True if there is more of it."""


class Part(NamedTuple):
    """A part of a value."""

    kind: Literal["item", "key", "name"]
    """What `key` is: an index, a value, or a name that Durus gives to the part."""
    key: Plain
    value: Plain

    def key_pieces(self) -> list[Piece]:
        """Return the text of the key."""
        return [Piece(short_name(str(self.key)))] if self.kind == "name" else shown(self.key, _MAX_TEXT).pieces


def short_name(name: str) -> str:
    """Return a name of a class or an attribute as it is shown: on one line, and not endless."""
    return printable(name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}…")


def class_title(name: str) -> str:
    """Return the last part of the name of a class."""
    return short_name(name[-MAX_NAME:].rpartition(".")[2] or name)


def shown(value: Plain, limit: int = 300) -> Shown:
    """Return a value as a text of about `limit` characters at most, much as Python writes it."""
    return _within(_gen_pieces(value), limit)


def shown_attributes(attributes: dict[str, Plain], limit: int) -> Shown:
    """Return attributes and their values as a text."""
    return _within(_gen_joined(Part("name", name, value) for name, value in attributes.items()), limit)


_CUT = Piece("…")


def _within(pieces: Iterable[Piece], limit: int) -> Shown:
    """Return the pieces up to the limit, or to the first cut."""
    taken: list[Piece] = []
    for piece in pieces:
        limit -= len(piece.text)
        if piece is _CUT or limit < 0:
            return Shown([*taken, _CUT], True)
        if taken and piece.oid is taken[-1].oid is None:
            taken[-1] = Piece(taken[-1].text + piece.text)
        else:
            taken.append(piece)
    return Shown(taken, False)


def _gen_pieces(value: Plain) -> Iterator[Piece]:
    """Yield the pieces of a value, with _CUT where a text is too long."""
    if isinstance(value, str | bytes | bytearray):
        yield Piece(repr(value[:_MAX_TEXT]))
        if len(value) > _MAX_TEXT:
            yield _CUT
    elif isinstance(value, Form):
        yield from _gen_form(value)
    elif isinstance(value, list | dict):
        yield from _gen_enclosed("[]" if isinstance(value, list) else "{}", value)
    else:
        yield Piece(repr(value))


def _gen_form(form: Form) -> Iterator[Piece]:
    key = next(iter(form))
    inner = form[key]
    if key == "$ref":
        number, name = target_of(form)
        yield Piece(f"{class_title(name)} {number}", number)
    elif key == "$id":
        yield Piece(f"#{inner} ")
        yield from _gen_pieces(form["$value"])
    elif key == "$same":
        yield Piece(f"#{inner}")
    elif key == "$class":
        yield Piece(f"<{_name(inner)}>")
    elif key == "$int" and isinstance(inner, str):
        yield Piece(inner[:_MAX_TEXT])
        if len(inner) > _MAX_TEXT:
            yield _CUT
    elif key in _TEXTS:
        yield Piece(f"{key[1:]} {short_name(str(inner))}")
    elif key == "$timedelta" and isinstance(inner, list):
        yield Piece("timedelta {} days {}.{:06} s".format(*inner))
    elif key in _CALLS:
        yield from _gen_form(inner) if isinstance(inner, Form) else [Piece(_name(inner))]
        yield Piece("(")
        yield from _gen_joined(_flattened(form))
        yield Piece(")")
    else:
        yield from [Piece("frozenset ")] if key == "$frozenset" else []
        yield from _gen_enclosed(_BRACKETS.get(key, "{}"), form)


def _name(name: Plain) -> str:
    return short_name(dotted(name) if isinstance(name, str | tuple) else str(name))


def _gen_enclosed(brackets: str, value: Plain) -> Iterator[Piece]:
    yield Piece(brackets[0])
    yield from _gen_joined(_gen_parts(value))
    yield Piece(brackets[1])


def _flattened(form: Form) -> Iterator[Part]:
    """Yield the parts of a call or an instance, with its arguments and attributes in place of the lists of them."""
    for part in _gen_parts(form):
        if part.key == "args" and isinstance(part.value, list):
            yield from _gen_parts(part.value)
        elif part.key == "state" and type(part.value) is dict and "$dict" not in part.value:
            yield from (Part("name", *each) for each in part.value.items())
        else:
            yield part


def _gen_joined(parts: Iterable[Part]) -> Iterator[Piece]:
    for number, part in enumerate(parts):
        if number:
            yield Piece(", ")
        if part.kind == "name":
            yield Piece(f"{short_name(str(part.key))}=")
        elif part.kind == "key":
            yield from _gen_pieces(part.key)
            yield Piece(": ")
        yield from _gen_pieces(part.value)


# Parts


def without_number(value: Plain) -> Plain:
    """Return a value without the number that it has because it occurs more than once."""
    return value["$value"] if isinstance(value, Form) and "$id" in value else value


def count_of(value: Plain) -> int:
    """Return how many parts a value has."""
    inner = _inner(without_number(value))
    if isinstance(inner, Form):
        return len(inner) - 1 if next(iter(inner)) in _CALLS else 0
    return len(inner) if isinstance(inner, list | dict) else 0


def parts_of(value: Plain, start: int, stop: int) -> list[Part]:
    """Return some parts of a value, by their indexes."""
    return list(_gen_parts(without_number(value), start, stop))


def part_at(value: Plain, path: Sequence[int]) -> tuple[list[Part], Plain]:
    """Return the parts on the way to a part, by an index in each, and its value; ArgumentError if it is not there."""
    parts: list[Part] = []
    for index in path:
        found = parts_of(value, index, index + 1)
        if not found:
            raise ArgumentError("the value has no such part; it may have changed")
        parts += found
        value = found[0].value
    return parts, value


def _inner(value: Plain) -> Plain:
    """Return the list in the form of a collection, or the value itself."""
    if isinstance(value, dict):
        first = next(iter(value), "")
        if first == "$dict" or (isinstance(value, Form) and first in _BRACKETS):
            return value[first]
    return value


def _gen_parts(value: Plain, start: int = 0, stop: int | None = None) -> Iterator[Part]:
    inner = _inner(value)
    if isinstance(inner, list):
        some = enumerate(islice(inner, start, stop), start)
        has_keys = isinstance(value, dict) and "$dict" in value
        yield from (Part("key", *each) if has_keys else Part("item", number, each) for number, each in some)
    elif isinstance(inner, Form):
        names = list(inner)[1:] if next(iter(inner)) in _CALLS else []
        yield from (Part("name", name, inner[name]) for name in names[start:stop])
    elif isinstance(inner, dict):
        yield from (Part("key", key, each) for key, each in islice(inner.items(), start, stop))

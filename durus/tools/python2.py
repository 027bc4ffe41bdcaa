"""Reads databases of Python 2, whose strs become text or bytes by rule. Statements REC-24 to REC-27."""

import pickle
from collections import Counter
from collections.abc import Collection, Iterator
from typing import NamedTuple

from durus.error import ArgumentError, FormatError, RecordError
from durus.oid import format_oid
from durus.records.record import pack_record, unpack_record
from durus.records.rewrite import replace_steps
from durus.storage import Storage
from durus.text import printable
from durus.tools.python2_strings import STRING_STEPS, Place, read_strings

_SHOWN_BYTES = 40
"""How many bytes of a str a list shows."""


class Undecided(NamedTuple):
    """Strs of Python 2 in one place of a class that no rule decides: how many there are, and the first one."""

    class_name: str
    pattern: str
    """Their path in an object, with `[*]` for any index or key."""
    number: int
    oid: bytes
    path: str
    value: bytes

    def __str__(self) -> str:
        cut = "..." if len(self.value) > _SHOWN_BYTES else ""
        return (
            f"{self.class_name}{self.pattern}: {self.number}, the first in oid {format_oid(self.oid)} at {self.path}: "
            f"{self.value[:_SHOWN_BYTES]!r}{cut}"
        )


class UndecidedError(FormatError):
    """A database of Python 2 has strs for which no rule decides between text and bytes; `undecided` lists them."""

    def __init__(self, undecided: Collection[Undecided]) -> None:
        lines = "".join(f"\n  {printable(str(one))}" for one in undecided)
        super().__init__(
            "nothing is written, since it can't be told if these are text or bytes; name the attribute or key of "
            f"those that are bytes with --bytes-attribute, and the encoding of the others with --encoding:{lines}"
        )
        self.undecided = list(undecided)

    def __str__(self) -> str:
        return str(self.args[0])  # in several lines


class Rules:
    """The rules that turn a str of Python 2 into text or bytes. [REC-24]

    `bytes_attributes` are names of attributes and keys, `encoding` is that of text which is not ASCII.
    ArgumentError if there is no such encoding.
    """

    def __init__(self, bytes_attributes: Collection[str] = (), encoding: str | None = None) -> None:
        self._bytes_attributes = frozenset(bytes_attributes)
        self._encoding = encoding
        try:
            bytes(4).decode(encoding or "ascii")
        except LookupError as error:
            raise ArgumentError(f"{encoding!r} is not an encoding of text that Python knows") from error

    def is_bytes_attribute(self, class_name: str, name: str) -> bool:
        """Return whether the value of a name, or key, in an object of this class was declared as bytes."""
        return name in self._bytes_attributes or f"{class_name}.{name}" in self._bytes_attributes

    def text(self, value: bytes) -> str | None:
        """Return the text of the bytes of a str, None if that is unknown."""
        for encoding in ("ascii", self._encoding or "ascii"):
            try:
                return value.decode(encoding)
            except UnicodeDecodeError:
                continue
        return None


class Python2Records(Storage):
    """The records of a storage of Python 2, with text and bytes in place of strs, for reading only."""

    def __init__(self, source: Storage, rules: Rules) -> None:
        self._source = source
        self._rules = rules
        self._first: dict[tuple[str, str], Undecided] = {}
        self._counts: Counter[tuple[str, str]] = Counter()
        self.texts = 0
        """How many strs have become text so far."""
        self.byte_strings = 0
        """How many have become bytes, including those in references."""

    def has_record(self, oid: bytes) -> bool:
        return self._source.has_record(oid)

    def gen_oid_record(self, start_oid: bytes | None = None, batch_size: int = 100) -> Iterator[tuple[bytes, bytes]]:
        """Yield (oid, record) as Storage does; UndecidedError at the end if there was a str that no rule decides."""
        for oid, record in self._source.gen_oid_record(start_oid, batch_size):
            _, data, refs = unpack_record(record)
            try:
                translated = self._translated(oid, data)
            except RecordError as error:
                raise RecordError(f"the record of oid {format_oid(oid)}: {error}; nothing is written") from error
            yield oid, pack_record(oid, translated, refs)
        if self._first:
            raise UndecidedError([one._replace(number=self._counts[key]) for key, one in sorted(self._first.items())])

    def _translated(self, oid: bytes, data: bytes) -> bytes:
        reading = read_strings(data)
        places = reading.places(self._rules.is_bytes_attribute)
        texts: list[str | None] = []
        new: list[bytes | None] = []
        for use, place in zip(reading.uses, places, strict=True):
            if use is None:
                texts.append(None)
                new.append(None)
                continue
            text = None if place.is_bytes else self._rules.text(use.value)
            if text is None and not place.is_bytes:
                self._note_undecided(oid, reading.class_name, place, use.value)
            is_as_it_was_made = use.maker != len(new) and (text is None) == (texts[use.maker] is None)
            texts.append(text)
            new.append(None if is_as_it_was_made else _step(use.value, text))
            self.texts += text is not None
            self.byte_strings += text is None
        return replace_steps(data, STRING_STEPS, new)

    def _note_undecided(self, oid: bytes, class_name: str, place: Place, value: bytes) -> None:
        key = class_name, place.pattern
        self._first.setdefault(key, Undecided(class_name, place.pattern, 0, oid, place.path, value))
        self._counts[key] += 1


def _step(value: bytes, text: str | None) -> bytes:
    """Return the steps that create the bytes, or the text if it is not None, in a pickle of any protocol."""
    if text is not None:
        encoded = text.encode("utf-8")
        return pickle.BINUNICODE + len(encoded).to_bytes(4, "little") + encoded
    if len(value) < 256:
        return pickle.SHORT_BINBYTES + bytes([len(value)]) + value
    return pickle.BINBYTES + len(value).to_bytes(4, "little") + value

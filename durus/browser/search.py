"""Finds objects by an attribute, some at a time. Statement CMD-55."""

from collections.abc import Iterator
from typing import NamedTuple

from durus.browser.index import Objects
from durus.browser.pages import Row, class_of_number, ordered, row_of
from durus.browser.values import shown, without_number
from durus.browser.view import View
from durus.error import ArgumentError, DurusError
from durus.oid import oid_from_int
from durus.records.plain_forms import Plain
from durus.records.record import unpack_record
from durus.tools.export_cells import attributes_of
from durus.tools.exported import exported_of

_MAX_CLASSES = 100
_MAX_FOUND = 50
_MAX_OBJECTS = 10_000
_MAX_BYTES = 1 << 25
"""How much is looked at for one page."""
_LOOKED_AT = 2000
"""How many characters of a value that is not text are looked at."""


class Query(NamedTuple):
    """What is looked for."""

    class_number: int | None
    """None for objects of any class."""
    attribute: str
    """The name of an attribute; empty for any."""
    text: str
    """What its value contains; empty for anything."""


class SearchPage(NamedTuple):
    """What was found."""

    query: Query
    classes: list[Objects]
    """Those that can be chosen."""
    is_complete: bool
    """False while the index is being built: nothing can be found yet."""
    rows: list[tuple[Row, Objects]]
    looked_at: int
    total: int
    next: int | None
    """Where the search continues."""


def search_page(view: View, query: Query, start: int) -> SearchPage:
    """Look at objects from an index on, until a page is full."""
    chosen = view.index.by_number if query.class_number is None else [class_of_number(view, query.class_number)]
    choice = sorted({*ordered(view, "bytes")[:_MAX_CLASSES], *chosen[:1]}, key=lambda each: each.name)
    total = sum(len(each.oids) for each in chosen)
    if start < 0:
        raise ArgumentError("a search starts at a number that is not negative")
    if not view.is_indexed or not (query.attribute or query.text):
        return SearchPage(query, choice, view.is_indexed, [], 0, total, None)
    rows: list[tuple[Row, Objects]] = []
    size = looked_at = 0
    for number, objects in _from(chosen, start):
        looked_at += 1
        record_size, is_found = _look(view, number, query)
        size += record_size
        if is_found:
            rows.append((row_of(view, number), objects))
        if len(rows) == _MAX_FOUND or looked_at == _MAX_OBJECTS or size > _MAX_BYTES:
            break
    after = start + looked_at
    return SearchPage(query, choice, True, rows, after, total, after if after < total else None)


def _from(classes: list[Objects], start: int) -> Iterator[tuple[int, Objects]]:
    """Yield the objects of classes from an index on."""
    for objects in classes:
        count = len(objects.oids)
        for index in range(min(start, count), count):
            yield objects.oids[index], objects
        start = max(0, start - count)


def _look(view: View, number: int, query: Query) -> tuple[int, bool]:
    """Return the size of the record of an object, and whether it is one that is looked for."""
    try:
        record = view.source.records.read(oid_from_int(number))
        if record is None:
            return 0, False
        exported = exported_of(*unpack_record(record))
    except DurusError:
        return 0, False
    if exported.state is None:
        return len(record), False
    attributes = attributes_of(exported.state)
    if query.attribute:
        attributes = {name: value for name, value in attributes.items() if name == query.attribute}
    return len(record), any(_contains(value, query.text) for value in attributes.values())


def _contains(value: Plain, text: str) -> bool:
    value = without_number(value)
    if not isinstance(value, str):
        value = "".join(piece.text for piece in shown(value, _LOOKED_AT).pieces)
    return text.casefold() in value.casefold()

"""What the pages show, as data for the templates. Statements CMD-53 to CMD-55."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import NamedTuple

from durus.browser import charts, graph
from durus.browser.graph import Neighbour
from durus.browser.index import Objects, Problem
from durus.browser.tree import Place, tree_in
from durus.browser.values import (
    Part,
    Piece,
    Shown,
    count_of,
    part_at,
    parts_of,
    short_name,
    shown,
    shown_attributes,
    without_number,
)
from durus.browser.view import View, checked_oid
from durus.error import ArgumentError, DurusError, RecordError
from durus.oid import ROOT_OID, oid_to_int
from durus.records.contents import class_name_of
from durus.records.plain_forms import Form, Plain, references, target_of
from durus.records.record import data_of, split_oids, unpack_record
from durus.storage import Commit
from durus.text import listed, printable, printable_lines
from durus.tools.export_cells import attributes_of
from durus.tools.exported import Exported, exported_of

PAGE = 100
"""How many rows a page has."""
_SECTION_ROWS = 20
"""How many rows a section of a page has."""
_ROW_TEXT = 140
_TEXT_PAGE = 20_000
"""How many characters of a text, or bytes, a page has."""
_LARGE = 1 << 20
"""Objects with more bytes are shown on their own pages only."""


class Pager(NamedTuple):
    """Which rows a page shows."""

    start: int
    stop: int
    total: int
    size: int

    @property
    def previous(self) -> int | None:
        """Where the page before begins."""
        return max(0, self.start - self.size) if self.start else None

    @property
    def next(self) -> int | None:
        """Where the page after begins."""
        return self.stop if self.stop < self.total else None


def _pager(start: int, total: int, size: int = PAGE) -> Pager:
    if start < 0:
        raise ArgumentError("a page starts at a number that is not negative")
    start = min(start, total)
    return Pager(start, min(start + size, total), total, size)


# Classes


class Overview(NamedTuple):
    """The first page."""

    facts: list[tuple[str, str]]
    classes: list[Objects]
    plot_of_classes: str
    plot_over_time: str | None
    problems: list[Problem]


def overview(view: View) -> Overview:
    """Return the facts about a database, its largest classes, and plots."""
    index = view.index
    facts = [*view.source.facts, ("objects", f"{index.count}, {charts.size_text(index.size)} in their records")]
    if index.unreadable:
        facts.append(("unreadable", f"{index.unreadable} of them can't be read"))
    points = [] if view.timeline is None else view.timeline.points
    return Overview(
        facts,
        ordered(view, "bytes")[:_SECTION_ROWS],
        charts.of_classes((each.name, each.size) for each in index.by_number).svg(),
        charts.over_time(points).svg() if len(points) > 1 and view.progress is None else None,
        index.problems[:_SECTION_ROWS],
    )


class Classes(NamedTuple):
    """All classes, or those whose names contain a text."""

    order: str
    name: str
    pager: Pager
    rows: list[Objects]


ORDERS = ("bytes", "objects", "name")


def classes(view: View, order: str, name: str, start: int) -> Classes:
    """Return a page of classes."""
    if order not in ORDERS:
        raise ArgumentError(f"classes are ordered by {', '.join(ORDERS)}")
    found = [each for each in ordered(view, order) if name.casefold() in each.name.casefold()]
    pager = _pager(start, len(found))
    return Classes(order, name, pager, found[pager.start : pager.stop])


def ordered(view: View, order: str) -> list[Objects]:
    """Return all classes in one of ORDERS."""
    if order == "name":
        return sorted(view.index.by_number, key=lambda each: each.name)
    if order == "objects":
        return sorted(view.index.by_number, key=lambda each: (-len(each.oids), each.name))
    return sorted(view.index.by_number, key=lambda each: (-each.size, each.name))


class Row(NamedTuple):
    """An object in a list."""

    oid: int
    size: int | None
    summary: Shown


class ClassPage(NamedTuple):
    """The objects of a class."""

    objects: Objects
    pager: Pager
    rows: list[Row]


def class_page(view: View, number: int, start: int) -> ClassPage:
    """Return a page of objects of a class."""
    found = class_of_number(view, number)
    pager = _pager(start, len(found.oids))
    return ClassPage(found, pager, [row_of(view, oid) for oid in found.oids[pager.start : pager.stop]])


def class_of_number(view: View, number: int) -> Objects:
    """Return a class by its number; ArgumentError if there is none."""
    if not 0 <= number < len(view.index.by_number):
        raise ArgumentError(f"there is no class with the number {number}; the list of classes may have changed")
    return view.index.by_number[number]


def row_of(view: View, number: int) -> Row:
    """Return an object as lists show it."""
    try:
        record = view.source.records.read(checked_oid(number))
        if record is None:
            return Row(number, None, _note("it has been removed"))
        if len(record) > _LARGE:
            return Row(number, len(record), _note("large"))
        exported = view.exported(record)
    except DurusError as error:
        return Row(number, None, _note(str(error)))
    if exported.state is None:
        return Row(number, len(record), _note(exported.problem or ""))
    return Row(number, len(record), shown_attributes(attributes_of(exported.state), _ROW_TEXT))


def _note(text: str) -> Shown:
    return Shown([Piece(f"({text})")], False)


# An object


class Attribute(NamedTuple):
    """An attribute, or a part of a value, as a row of a table."""

    key: list[Piece]
    value: Shown
    parts: int
    """How many parts the value has."""
    path: str
    """Where it is, for the page of the value."""


class Reference(NamedTuple):
    """An object that one refers to, or that refers to one."""

    oid: int
    class_name: str
    path: str


class ObjectPage(NamedTuple):
    """An object."""

    oid: int
    class_name: str
    class_number: int | None
    size: int
    commit: Commit | None
    """If it is an earlier state: the commit that has stored it."""
    problem: str | None
    attributes: list[Attribute]
    attribute_count: int
    is_tree: bool
    refs: list[Reference]
    ref_count: int
    """How many objects it refers to."""
    referrers: list[Reference]
    referrer_count: int
    graph: str
    has_history: bool
    is_root: bool


def object_page(view: View, base: str, number: int, commit: int | None = None) -> ObjectPage:
    """Return all about an object; DurusKeyError if there is none."""
    record, stored = view.record(number, commit)
    exported = view.exported(record)
    name = class_name_of(exported.data)
    known = view.index.classes.get(name)
    attributes = _attributes(exported)
    refs = list(islice(_gen_refs(exported), 10 * _SECTION_ROWS))
    referrers = view.index.referrers(number)
    shown_referrers = [Reference(each, view.class_name(each), "") for each in referrers[:_SECTION_ROWS]]
    drawn = [Neighbour(each.oid, each.class_name) for each in shown_referrers]
    return ObjectPage(
        oid=number,
        class_name=name,
        class_number=None if known is None else known.number,
        size=len(record),
        commit=stored,
        problem=exported.problem,
        attributes=_rows([Part("name", *each) for each in attributes.items()][:PAGE], (), 0),
        attribute_count=len(attributes),
        is_tree=stored is None and exported.state is not None and tree_in(exported.state.state, view.read) is not None,
        refs=refs[:_SECTION_ROWS],
        ref_count=max(len(exported.refs) // 8, len({each.oid for each in refs})),
        referrers=shown_referrers,
        referrer_count=len(referrers),
        graph=graph.around(base, Neighbour(number, name), drawn, _neighbours(view, refs)),
        has_history=view.source.past is not None,
        is_root=number == oid_to_int(ROOT_OID),
    )


def _neighbours(view: View, refs: list[Reference]) -> list[Neighbour]:
    """Return each object that is referred to once."""
    return [Neighbour(oid, name) for oid, name in {each.oid: each.class_name for each in refs}.items()]


def _attributes(exported: Exported) -> dict[str, Plain]:
    return {} if exported.state is None else attributes_of(exported.state)


def _gen_refs(exported: Exported) -> Iterator[Reference]:
    if exported.state is None or len(exported.data) > _LARGE:  # paths would take long to find
        yield from (Reference(oid_to_int(ref), "", "") for ref in split_oids(exported.refs))
    else:
        yield from (Reference(*target_of(each), _path(path)) for path, each in references(exported.state.state))


def _path(path: str) -> str:
    return printable(path if len(path) <= _ROW_TEXT else f"{path[:_ROW_TEXT]}…")


def _rows(parts: Sequence[Part], path: tuple[int, ...], start: int) -> list[Attribute]:
    return [
        Attribute(part.key_pieces(), shown(part.value), count_of(part.value), path_text((*path, number)))
        for number, part in enumerate(parts, start)
    ]


class References(NamedTuple):
    """A page of the objects that one refers to, or that refer to one."""

    oid: int
    class_name: str
    pager: Pager
    rows: list[Reference]


def refs_page(view: View, number: int, start: int) -> References:
    """Return what an object refers to."""
    record, _ = view.record(number, None)
    exported = view.exported(record)
    refs = list(_gen_refs(exported))
    pager = _pager(start, len(refs))
    return References(number, class_name_of(exported.data), pager, refs[pager.start : pager.stop])


def referrers_page(view: View, number: int, start: int) -> References:
    """Return what refers to an object, which need not exist."""
    checked_oid(number)
    found = view.index.referrers(number)
    pager = _pager(start, len(found))
    rows = [Reference(each, view.class_name(each), "") for each in found[pager.start : pager.stop]]
    return References(number, view.class_name(number), pager, rows)


# Values


def path_text(path: Sequence[int]) -> str:
    """Return a path, or a place, as addresses have it."""
    return ".".join(map(str, path))


def path_in(text: str) -> tuple[int, ...]:
    """Return the path, or the place, in an address; ArgumentError if it is none."""
    parts = text.split(".") if text else []
    if len(parts) > 200 or not all(part.isascii() and part.isdecimal() and len(part) < 20 for part in parts):
        raise ArgumentError("a place is numbers with dots between them")
    return tuple(map(int, parts))


class Step(NamedTuple):
    """A part on the way to a value."""

    key: list[Piece]
    path: str


class ValuePage(NamedTuple):
    """A value that is too long for the page of its object."""

    oid: int
    class_name: str
    commit: Commit | None
    path: str
    steps: list[Step]
    kind: str
    pager: Pager
    rows: list[Attribute]
    text: str | None


def value_page(view: View, number: int, path: tuple[int, ...], start: int, commit: int | None = None) -> ValuePage:
    """Return a page of a value; ArgumentError if it is not there."""
    record, stored = view.record(number, commit)
    exported = view.exported(record)
    attributes = [Part("name", *each) for each in _attributes(exported).items()]
    value: Plain
    if path:
        if path[0] >= len(attributes):
            raise ArgumentError("the object has no such attribute; it may have changed")
        parts, value = part_at(attributes[path[0]].value, path[1:])
        parts = [attributes[path[0]], *parts]
    else:
        parts, value = [], None
    value = without_number(value)
    text = None
    rows = []
    if not path:
        pager = _pager(start, len(attributes))
        rows = _rows(attributes[pager.start : pager.stop], path, pager.start)
    elif (whole := _text_in(value)) is not None:
        pager = _pager(start, len(whole), _TEXT_PAGE)
        text = _text_of(whole[pager.start : pager.stop], pager.start)
    else:
        pager = _pager(start, count_of(value))
        rows = _rows(parts_of(value, pager.start, pager.stop), path, pager.start)
    steps = [Step(part.key_pieces(), path_text(path[: depth + 1])) for depth, part in enumerate(parts)]
    kind = "bytes" if isinstance(value, bytes | bytearray) else "characters" if text is not None else "parts"
    return ValuePage(number, class_name_of(exported.data), stored, path_text(path), steps, kind, pager, rows, text)


def _text_in(value: Plain) -> str | bytes | bytearray | None:
    """Return the text or bytes that a value is; a form without parts is its text."""
    if isinstance(value, str | bytes | bytearray):
        return value
    if isinstance(value, Form) and isinstance(number := value.get("$int"), str):
        return number
    return None if isinstance(value, list | dict) else repr(value)


def _text_of(text: str | bytes | bytearray, start: int) -> str:
    """Return a page of a text with its lines, or of bytes in lines of hexadecimal digits."""
    if isinstance(text, str):
        return printable_lines(text)
    lines = range(0, len(text), 16)
    return "\n".join(f"{start + at:08x}  {text[at : at + 16].hex(' ')}" for at in lines)


class ItemsPage(NamedTuple):
    """Items of a BTree."""

    oid: int
    class_name: str
    key: str
    problem: str | None
    rows: list[tuple[Shown, Shown]]
    previous: str | None
    next: str | None


def items_page(view: View, number: int, place: Place, key: str) -> ItemsPage:
    """Return items of a BTree from a place on, or from a key on; ArgumentError if the object is none."""
    record, _ = view.record(number, None)
    exported = view.exported(record)
    tree = None if exported.state is None else tree_in(exported.state.state, view.read)
    if tree is None:
        raise ArgumentError(f"oid {number} is not a BTree")
    items, before, problem = [], [], None
    try:
        if key:
            place = tree.place_of(_key_of(key, tree.items_from((), 1)[0].key))
        items = tree.items_from(place, PAGE + 1)
        before = tree.items_before(place, PAGE) if place else []
    except (DurusError, IndexError) as error:
        problem = str(error) if isinstance(error, DurusError) else "the BTree is empty"
    more = items[PAGE:]
    return ItemsPage(
        oid=number,
        class_name=class_name_of(exported.data),
        key=key,
        problem=problem,
        rows=[(shown(each.key, _ROW_TEXT), shown(each.value, _ROW_TEXT)) for each in items[:PAGE]],
        previous=path_text(before[0].place) if before else None,
        next=path_text(more[0].place) if more else None,
    )


def _key_of(text: str, like: Plain) -> str | float:
    """Return the key that a text stands for, of the type of a key; RecordError if it is of no usual one."""
    if isinstance(like, str):
        return text
    try:
        if isinstance(like, int):
            return int(text) if len(text) < 400 else 0
        if isinstance(like, float):
            return float(text)
    except ValueError:
        raise RecordError(f"the keys of this BTree are numbers, and {short_name(text)!r} is none") from None
    raise RecordError("only keys that are texts or numbers can be looked for")


# History


class State(NamedTuple):
    """A state that an object had."""

    commit: Commit
    class_name: str
    size: int
    changes: str
    """How it differs from the one before."""


class HistoryPage(NamedTuple):
    """States of an object, the newest first."""

    oid: int
    class_name: str
    states: list[State]
    older: int | None
    """The last commit of the next page."""


def history_page(view: View, number: int, until: int | None) -> HistoryPage:
    """Return the states of an object, up to a commit."""
    kept: list[tuple[Commit, bytes]] = []
    for commit, record in view.history(checked_oid(number)):
        if until is not None and commit.number > until:
            break
        kept = [*kept[-_SECTION_ROWS:], (commit, record)]
    states = []
    before: _Attributes | None = None
    for commit, record in kept:
        attributes = _Attributes(record)
        states.append(State(commit, class_name_of(data_of(record)), len(record), _changes(before, attributes)))
        before = attributes
    older = kept[0][0].number if len(kept) > _SECTION_ROWS else None
    return HistoryPage(number, view.class_name(number), states[-_SECTION_ROWS:][::-1], older)


class _Attributes:
    """The attributes in a record, which is read at most once, although two states are compared with it."""

    def __init__(self, record: bytes) -> None:
        self._record = record
        self.are_large = len(record) > _LARGE

    @cached_property
    def by_name(self) -> dict[str, Plain]:
        return _attributes(exported_of(*unpack_record(self._record)))


def _changes(old: _Attributes | None, new: _Attributes) -> str:
    """Return the names of attributes that differ between two records."""
    if old is None:
        return "the first state that is still here"
    if old.are_large or new.are_large:
        return "(large)"
    before, after = old.by_name, new.by_name
    names = [name for name in {**before, **after} if name not in before or name not in after]
    names += [name for name in after if name in before and before[name] != after[name]]
    return listed(names, _SECTION_ROWS, short_name) if names else "nothing that can be read"

"""Exports to a SQLite database with a table for each class. Statements EXP-40 to EXP-46.

Rows are kept in a second file until all are known, because only then it is known which columns hold references, and of
which class, which a table must declare when it is made.
"""

import contextlib
import errno
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence

from durus.error import DurusError, FileError, RecordError
from durus.files.file import FileSystem
from durus.oid import format_oid, oid_to_int
from durus.progress import Progress
from durus.records.plain_forms import Form, Plain, dotted, references, to_json
from durus.tools.export_cells import Cell, Cells, attributes_of, unwrapped
from durus.tools.exported import Exported, stored_form

_MAX_COLUMNS = 500
"""Further attributes of a class share one column."""
_BATCH = 1000
_MAX_PLANS = 100
"""How many statements of a class are kept: each object could have other attributes."""
_LARGE = 1 << 14
"""The data of an object after which no more rows are gathered."""
_TABLES = """
create table classes (class text primary key, "table" text, objects integer);
create table attributes (class text, attribute text, "column" text, refers_to text);
create table objects (oid integer primary key, class text, problem text);
create table refs (source integer references objects (oid), path text, target integer);
create table staging.items (container, position, key, value, value_oid);
create table staging.nodes (oid integer primary key);
"""
_OWNED = """
create table staging.owned as with recursive owned (node, tree) as (
    select target, source from refs join staging.nodes on oid = target
        where path = '.root' and source not in (select oid from staging.nodes)
    union select refs.target, tree from owned join refs on source = node join staging.nodes on oid = target
        where path glob '.nodes[[]*') select * from owned;
create index staging.by_node on owned (node);
"""
_IS_DANGLING = """
select 1 from staging.items left join objects on oid = value_oid where value_oid is not null and oid is null limit 1
"""
_ITEMS = """
create table items (container integer references objects (oid), position integer, key, value, value_oid integer{});
insert into items select coalesce(tree, container), position, key, value, value_oid
    from staging.items left join staging.owned on position is null and node = container;
create index items_container on items (container);
create index items_value_oid on items (value_oid)
"""
_INDEXES = """
create index refs_source on refs (source);
create index refs_target on refs (target);
create index objects_class on objects (class)
"""
_INSERT_REF = "insert into refs values (?, ?, ?)"
_INSERT_ITEM = "insert into staging.items values (?, ?, ?, ?, ?)"
_OF_CONTAINERS = {"data", "s", "nodes"}
"""Attributes of which the containers of Durus have one."""
_RESERVED = ("classes", "attributes", "objects", "refs", "items")


class _Class:
    """One class: the table in which its rows are kept, and its columns."""

    def __init__(self, name: str, title: str, staged: str) -> None:
        self.name = name
        """As class_text() has it."""
        self.title = title
        self.staged = staged
        self.table = ""
        """The name of its table in the end."""
        self.columns: dict[str, str] = {}
        """The columns by attribute."""
        self.taken = {"oid", "(more)"}
        self.has_refs: set[str] = set()
        self.has_others: set[str] = set()
        """The attributes with values that are not references."""
        self.has_more = False
        self.plans: dict[tuple[str, ...], str] = {}
        """Statements that insert a row, by its attributes."""
        self.objects = 0


class SqliteTarget:
    """A new SQLite database in the empty file `path`."""

    def __init__(self, path: str, file_system: FileSystem) -> None:
        self._path = path
        self._file_system = file_system
        self._classes: dict[str, _Class] = {}
        self._by_name: dict[str | tuple[str, str] | None, _Class] = {}
        """The same, by the name as an exported object has it."""
        self._rows: defaultdict[str, list[Sequence[Cell]]] = defaultdict(list)
        self._pending = 0
        self._staging = f"{path}-staging"
        file_system.open(self._staging, "private").close()
        self._db = sqlite3.connect(path, isolation_level=None)
        try:
            with self._errors():
                self._db.execute("attach ? as staging", (self._staging,))
                for schema in ("main", "staging"):
                    self._db.execute(f"pragma {schema}.journal_mode = off")
                    self._db.execute(f"pragma {schema}.synchronous = off")
                self._db.executescript(_TABLES)
                self._db.execute("begin")
        except BaseException:
            self.close()
            raise

    def add(self, exported: Exported) -> None:
        try:
            self._add(exported)
            if self._pending >= _BATCH or len(exported.data) > _LARGE:
                self._flush()
        except sqlite3.Error as error:
            raise self._error_of(error) from error

    def finish(self) -> Iterator[Progress]:
        """Make the tables of the classes, and that of items, from what is kept."""
        with self._errors():
            self._flush()
            self._run(_INDEXES)
            self._run(_OWNED)
            is_dangling = self._db.execute(_IS_DANGLING).fetchone() is not None
            self._run(_ITEMS.format("" if is_dangling else " references objects (oid)"))
        taken = set(_RESERVED)
        for each in self._classes.values():
            each.table = _free_name(each.title, taken)
        for count, each in enumerate(self._classes.values(), 1):
            yield Progress("tables", count, len(self._classes))
            with self._errors():
                self._make_table(each, taken)
        with self._errors():
            self._db.execute("commit")

    def _run(self, statements: str) -> None:
        """Run statements within the transaction, which executescript() would end."""
        for statement in statements.split(";"):
            self._db.execute(statement)

    def close(self) -> None:
        self._db.close()
        if self._file_system.exists(self._staging):
            self._file_system.remove(self._staging)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._error_of(error) from error

    def _error_of(self, error: sqlite3.Error) -> FileError:
        is_full = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL
        return FileError(errno.ENOSPC if is_full else errno.EIO, f"SQLite: {error}", self._path)

    # Rows

    def _add(self, exported: Exported) -> None:
        number = oid_to_int(exported.oid)
        if number >= 1 << 63:
            raise DurusError(f"oid {format_oid(exported.oid)} is too high for SQLite; export to .jsonl")
        name = exported.class_name
        each = self._by_name.get(name) or self._class_of(name)
        each.objects += 1
        self._insert("insert into objects values (?, ?, ?)", ((number, each.name, exported.problem),))
        if exported.state is None:
            self._insert_attributes(each, number, {"(stored)": stored_form(exported)}, Cells())
            return
        attributes = attributes_of(exported.state)
        cells = Cells()
        self._insert_attributes(each, number, attributes, cells)
        if exported.refs:
            found = references(exported.state.state)
            self._insert(_INSERT_REF, [(number, _storable(path), _number(reference)) for path, reference in found])
        if not _OF_CONTAINERS.isdisjoint(attributes):
            self._insert_items(number, attributes, cells)

    def _insert(self, sql: str, rows: Sequence[Sequence[Cell]]) -> None:
        self._rows[sql] += rows
        self._pending += len(rows)

    def _flush(self) -> None:
        for sql, rows in self._rows.items():
            self._db.executemany(sql, rows)
        self._rows.clear()
        self._pending = 0

    def _class_of(self, name: str | tuple[str, str] | None) -> _Class:
        cell = _storable("(unreadable)" if name is None else name if isinstance(name, str) else to_json(name))
        found = self._classes.get(cell)
        if found is None:
            title = cell if name is None else _storable(dotted(name))
            found = self._classes[cell] = _Class(cell, title, f"staging.class_{len(self._classes)}")
            self._db.execute(f"create table {found.staged} (oid integer primary key)")
        self._by_name[name] = found
        return found

    def _insert_attributes(self, each: _Class, number: int, attributes: dict[str, Plain], cells: Cells) -> None:
        sql = each.plans.get(tuple(attributes))
        row: list[Cell]
        if sql is not None:
            for attribute, value in attributes.items():
                if type(value) is Form or attribute not in each.has_others:
                    self._note_kind(each, attribute, value)
            self._insert(sql, ([number, *cells.cells(attributes.values())],))
            return
        columns, more = ["oid"], {}
        row = [number]
        for attribute, value in attributes.items():
            if attribute not in each.columns and not self._make_column(each, attribute):
                more[attribute] = value
                continue
            self._note_kind(each, attribute, value)
            columns.append(each.columns[attribute])
            row.append(cells.cell(value))
        if more:
            if not each.has_more:
                self._db.execute(f'alter table {each.staged} add column "(more)"')
                each.has_more = True
            columns.append("(more)")
            row.append(to_json(more))
        sql = f"insert into {each.staged} ({', '.join(map(_quoted, columns))}) values ({', '.join('?' * len(row))})"
        if not more and len(each.plans) < _MAX_PLANS:
            each.plans[tuple(attributes)] = sql
        self._insert(sql, (row,))

    def _note_kind(self, each: _Class, attribute: str, value: Plain) -> None:
        if isinstance(value, Form) and "$ref" in value:
            each.has_refs.add(attribute)
        elif value is not None:
            each.has_others.add(attribute)

    def _make_column(self, each: _Class, attribute: str) -> bool:
        if len(each.columns) >= _MAX_COLUMNS:
            return False
        column = _free_name(_storable(attribute), each.taken)
        each.columns[attribute] = column
        self._db.execute(f"alter table {each.staged} add column {_quoted(column)}")
        return True

    def _insert_items(self, number: int, attributes: dict[str, Plain], cells: Cells) -> None:
        """Insert the items of containers. [EXP-44]"""
        rows: list[Sequence[Cell]] = []
        if "nodes" in attributes and isinstance(items := unwrapped(attributes.get("items")), list):
            self._insert("insert into staging.nodes values (?)", ((number,),))
            for item in items:
                match unwrapped(item):
                    case {"$tuple": [key, value]}:
                        rows.append((number, None, cells.cell(key), *_value(cells, value)))
        else:
            for position, (key, value) in enumerate(_items(attributes)):
                rows.append((number, position, cells.cell(key), *_value(cells, value)))
        self._insert(_INSERT_ITEM, rows)

    # Tables

    def _make_table(self, each: _Class, taken: set[str]) -> None:
        self._db.execute("insert into classes values (?, ?, ?)", (each.name, each.table, each.objects))
        columns, values, indexed = ["oid integer primary key"], ["oid"], []
        for attribute, column in each.columns.items():
            quoted = _quoted(column)
            referred = None
            if attribute in each.has_refs and attribute not in each.has_others:
                number = (
                    f"cast(substr({quoted}, 10, instr({quoted}, ',') - 10) as integer)"  # in {"$ref": 7, "class": …
                )
                referred = self._referred_table(each, quoted, number)
                target = "" if referred is None else f" references {_quoted(referred)} (oid)"
                columns.append(f"{quoted} integer{target}")
                values.append(number)
                indexed.append(column)
            else:
                columns.append(quoted)
                values.append(quoted)
            row = (each.name, _storable(attribute), column, referred)
            self._db.execute("insert into attributes values (?, ?, ?, ?)", row)
        if each.has_more:
            columns.append('"(more)"')
            values.append('"(more)"')
        table = _quoted(each.table)
        self._db.execute(f"create table {table} ({', '.join(columns)})")
        self._db.execute(f"insert into {table} select {', '.join(values)} from {each.staged}")
        for column in indexed:
            index = _free_name(f"{each.table} {column}", taken)
            self._db.execute(f"create index {_quoted(index)} on {table} ({_quoted(column)})")

    def _referred_table(self, each: _Class, quoted: str, number: str) -> str | None:
        """Return the table that a column refers to, None if a referenced object is missing. [EXP-42]"""
        found = self._db.execute(
            f"select distinct objects.class from {each.staged} left join objects on objects.oid = {number} "
            f"where {quoted} is not null limit 2"
        ).fetchall()
        if (None,) in found:
            return None
        return self._classes[found[0][0]].table if len(found) == 1 else "objects"


def _items(attributes: dict[str, Plain]) -> Iterator[tuple[Plain, Plain]]:
    """Yield key and value of each item of a dict, list or set of Durus."""
    match unwrapped(attributes.get("data")):
        case {"$dict": list() as pairs}:
            for pair in pairs:
                match pair:
                    case [key, value]:
                        yield key, value
        case dict() as plain if not isinstance(plain, Form):
            yield from plain.items()
        case list() as items:
            yield from enumerate(items)
    match unwrapped(attributes.get("s")):
        case {"$set": list() as members}:
            for member in members:
                yield None, member


def _value(cells: Cells, value: Plain) -> tuple[Cell, int | None]:
    """Return the cells `value` and `value_oid`."""
    if isinstance(value, Form) and "$ref" in value:
        return None, _number(value)
    return cells.cell(value), None


def _number(reference: Form) -> int:
    number = reference["$ref"]
    if not isinstance(number, int):
        raise RecordError("a reference in its data has no oid")
    if number >= 1 << 63:
        raise DurusError(f"oid {number} is too high for SQLite; export to .jsonl")
    return number


def _storable(text: str) -> str:
    """Return a text that can be a name in SQLite."""
    if text.isascii() and text and "\0" not in text:
        return text
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode() or "(empty)"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _free_name(name: str, taken: set[str]) -> str:
    """Return the name, with a number if it is taken: SQLite's names do not differ by case only. [EXP-40]"""
    free, number = f"({name})" if name.lower().startswith("sqlite_") else name, 1
    while free.lower() in taken:
        number += 1
        free = f"{name} ({number})"
    taken.add(free.lower())
    return free

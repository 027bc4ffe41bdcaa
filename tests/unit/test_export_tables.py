"""Export to SQLite and CSV: tables that answer questions in plain SQL. spec/export.md."""

import ast
import csv
import datetime as dt
import decimal
import os
import sqlite3
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from durus.btree import BTree
from durus.connection import Connection
from durus.file_storage import FileStorage
from durus.oid import oid_from_int
from durus.open_file import inspect_file
from durus.persistent import Persistent, PersistentObject
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.persistent_set import PersistentSet
from durus.records.record import pack_record
from durus.tools.export import Export


class Order(Persistent):
    name: Any
    other: Any
    paid: Any
    raw: Any
    tags: Any
    same: Any
    several: Any
    mixed: Any
    list: Any
    customer: Any
    lines: Any
    deep: Any


class ORDER(Persistent):
    pass


class Module(Persistent):
    def __init__(self, name: str) -> None:
        self.name = name
        self.imports: list[Module] = []


@pytest.fixture
def root(tmp_path: Path) -> Iterator[PersistentDict[str, Any]]:
    connection = Connection(FileStorage(tmp_path / "f.durus"))
    yield connection.get_root()
    connection.storage.close()


def export(root: PersistentDict[str, Any], new: Path, class_name: str | None = None) -> None:
    connection: Any = root._p_connection
    connection.commit()
    with closing(inspect_file(connection.storage.get_filename())) as inspection:
        for _ in Export(inspection.records, new, class_name).steps():
            pass


class Tables:
    """An export to SQLite."""

    def __init__(self, root: PersistentDict[str, Any], path: Path, class_name: str | None = None) -> None:
        self.path = path / "f.sqlite"
        export(root, self.path, class_name)
        assert sorted(each.name for each in path.iterdir()) == ["f.durus", "f.sqlite"]

    def ask(self, question: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.path)) as database:
            assert database.execute("pragma foreign_key_check").fetchall() == []
            assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
            return database.execute(question).fetchall()


def oid(obj: PersistentObject) -> int:
    return int.from_bytes(obj._p_oid or b"")


@pytest.mark.spec("EXP-40", "EXP-43")
def test_the_most_imported_module_of_the_standard_library(root: PersistentDict[str, Any], tmp_path: Path) -> None:
    folder = Path(os.__file__).parent
    modules = {path.stem: Module(path.stem) for path in sorted(folder.glob("*.py"))}
    for name in sys.builtin_module_names:
        modules[name] = Module(name)
    counts = dict.fromkeys(modules, 0)
    for path in folder.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imports = [each for each in ast.walk(tree) if isinstance(each, ast.Import)]
        for name in {alias.name for each in imports for alias in each.names} & modules.keys():
            modules[path.stem].imports.append(modules[name])
            counts[name] += 1
    root["modules"] = BTree(modules)
    tables = Tables(root, tmp_path)
    best = max(counts.values())
    question = f"""
        select name, count(*) from refs join "{__name__}.Module" on oid = target
        where path like '.imports%' group by target order by 2 desc, 1 limit 1
    """
    assert tables.ask(question) == [(min(name for name in counts if counts[name] == best), best)]


@pytest.mark.spec("EXP-41")
def test_values_are_what_sql_has_or_their_forms(root: PersistentDict[str, Any], tmp_path: Path) -> None:
    moment = dt.datetime(2026, 11, 27, 9, 30, tzinfo=dt.UTC)
    text = "x" * 200
    values = {
        "a": None,
        "b": True,
        "c": 1 << 62,
        "d": 0.5,
        "e": "\u00e4",
        "f": b"\xff",
        "g": moment,
        "h": decimal.Decimal("1.50"),
        "i": uuid.UUID(int=1),
        "j": [1, (2,)],
        "k": float("nan"),
        "l": 1 << 64,
        "m": "\ud800",
        "n": text,
        "o": text,
    }
    order = root["order"] = Order()
    vars(order).update(values)
    order._p_note_change()
    tables = Tables(root, tmp_path)
    columns = ", ".join(f'"{name}"' for name in values)
    assert tables.ask(f'select {columns} from "{__name__}.Order"') == [
        (
            None,
            1,
            1 << 62,
            0.5,
            "\u00e4",
            b"\xff",
            "2026-11-27T09:30:00+00:00",
            "1.50",
            "00000000-0000-0000-0000-000000000001",
            '[1, {"$tuple": [2]}]',
            '{"$float": "nan"}',
            '{"$int": "18446744073709551616"}',
            '"\\ud800"',
            text,
            text,
        )
    ]
    assert tables.ask(f'select oid from "{__name__}.Order"') == [(oid(order),)]


@pytest.mark.spec("EXP-40", "EXP-41")
def test_names_that_sqlite_does_not_tell_apart(root: PersistentDict[str, Any], tmp_path: Path) -> None:
    first, second = Order(), ORDER()
    vars(first).update({"oid": 1, "Name": 2, "name": 3, 'a"b': 4, "": 5, "select": 6, "\0": 7})
    root["orders"] = [first, second]
    tables = Tables(root, tmp_path)
    classes = f"select class, \"table\", objects from classes where class like '{__name__}%'"
    assert sorted(tables.ask(classes)) in (
        [(f"{__name__}:ORDER", f"{__name__}.ORDER", 1), (f"{__name__}:Order", f"{__name__}.Order (2)", 1)],
        [(f"{__name__}:ORDER", f"{__name__}.ORDER (2)", 1), (f"{__name__}:Order", f"{__name__}.Order", 1)],
    )
    assert tables.ask(f"select attribute, \"column\" from attributes where class = '{__name__}:Order'") == [
        ("oid", "oid (2)"),
        ("Name", "Name"),
        ("name", "name (2)"),
        ('a"b', 'a"b'),
        ("(empty)", "(empty)"),
        ("select", "select"),
        ("\\0", "\\0"),
    ]
    (table,) = tables.ask(f"select \"table\" from classes where class = '{__name__}:Order'")
    assert tables.ask(f'select * from "{table[0]}"') == [(oid(first), 1, 2, 3, 4, 5, 6, 7)]


@pytest.mark.spec("EXP-40")
def test_classes_whose_names_differ_only_in_where_the_module_ends(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path / "f.durus")
    storage.begin()
    for number, name in enumerate((b"a\nb.C", b"a.b\nC", b"x:y\nC")):
        record = pack_record(oid_from_int(number), b"\x80\x04c" + name + b"\n.\x80\x04N.", b"")
        storage.store(oid_from_int(number), record)
    storage.store(oid_from_int(9), pack_record(oid_from_int(9), b"x", b""))
    storage.end()
    with closing(inspect_file(tmp_path / "f.durus")) as inspection:
        for _ in Export(inspection.records, tmp_path / "f.sqlite").steps():
            pass
    with closing(sqlite3.connect(tmp_path / "f.sqlite")) as database:
        assert database.execute('select class, "table" from classes').fetchall() == [
            ("a:b.C", "a.b.C"),
            ("a.b:C", "a.b.C (2)"),
            ('["x:y", "C"]', "x:y.C"),
            ("(unreadable)", "(unreadable)"),
        ]
        assert "can't be read" in database.execute("select problem from objects where oid = 9").fetchone()[0]
        assert '"data": "eA=="' in database.execute('select "(stored)" from "(unreadable)"').fetchone()[0]
    storage.close()


@pytest.mark.spec("EXP-41")
def test_more_attributes_than_columns_share_one(root: PersistentDict[str, Any], tmp_path: Path) -> None:
    order = root["order"] = Order()
    vars(order).update({f"a{number}": number for number in range(502)})
    tables = Tables(root, tmp_path)
    assert tables.ask(f'select a499, "(more)" from "{__name__}.Order"') == [(499, '{"a500": 500, "a501": 501}')]


@pytest.mark.spec("EXP-42")
def test_references_are_foreign_keys_where_they_can_be(root: PersistentDict[str, Any], tmp_path: Path) -> None:
    one, two, other = Order(), Order(), ORDER()
    one.same, one.several, one.mixed = two, two, two
    two.same, two.several, two.mixed = None, other, "text"
    root["orders"] = [one, two]
    tables = Tables(root, tmp_path)
    table = tables.ask(f"select \"table\" from classes where class = '{__name__}:Order'")[0][0]
    rows = tables.ask(f'select oid, same, several, mixed from "{table}" order by oid')
    form = f'{{"$ref": {oid(two)}, "class": "{__name__}:Order"}}'
    expected = [(oid(one), oid(two), oid(two), form), (oid(two), None, oid(other), "text")]
    assert rows == sorted(expected)
    keys = {row[3]: row[2] for row in tables.ask(f'pragma foreign_key_list("{table}")')}
    assert keys == {"same": table, "several": "objects"}
    refers_to = dict(tables.ask(f"select attribute, refers_to from attributes where class = '{__name__}:Order'"))
    assert refers_to == {"same": table, "several": "objects", "mixed": None}


@pytest.mark.spec("EXP-42")
def test_what_is_not_exported_is_no_foreign_key(root: PersistentDict[str, Any], tmp_path: Path) -> None:
    order = root["order"] = Order()
    order.list = PersistentList()
    tables = Tables(root, tmp_path, f"{__name__}.Order")
    assert tables.ask(f'select list from "{__name__}.Order"') == [(oid(order.list),)]
    assert tables.ask("select class, objects from classes") == [(f"{__name__}:Order", 1)]


@pytest.mark.spec("EXP-43")
def test_references_are_listed_with_their_paths(root: PersistentDict[str, Any], tmp_path: Path) -> None:
    order = Order()
    list_: PersistentList[Any] = PersistentList()
    order.customer, order.lines, order.deep = list_, [1, (list_,)], {"key": {2: list_}, (1,): [list_]}
    root["order"] = order
    tables = Tables(root, tmp_path)
    assert sorted(tables.ask(f"select path from refs where target = {oid(list_)} and source = {oid(order)}")) == [
        (".customer",),
        (".deep['key'][2]",),
        ('.deep[{"$tuple": [1]}][0]',),
        (".lines[1][0]",),
    ]
    assert tables.ask(f"select source, path from refs where target = {oid(order)}") == [(0, ".data['order']")]


@pytest.mark.spec("EXP-44")
def test_items_of_containers(root: PersistentDict[str, Any], tmp_path: Path) -> None:
    order = Order()
    tree: BTree[Any, Any] = BTree((number, order if number == 50 else str(number)) for number in range(100))
    root["dict"] = PersistentDict({"a": 1, 2: order})
    root["list"] = PersistentList(["x", order])
    root["set"] = PersistentSet([3])
    root["tree"] = tree
    tables = Tables(root, tmp_path)

    def items(name: str) -> list[tuple[Any, ...]]:
        where = f"container = (select value_oid from items where container = 0 and key = '{name}')"
        return tables.ask(f"select position, key, value, value_oid from items where {where} order by position, key")

    assert items("dict") == [(0, "a", 1, None), (1, 2, None, oid(order))]
    assert items("list") == [(0, 0, "x", None), (1, 1, None, oid(order))]
    assert items("set") == [(0, None, 3, None)]
    rows = items("tree")
    assert [row[1] for row in rows] == list(range(100))
    assert (rows[7], rows[50]) == ((None, 7, "7", None), (None, 50, None, oid(order)))
    assert tables.ask("select count(*) from items") == [(4 + 2 + 2 + 1 + 100,)]


@pytest.mark.spec("EXP-50", "EXP-51")
def test_csv(root: PersistentDict[str, Any], tmp_path: Path) -> None:
    one, two = Order(), Order()
    one.name, one.other, one.paid = 'a "b",\nc', two, True
    two.name, two.raw, two.tags = "=1+1", b"\xff", ["x"]
    root["orders"] = [one, two]
    export(root, tmp_path / "orders.csv", f"{__name__}.Order")
    with (tmp_path / "orders.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header[0] == "oid"
    found = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    assert found[str(oid(one))] == {
        "oid": str(oid(one)),
        "name": 'a "b",\nc',
        "other": str(oid(two)),
        "paid": "true",
        "raw": "",
        "tags": "",
    }
    assert found[str(oid(two))] == {
        "oid": str(oid(two)),
        "name": "=1+1",
        "other": "",
        "paid": "",
        "raw": "ff",
        "tags": '["x"]',
    }
    export(root, tmp_path / "all.csv")
    with (tmp_path / "all.csv").open(newline="") as file:
        header, first, *rows = csv.reader(file)
    assert (header, len(rows)) == (["oid", "class", "state"], 2)
    assert first[:2] == ["0", "durus.persistent_dict:PersistentDict"]
    assert first[2].startswith('{"data": {"orders": [{"$ref": ')

"""Export to lines of JSON, and import: what a graph of odd values becomes, and that it comes back. spec/export.md."""

import base64
import collections
import datetime as dt
import decimal
import enum
import json
import math
import os
import pickle
import re
import struct
import tempfile
import tracemalloc
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durus.btree import BTree
from durus.cli.main import main
from durus.connection import Connection
from durus.error import AlreadyExistsError, ArgumentError, DamageError, FileError, FormatError, RecordError
from durus.file_storage import FileStorage
from durus.file_storage2 import FileStorage2
from durus.oid import oid_from_int
from durus.open_file import inspect_file
from durus.persistent import Persistent, PersistentObject
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.persistent_set import PersistentSet
from durus.records.contents import read_contents
from durus.records.plain import read_plain
from durus.records.plain_writer import write_plain
from durus.records.record import pack_record
from durus.records.stored_state import decompress_state
from durus.sqlite_storage import SqliteStorage
from durus.storage import MemoryStorage, Storage
from durus.tools.export import Export
from durus.tools.export_lines import HEADER
from durus.tools.import_lines import Import

CLASS = b"\x80\x04cshop\nOrder\n."


class Order(Persistent):
    pass


class Slots(PersistentObject):
    __slots__ = ("one", "two")


class Point(NamedTuple):
    x: Any
    y: Any


class Colour(enum.Enum):
    RED = 1


class Plain:
    def __init__(self, part: object) -> None:
        self.part = part


class Items(list[Any]):
    pass


class WithArguments:
    """Its arguments are also a value in its state."""

    def __init__(self, args: tuple[Any, ...]) -> None:
        self.args = args

    def __reduce__(self) -> tuple[Any, ...]:
        return Made, self.args, {"args": self.args}


class Made(WithArguments):
    def __init__(self, *args: Any) -> None:
        super().__init__(args)


def state_of(value: object, protocol: int = 4) -> str:
    """Return the JSON of a state."""
    return read_plain(CLASS + pickle.dumps(value, protocol)).json()


def form_of(value: object) -> Any:
    return json.loads(state_of(value))


def restored(text: str) -> Any:
    """Return the value that is made of the JSON of a state."""
    data = write_plain("shop:Order", json.loads(text)).data
    return pickle.loads(decompress_state(data[len(CLASS) :]))


def export(path: Path, new: Path, **options: Any) -> Export:
    inspection = inspect_file(path)
    try:
        work = Export(inspection.records, new, **options)
        for _ in work.steps():
            pass
    finally:
        inspection.close()
    return work


def import_lines(lines: Path, new: Path) -> None:
    for _ in Import(lines, new).steps():
        pass


def make(path: Path, **contents: object) -> None:
    connection = Connection(FileStorage(path))
    connection.get_root().update(contents)
    connection.commit()
    connection.storage.close()


# The forms


@pytest.mark.spec("EXP-2", "EXP-4", "EXP-5", "EXP-6")
@pytest.mark.parametrize(
    ("value", "form"),
    [
        ({"a": [None, True, 1, 0.5, "\u00e4\ud800"]}, '{"a": [null, true, 1, 0.5, "\\u00e4\\ud800"]}'),
        ({"$a": 1}, '{"$dict": [["$a", 1]]}'),
        ({"a": 1, 2: 3}, '{"$dict": [["a", 1], [2, 3]]}'),
        ({"a" * 101: 1}, f'{{"$dict": [["{"a" * 101}", 1]]}}'),
        (
            [1 << 53, -(1 << 53), (1 << 53) - 1],
            '[{"$int": "9007199254740992"}, {"$int": "-9007199254740992"}, 9007199254740991]',
        ),
        (1 << 1024, f'{{"$int": "{hex(1 << 1024)}"}}'),
        ([math.inf, -math.inf, math.nan], '[{"$float": "inf"}, {"$float": "-inf"}, {"$float": "nan"}]'),
        (struct.unpack(">d", bytes.fromhex("fff8000000000001"))[0], '{"$float": "fff8000000000001"}'),
        ([b"abc", bytearray(b"abc")], '[{"$bytes": "YWJj"}, {"$bytearray": "YWJj"}]'),
        ([(), (1,), (1, 2, 3, 4)], '[{"$tuple": []}, {"$tuple": [1]}, {"$tuple": [1, 2, 3, 4]}]'),
        ([{1}, frozenset([2])], '[{"$set": [1]}, {"$frozenset": [2]}]'),
        (dt.datetime(2026, 11, 27, 5, 12, 45, 1), '{"$datetime": "2026-11-27T05:12:45.000001"}'),
        (dt.datetime(2026, 11, 27, tzinfo=dt.UTC), '{"$datetime": "2026-11-27T00:00:00+00:00"}'),
        (dt.datetime(2026, 10, 25, 2, fold=1), '{"$datetime": "2026-10-25T02:00:00", "fold": 1}'),
        (dt.time(3, tzinfo=dt.timezone(dt.timedelta(hours=-2))), '{"$time": "03:00:00-02:00"}'),
        (
            dt.time(3, tzinfo=dt.timezone(dt.timedelta(0), "X")),
            '{"$time": "03:00:00", "zone": {"$call": "datetime:timezone", "args": [{"$timedelta": [0, 0, 0]}, "X"]}}',
        ),
        (dt.date(2026, 11, 27), '{"$date": "2026-11-27"}'),
        (dt.timedelta(-1, 2, 3), '{"$timedelta": [-1, 2, 3]}'),
        (decimal.Decimal("1.50"), '{"$decimal": "1.50"}'),
        (uuid.UUID(int=1), '{"$uuid": "00000000-0000-0000-0000-000000000001"}'),
        (uuid.UUID(int=-1 % (1 << 128)), '{"$uuid": "ffffffff-ffff-ffff-ffff-ffffffffffff"}'),
        (Order, f'{{"$class": "{__name__}:Order"}}'),
        (Colour.RED, f'{{"$call": "{__name__}:Colour", "args": [1]}}'),
        (Point(1, "b"), f'{{"$new": "{__name__}:Point", "args": [1, "b"]}}'),
        (Plain(3), f'{{"$new": "{__name__}:Plain", "state": {{"part": 3}}}}'),
        (collections.OrderedDict(b=1), '{"$call": "collections:OrderedDict", "pairs": [["b", 1]]}'),
        (Items([1, 2]), f'{{"$new": "{__name__}:Items", "items": [1, 2]}}'),
        (collections.deque([1], 2), '{"$call": "collections:deque", "args": [{"$tuple": []}, 2], "items": [1]}'),
    ],
)
def test_forms(value: object, form: str) -> None:
    assert state_of(value) == form
    assert state_of(restored(form)) == form
    assert repr(restored(form)) == repr(value) or type(value) is Plain


@pytest.mark.spec("EXP-1")
@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_has_the_same_forms(protocol: int) -> None:
    value = [
        b"ab\xff",
        {3},
        frozenset([4]),
        bytearray(b"x"),
        1 << 80,
        -5,
        70000,
        "\u00e4",
        2.5,
        {"a": ()},
        [True, None],
    ]
    value += [
        dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        collections.OrderedDict(a=1),
        Colour.RED,
        list,
        "x" * 300,
        b"y" * 300,
    ]
    assert state_of(value, protocol) == state_of(value)


@pytest.mark.spec("EXP-1")
def test_names_of_python_2_are_those_of_python_3() -> None:
    assert read_plain(b"\x80\x02cm\nC\n.\x80\x02c__builtin__\nunicode\n.").state == {"$class": "builtins:str"}
    assert read_plain(b"\x80\x02c__builtin__\nunicode\n.\x80\x02U\x01a.") == ("builtins:str", "a")


@pytest.mark.spec("EXP-1")
def test_nothing_that_a_record_names_is_imported_or_run() -> None:
    assert read_plain(b"\x80\x04cno.such\nIt\n.\x80\x04cos\n_exit\nK\x07\x85R.") == (
        "no.such:It",
        {"$call": "os:_exit", "args": [7]},
    )


@pytest.mark.spec("EXP-4")
def test_nested_classes_of_old_pickles_and_names_with_colons() -> None:
    nested = b"c__builtin__\ngetattr\ncm\nA\nU\x01B\x86R."
    assert read_plain(b"\x80\x02" + nested + b"\x80\x02" + nested) == ("m:A.B", {"$class": "m:A.B"})
    odd = read_plain(b"\x80\x04ca:b\nC\n.N.")
    assert odd.cls == ("a:b", "C")
    assert write_plain(["a:b", "C"], None).data.startswith(b"\x80\x04ca:b\nC\n.")


@pytest.mark.spec("EXP-9")
def test_shared_and_cyclic_values() -> None:
    inner: list[Any] = [1]
    assert form_of([inner, inner]) == [{"$id": 1, "$value": [1]}, {"$same": 1}]
    cycle: list[Any] = []
    cycle.append((cycle,))
    assert form_of(cycle) == {"$id": 1, "$value": [{"$tuple": [{"$same": 1}]}]}
    assert form_of(cycle[0]) == {"$id": 1, "$value": {"$tuple": [[{"$same": 1}]]}}
    again = restored(state_of(cycle[0]))
    assert again[0][0] is again
    itself = Plain(None)
    itself.part = (frozenset([itself]), itself)
    loaded = restored(state_of(itself))
    assert loaded.part[1] is loaded
    assert next(iter(loaded.part[0])) is loaded
    text, short = "x" * 101, "y" * 100
    assert form_of([text, text, short, short]) == [{"$id": 1, "$value": text}, {"$same": 1}, short, short]
    args = ([1], 2)
    made = restored(state_of(WithArguments(args)))
    assert form_of(WithArguments(args))["args"] == {"$id": 1, "$value": {"$tuple": [[1], 2]}}
    assert (made.args, type(made)) == (args, Made)


@pytest.mark.spec("EXP-6", "EXP-9")
@pytest.mark.parametrize(
    ("function", "argument", "other"),
    [
        (b"builtins\nset", b"]\x94(" + b"N" * 3000 + b"e", b""),
        (b"builtins\nfrozenset", b"]\x94(" + b"N" * 3000 + b"e", b""),
        (b"builtins\nbytearray", b"B\xb8\x0b\0\0" + b"x" * 3000 + b"\x94", b""),
        (b"_codecs\nencode", b"X\xb8\x0b\0\0" + b"x" * 3000 + b"\x94", b"\x8c\6latin1"),
    ],
)
def test_calls_do_not_repeat_what_they_are_given(function: bytes, argument: bytes, other: bytes) -> None:
    call = b"h\0h\1" + other + (b"\x86R" if other else b"\x85R")
    text = read_plain(CLASS + b"\x80\x04c" + function + b"\n\x940" + argument + b"0(" + call * 300 + b"l.").json()
    assert len(text) < 50_000


@pytest.mark.spec("EXP-10")
@pytest.mark.parametrize(
    ("state", "problem"),
    [
        (b"]" * 151 + b"a" * 150 + b".", "levels deep"),
        (b"\x82\1.", "EXT1"),
        (b"}}b.", "gives a state"),
        (b"cm\nC\n)\x81Nbh\0.", "can't be read"),
        (b"cm\nC\n)\x81Nb]Kaae0.", "can't be read"),
        (b"cm\nC\n)\x81NbNb.", "in an order"),
        (b"cm\n" + b"C" * 1001 + b"\n.", "name of"),
        (b"U\x01\xff.", "can't be read"),
        (b"cdatetime\ndate\n\x8c\x04ab\nd\x85R..", "continues after"),
        (b"cdatetime\ndate\nC\x04\0\0\0\0\x85R.", "can't be read"),
        (b"(N.", "before it has made"),
        (b"\x8c\x05abc.", "can't be read"),
        (b"(cm\n" + b"C" * 999 + b"\n\x94" + b"h\0" * 5000 + b"l.", "repeats long names"),
        (b"(\x8c\x01m\x94X\xe7\x03\0\0" + b"C" * 999 + b"\x94" + b"h\0h\1\x93" * 5000 + b"l.", "repeats long names"),
        (b"(C\x08" + bytes(8) + b"cm\n" + b"C" * 999 + b"\n\x86Q\x94" + b"h\0" * 5000 + b"l.", "repeats long names"),
        (
            b"(cbuiltins\ngetattr\ncm\nC\nX\xe3\3\0\0" + b"D" * 995 + b"\x86R\x94" + b"h\0" * 5000 + b"l.",
            "repeats long names",
        ),
    ],
)
def test_what_has_no_form_is_exported_as_it_is_stored(state: bytes, problem: str, tmp_path: Path) -> None:
    data = CLASS + b"\x80\x04" + state
    with pytest.raises(RecordError, match=problem):
        read_plain(data)
    storage = FileStorage(tmp_path / "f.durus")
    storage.begin()
    storage.store(bytes(8), pack_record(bytes(8), data, b""))
    storage.end()
    storage.close()
    work = export(tmp_path / "f.durus", tmp_path / "f.jsonl")
    assert work.unreadable == 1
    line = json.loads((tmp_path / "f.jsonl").read_text().splitlines()[1])
    assert line == {
        "oid": 0,
        "class": "shop:Order",
        "data": base64.b64encode(data).decode(),
        "refs": [],
        "problem": line["problem"],
    }
    import_lines(tmp_path / "f.jsonl", tmp_path / "g.durus")
    copy = FileStorage(tmp_path / "g.durus", readonly=True)
    assert copy.load(bytes(8)) == pack_record(bytes(8), data, b"")
    copy.close()


# Graphs of odd values

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.sampled_from(["$ref", "$id", "long" * 40])
    | st.binary(max_size=8)
    | st.datetimes(timezones=st.none() | st.sampled_from([dt.UTC, dt.timezone(dt.timedelta(hours=1), "Here")]))
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.sampled_from([Order, Colour.RED, 1 << 2000, int.from_bytes])
)
HASHABLE = st.recursive(
    LEAVES, lambda part: st.lists(part, max_size=3).map(tuple) | st.frozensets(part, max_size=3), max_leaves=5
)
VALUES = st.recursive(
    HASHABLE | st.binary(max_size=4).map(bytearray) | st.integers(0, 3).map(lambda number: Node(number)),
    lambda part: (
        st.lists(part, max_size=4)
        | st.lists(part, max_size=4).map(tuple)
        | st.dictionaries(HASHABLE, part, max_size=3)
        | st.dictionaries(st.text(max_size=3), part, max_size=3)
        | st.sets(HASHABLE, max_size=3)
        | part.map(lambda one: [one, one, (one, one)])
        | part.map(Plain)
        | part.map(lambda one: within(Plain(one)))
        | st.lists(part, max_size=3).map(Items)
        | st.lists(part, max_size=3).map(collections.deque)
        | st.builds(Point, part, part)
        | st.lists(part, max_size=2).map(lambda parts: WithArguments(tuple(parts)))
    ),
    max_leaves=10,
)


class Node(NamedTuple):
    """Stands for one of the persistent objects of a graph."""

    number: int


def within(value: Plain) -> Plain:
    value.part = [value, (value.part, value)]
    return value


def with_nodes(value: Any, nodes: list[Any], seen: dict[int, Any]) -> Any:
    """Replace stand-ins by the objects, where a value can be changed."""
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, Node):
        return nodes[value.number]
    seen[id(value)] = value
    if isinstance(value, list):
        value[:] = [with_nodes(each, nodes, seen) for each in value]
    elif isinstance(value, dict):
        for key in value:
            value[key] = with_nodes(value[key], nodes, seen)
    elif isinstance(value, Plain):
        value.part = with_nodes(value.part, nodes, seen)
    elif type(value) is tuple:
        seen[id(value)] = tuple(with_nodes(each, nodes, seen) for each in value)
    return seen[id(value)]


def assert_same(one: Any, other: Any, seen: dict[int, Any]) -> None:
    """Check that two values are equal, and that the same parts of them are identical."""
    if isinstance(one, WithArguments):
        assert isinstance(other, WithArguments)
    else:
        assert type(one) is type(other)
    if isinstance(one, PersistentObject):
        assert one._p_oid == other._p_oid
    elif isinstance(one, list | dict | tuple | Plain | WithArguments | collections.deque | bytearray):
        if id(one) in seen:
            assert seen[id(one)] is other or one == ()
            return
        seen[id(one)] = other
        if isinstance(one, dict):
            assert_same(list(one), list(other), {})
            one, other = list(one.values()), list(other.values())
        elif isinstance(one, Plain | WithArguments):
            one, other = list(vars(one).values()), list(vars(other).values())
        if isinstance(one, bytearray):
            assert one == other
            return
        assert len(one) == len(other)
        for each, its in zip(one, other, strict=True):
            assert_same(each, its, seen)
    else:
        assert one == other or repr(one) == repr(other)


@pytest.mark.spec("EXP-3", "EXP-9", "EXP-30")
@given(st.lists(VALUES, min_size=4, max_size=4))
def test_a_graph_of_odd_values_comes_back(values: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        connection = Connection(FileStorage(path / "f.durus"))
        nodes: list[Any] = [Order(), Slots(), PersistentList(), PersistentDict()]
        values = [with_nodes(each, nodes, {}) for each in values]
        nodes[0].value, nodes[1].one, nodes[2][:], nodes[3]["value"] = values[0], values[1], [values[2]], values[3]
        connection.get_root().update(nodes=nodes)
        connection.commit()
        connection.storage.close()
        originals = [each.__getstate__() for each in nodes]
        work = export(path / "f.durus", path / "f.jsonl")
        assert (work.objects, work.unreadable) == (5, 0)
        import_lines(path / "f.jsonl", path / "g.durus")
        export(path / "g.durus", path / "g.jsonl")
        assert (path / "g.jsonl").read_text() == (path / "f.jsonl").read_text()
        inspection = inspect_file(path / "g.durus")
        assert list(inspection.findings()) == []
        inspection.close()
        copy = Connection(FileStorage(path / "g.durus", readonly=True))
        for node, original in zip(copy.get_root()["nodes"], originals, strict=True):
            assert_same(original, node.__getstate__(), {})
        copy.storage.close()


@pytest.mark.spec("EXP-3")
@given(VALUES)
def test_references_are_those_that_the_checks_find(value: object) -> None:
    storage = MemoryStorage()
    connection = Connection(storage)
    nodes: list[Any] = [Order(), Order(), Order(), Order()]
    connection.get_root().update(value=with_nodes(value, nodes, {}))
    connection.commit()
    record = storage.load(bytes(8))
    data = record[12 : 12 + int.from_bytes(record[8:12], "big")]
    plain = read_plain(data)
    assert write_plain(plain.cls, json.loads(plain.json())).refs == read_contents(data).refs


# Files


@pytest.mark.spec("EXP-20", "EXP-21", "EXP-30")
@pytest.mark.parametrize("storage_class", [FileStorage, FileStorage2, SqliteStorage])
def test_every_kind_of_file_is_exported(storage_class: Callable[[Path], Storage], tmp_path: Path) -> None:
    connection = Connection(storage_class(tmp_path / "f"))
    root = connection.get_root()
    root["tree"], root["set"] = BTree((number, str(number)) for number in range(100)), PersistentSet([1])
    connection.commit()
    connection.storage.close()
    export(tmp_path / "f", tmp_path / "f.jsonl")
    lines = (tmp_path / "f.jsonl").read_text().splitlines()
    assert (lines[0], lines[-1]) == (HEADER, f'{{"objects": {len(lines) - 2}}}')
    assert all(line.isascii() for line in lines)
    import_lines(tmp_path / "f.jsonl", tmp_path / "g")
    copy = Connection(FileStorage(tmp_path / "g"))
    assert list(copy.get_root()["tree"].items()) == [(number, str(number)) for number in range(100)]
    copy.storage.close()


@pytest.mark.spec("EXP-22")
def test_an_export_replaces_no_file_and_has_the_permissions_of_the_database(tmp_path: Path) -> None:
    make(tmp_path / "f.durus")
    (tmp_path / "f.durus").chmod(0o640)
    export(tmp_path / "f.durus", tmp_path / "f.jsonl", permissions_of=tmp_path / "f.durus")
    assert (tmp_path / "f.jsonl").stat().st_mode & 0o777 == 0o640
    export(tmp_path / "f.durus", tmp_path / "g.jsonl")
    assert (tmp_path / "g.jsonl").stat().st_mode & 0o777 == 0o600
    with pytest.raises(AlreadyExistsError):
        export(tmp_path / "f.durus", tmp_path / "f.jsonl")
    with pytest.raises(ArgumentError, match=r"must end in \.jsonl"):
        export(tmp_path / "f.durus", tmp_path / "f.json")


@pytest.mark.spec("EXP-22")
@pytest.mark.parametrize("kind", [".jsonl", ".sqlite", ".csv"])
def test_an_export_of_a_damaged_file_leaves_nothing(kind: str, tmp_path: Path) -> None:
    make(tmp_path / "f.durus", all=[Order() for _ in range(300)])
    data = bytearray((tmp_path / "f.durus").read_bytes())
    inspection = inspect_file(tmp_path / "f.durus")
    offset = dict(inspection.records.offsets())[oid_from_int(250)]
    data[offset : offset + 8] = b"\xff" * 8
    steps = Export(inspection.records, tmp_path / f"g{kind}").steps()
    (tmp_path / "f.durus").write_bytes(data)
    with pytest.raises(DamageError):
        list(steps)
    inspection.close()
    assert [each.name for each in tmp_path.iterdir()] == ["f.durus"]


@pytest.mark.spec("EXP-22")
def test_an_export_has_the_state_of_its_start(tmp_path: Path) -> None:
    connection = Connection(FileStorage(tmp_path / "f.durus"))
    root = connection.get_root()
    root["all"] = [Order() for _ in range(300)]
    connection.commit()
    inspection = inspect_file(tmp_path / "f.durus")
    steps = Export(inspection.records, tmp_path / "f.jsonl").steps()
    next(steps)
    for order in root["all"]:
        order.new = True
    root["more"] = Order()
    connection.commit()
    connection.pack()
    for _ in steps:
        pass
    inspection.close()
    text = (tmp_path / "f.jsonl").read_text()
    assert text.endswith('{"objects": 301}\n')
    assert '"new"' not in text
    connection.storage.close()


@pytest.mark.spec("EXP-23")
def test_an_export_takes_no_more_memory_for_more_objects(tmp_path: Path) -> None:
    peaks = []
    for count in (2_000, 20_000):
        path = tmp_path / f"{count}.durus"
        connection = Connection(FileStorage(path))
        connection.get_root()["all"] = BTree((number, PersistentList([number])) for number in range(count))
        connection.commit()
        connection.pack()
        connection.storage.close()
        tracemalloc.start()
        try:
            export(path, tmp_path / f"{count}.jsonl")
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] < peaks[0] + (2 << 20)


@pytest.mark.spec("EXP-23")
def test_objects_of_one_class_are_exported(tmp_path: Path) -> None:
    make(tmp_path / "f.durus", one=Order(), two=PersistentList())
    for number, name in enumerate((f"{__name__}.Order", f"{__name__}:Order")):
        work = export(tmp_path / "f.durus", tmp_path / f"{number}.jsonl", class_name=name)
        assert work.objects == 1
        assert f'"class": "{__name__}:Order"' in (tmp_path / f"{number}.jsonl").read_text()
    with pytest.raises(FormatError, match="the root"):
        import_lines(tmp_path / "0.jsonl", tmp_path / "g.durus")


@pytest.mark.spec("EXP-23")
@pytest.mark.parametrize("kind", ["jsonl", "csv", "sqlite"])
@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("Order", f"did you mean '{__name__}.Order'?"),
        (f"{__name__}:Ordre", f"did you mean '{__name__}.Order'?"),
        ("x.Y", f"there are objects of 'durus.persistent_dict.PersistentDict', '{__name__}.Order'"),
    ],
)
def test_a_class_without_objects_is_an_error_that_names_the_one_that_was_meant(
    name: str, advice: str, kind: str, tmp_path: Path
) -> None:
    make(tmp_path / "f.durus", one=Order())
    with pytest.raises(ArgumentError, match=f"there is no object of the class .*; {re.escape(advice)}$"):
        export(tmp_path / "f.durus", tmp_path / f"new.{kind}", class_name=name)
    assert os.listdir(tmp_path) == ["f.durus"]


# Import

ROOT = '{"oid": 0, "class": "durus.persistent_dict:PersistentDict", "state": {"data": {}}}'


@pytest.mark.spec("EXP-31", "EXP-32")
@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ([], r"line 0: the file ends before"),
        (["{}"], r"line 1: the first line must be"),
        ([HEADER, ROOT], r"line 2: the file ends before"),
        ([HEADER, ROOT, '{"objects": 2}'], r'line 3: \{"objects": 1\} is expected'),
        ([HEADER, ROOT, '{"objects": 1}', ROOT], r"line 4: a line after the last one"),
        ([HEADER, ROOT, ROOT], r"line 3: oid 0 has a line already"),
        ([HEADER, "x"], r"line 2: a JSON object is expected"),
        ([HEADER, "[]"], r"line 2: a JSON object is expected"),
        ([HEADER, "[" * 100_000], r"line 2: "),
        ([HEADER, '{"oid": -1}'], r'line 2: "oid" must be a number'),
        ([HEADER, '{"oid": 0, "state": 1}'], r"line 2: the keys oid, class and state are expected"),
        ([HEADER, '{"oid": 0, "class": "C", "state": 1}'], r"line 2: a class must be module:name"),
        ([HEADER, '{"oid": 0, "class": "m\\n:C", "state": 1}'], r'line 2: "class" must be'),
        ([HEADER, '{"oid": 0, "class": "m:C", "state": NaN}'], r"line 2: .*NaN is not JSON"),
        ([HEADER, '{"oid": 0, "class": "m:C", "state": 1e999}'], r"line 2: a number must be finite"),
        ([HEADER, '{"oid": 0, "class": "m:C", "state": {"a": 1, "$b": 2}}'], r"line 2: a key that starts with \$"),
        ([HEADER, '{"oid": 0, "class": "m:C", "state": {"$odd": 2}}'], r"line 2: there is no form"),
        ([HEADER, '{"oid": 0, "class": "m:C", "state": {"$set": [], "x": 1}}'], r"line 2: a \$set has no 'x'"),
        ([HEADER, '{"oid": 0, "class": "m:C", "state": {"$set": 1}}'], r'line 2: "\$set" must be a list'),
        ([HEADER, '{"oid": 0, "class": "m:C", "state": {"$bytes": "?"}}'], r'line 2: "\$bytes" must be base64'),
        ([HEADER, '{"oid": 0, "class": "m:C", "state": {"$bytes": 1}}'], r'line 2: "\$bytes" must be a text'),
        ([HEADER, '{"oid": 0, "class": "m:C", "state": {"$int": "x"}}'], r'line 2: "\$int" must be'),
        ([HEADER, '{"oid": 0, "class": "m:C", "state": {"$float": "1"}}'], r'line 2: "\$float" must be'),
        ([HEADER, '{"oid": 0, "class": "m:C", "state": {"$float": "12"}}'], r'line 2: "\$float" must be'),
        ([HEADER, '{"oid": 0, "class": "m:C", "state": {"$date": "x"}}'], r'line 2: "\$date" must be'),
        ([HEADER, '{"oid": 0, "class": "m:C", "state": {"$datetime": "x"}}'], r"line 2: \$datetime must be"),
        ([HEADER, '{"oid": 0, "class": "m:C", "state": {"$datetime": "2026-01-01", "fold": 2}}'], r'line 2: "fold"'),
        ([HEADER, '{"oid": 0, "class": "m:C", "state": {"$timedelta": [1]}}'], r'line 2: "\$timedelta" must be'),
        ([HEADER, '{"oid": 0, "class": "m:C", "state": {"$timedelta": [99999999999, 0, 0]}}'], r"line 2: "),
        ([HEADER, '{"oid": 0, "class": "m:C", "state": {"$uuid": "12"}}'], r'line 2: "\$uuid" must be'),
        ([HEADER, '{"oid": 0, "class": "m:C", "state": {"$dict": [[1]]}}'], r"line 2: a list of a key and a value"),
        ([HEADER, '{"oid": 0, "class": "m:C", "state": {"$ref": 1}}'], r'line 2: \{"\$ref": oid'),
        ([HEADER, '{"oid": 0, "class": "m:C", "state": {"$same": 1}}'], r"line 2: no value before"),
        ([HEADER, '{"oid": 0, "class": "m:C", "state": {"$id": 1}}'], r'line 2: \{"\$id": number'),
        ([HEADER, '{"oid": 0, "class": "m:C", "state": {"$id": 1, "$value": {"$same": 1}}}'], r"line 2: .*nested"),
        ([HEADER, '{"oid": 0, "class": "m:C", "state": {"$id": 1, "$value": {"$tuple": [{"$same": 1}]}}}'], r"nested"),
        ([HEADER, '{"oid": 0, "class": "m:C", "data": "?", "refs": [], "problem": ""}'], r'line 2: "data" must be'),
        ([HEADER, '{"oid": 0, "class": "m:C", "data": 1, "refs": [], "problem": ""}'], r'line 2: "data" must be'),
        ([HEADER, '{"oid": 0, "class": "m:C", "data": "", "refs": [], "problem": ""}'], r'line 2: "data" must have'),
        ([HEADER, '{"oid": 1, "class": "m:C", "state": 1}', '{"objects": 1}'], r"no line has oid 0"),
        (
            [HEADER, '{"oid": 0, "class": "m:C", "state": {"$ref": 7, "class": "m:C"}}', '{"objects": 1}'],
            r"the object 0 refers to oid 7, which no line has",
        ),
        (
            [HEADER, '{"oid": 0, "class": "m:C", "state": {"$ref": 1099511627776, "class": "m:C"}}'],
            r"line 2: oid 1099511627776 is too high",
        ),
    ],
)
def test_a_wrong_line_is_told_and_nothing_is_left(lines: list[str], problem: str, tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(FormatError, match=problem):
        import_lines(path, tmp_path / "g.durus")
    assert [each.name for each in tmp_path.iterdir()] == ["f.jsonl"]


@pytest.mark.spec("EXP-32")
def test_an_import_replaces_no_file(tmp_path: Path) -> None:
    (tmp_path / "f.jsonl").write_text(f'{HEADER}\n{ROOT}\n{{"objects": 1}}\n')
    (tmp_path / "f.jsonl").chmod(0o640)
    import_lines(tmp_path / "f.jsonl", tmp_path / "g.durus")
    assert (tmp_path / "g.durus").stat().st_mode & 0o777 == 0o640
    with pytest.raises(AlreadyExistsError):
        import_lines(tmp_path / "f.jsonl", tmp_path / "g.durus")
    with pytest.raises(FileError):
        import_lines(tmp_path / "none.jsonl", tmp_path / "h.durus")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["f.jsonl", "g.durus"]


@pytest.mark.spec("EXP-31")
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_arbitrary_bytes_are_refused(line: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "f.jsonl").write_bytes(HEADER.encode() + b"\n" + line)
        with pytest.raises(FormatError):
            import_lines(path / "f.jsonl", path / "g.durus")


@pytest.mark.spec("EXP-10")
@given(st.binary(max_size=40))
def test_arbitrary_states_are_read_or_refused(state: bytes) -> None:
    try:
        text = read_plain(CLASS + state).json()
    except RecordError:
        return
    assert json.loads(text) is not ...


# The commands


@pytest.mark.spec("CMD-1", "EXP-22", "EXP-30")
def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    times = iter([f"2026-01-0{day}T00:00:00.000000Z" for day in range(1, 9)])
    connection = Connection(FileStorage("f.durus", clock=lambda: next(times)))
    for number in range(3):
        connection.get_root()["number"] = number
        connection.commit()
    connection.storage.close()
    assert main(["export", "f.durus", "--to", "f.jsonl"]) == 0
    assert main(["export", "f.durus", "--to", "old.jsonl", "--at", "2026-01-03"]) == 0
    assert main(["import", "f.jsonl", "g.durus"]) == 0
    assert capsys.readouterr().out == (
        "f.durus: 1 object exported to f.jsonl\n"
        "f.durus: 1 object exported to old.jsonl\n"
        "f.jsonl: 1 object imported to g.durus\n"
    )
    assert '"number": 2' in Path("f.jsonl").read_text()
    assert '"number": 1' in Path("old.jsonl").read_text()
    assert main(["export", "f.durus", "--to", "f.jsonl"]) == 1
    assert main(["export", "f.durus", "--to", "f.xml"]) == 2
    assert main(["export", "f.durus", "--to", "old2.jsonl", "--at", "2025-01-03"]) == 2
    assert "no commit was made at" in capsys.readouterr().err


def test_an_export_tells_what_is_exported_as_it_is_stored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = FileStorage(tmp_path / "f.durus")
    storage.begin()
    storage.store(bytes(8), pack_record(bytes(8), CLASS + b"(", b""))
    storage.store(oid_from_int(1), pack_record(oid_from_int(1), b"x", b""))
    storage.end()
    storage.close()
    assert main(["export", str(tmp_path / "f.durus"), "--to", str(tmp_path / "f.jsonl")]) == 0
    assert "2 of them as stored bytes, the first because of this: oid 0: " in capsys.readouterr().out
    lines = (tmp_path / "f.jsonl").read_text().splitlines()
    assert lines[2].startswith('{"oid": 1, "class": null, "data": "eA=="')

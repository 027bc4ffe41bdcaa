"""What spec/pickle.md says of the pickles in records is true of Python's, and of what this implementation writes."""

import datetime
import decimal
import pickle
import pickletools
import re
import uuid
from collections import OrderedDict
from fractions import Fraction
from typing import Any

import pytest

from durus.connection import Connection
from durus.error import RecordError, StateError
from durus.files.inspection import record_findings
from durus.objects.trust import Trust
from durus.oid import ROOT_OID, oid_from_int
from durus.persistent import Persistent
from durus.persistent_dict import PersistentDict
from durus.records.plain import check_plain
from durus.records.record import pack_record, unpack_record
from durus.records.stored_state import decompress_state
from durus.serialize import RecordConnection
from durus.storage import MemoryStorage
from tests.spec import SPEC, Example, all_examples, bytes_and_expected

EXAMPLES = {each.name: each for each in all_examples() if each.document == "pickle.md"}
REFUSED = [each for each in EXAMPLES.values() if "error" in bytes_and_expected(each)[1]]
FOUND_BY_LOADING = {
    *(f"pickle-with-a-{key}" for key in ("list-as-a-key", "set-as-a-key", "list-in-a-key")),
    *(f"pickle-of-a-str-with{what}" for what in ("out-quotes", "-two-kinds-of-quotes")),
    *(f"pickle-of-a-str-with-an-{what}" for what in ("escape-that-is-cut-off", "octal-escape-above-127")),
}
"""What a check does not find: it hashes no keys, and reads no escapes in the str of Python 2."""
CLASS = b"\x80\x04cdurus.persistent_dict\nPersistentDict\n."


def loaded(data: bytes) -> PersistentDict[str, Any]:
    """Return the object of a record with this data, in a connection."""
    connection = Connection(MemoryStorage())
    root = connection.get_root()
    root["it"] = PersistentDict()
    connection.commit()
    oid = root["it"]._p_oid
    storage = connection.storage
    storage.begin()
    storage.store(oid, pack_record(oid, data, b""))
    storage.end()
    root["it"]._p_set_status_ghost()
    found = root["it"]
    assert isinstance(found, PersistentDict)
    return found


def value_of(state: bytes) -> Any:
    """Return the value of a dict's key `it` that the steps in `state` make."""
    return loaded(CLASS + b"\x80\x04}\x8c\x04data}\x8c\x02it" + state + b"ss.")["it"]


def of_example(name: str) -> dict[str, Any]:
    return dict(loaded(unpack_record(bytes_and_expected(EXAMPLES[name])[0])[1]))


def stored_again(obj: PersistentDict[str, Any]) -> bytes:
    """Return the state pickle that a commit of an object stores."""
    connection = obj._p_connection
    assert isinstance(connection, Connection)
    obj._p_note_change()
    connection.commit()
    data = unpack_record(connection.storage.load(obj._p_oid or b""))[1]
    return decompress_state(data[data.index(b"\n.") + 2 :])


def reduced(value: object) -> Any:
    return value.__reduce_ex__(4)


def opcodes_of(statement: str) -> dict[str, int]:
    """Return the names and bytes in the table of a statement."""
    text = (SPEC / "pickle.md").read_text("utf-8").partition(f"**[{statement}]**")[2].partition("\n**[")[0]
    found: dict[str, int] = {}
    for names, codes in re.findall(r"^\| ([A-Z0-9_, ]+) \| ([`0-9a-f, ]+) \|", text, re.MULTILINE):
        pairs = zip(names.split(", "), re.findall("[0-9a-f]{2}", codes), strict=True)
        found |= {name: int(code, 16) for name, code in pairs}
    return found


@pytest.mark.spec("PICKLE-3", "PICKLE-4", "PICKLE-6")
def test_the_tables_have_all_opcodes_but_those_that_are_refused() -> None:
    known = {each.name: ord(each.code) for each in pickletools.opcodes}
    refused = {"PERSID", "NEXT_BUFFER", "READONLY_BUFFER", "EXT1", "EXT2", "EXT4"}
    described = opcodes_of("PICKLE-3") | opcodes_of("PICKLE-4")
    assert described == {name: code for name, code in known.items() if name not in refused}


@pytest.mark.spec("PICKLE-3")
def test_pickles_of_protocol_4_have_the_opcodes_that_a_reader_must_know() -> None:
    values: list[object] = [
        None,
        True,
        False,
        1,
        300,
        -1,
        2**40,
        2**2100,
        1.5,
        "a",
        "b" * 300,
        b"a",
        b"b" * 300,
        [],
        [1],
        [1, 2],
    ]
    values += [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), {}, {1: 2}, {1: 2, 3: 4}, set(), {1}, frozenset({1})]
    recursive: list[Any] = []
    recursive.append((recursive,))
    state = pickle.dumps([*values, recursive[0], uuid.UUID(int=5), list(map(str, range(300))) * 2], 4)
    used = {opcode.name for opcode, _, _ in pickletools.genops(state)}
    assert used <= opcodes_of("PICKLE-3").keys()


@pytest.mark.spec("PICKLE-1", "PICKLE-2", "PICKLE-6", "PICKLE-9", "PICKLE-14", "REC-17")
@pytest.mark.parametrize("example", REFUSED, ids=lambda each: each.name)
def test_what_is_no_pickle_is_refused_with_the_oid(example: Example) -> None:
    obj = loaded(unpack_record(bytes_and_expected(example)[0])[1])
    with pytest.raises((StateError, RecordError), match=r"^oid 1\b"):
        dict(obj)
    assert obj._p_is_ghost()


@pytest.mark.spec("CMD-12", "PICKLE-9")
@pytest.mark.parametrize("example", REFUSED, ids=lambda each: each.name)
def test_what_is_no_pickle_is_a_fault_for_a_check(example: Example) -> None:
    record = bytes_and_expected(example)[0]
    findings = record_findings([(oid_from_int(1), 0)], lambda oid, offset: record, None, "f")
    assert any(finding.is_fault for finding in findings) == (example.name not in FOUND_BY_LOADING)


@pytest.mark.spec("CMD-12")
@pytest.mark.parametrize(
    "example", [each for each in EXAMPLES.values() if each not in REFUSED], ids=lambda each: each.name
)
def test_what_is_loaded_is_no_fault_for_a_check(example: Example) -> None:
    check_plain(unpack_record(bytes_and_expected(example)[0])[1])


class Growing:
    """Is stored as a bytearray that grows, or that changes."""

    def __init__(self, appended: bytes, changed: list[tuple[int, int]]) -> None:
        self.appended, self.changed = appended, changed

    def __reduce__(self) -> tuple[Any, ...]:
        return bytearray, (b"ab",), None, iter(self.appended), iter(self.changed)


@pytest.mark.spec("CMD-12")
@pytest.mark.parametrize(("appended", "changed", "loaded"), [(b"cd", [], b"abcd"), (b"", [(0, 99)], b"cb")])
def test_a_bytearray_that_grows_is_no_fault_for_a_check(
    appended: bytes, changed: list[tuple[int, int]], loaded: bytes
) -> None:
    storage = MemoryStorage()
    writer = Connection(storage)
    writer.root["grown"] = Growing(appended, changed)
    writer.commit()
    writer.close()
    assert Connection(storage).root["grown"] == loaded
    check_plain(unpack_record(storage.load(ROOT_OID))[1])


@pytest.mark.spec("PICKLE-9")
@pytest.mark.parametrize("name", ["pickle-with-arguments-in-a-list", "pickle-with-arguments-of-an-instance-in-a-list"])
def test_arguments_in_a_list_are_refused_with_a_list_of_trusted_classes(name: str) -> None:
    record = bytes_and_expected(EXAMPLES[name])[0]
    oid = oid_from_int(5)
    obj = RecordConnection({oid: record}, lambda oid: b"", False, Trust([OrderedDict])).get(oid)
    assert obj is not None
    with pytest.raises(StateError, match=r"^oid 5\b.*tuple of arguments"):
        obj._p_load_state()


@pytest.mark.spec("PICKLE-1")
@pytest.mark.parametrize("pickle_of_class", [CLASS, b"\x80\x02cdurus.persistent_dict\nPersistentDict\nq\0."])
def test_bytes_after_the_state_are_refused(pickle_of_class: bytes) -> None:
    state = pickle.dumps({"data": {}}, 4)
    for rest in b"N.", state:
        with pytest.raises(RecordError, match=f"{len(rest)} bytes follow its state"):
            dict(loaded(pickle_of_class + state + rest))
    with pytest.raises(RecordError, match=r"0x7a at byte .* is not a step of a pickle"):
        dict(loaded(pickle_of_class + state + b"zz"))
    assert dict(loaded(pickle_of_class + state)) == {}


@pytest.mark.spec("PICKLE-4", "PICKLE-5")
def test_old_pickles_are_read() -> None:
    assert of_example("pickle-of-protocol-0") == {"a": [1, 2, True, 1.5, None], "b€": [1, 2, True, 1.5, None]}
    assert of_example("pickle-of-protocol-2") == {"bytes": b"\xff", "set": {1}}
    for protocol in range(3):
        for value in (b"", b"\xff\0", set(), {1}):
            state = pickle.dumps({"data": {"it": value}}, protocol)
            assert loaded(CLASS + state)["it"] == value


@pytest.mark.spec("PICKLE-7", "PICKLE-21")
def test_what_is_one_value_stays_one_and_what_is_two_stays_two() -> None:
    obj = loaded(CLASS + pickle.dumps({"data": {}}, 4))
    one: list[int] = [1]
    obj.update({"one": one, "same": one, "other": [1]})
    again = loaded(CLASS + stored_again(obj))
    assert again["one"] is again["same"]
    assert again["one"] is not again["other"]


@pytest.mark.spec("PICKLE-8", "PICKLE-22")
def test_deep_values_are_read_and_those_of_250_levels_are_stored_again() -> None:
    for open_one, close_one in ((b"]", b"a"), (b"]", b"\x85a")):
        for levels in (250, 1000):
            value = value_of(levels * open_one + (levels - 1) * close_one)
            depth = 0
            while value:
                value = value[0]
                depth += isinstance(value, list)
            assert depth == levels - 1
        obj = loaded(CLASS + b"\x80\x04}\x8c\x04data}\x8c\x02it" + 250 * open_one + 249 * close_one + b"ss.")
        assert len(loaded(CLASS + stored_again(obj))["it"]) == 1


@pytest.mark.spec("PICKLE-10", "PICKLE-11", "PICKLE-12")
def test_values_are_what_python_has() -> None:
    numbers = of_example("pickle-of-ints-and-floats")
    assert numbers["ints"] == [0, 255, 256, 65536, -1, 2**31, -(2**70)]
    assert [type(each) for each in numbers["floats"]] == [float, float]
    assert of_example("pickle-of-texts-and-bytes") == {"text": ["é", "😀", "", "\ud800"], "bytes": b"\0\xff"}
    assert of_example("pickle-of-containers")["dict"] == {1: 2, (3,): 4}
    dates = of_example("pickle-of-dates")
    assert dates["date"] == datetime.date(2026, 1, 2)
    assert dates["time"] == datetime.time(3, 4, 5, 6)
    assert dates["datetime"] == datetime.datetime(2026, 1, 2, 3, 4, 5, 6, datetime.UTC)
    assert dates["timedelta"] == datetime.timedelta(days=-1, seconds=2, microseconds=3)
    others = of_example("pickle-of-a-decimal-and-a-uuid")
    assert (str(others["decimal"]), others["uuid"]) == ("1.50", uuid.UUID(int=5))


@pytest.mark.spec("PICKLE-12")
def test_values_of_the_library_are_made_as_the_table_says() -> None:
    folded = datetime.datetime(2026, 1, 2, 3, 4, 5, 6, fold=1)
    assert folded.__reduce_ex__(4) == (datetime.datetime, (bytes([7, 234, 129, 2, 3, 4, 5, 0, 0, 6]),))
    assert folded.time().__reduce_ex__(4) == (datetime.time, (bytes([131, 4, 5, 0, 0, 6]),))
    name = datetime.timezone(datetime.timedelta(hours=1), "CET")
    assert reduced(name)[1] == (datetime.timedelta(seconds=3600), "CET")
    assert decimal.Decimal("1.50").__reduce_ex__(4) == (decimal.Decimal, ("1.50",))
    assert reduced(bytearray(b"a"))[:2] == (bytearray, (b"a",))
    for value in (Fraction(1, 2), 1 + 2j):
        function, arguments = reduced(value)[:2]
        assert function(*arguments) == value


@pytest.mark.spec("PICKLE-13")
def test_a_member_of_an_enum_by_its_name_is_that_by_its_value() -> None:
    by_name = of_example("pickle-of-a-member-of-an-enum-by-name")["safe"]
    by_value = value_of(b"\x8c\x04uuid\x8c\x08SafeUUID\x93K\0\x85R")
    assert by_name is by_value is uuid.SafeUUID.safe


@pytest.mark.spec("PICKLE-14")
def test_keys_that_are_equal_are_one() -> None:
    assert value_of(b"}(K\1K\1\x88K\2G\x3f\xf0\0\0\0\0\0\0K\3u") == {1: 3}


@pytest.mark.spec("PICKLE-20", "PICKLE-23")
def test_a_state_needs_no_frames_and_no_memo_for_its_names_to_be_found() -> None:
    connection = Connection(MemoryStorage())
    root = connection.get_root()
    it: Any = Persistent()
    root["it"] = it
    connection.commit()
    oid = it._p_oid or oid_from_int(1)
    storage = connection.storage
    storage.begin()
    storage.store(oid, pack_record(oid, b"\x80\x04cdurus.persistent\nPersistent\n.\x80\x04}\x8c\x04nameK\5s.", b""))
    storage.end()
    it._p_set_status_ghost()
    assert it.name == 5


@pytest.mark.spec("PICKLE-20")
def test_a_text_that_occurs_again_is_written_once() -> None:
    obj = loaded(CLASS + pickle.dumps({"data": {}}, 4))
    obj["it"] = [{"name": 1}, {"name": 2}]
    assert stored_again(obj).count(b"name") == 1

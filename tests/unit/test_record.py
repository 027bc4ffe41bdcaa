"""Records and what is in their data."""

import pickle
import random
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from durus.connection import Connection
from durus.error import RecordError, StateError
from durus.file_storage import FileStorage
from durus.files.file import OperatingSystem
from durus.files.shelf.inspection import ShelfInspection
from durus.oid import FIRST_RESERVED_OID, oid_from_int
from durus.persistent import ComputedAttribute, Persistent
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.records import stored_state
from durus.records.contents import read_contents
from durus.records.record import (
    class_pickle_of,
    data_of,
    extract_class_name,
    gen_refs,
    is_record_of,
    join_refs,
    oid_of,
    pack_record,
    parse_class_pickle,
    refs_of,
    refs_of_sound,
    split_oids,
    unpack_record,
)
from durus.serialize import class_pickle, compress_state, decompress_state
from durus.storage import MemoryStorage
from durus.tools.convert import copy_to_file
from durus.tools.rename import Renaming

ROOT, ONE, TWO = (oid_from_int(n) for n in range(3))


class Outer:
    class Inner(Persistent):
        pass


def stored(storage: MemoryStorage, *records: tuple[bytes, bytes, bytes]) -> Connection:
    """Return a connection to a storage into which these (oid, data, refs) were put as they are."""
    Connection(storage)
    storage.begin()
    for oid, data, refs in records:
        storage.store(oid, pack_record(oid, data, refs))
    storage.end()
    return Connection(storage)


RECORD_FORMS = [
    ROOT + length.to_bytes(4, "big") + bytes(rest) for length in (0, 1, 2, 3, 8, 16, 17) for rest in range(20)
] + [ROOT + b"\0\0\0", ROOT, b""]
"""Well-formed ones, and with each fault of the lengths."""


def outcome(read: Callable[[bytes], object], record: bytes) -> object:
    try:
        return read(record)
    except RecordError as error:
        return str(error)


@pytest.mark.spec("REC-4")
def test_oid_of_is_what_unpack_record_finds() -> None:
    answers = {outcome(oid_of, form) for form in RECORD_FORMS}
    assert ROOT in answers
    assert len(answers) > 2
    for form in RECORD_FORMS:
        assert outcome(oid_of, form) == outcome(lambda record: unpack_record(record)[0], form), form


@pytest.mark.spec("REC-5", "REC-6")
def test_is_record_of_each_form() -> None:
    for form in RECORD_FORMS:
        assert is_record_of(ROOT, form) is (outcome(oid_of, form) == ROOT), form
        assert is_record_of(ONE, form) is False
    assert is_record_of(FIRST_RESERVED_OID, pack_record(FIRST_RESERVED_OID, b"x", b"")) is False


def test_the_error_of_too_much_data_tells_the_limit() -> None:
    class Huge(bytes):
        def __len__(self) -> int:
            return 1 << 32

    with pytest.raises(RecordError, match=r"oid 1: 4294967296 bytes of data are too many.* at most 4294967295$"):
        pack_record(ONE, Huge(), b"")


def test_no_references_are_no_bytes() -> None:
    assert join_refs(ONE, []) == b""


@pytest.mark.spec("REC-1", "REC-4", "REC-7")
def test_record_is_oid_length_data_and_sorted_refs() -> None:
    refs = join_refs(ONE, [TWO, ROOT, ONE, TWO])
    assert split_oids(refs) == [ROOT, TWO]
    record = pack_record(ONE, b"abc", refs)
    assert record == ONE + b"\0\0\0\3abc" + ROOT + TWO
    assert unpack_record(record) == (ONE, b"abc", refs)
    assert data_of(record) == b"abc"
    assert refs_of(record) == refs_of_sound(record) == list(gen_refs(record)) == split_oids(refs)


@pytest.mark.spec("REC-5")
@pytest.mark.parametrize(
    "record",
    [
        b"",
        ONE + b"\0\0\0",
        ONE + bytes(4),
        ONE + b"\0\0\0\4abc",
        ONE + b"\0\0\0\x0babc",  # too short by as much as a reference takes
        ONE + b"\0\0\0\3abc" + b"1234567",
    ],
)
def test_malformed_record_is_refused(record: bytes) -> None:
    parts: list[Callable[[bytes], object]] = [unpack_record, data_of, refs_of, lambda record: list(gen_refs(record))]
    for read in parts:
        with pytest.raises(RecordError):
            read(record)


@pytest.mark.spec("REC-7")
def test_references_that_are_not_whole_oids_are_refused() -> None:
    with pytest.raises(RecordError, match="15 bytes"):
        split_oids(ONE + b"1234567")


@pytest.mark.spec("REC-2", "REC-3", "REC-6")
def test_storage_refuses_records_under_a_wrong_or_a_reserved_oid() -> None:
    storage = MemoryStorage()
    assert storage.new_oid() == ROOT
    storage.begin()
    for oid, record in (
        (ONE, pack_record(TWO, b"a", b"")),
        (FIRST_RESERVED_OID, pack_record(FIRST_RESERVED_OID, b"a", b"")),
    ):
        with pytest.raises(RecordError, match="can't be stored"):
            storage.store(oid, record)


@pytest.mark.spec("REC-10", "REC-11")
def test_class_pickle_is_the_global_form_for_nested_classes_too() -> None:
    assert class_pickle(Persistent) == b"\x80\x04cdurus.persistent\nPersistent\n."
    nested = class_pickle(Outer.Inner)
    assert pickle.loads(nested) is Outer.Inner
    assert extract_class_name(pack_record(ONE, nested, b"")) == "Outer.Inner"
    for protocol in range(2, 6):
        assert (
            Connection(MemoryStorage())._reader.class_of_record(ONE, pickle.dumps(Outer.Inner, protocol)) is Outer.Inner
        )
    assert parse_class_pickle(b"\x80\x02c\xff\nA\n.") is None
    assert extract_class_name(pack_record(ONE, b"no pickle", b"")) == "?"


@pytest.mark.spec("REC-10")
def test_class_pickle_ends_where_the_state_begins() -> None:
    data = class_pickle(Outer.Inner)
    assert class_pickle_of(data + b"\x80\x04}.") == data
    assert class_pickle_of(b"no pickle") is None


@pytest.mark.spec("REC-12")
@pytest.mark.parametrize("compress", [False, True])
def test_state_may_use_the_memo_of_the_class_pickle(compress: bool) -> None:
    state = b"\x80\x02}U\x01ch\x00s."  # {"c": memo entry 0}
    data = b"\x80\x02cdurus.persistent\nPersistent\nq\x00." + (zlib.compress(state) if compress else state)
    connection = stored(MemoryStorage(), (ONE, data, b""))
    assert vars(connection[1]) == {"c": Persistent}


@pytest.mark.spec("REC-13")
def test_state_is_compressed_where_it_pays() -> None:
    short, long, noise = b"\x80" + b"a" * 50, b"\x80" + b"a" * 5000, b"\x80" + bytes(range(256)) * 4
    assert compress_state(short) == short
    assert len(compress_state(long)) < 100
    for state in (short, long, noise):
        assert decompress_state(compress_state(state)) == state
    assert decompress_state(b"x is not zlib") == b"x is not zlib"


@pytest.mark.spec("REC-13")
@pytest.mark.parametrize("size", [600, 999, 1000, 1001, 2000, 12345])
def test_large_state_is_compressed_piece_by_piece(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    states = [b"\x80" + b"ab" * size, b"\x80" + random.Random(1).randbytes(size) + bytes(size // 10)]
    expected = [len(compress_state(state)) for state in states]
    assert expected[0] < 1000
    assert expected[1] == len(states[1])
    monkeypatch.setattr(stored_state, "_PIECE", 500)
    for state, length in zip(states, expected, strict=True):
        assert len(compress_state(state)) == pytest.approx(length, abs=9)
        assert decompress_state(compress_state(state)) == state


@pytest.mark.spec("REC-14", "REC-17")
@pytest.mark.parametrize(
    "reference", ["I5\n", "(I5\nI6\nt", "(U\x08\0\0\0\0\0\0\0\0I6\nt", "(U\x01ac__builtin__\nint\nt"]
)
def test_malformed_reference_is_an_error_that_names_the_object(reference: str) -> None:
    data = class_pickle(Persistent) + b"\x80\x02}U\x01a" + reference.encode("latin-1") + b"Qs."
    connection = stored(MemoryStorage(), (ONE, data, b""))
    obj: Any = connection[1]
    assert obj is not None
    with pytest.raises((StateError, RecordError)):
        obj.anything  # noqa: B018 (reading is the point)
    assert obj._p_is_ghost()
    connection.get_root()["others"] = "can be used"
    connection.commit()


@pytest.mark.spec("REC-17")
@pytest.mark.parametrize("data", [b"\x80\x04", b"\x80\x04I5\n.", b"garbage"])
def test_data_without_a_class_is_an_error_that_names_the_oid(data: bytes) -> None:
    connection = stored(MemoryStorage(), (ONE, data, b""))
    with pytest.raises(RecordError, match="oid 1"):
        connection.get(1)


@pytest.mark.spec("REC-17")
def test_unreadable_state_is_an_error_that_names_the_object() -> None:
    connection = stored(MemoryStorage(), (ONE, class_pickle(Persistent) + b"\x80\x02garbage", b""))
    obj = connection.get(1)
    with pytest.raises(RecordError, match=r"oid 1 \(durus.persistent.Persistent\)"):
        obj.anything  # type: ignore[union-attr]  # noqa: B018  # reading is the point


@pytest.mark.spec("REC-18", "REC-19")
def test_states_of_this_packages_classes() -> None:
    assert PersistentDict(a=1).__getstate__() == {"data": {"a": 1}}
    assert PersistentList([1]).__getstate__() == {"data": [1]}
    assert ComputedAttribute().__getstate__() is None  # type: ignore[func-returns-value]  # that it is None is the point
    persistent: Any = Persistent()
    persistent.n = 1
    assert persistent.__getstate__() == {"n": 1}


BOMB = zlib.compress(bytes(70 << 20), 9)


@pytest.mark.spec("REC-30")
def test_a_stream_that_makes_too_much_is_refused_before_it_is_made() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(RecordError, match=r"decompress to a state of more than 67108864.*DURUS_MAX_STATE"):
            decompress_state(BOMB)
        assert tracemalloc.get_traced_memory()[1] < 200 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.spec("REC-30")
def test_a_large_stream_that_makes_little_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    state = random.Random(1).randbytes(100_000)
    stored = zlib.compress(state, 1)
    monkeypatch.setattr(stored_state, "_MAX_STATE", 1000)
    monkeypatch.setattr(stored_state, "_NEVER_TOO_MUCH", 0)
    assert decompress_state(stored) == state
    assert decompress_state(stored[:-1]) == stored[:-1]
    assert decompress_state(b"x" + stored) == b"x" + stored


@pytest.mark.spec("REC-30")
@pytest.mark.parametrize("size", [1, 999, 1000, 1001, 100_000])
def test_a_stream_may_make_what_the_limit_says_and_no_more(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(stored_state, "_MAX_STATE", 1000)
    monkeypatch.setattr(stored_state, "_NEVER_TOO_MUCH", 0)
    monkeypatch.setattr(stored_state, "_MAX_RATIO", 2)
    stored = zlib.compress(bytes(size))
    if size <= 1000:
        assert decompress_state(stored) == bytes(size)
    else:
        with pytest.raises(RecordError):
            decompress_state(stored)


@pytest.mark.spec("REC-31")
def test_a_state_that_would_be_refused_is_not_compressed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_state, "_MAX_STATE", 1000)
    monkeypatch.setattr(stored_state, "_NEVER_TOO_MUCH", 0)
    for size in (900, 100_000_0):
        assert decompress_state(compress_state(bytes(size))) == bytes(size)
    assert compress_state(bytes(1_000_000)) == bytes(1_000_000)


@pytest.mark.spec("REC-30")
def test_every_reader_refuses_such_a_record_and_names_it(tmp_path: Path) -> None:
    data = class_pickle(Persistent) + BOMB
    path = tmp_path / "f"
    with Connection(path) as connection:
        connection.storage.begin()
        connection.storage.store(oid_from_int(0), pack_record(oid_from_int(0), data, b""))
        connection.storage.end()
    with pytest.raises(RecordError, match=r"oid 0 \(durus\.persistent\.Persistent\): .* DURUS_MAX_STATE"):
        getattr(Connection(FileStorage(path, readonly=True)).get_root(), "n", None)
    file = OperatingSystem().open(str(path), "read")
    findings = list(ShelfInspection(file).findings())
    file.close()
    assert ["DURUS_MAX_STATE" in finding.problem for finding in findings] == [True]
    storage = FileStorage(path, readonly=True)
    for work in (Renaming(storage, "a", "b").find(), copy_to_file(storage, tmp_path / "g")):
        with pytest.raises(RecordError, match=r"oid 0: .*DURUS_MAX_STATE"):
            list(work)
    storage.close()
    with pytest.raises(RecordError, match="DURUS_MAX_STATE"):
        read_contents(data)


@pytest.mark.spec("REC-32")
def test_data_of_4_gib_is_refused() -> None:
    class Huge(bytes):
        def __len__(self) -> int:
            return 1 << 32

    with pytest.raises(RecordError, match="oid 7: 4294967296 bytes of data are too many"):
        pack_record(oid_from_int(7), Huge(), b"")

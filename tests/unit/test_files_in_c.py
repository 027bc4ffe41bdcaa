"""What the C extension does with records and with the entries of a file, against the Python it stands for."""

import contextlib
import gc
import importlib.util
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from durus.files.entry_index import PLACE, EntryIndex
from durus.files.shelf import layout, scan
from durus.files.shelf.layout import ENTRY_HEAD, SEAL_SIZE, U64, pack_entry
from durus.oid import FIRST_RESERVED_OID, SEAL_OID, oid_from_int
from durus.persistent import implementation
from durus.records import record
from durus.records.record import pack_record
from tests.no_memory import NO_MEMORY, call_without_memory, in_a_process_alone

pytestmark = pytest.mark.skipif(implementation != "C", reason="there is one form only")


class InPython:
    """Modules with the Python form of what C does."""

    def __init__(self) -> None:
        self.scan = self._of(scan)
        self.layout = self._of(layout)
        self.record = self._of(record)

    def _of(self, module: ModuleType) -> Any:
        spec = importlib.util.spec_from_file_location(f"{module.__name__}_in_python", str(module.__file__))
        assert spec is not None
        assert spec.loader is not None
        made = importlib.util.module_from_spec(spec)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("durus.implementation.implementation", "Python")
            spec.loader.exec_module(made)
        return made


@pytest.fixture(scope="module")
def in_python() -> InPython:
    made = InPython()
    assert made.scan.find_entries is not scan.find_entries
    assert made.layout.pack_entries is not layout.pack_entries
    assert made.record.is_record_of is not record.is_record_of
    return made


def entry(oid: bytes, data_size: int, refs_count: int) -> bytes:
    return pack_entry(oid, pack_record(oid, bytes(data_size), bytes(8 * refs_count)))


oids = st.integers(0, 300).map(oid_from_int) | st.sampled_from([FIRST_RESERVED_OID, SEAL_OID, b"\xff" * 7 + b"\xfe"])
entries = st.builds(entry, oids, st.integers(0, 300) | st.just(SEAL_SIZE - ENTRY_HEAD.size), st.integers(0, 3))
changes = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=2)


@pytest.mark.spec("SHELF-5", "SHELF-14")
@given(
    pieces=st.lists(entries, max_size=8),
    changed=changes,
    start=st.integers(0, 1 << 62),
    skipped=st.integers(0, 60),
    kept=st.integers(-60, 60),
)
@example([entry(oid_from_int(1), 1, 0)], [(0, 255)], 0, 0, 0)
@example([entry(oid_from_int(1), 1, 0)], [], (1 << 62), 0, -1)
def test_entries_are_found_as_python_finds_them(
    in_python: InPython, pieces: list[bytes], changed: list[tuple[int, int]], start: int, skipped: int, kept: int
) -> None:
    window = bytearray(b"".join(pieces))
    for place, byte in changed:
        window[place : place + 1] = bytes([byte])
    end = start + len(window) + kept
    offset = start + min(skipped, len(window))
    found = [bytearray(), bytearray()]
    stops = [
        module.find_entries(bytes(window), start, offset, end, some)
        for module, some in zip((scan, in_python.scan), found, strict=True)
    ]
    assert (stops[0], found[0]) == (stops[1], found[1])


@pytest.mark.spec("SHELF-5")
@given(st.lists(entries, max_size=6), changes, st.integers(1, 900), st.integers(0, 400), oids, st.integers(-60, 9))
def test_records_in_pages_are_read_as_python_reads_them(
    in_python: InPython, pieces: list[bytes], changed: list[tuple[int, int]], size: int, at: int, oid: bytes, more: int
) -> None:
    whole = bytearray(b"".join(pieces))
    for place, byte in changed:
        whole[place : place + 1] = bytes([byte])
    pages = {
        number: bytes(whole[number * size : number * size + size]) for number in range(0, len(whole) // size + 1, 2)
    }
    starts = [sum(map(len, pieces[:count])) for count in range(len(pieces) + 1)]
    for offset in (at, *starts):
        for wanted in (oid, bytes(whole[offset + 8 : offset + 16]).ljust(8, b"x")):
            arguments = pages, size, wanted, offset, len(whole) + more
            assert scan.record_in_page(*arguments) == in_python.scan.record_in_page(*arguments)
            index = EntryIndex()
            index.add(PLACE.pack(wanted, offset))
            for asked in (wanted, oid_from_int(301)):
                newest = index, pages, size, asked, len(whole) + more
                assert scan.newest_record_in_page(*newest) == in_python.scan.newest_record_in_page(*newest)


@pytest.mark.parametrize(
    "wrong",
    [
        ((), 8, bytes(8), 0, 9),
        ({}, 0, bytes(8), 0, 9),
        ({}, 8, bytes(7), 0, 9),
        ({}, 8, bytes(8), -1, 9),
        ({}, 8, bytes(8), 0, 1 << 64),
        ({}, 8, bytes(8), 0, None),
        ({}, 8, bytes(8), 0),
    ],
)
def test_wrong_pages_are_refused(wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError)):
        scan.record_in_page(*wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        ({}, {}, 8, bytes(8), 9),
        (EntryIndex(), (), 8, bytes(8), 9),
        (EntryIndex(), {}, None, bytes(8), 9),
        (EntryIndex(), {}, 8, bytes(7), 9),
        (EntryIndex(), {}, 8, bytes(8), 1 << 64),
        (EntryIndex(), {}, 8, bytes(8)),
    ],
)
def test_wrong_indexes_are_refused(wrong: Any) -> None:
    with pytest.raises((TypeError, OverflowError)):
        scan.newest_record_in_page(*wrong)


def test_an_offset_that_no_file_has_is_in_no_page() -> None:
    index = EntryIndex()
    index.add(PLACE.pack(oid_from_int(1), 1 << 63))
    assert scan.newest_record_in_page(index, {}, 8, oid_from_int(1), 9) is None


@pytest.mark.parametrize("missing", range(ENTRY_HEAD.size + 1))
def test_an_entry_is_found_if_its_head_is_there(missing: int) -> None:
    window, place = entry(oid_from_int(7), 50, 2), bytearray(PLACE.pack(oid_from_int(7), 100))
    found = bytearray()
    stop = scan.find_entries(window[: ENTRY_HEAD.size - missing], 100, 100, 1000, found)
    assert (stop, found) == ((100 + len(window), place) if missing == 0 else (100, bytearray()))


PLACES = bytearray()


@pytest.mark.parametrize(
    "arguments", [(b"", 5, 4, 9, PLACES), (b"", -1, 0, 9, PLACES), (b"", 0, 0, 9, []), ("", 0, 0, 9, PLACES)]
)
def test_wrong_arguments_are_refused(arguments: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        scan.find_entries(*arguments)


def test_the_largest_length_is_no_entry() -> None:
    window = U64.pack((1 << 64) - 1) + entry(oid_from_int(7), 50, 2)[8:]
    found = bytearray()
    assert scan.find_entries(window, 0, 0, len(window), found) == 0
    assert found == b""


records = st.builds(
    lambda oid, data, refs, rest: pack_record(oid, data, b"".join(refs)) + rest,
    oids,
    st.binary(max_size=20),
    st.lists(oids, max_size=4),
    st.sampled_from([b"", b"", b"", b"x", bytes(7)]),
)


@pytest.mark.spec("REC-5", "REC-6")
@given(records, oids | st.binary(max_size=9), changes, st.integers(0, 60))
@example(pack_record(oid_from_int(1), b"x", b""), oid_from_int(1), [], 0)
def test_records_are_checked_as_python_checks_them(
    in_python: InPython, whole: bytes, oid: bytes, changed: list[tuple[int, int]], missing: int
) -> None:
    found = bytearray(whole)
    for place, byte in changed:
        found[place : place + 1] = bytes([byte])
    for some in bytes(found), bytes(found[: max(len(found) - missing, 0)]):
        for wanted in oid, some[:8]:
            assert record.is_record_of(wanted, some) == in_python.record.is_record_of(wanted, some)


sound_records = st.builds(
    lambda oid, data, refs: pack_record(oid, data, b"".join(refs)), oids, st.binary(min_size=1), st.lists(oids)
)


@pytest.mark.spec("TXN-10")
@given(st.dictionaries(oids, sound_records))
def test_references_are_found_as_python_finds_them(in_python: InPython, some: dict[bytes, bytes]) -> None:
    assert record.refs_outside(some) == in_python.record.refs_outside(some)


@pytest.mark.spec("SHELF-5")
@given(st.lists(st.tuples(oids, st.binary())), st.integers(0, 1 << 62), st.integers(-1, 20))
@example([(bytes(8), b"12"), (bytes(8), b"1"), (bytes(8), b"12")], 0, 2)
def test_entries_are_packed_as_python_packs_them(
    in_python: InPython, pairs: list[tuple[bytes, bytes]], offset: int, large: int
) -> None:
    pieces, places = layout.pack_entries(pairs, offset, large)
    assert (pieces, places) == in_python.layout.pack_entries(pairs, offset, large)
    assert b"".join(pieces) == b"".join(pack_entry(oid, record) for oid, record in pairs)
    assert all(any(record is piece for piece in pieces) for _, record in pairs if len(record) >= large)


WRONG: list[tuple[Callable[..., object], tuple[Any, ...]]] = [
    (record.is_record_of, ("", b"")),
    (record.is_record_of, (b"",)),
    (record.refs_outside, ([],)),
    (record.refs_outside, ({b"": ""},)),
    (record.refs_outside, ({b"": b"short"},)),
    (record.refs_outside, ({b"": pack_record(bytes(8), b"xx", b"")[:-1]},)),
    (layout.pack_entries, (1, 2, 3)),
    (layout.pack_entries, ([1], 2, 3)),
    (layout.pack_entries, ([(b"short", b"")], 2, 3)),
    (layout.pack_entries, ([(bytes(8), "")], 2, 3)),
    (layout.pack_entries, ([(bytes(8), b"", 1)], 2, 3)),
    (layout.pack_entries, ([], "", 3)),
    (layout.pack_entries, ([], 2, None)),
]


@pytest.mark.parametrize(("function", "arguments"), WRONG)
def test_other_wrong_arguments_are_refused(function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    with pytest.raises((TypeError, ValueError)):
        function(*arguments)


def calls() -> Iterator[tuple[Callable[..., object], tuple[Any, ...]]]:
    one = pack_record(oid_from_int(1000), bytes(1000), bytes(8) + oid_from_int(1001))
    yield record.is_record_of, (oid_from_int(1000), one)
    yield record.refs_outside, ({oid_from_int(1000): one},)
    yield layout.pack_entries, ([(oid_from_int(1000), one)] * 5, 1 << 40, 1 << 18)
    yield layout.pack_entries, ([(oid_from_int(1000), one)] * 5, 1 << 40, 1)
    yield scan.find_entries, (entry(oid_from_int(1000), 1000, 3) * 5, 1 << 40, 1 << 40, 1 << 41, bytearray())


@pytest.mark.parametrize("number", range(5))
@in_a_process_alone
def test_without_memory_nothing_is_found(number: int) -> None:
    function, arguments = list(calls())[number]
    expected = function(*arguments)
    outcomes = []
    for allocation in range(40):
        found = call_without_memory(allocation, function, *arguments)
        outcomes.append(found)
        assert found in (expected, None, NO_MEMORY)
    assert outcomes[-1] == expected


def test_nothing_is_left_behind() -> None:
    counts = []
    for _ in range(3):
        for _ in range(300):
            for function, arguments in [*calls(), *WRONG]:
                with contextlib.suppress(TypeError, ValueError):
                    function(*arguments)
        gc.collect()
        counts.append((sys.getallocatedblocks(), sys.getrefcount(None)))
    assert max(abs(after - before) for before, after in zip(counts[-2], counts[-1], strict=True)) < 20

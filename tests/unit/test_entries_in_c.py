"""How the C extension finds the entries of a file, against the Python it stands for."""

import importlib.util
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from durus.files.shelf import scan
from durus.files.shelf.layout import ENTRY_HEAD, SEAL_SIZE, U64, pack_entry
from durus.oid import FIRST_RESERVED_OID, SEAL_OID, oid_from_int
from durus.persistent import implementation
from durus.records.record import pack_record

pytestmark = pytest.mark.skipif(implementation != "C", reason="there is one form only")


@pytest.fixture(scope="module")
def in_python() -> Any:
    """Return the module with the Python form of what C does."""
    spec = importlib.util.spec_from_file_location("durus.files.shelf.scan_in_python", scan.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("durus.implementation.implementation", "Python")
        spec.loader.exec_module(module)
    assert module.find_entries is not scan.find_entries
    return module


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
    in_python: Any, pieces: list[bytes], changed: list[tuple[int, int]], start: int, skipped: int, kept: int
) -> None:
    window = bytearray(b"".join(pieces))
    for place, byte in changed:
        window[place : place + 1] = bytes([byte])
    end = start + len(window) + kept
    offset = start + min(skipped, len(window))
    found: list[list[tuple[bytes, int]]] = [[], []]
    stops = [
        module.find_entries(bytes(window), start, offset, end, some)
        for module, some in zip((scan, in_python), found, strict=True)
    ]
    assert (stops[0], found[0]) == (stops[1], found[1])


@pytest.mark.parametrize("missing", range(ENTRY_HEAD.size + 1))
def test_an_entry_is_found_if_its_head_is_there(missing: int) -> None:
    window = entry(oid_from_int(7), 50, 2)
    found: list[tuple[bytes, int]] = []
    stop = scan.find_entries(window[: ENTRY_HEAD.size - missing], 100, 100, 1000, found)
    assert (stop, found) == ((100 + len(window), [(oid_from_int(7), 100)]) if missing == 0 else (100, []))


@pytest.mark.parametrize("arguments", [(b"", 5, 4, 9, []), (b"", -1, 0, 9, []), (b"", 0, 0, 9, ()), ("", 0, 0, 9, [])])
def test_wrong_arguments_are_refused(arguments: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        scan.find_entries(*arguments)


def test_the_largest_length_is_no_entry() -> None:
    window = U64.pack((1 << 64) - 1) + entry(oid_from_int(7), 50, 2)[8:]
    found: list[tuple[bytes, int]] = []
    assert scan.find_entries(window, 0, 0, len(window), found) == 0
    assert found == []

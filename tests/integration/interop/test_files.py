"""Files that this Durus and 4.3 write in turns hold the same for both."""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, event, given, settings
from hypothesis import strategies as st

from durus.files.file import OperatingSystem
from durus.files.shelf.block_table import BLOCK_SIZE
from durus.files.shelf.inspection import ShelfInspection
from durus.files.shelf.new_shelf import NewShelf
from durus.oid import BLOCK_TABLE_OID
from tests.integration.interop.serving import served_by
from tests.integration.interop.side import Refused, Sides

GRAPHS = 1000 if os.environ.get("HYPOTHESIS_PROFILE") == "deep" else 120

KINDS = ["plain", "slotted", "mixed", "own", "inner", "computed", "dict", "list", "set", "btree BNode"]
KINDS += [f"btree BNode{degree}" for degree in (4, 8, 16, 32, 64, 128, 256, 512)]
LITERALS = ["moment", "day", "span", "decimal", "fraction", "complex", "infinite", "range", "ellipsis"]
NAMES = ["a", "name", "größe", "名前", "два слова", "data", "root", "items", "x" * 300]
TEXTS = st.sampled_from([*NAMES, "", "\x00", "\ud800", "🐍\n"]) | st.text(max_size=8)
NUMBERS = st.integers(0, 50)
"""Of objects: taken modulo how many there are."""

SCALARS: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | TEXTS
    | (st.integers() | st.integers(-(2**70), 2**70)).map(lambda number: ["int", number])
    | st.floats(allow_nan=False).map(lambda number: ["float", repr(number)])
    | st.binary(max_size=9).map(lambda data: ["bytes", data.hex()])
)
KEYS = SCALARS | st.lists(SCALARS, max_size=2).map(lambda parts: ["tuple", *parts])
LEAVES = (
    SCALARS
    | NUMBERS.map(lambda number: ["ref", number])
    | st.sampled_from(KINDS).map(lambda kind: ["new", kind])
    | st.sampled_from(LITERALS).map(lambda name: ["literal", name])
    | st.sampled_from([["class", "Plain"], ["class", "Value"], ["large", "ж", 50_000], ["bytearray", "00ff"]])
)
VALUES = st.recursive(
    LEAVES,
    lambda part: (
        st.builds(lambda tag, parts: [tag, *parts], st.sampled_from(["list", "tuple"]), st.lists(part, max_size=3))
        | st.builds(lambda tag, parts: [tag, *parts], st.sampled_from(["set", "frozenset"]), st.lists(KEYS, max_size=3))
        | st.lists(st.tuples(KEYS, part), max_size=3).map(lambda parts: ["dict", *parts])
        | st.lists(st.tuples(st.sampled_from(NAMES), part), max_size=3).map(lambda parts: ["Value", *parts])
        | st.builds(lambda tag, item: [tag, item], st.sampled_from(["twice", "cycle"]), part)
    ),
    max_leaves=6,
)
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("put"), NUMBERS, KEYS, VALUES),
        st.tuples(st.just("put"), NUMBERS, st.sampled_from(NAMES), st.sampled_from([["new", kind] for kind in KINDS])),
        st.tuples(st.just("put_plain"), NUMBERS, KEYS, st.integers(0, 10**9)),
        st.tuples(st.just("fill"), NUMBERS, st.sampled_from([0, 1, 7, 40, 200])),
        st.tuples(st.just("thin"), NUMBERS, st.integers(1, 4)),
    ),
    max_size=12,
)
ROUNDS = st.lists(st.tuples(CHANGES, st.booleans()), min_size=2, max_size=6)
"""What is changed in each round, and whether the file is packed after that."""


def findings(path: Path) -> list[str]:
    """Return what `durus check` finds wrong."""
    file = OperatingSystem().open(str(path), "read")
    try:
        return [str(finding) for finding in ShelfInspection(file).findings() if finding.is_fault]
    finally:
        file.close()


@settings(max_examples=GRAPHS, report_multiple_bugs=False, phases=set(Phase) - {Phase.explain})
@given(ROUNDS, st.booleans())
def test_a_graph_goes_there_and_back_without_a_difference(
    sides: Sides, rounds: list[tuple[list[Any], bool]], new_begins: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "f")
        for number, (changes, packs) in enumerate(rounds):
            writer, reader = (sides.new, sides.old) if (number % 2 == 0) == new_begins else (sides.old, sides.new)
            in_memory = writer.ask("work_on_file", str(path), changes, packs)
            found, oids = reader.ask("describe_file", str(path))
            assert found == in_memory
            assert [found, oids] == writer.ask("describe_file", str(path))
            assert findings(path) == []
        event(f"objects: {len(found).bit_length()} bits")


# What is in the bytes


def base_of(data: bytes) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Return the start of the offset map of a SHELF-1 file, the records before it in their order, and its bytes."""
    assert data[:8] == b"SHELF-1\n"
    start = 16 + int.from_bytes(data[8:16], "big")
    position = 16
    records = []
    while position < start:
        size = int.from_bytes(data[position : position + 8], "big")
        entry = data[position + 8 : position + 8 + size]
        records.append((entry[:8], entry[8:]))
        position += 8 + size
    map_size = 8 + int.from_bytes(data[start : start + 8], "big")
    return start, records, data[start : start + map_size]


@pytest.mark.spec("SHELF-6", "SHELF-9", "SHELF-10")
@settings(max_examples=GRAPHS // 3)
@given(CHANGES, CHANGES, st.booleans())
def test_an_offset_map_is_the_one_that_4_3_writes_for_the_same_records(
    sides: Sides, first: list[Any], second: list[Any], is_large: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "f")
        if is_large:  # so that offsets take 3 bytes
            first = [["put", 0, "large", ["large", os.urandom(30_000).hex(), 2]], *first]
        sides.old.ask("work_on_file", str(path), first, False)
        sides.old.ask("work_on_file", str(path), second, False)
        copy = Path(folder, "copy")
        copy.write_bytes(path.read_bytes())
        sides.old.ask("pack_file", str(path))
        start, records, offset_map = base_of(path.read_bytes())

        file = OperatingSystem().open(str(Path(folder, "new")), "new")
        highest = max(int.from_bytes(oid, "big") for oid, _ in records)
        size = start - 16 - 16 * len(records)
        for _ in NewShelf(file, "2026-01-02T03:04:05.000006Z").write_base(records, len(records), size, highest):
            pass
        file.close()
        assert Path(folder, "new").read_bytes()[: start + len(offset_map)] == path.read_bytes()
        event(f"{len(records).bit_length()} bits of records, words of {offset_map[15]} bytes")

        sides.new.ask("pack_file", str(copy))
        assert {oid for oid, _ in base_of(copy.read_bytes())[1]} == {oid for oid, _ in records}


def test_oids_that_a_pack_of_the_one_set_free_are_given_out_by_the_other(sides: Sides, tmp_path: Path) -> None:
    path = str(tmp_path / "f")
    plain = [["put", 0, f"key {number}", ["new", "plain"]] for number in range(6)]
    for packer, user in ((sides.old, sides.new), (sides.new, sides.old)):
        packer.ask("work_on_file", path, plain, False)
        packer.ask("work_on_file", path, [["thin", 0, 2]], True)
        _, before = user.ask("describe_file", path)
        assert max(before) >= len(before)  # there are holes
        user.ask("work_on_file", path, [["put", 1, f"a{number}", ["new", "plain"]] for number in range(3)], False)
        _, after = packer.ask("describe_file", path)
        assert max(after) <= max(before) + 1, (before, after)
        assert findings(Path(path)) == []


# What the one can do and the other can't


def test_4_3_loads_an_object_whose_class_has_a_name_that_is_not_ascii_and_cannot_store_it(
    sides: Sides, tmp_path: Path
) -> None:
    path = str(tmp_path / "f")
    in_memory = sides.new.ask("work_on_file", path, [["put", 0, "k", ["new", "größe"]]], False)
    assert sides.old.ask("describe_file", path)[0] == in_memory
    with pytest.raises(Refused, match="PicklingError"):
        sides.old.ask("work_on_file", path, [["put", 1, "a", 1]], False)


def test_4_3_does_not_store_private_slots(sides: Sides, tmp_path: Path) -> None:
    path = str(tmp_path / "f")
    in_memory = sides.new.ask("work_on_file", path, [["put", 0, "k", ["new", "private"]], ["hide", 1, "secret"]], False)
    assert sides.new.ask("describe_file", path)[0] == in_memory
    assert "secret" in str(in_memory)
    sides.old.ask("work_on_file", path, [["hide", 1, "another"]], False)
    found = sides.new.ask("describe_file", path)[0]
    assert "Private" in str(found)
    assert "hidden" not in str(found)


def test_4_3_takes_the_seals_for_one_object_until_it_packs(sides: Sides, tmp_path: Path) -> None:
    path = str(tmp_path / "f")
    for number in range(3):
        sides.new.ask("work_on_file", path, [["put", 0, f"key {number}", ["new", "plain"]]], False)
    objects = {"PersistentDict": 1, "Plain": 3}
    assert sides.new.ask("take_census", path) == objects
    assert sides.old.ask("take_census", path) == {**objects, "Persistent": 1}
    sides.old.ask("pack_file", path)
    assert sides.old.ask("take_census", path) == objects


@pytest.mark.spec("REC-3", "SHELF-40")
def test_4_3_opens_reads_commits_to_and_packs_a_file_with_a_block_table(sides: Sides, tmp_path: Path) -> None:
    path = str(tmp_path / "f")
    large = ["put", 0, "large", ["large", os.urandom(30_000).hex(), 2]]  # so that the packed part has some blocks
    plain = [["put", 0, f"key {number}", ["new", "plain"]] for number in range(4)]
    sides.new.ask("work_on_file", path, [large, *plain, ["put", 1, "a", 1]], True)
    packed = Path(path).read_bytes()
    start, _, offset_map = base_of(packed)
    end = start + len(offset_map)
    assert packed[end + 156 : end + 164] == BLOCK_TABLE_OID
    assert end > 4 * BLOCK_SIZE
    assert sides.old.ask("describe_file", path) == sides.new.ask("describe_file", path)
    objects = {"PersistentDict": 1, "Plain": 4}
    assert sides.new.ask("take_census", path) == objects
    assert sides.old.ask("take_census", path) == {**objects, "Persistent": 2}  # the seals, and the table

    in_memory = sides.old.ask("work_on_file", path, [["put", 0, "by 4.3", ["new", "plain"]]], False)
    assert Path(path).read_bytes().startswith(packed)
    assert sides.new.ask("describe_file", path)[0] == in_memory
    in_memory = sides.new.ask("work_on_file", path, [["put", 0, "by this", ["new", "plain"]]], False)
    assert findings(Path(path)) == []
    assert sides.old.ask("describe_file", path)[0] == in_memory

    sides.old.ask("pack_file", path)
    assert BLOCK_TABLE_OID not in Path(path).read_bytes()
    assert findings(Path(path)) == []
    for side in (sides.new, sides.old):
        assert side.ask("take_census", path) == {"PersistentDict": 1, "Plain": 6}
        assert side.ask("describe_file", path)[0] == in_memory


@pytest.mark.spec("SHELF-21")
def test_only_one_of_them_has_a_file_open_for_writing(sides: Sides, python_4_3: Path, tmp_path: Path) -> None:
    with served_by(Path(sys.executable), tmp_path / "f"), pytest.raises(Refused):
        sides.old.ask("pack_file", str(tmp_path / "f"))
    with served_by(python_4_3, tmp_path / "f"), pytest.raises(Refused, match="LockedError"):
        sides.new.ask("pack_file", str(tmp_path / "f"))
    sides.old.ask("pack_file", str(tmp_path / "f"))

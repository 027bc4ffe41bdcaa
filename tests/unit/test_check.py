"""`durus check` and `durus info`: every kind of fault is named with its place."""

from collections.abc import Callable
from pathlib import Path

import pytest

from durus.cli.main import main
from durus.connection import Connection
from durus.error import DurusError
from durus.file_storage import FileStorage
from durus.files.file import File, OperatingSystem
from durus.files.inspection import Finding
from durus.files.shelf.inspection import ShelfInspection
from durus.files.shelf.layout import SEAL_SIZE, pack_entry, pack_seal, pack_transaction
from durus.files.shelf.shelf import EMPTY_FILE, Shelf, checksum_of
from durus.oid import oid_from_int
from durus.persistent import Persistent
from durus.persistent_list import PersistentList
from durus.records.record import pack_record
from durus.serialize import class_pickle
from tests.in_memory_file import CountingFile

TIME = "2026-01-02T03:04:05.000006Z"
ROOT, ONE, TWO = (oid_from_int(n) for n in range(3))
PERSISTENT = class_pickle(Persistent)
EMPTY_STATE = b"\x80\x04}."


def make_file(path: Path) -> None:
    """Make a file with a packed part that has free oids, and commits after it."""
    with Connection(FileStorage(path, clock=lambda: TIME)) as connection:
        root = connection.get_root()
        root["a"] = [PersistentList([n]) for n in range(6)]
        connection.commit()
        root["a"] = root["a"][::3] + root["a"][5:]
        connection.commit()
        connection.pack()
        root["b"] = Persistent()
        connection.commit()
        root["c"] = 1
        connection.commit()


def findings_of(path: Path) -> list[Finding]:
    file = OperatingSystem().open(str(path), "read")
    try:
        return list(ShelfInspection(file).findings())
    finally:
        file.close()


def faults_of(path: Path) -> list[Finding]:
    return [finding for finding in findings_of(path) if finding.is_fault]


def layout_of(path: Path) -> Shelf:
    """Return the shelf in a sound file, for where its parts stand; it can't be read from any more."""
    file = OperatingSystem().open(str(path), "read")
    try:
        return Shelf(file)
    finally:
        file.close()


def flip(path: Path, *places: int) -> None:
    data = bytearray(path.read_bytes())
    for place in places:
        data[place] ^= 255
    path.write_bytes(data)


def file_of(path: Path, *records: tuple[bytes, bytes, bytes]) -> Path:
    """Make an unsealed file whose one transaction holds these (oid, data, refs)."""
    entries = b"".join(pack_entry(oid, pack_record(oid, data, refs)) for oid, data, refs in records)
    path.write_bytes(EMPTY_FILE + len(entries).to_bytes(8, "big") + entries)
    return path


def test_clean_file_has_no_fault_and_its_summary_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_file(tmp_path / "f")
    assert main(["check", str(tmp_path / "f")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'f'}: clean: 2 transactions, 5 objects, sealed to its end\n"


def test_every_flipped_bit_is_a_fault(tmp_path: Path) -> None:
    make_file(tmp_path / "f")
    whole = (tmp_path / "f").read_bytes()
    assert faults_of(tmp_path / "f") == []
    for bit in range(len(whole) * 8):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        (tmp_path / "f").write_bytes(damaged)
        try:
            found = faults_of(tmp_path / "f")
        except DurusError:
            assert bit < 64
        else:
            assert found, f"bit {bit}"


def test_faults_after_a_fault_are_found_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_file(tmp_path / "f")
    shelf = layout_of(tmp_path / "f")
    flip(tmp_path / "f", shelf.map.end + 150, shelf.end - 150)
    assert len(faults_of(tmp_path / "f")) >= 2
    assert main(["check", str(tmp_path / "f")]) == 1
    assert "faults: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("records", "oid", "problem"),
    [
        ([(ROOT, PERSISTENT + EMPTY_STATE, ONE)], ROOT, "differ from those in its state"),
        (
            [(ROOT, PERSISTENT + b"\x80\x04}U\x01aC\x08" + ONE + b"cA\nB\n\x86Qs.", ONE)],
            ROOT,
            "refers to oid 1, which has no",
        ),
        ([(ROOT, PERSISTENT + b"\x80\x04garbage", ONE)], ROOT, "refers to oid 1, which has no"),
        ([(ROOT, PERSISTENT + EMPTY_STATE, ONE)], ROOT, "they have oid 1 in addition"),
        ([(ROOT, PERSISTENT + b"\x80\x04}U\x01aC\x08" + ONE + b"cA\nB\n\x86Qs.", b"")], ROOT, "they lack oid 1"),
        ([(ROOT, PERSISTENT + b"\x80\x04}U\x01aC\x08" + ONE + b"cA\nB\n\x86Qs.", ONE + ONE)], ROOT, "once each"),
        (
            [(ROOT, PERSISTENT + EMPTY_STATE, b"".join(map(oid_from_int, range(1, 9))))],
            ROOT,
            "5 and 3 more in addition",
        ),
        ([(ROOT, PERSISTENT + b"\x80\x04garbage", b"")], ROOT, "can't be read"),
        ([(ROOT, PERSISTENT + EMPTY_STATE + b"more", b"")], ROOT, "continues after"),
        ([(ROOT, b"\x80\x04N." + EMPTY_STATE, b"")], ROOT, "where a class is expected"),
        ([(ROOT, PERSISTENT + b"\x80\x04}U\x01aNQs.", b"")], ROOT, "a reference must be a pair"),
        ([(ONE, PERSISTENT + EMPTY_STATE, b"")], ROOT, "there is no root"),
    ],
)
def test_faulty_records_are_named_with_their_oid(
    tmp_path: Path, records: list[tuple[bytes, bytes, bytes]], oid: bytes, problem: str
) -> None:
    told = [str(fault) for fault in faults_of(file_of(tmp_path / "f", *records)) if fault.oid == oid]
    assert any(problem in text for text in told), told


@pytest.mark.spec("SHELF-16")
def test_parts_without_a_seal_are_told_and_are_no_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = file_of(tmp_path / "f", (ROOT, PERSISTENT + EMPTY_STATE, b""))
    assert main(["check", str(path)]) == 0
    assert "no seals" in capsys.readouterr().out
    file = OperatingSystem().open(str(path), "read")
    checksum = checksum_of(file, file.size())
    file.close()
    cover, _ = pack_transaction(b"", path.stat().st_size, TIME, checksum)
    path.write_bytes(path.read_bytes() + cover + bytes(8))
    assert main(["check", str(path)]) == 0
    assert "the last 8 bytes have no seal yet" in capsys.readouterr().out


def test_new_file_without_objects_is_clean_and_an_unfinished_one_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "f").write_bytes(EMPTY_FILE)
    assert main(["check", str(tmp_path / "f")]) == 0
    assert capsys.readouterr().out.endswith("clean: 0 transactions, 0 objects, no seals\n")
    for size in (0, 20):
        (tmp_path / "f").write_bytes(EMPTY_FILE[:size])
        assert main(["check", str(tmp_path / "f")]) == 1
        assert "makes it a database" in capsys.readouterr().out


def test_damage_in_each_region_is_placed_in_it(tmp_path: Path) -> None:
    make_file(tmp_path / "f")
    whole, shelf = (tmp_path / "f").read_bytes(), layout_of(tmp_path / "f")
    first_entry, cover, last_seal = 16, shelf.map.end, shelf.end - SEAL_SIZE
    for place, expected in [
        (8, 8),  # the length of the first transaction
        (first_entry, first_entry),
        (first_entry + 12, first_entry),  # the oid of its first entry
        (shelf.map.start + 3, shelf.map.start),
        (cover, cover),  # the length of the transaction that covers the packed part
        (cover + 8 + 20, cover + 8),  # the seal in it
        (last_seal - 3, None),
    ]:
        (tmp_path / "f").write_bytes(whole)
        flip(tmp_path / "f", place)
        places = {fault.offset for fault in faults_of(tmp_path / "f")}
        assert expected in places or (expected is None and any(cover < offset <= place for offset in places)), place


def test_objects_after_a_damaged_packed_part_are_still_checked(tmp_path: Path) -> None:
    make_file(tmp_path / "f")
    whole = (tmp_path / "f").read_bytes()
    for place in (8, 16):
        (tmp_path / "f").write_bytes(whole)
        flip(tmp_path / "f", place)
        file = OperatingSystem().open(str(tmp_path / "f"), "read")
        check = ShelfInspection(file)
        assert list(check.findings())
        file.close()
        assert check.transactions
        assert check.objects


def test_transaction_with_a_wrong_checksum_is_searched_for_the_record_that_is_hurt(tmp_path: Path) -> None:
    make_file(tmp_path / "f")
    shelf = layout_of(tmp_path / "f")
    offset = shelf.offset_of(ROOT)
    assert offset is not None
    flip(tmp_path / "f", offset + 28 + len(PERSISTENT) + 20)
    told = faults_of(tmp_path / "f")
    assert "checksum" in told[0].problem
    assert "damage" not in told[0].problem
    assert (offset, ROOT) in [(fault.offset, fault.oid) for fault in told]


def test_remedy_is_not_named_where_a_repair_would_refuse(tmp_path: Path) -> None:
    make_file(tmp_path / "f")
    with open(tmp_path / "f", "ab") as file:
        file.write(b"torn")
    assert "--repair" in faults_of(tmp_path / "f")[-1].problem
    flip(tmp_path / "f", layout_of(tmp_path / "f").map.end + 8 + SEAL_SIZE + 30)
    told = faults_of(tmp_path / "f")
    assert len(told) >= 2
    assert not [fault for fault in told if "--repair" in fault.problem]


def test_entries_of_reserved_oids_are_noted_and_no_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reserved = b"\xff" * 7 + b"\x05"
    path = file_of(tmp_path / "f", (ROOT, PERSISTENT + EMPTY_STATE, b""), (reserved, b"anything", b""))
    (note,) = findings_of(path)
    assert not note.is_fault
    assert note.oid == reserved
    assert main(["check", str(path)]) == 0
    told = capsys.readouterr().out
    assert ": note: byte " in told
    assert "clean: 1 transactions, 1 objects" in told


class GrowingFile:
    """A file to which a commit is appended each time that its size is asked for."""

    def __init__(self, file: File, whole: int, now: int) -> None:
        self.path = file.path
        self._file = file
        self._whole = whole
        self._now = now

    def size(self) -> int:
        now, self._now = self._now, self._whole
        return now

    def read_at(self, offset: int, size: int) -> bytes:
        return self._file.read_at(offset, min(size, self._whole - offset))

    def close(self) -> None:
        self._file.close()


def test_commit_that_is_under_way_elsewhere_is_no_fault(tmp_path: Path) -> None:
    make_file(tmp_path / "f")
    file = OperatingSystem().open(str(tmp_path / "f"), "read")
    end = layout_of(tmp_path / "f").end
    for now in range(end - 400, end, 7):
        findings = list(ShelfInspection(GrowingFile(file, end, now)).findings())
        assert not [finding for finding in findings if finding.is_fault]
    file.close()


def test_file_is_checked_beside_its_writer(tmp_path: Path) -> None:
    with Connection(tmp_path / "f") as connection:
        connection.get_root()["x"] = 1
        connection.commit()
        before = (tmp_path / "f").read_bytes()
        assert main(["check", str(tmp_path / "f")]) == 0
        assert main(["info", str(tmp_path / "f")]) == 0
        assert (tmp_path / "f").read_bytes() == before


def test_word_for_an_oid_without_entry_is_named_at_its_place(tmp_path: Path) -> None:
    entry = pack_entry(ROOT, pack_record(ROOT, PERSISTENT + EMPTY_STATE, b""))
    start = 16 + len(entry)
    head = EMPTY_FILE[:8] + len(entry).to_bytes(8, "big") + entry
    map_head = b"".join(n.to_bytes(8, "big") for n in (19, 1, 3))
    (tmp_path / "f").write_bytes(head + map_head + bytes([16, 17, start + 2]))
    (wrong,) = faults_of(tmp_path / "f")
    assert (wrong.offset, wrong.oid) == (start + 24 + 1, ONE)
    assert "leads to byte 17" in wrong.problem


def broken_word(data: bytearray, start: int) -> None:
    data[start + 24] += 1


def broken_hole(data: bytearray, start: int) -> None:
    data[start + 25] += 1


@pytest.mark.parametrize(("damage", "problem"), [(broken_word, "does not lead to this entry"), (broken_hole, "chain")])
def test_faulty_offset_map(tmp_path: Path, damage: Callable[[bytearray, int], None], problem: str) -> None:
    entries = b"".join(pack_entry(oid, pack_record(oid, PERSISTENT + EMPTY_STATE, b"")) for oid in (ROOT, TWO))
    start = 16 + len(entries)
    words = bytes([16, start + 3, 16 + len(entries) // 2, start + 1])
    map_head = b"".join(n.to_bytes(8, "big") for n in (20, 1, 4))
    data = bytearray(EMPTY_FILE[:8] + len(entries).to_bytes(8, "big") + entries + map_head + words)
    (tmp_path / "f").write_bytes(data)
    assert faults_of(tmp_path / "f") == []
    damage(data, start)
    (tmp_path / "f").write_bytes(data)
    assert problem in str(faults_of(tmp_path / "f")[0])


def test_info_tells_classes_garbage_and_seals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_file(tmp_path / "f")
    with Connection(tmp_path / "f") as connection:
        del connection.get_root()["b"]
        connection.commit()
    assert main(["info", str(tmp_path / "f")]) == 0
    told = capsys.readouterr().out
    assert "objects       5, 1 of them not reached from the root" in told
    assert "sealed        to its end" in told
    assert f"first seal    {TIME}" in told
    assert "last seal     2" in told
    assert " 0 bytes not reached" not in told
    assert " 0 bytes superseded" not in told
    assert "3 " in told.partition("durus.persistent_list.PersistentList")[0].splitlines()[-1]
    assert "(0.0 %)" not in told


def test_info_counts_no_seal_and_no_block_table_as_garbage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_file(tmp_path / "f")
    with Connection(tmp_path / "f") as connection:
        connection.pack()
        connection.get_root()["d"] = Persistent()
        connection.commit()
        connection.pack()
    assert main(["info", str(tmp_path / "f")]) == 0
    assert "garbage       0.0 %: 0 bytes not reached, 0 bytes superseded" in capsys.readouterr().out


def test_info_of_a_file_without_seals_and_of_classes_in_another_form(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = b"\x80\x04\x8c\x03app\x8c\x05Thing\x93."
    state = b"\x80\x04}U\x01aC\x08" + ONE + b"cA\nB\n\x86Qs."
    path = file_of(tmp_path / "f", (ROOT, PERSISTENT + state, ONE + TWO), (ONE, other + EMPTY_STATE, ROOT))
    assert main(["info", str(path)]) == 0
    told = capsys.readouterr().out
    assert "sealed        no\n" in told
    assert "  app.Thing" in told
    file_of(path, (ROOT, b"\x80\x04nothing" + state, ONE))
    assert main(["info", str(path)]) == 0
    assert "(unreadable)" in capsys.readouterr().out


def test_readers_of_records_run_no_application_code(tmp_path: Path) -> None:
    state = b"\x80\x04}U\x01a" + b"cposix\nabort\n)R" + b"s."
    nested = b"\x80\x02c__builtin__\ngetattr\ncmodule\nOuter\nU\x05Inner\x86R."
    assert faults_of(file_of(tmp_path / "f", (ROOT, PERSISTENT + state, b""), (ONE, nested + EMPTY_STATE, b""))) == []
    assert main(["info", str(tmp_path / "f")]) == 0


@pytest.mark.spec("SHELF-25")
def test_a_file_of_nothing_but_damage_is_not_read_to_its_end_for_each() -> None:
    count = 1000
    data = bytearray(EMPTY_FILE)
    for _ in range(count):
        seal, _ = pack_seal(len(data) + 8, "2026-01-02T03:04:05.000006Z", 0)
        data += len(seal).to_bytes(8, "big") + seal
    file = CountingFile("f", data)
    assert len(list(ShelfInspection(file).findings())) == count
    assert file.bytes_read < count * (1 << 14)

"""`durus check` and `durus info`: every kind of fault is named with its place."""

from collections.abc import Callable
from pathlib import Path

import pytest

from durus.cli.main import main
from durus.connection import Connection
from durus.error import DurusError
from durus.file import OperatingSystem
from durus.file_storage import FileStorage
from durus.oid import oid_from_int
from durus.persistent import Persistent
from durus.persistent_list import PersistentList
from durus.record import pack_record
from durus.serialize import class_pickle
from durus.shelf.check import Check, Fault
from durus.shelf.layout import pack_entry, pack_transaction
from durus.shelf.shelf import EMPTY_FILE, Shelf, checksum_of

TIME = "2026-01-02T03:04:05.000006Z"
ROOT, ONE, TWO = (oid_from_int(n) for n in range(3))
PERSISTENT = class_pickle(Persistent)
EMPTY_STATE = b"\x80\x04}."


def make_file(path: Path) -> None:
    """Make a file with a packed part that has free oids, and commits behind it."""
    with Connection(FileStorage(path, clock=lambda: TIME)) as connection:
        root = connection.get_root()
        root["a"] = [PersistentList([n]) for n in range(6)]
        connection.commit()
        root["a"] = root["a"][::3] + root["a"][5:]  # type: ignore[index]  # it is a list
        connection.commit()
        connection.pack()
        root["b"] = Persistent()
        connection.commit()
        root["c"] = 1
        connection.commit()


def faults_of(path: Path) -> list[Fault]:
    file = OperatingSystem().open(str(path), "read")
    try:
        return list(Check(file).faults())
    finally:
        file.close()


def file_of(path: Path, *records: tuple[bytes, bytes, bytes]) -> Path:
    """Make an unsealed file whose one transaction holds these (oid, data, refs)."""
    entries = b"".join(pack_entry(oid, pack_record(oid, data, refs)) for oid, data, refs in records)
    path.write_bytes(EMPTY_FILE + len(entries).to_bytes(8, "big") + entries)
    return path


def test_clean_file_has_no_fault_and_its_summary_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_file(tmp_path / "f")
    assert main(["check", str(tmp_path / "f")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'f'}: clean: 3 transactions, 5 objects, sealed to its end\n"


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


def test_faults_behind_a_fault_are_found_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_file(tmp_path / "f")
    data = bytearray((tmp_path / "f").read_bytes())
    file = OperatingSystem().open(str(tmp_path / "f"), "read")
    shelf = Shelf(file)
    first, last = shelf.map.end + 150, shelf.end - 150
    file.close()
    for place in (first, last):
        data[place] ^= 255
    (tmp_path / "f").write_bytes(data)
    assert len(faults_of(tmp_path / "f")) >= 2
    assert main(["check", str(tmp_path / "f")]) == 1
    assert "faults: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("records", "oid", "problem"),
    [
        ([(ROOT, PERSISTENT + EMPTY_STATE, ONE)], ROOT, "not those in its state"),
        (
            [(ROOT, PERSISTENT + b"\x80\x04}U\x01aC\x08" + ONE + b"cA\nB\n\x86Qs.", ONE)],
            ROOT,
            "refers to oid 1, which has no",
        ),
        ([(ROOT, PERSISTENT + b"\x80\x04garbage", b"")], ROOT, "can't be read"),
        ([(ROOT, PERSISTENT + EMPTY_STATE + b"more", b"")], ROOT, "goes on behind"),
        ([(ROOT, b"\x80\x04N." + EMPTY_STATE, b"")], ROOT, "where a class must stand"),
        ([(ROOT, PERSISTENT + b"\x80\x04}U\x01aNQs.", b"")], ROOT, "a reference must be a pair"),
        ([(ONE, PERSISTENT + EMPTY_STATE, b"")], ROOT, "there is no root"),
    ],
)
def test_faulty_records_are_named_with_their_oid(
    tmp_path: Path, records: list[tuple[bytes, bytes, bytes]], oid: bytes, problem: str
) -> None:
    fault = faults_of(file_of(tmp_path / "f", *records))[0]
    assert fault.oid == oid
    assert problem in str(fault)


@pytest.mark.spec("SHELF-16")
def test_parts_without_a_seal_are_told_and_are_no_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = file_of(tmp_path / "f", (ROOT, PERSISTENT + EMPTY_STATE, b""))
    assert main(["check", str(path)]) == 0
    assert "no seals" in capsys.readouterr().out
    file = OperatingSystem().open(str(path), "read")
    checksum = checksum_of(file, file.size())
    file.close()
    cover, _ = pack_transaction([], path.stat().st_size, TIME, checksum)
    path.write_bytes(path.read_bytes() + cover + bytes(8))
    assert main(["check", str(path)]) == 0
    assert "the last 8 bytes have no seal yet" in capsys.readouterr().out


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
    assert "3 " in told.partition("durus.persistent_list.PersistentList")[0].splitlines()[-1]
    assert "(0.0 %)" not in told


def test_readers_of_records_run_no_application_code(tmp_path: Path) -> None:
    state = b"\x80\x04}U\x01a" + b"cposix\nabort\n)R" + b"s."
    nested = b"\x80\x02c__builtin__\ngetattr\ncmodule\nOuter\nU\x05Inner\x86R."
    assert faults_of(file_of(tmp_path / "f", (ROOT, PERSISTENT + state, b""), (ONE, nested + EMPTY_STATE, b""))) == []
    assert main(["info", str(tmp_path / "f")]) == 0

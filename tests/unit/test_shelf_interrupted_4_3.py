"""What Durus 4.3 leaves in a file when it is interrupted, or when it was not: unsealed transactions.

Durus 4.3 writes a transaction with the length 0, then its entries one by one, and the true length last.
"""

import pickle
import struct
import warnings
from pathlib import Path
from typing import Any

import pytest

from durus.connection import Connection
from durus.error import DamageError, DurusWarning, FormatError, UnsoundTailError
from durus.file_storage import FileStorage

NEW_FILE = b"SHELF-1\n" + struct.pack(">QQQQ", 0, 16, 1, 0)
EMPTY_TRANSACTION = bytes(8)
FAR_TOO_LONG = struct.pack(">Q", 1 << 63)


def entry(oid: int, number: int) -> bytes:
    """Return the object entry of a PersistentDict that holds the number, as 4.3 writes it."""
    state = pickle.dumps({"data": {"number": number}}, 2)
    data = b"\x80\x02cdurus.persistent_dict\nPersistentDict\n." + state
    record = struct.pack(">QI", oid, len(data)) + data
    return struct.pack(">QQ", 8 + len(record), oid) + record


def unsealed(number: int) -> bytes:
    """Return a whole transaction of 4.3 that changes the root and one more object."""
    entries = entry(0, number) + entry(1, number)
    return struct.pack(">Q", len(entries)) + entries


def unpatched(number: int) -> bytes:
    """Return the bytes of a transaction that 4.3 has written before it patches the length."""
    return EMPTY_TRANSACTION + unsealed(number)[8:]


def sealed_file(path: Path, number: int) -> bytes:
    """Make a file here that holds the number, and return its bytes."""
    with Connection(FileStorage(path)) as connection:
        connection.get_root()["number"] = number
        connection.commit()
    return path.read_bytes()


def number_in(path: Path, **options: bool) -> object:
    """Return the number that the file shows; the dict of oid 1 must hold the same, if there is one."""
    with Connection(FileStorage(path, **options)) as connection:  # type: ignore[arg-type]  # readonly, repair
        number = connection.get_root()["number"]
        other: Any = connection.get(1)
        assert other is None or other["number"] == number
        return number


def assert_tail_is_cut_at(path: Path, end: int, number: int) -> None:
    """The file is refused, shows `number` to readers, and repair cuts it at `end` and keeps the rest."""
    data = path.read_bytes()
    with pytest.raises(UnsoundTailError) as caught:
        FileStorage(path)
    assert caught.value.offset == end
    assert path.read_bytes() == data
    with pytest.warns(DurusWarning, match=f"after byte {end}"):
        assert number_in(path, readonly=True) == number
    with pytest.warns(DurusWarning, match="cut off"):
        assert number_in(path, repair=True) == number
    assert path.read_bytes() == data[:end]
    kept = Path(f"{path}.cut-{end}")
    assert kept.read_bytes() == data[end:]
    kept.unlink()
    assert number_in(path) == number


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "f.durus"


@pytest.mark.spec("SHELF-24", "SHELF-26", "SHELF-28")
@pytest.mark.parametrize("begins", ["unsealed", "sealed"])
def test_transaction_whose_length_was_not_patched_is_cut_off_wherever_it_ends(path: Path, begins: str) -> None:
    before = NEW_FILE + unsealed(1) if begins == "unsealed" else sealed_file(path, 1)
    rest = unpatched(2)
    for size in range(len(EMPTY_TRANSACTION) + 1, len(rest) + 1):
        path.write_bytes(before + rest[:size])
        assert_tail_is_cut_at(path, len(before), 1)


@pytest.mark.spec("SHELF-24")
def test_unpatched_transaction_with_lengths_beyond_all_files_is_cut_off(path: Path) -> None:
    before = NEW_FILE + unsealed(1)
    for rest in (FAR_TOO_LONG, b"\xff" * 8, EMPTY_TRANSACTION + FAR_TOO_LONG + bytes(100), b"\xff" * 100):
        path.write_bytes(before + rest)
        assert_tail_is_cut_at(path, len(before), 1)


@pytest.mark.spec("SHELF-24")
def test_what_4_3_committed_after_an_unpatched_transaction_is_kept_beside_the_file(path: Path) -> None:
    before = NEW_FILE + unsealed(1)
    path.write_bytes(before + unpatched(2) + unsealed(3))
    assert_tail_is_cut_at(path, len(before), 1)


@pytest.mark.spec("SHELF-16")
@pytest.mark.parametrize("count", [1, 2, 5])
def test_empty_transactions_at_the_end_are_no_damage(path: Path, count: int) -> None:
    for before in (NEW_FILE + unsealed(1), sealed_file(path, 1)):
        path.write_bytes(before + count * EMPTY_TRANSACTION)
        assert number_in(path) == 1
        assert number_in(path, readonly=True) == 1
        with Connection(FileStorage(path)) as connection:
            connection.get_root()["number"] = 2
            del connection.get_root()["number"]
            connection.get_root()["number"] = 1
            connection.commit()
        assert number_in(path) == 1
        assert path.read_bytes().startswith(before + count * EMPTY_TRANSACTION)


@pytest.mark.spec("SHELF-16")
def test_empty_transactions_in_the_middle_are_no_damage(path: Path) -> None:
    path.write_bytes(NEW_FILE + EMPTY_TRANSACTION + unsealed(1) + 2 * EMPTY_TRANSACTION + unsealed(2))
    assert number_in(path) == 2


@pytest.mark.spec("SHELF-24")
def test_empty_transaction_goes_with_a_cut_one_after_it(path: Path) -> None:
    before = NEW_FILE + unsealed(1) + EMPTY_TRANSACTION
    path.write_bytes(before + EMPTY_TRANSACTION + unsealed(2)[:-1])
    assert_tail_is_cut_at(path, len(before), 1)


@pytest.mark.spec("SHELF-23", "SHELF-24")
@pytest.mark.parametrize("begins", ["unsealed", "sealed"])
def test_cut_inside_the_last_unsealed_transaction(path: Path, begins: str) -> None:
    before = NEW_FILE + unsealed(1) if begins == "unsealed" else sealed_file(path, 1)
    for size in range(1, len(unsealed(2))):
        path.write_bytes(before + unsealed(2)[:size])
        assert_tail_is_cut_at(path, len(before), 1)


@pytest.mark.spec("SHELF-24", "SHELF-27")
def test_unsound_unsealed_transaction_ahead_of_others_is_damage(path: Path) -> None:
    damaged = bytearray(unsealed(2))
    damaged[16] ^= 1  # the oid of its first entry no longer is that of the record
    data = NEW_FILE + unsealed(1) + damaged + unsealed(3)
    path.write_bytes(data)
    with pytest.raises(DamageError) as caught:
        FileStorage(path, repair=True)
    assert not isinstance(caught.value, UnsoundTailError)
    assert path.read_bytes() == data


@pytest.mark.spec("SHELF-24", "SHELF-27")
def test_unpatched_transaction_ahead_of_sealed_ones_is_damage(path: Path) -> None:
    with Connection(FileStorage(path)) as connection:
        connection.get_root()["number"] = 1
        connection.commit()
        size = path.stat().st_size
        connection.get_root()["number"] = 2
        connection.commit()
        connection.get_root()["number"] = 3
        connection.commit()
    data = path.read_bytes()
    path.write_bytes(data[:size] + EMPTY_TRANSACTION + data[size + 8 :])
    with pytest.raises(DamageError) as caught:
        FileStorage(path, repair=True)
    assert not isinstance(caught.value, UnsoundTailError)


@pytest.mark.spec("SHELF-16", "SHELF-17", "SHELF-19")
def test_unsealed_transactions_after_sealed_ones_are_covered_by_the_next_commit(path: Path) -> None:
    before = sealed_file(path, 1)
    appended = unsealed(2) + EMPTY_TRANSACTION + unsealed(3)
    path.write_bytes(before + appended)
    with Connection(FileStorage(path)) as connection:
        assert connection.get_root()["number"] == 3
        connection.get_root()["note"] = "sealed again"
        connection.commit()
    whole = path.read_bytes()
    assert whole.startswith(before + appended)
    assert number_in(path) == 3
    for bit in range(8 * len(before), 8 * len(before + appended)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(FormatError):
            FileStorage(path)
        with pytest.raises(FormatError):
            FileStorage(path, repair=True)
        assert path.read_bytes() == flipped


@pytest.mark.spec("SHELF-17", "SHELF-24")
def test_cut_between_the_covering_seal_and_the_commit_after_it_loses_only_the_commit(path: Path) -> None:
    before = sealed_file(path, 1) + unsealed(2)
    path.write_bytes(before)
    with Connection(FileStorage(path)) as connection:
        connection.get_root()["note"] = "not yet"
        connection.commit()
    whole = path.read_bytes()
    for size in range(len(before), len(whole)):
        path.write_bytes(whole[:size])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DurusWarning)
            assert number_in(path, repair=True) == 2
            with Connection(FileStorage(path)) as connection:
                assert "note" not in connection.get_root()
        for kept in path.parent.glob("*.cut-*"):
            kept.unlink()

"""Cut and damaged files show an earlier commit, or an error that names the damage."""

import warnings
from pathlib import Path

import pytest

from durus.connection import Connection
from durus.error import DamageError, DurusError, FileError, FormatError, LockedError, ReadonlyError, UnsoundTailError
from durus.file_storage import FileStorage


def make_file(path: Path) -> list[tuple[int, object]]:
    """Make a file of a packed part and four commits; return (length, value of root["n"]) after each."""
    history: list[tuple[int, object]] = []
    with Connection(FileStorage(path, clock=lambda: "2026-01-02T03:04:05.000006Z")) as connection:
        root = connection.get_root()
        root["n"] = -1
        connection.commit()
        connection.pack()
        for n in range(4):
            root["n"] = n
            connection.commit()
            history.append((path.stat().st_size, n))
    return history


def value_in(path: Path, **options: bool) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Connection(FileStorage(path, **options)) as connection:  # type: ignore[arg-type]  # readonly, repair
            return connection.get_root()["n"]


@pytest.mark.spec("SHELF-24", "SHELF-26", "SHELF-28")
def test_file_cut_at_every_byte_of_its_last_three_transactions(tmp_path: Path) -> None:
    history = make_file(tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    for size in range(history[0][0], len(whole)):
        path = tmp_path / "cut"
        path.write_bytes(whole[:size])
        expected = max((end, n) for end, n in history if end <= size)
        if expected[0] != size:
            with pytest.raises(UnsoundTailError):
                FileStorage(path)
            assert value_in(path, readonly=True) == expected[1]
        assert value_in(path, repair=True) == expected[1]
        assert path.stat().st_size == expected[0]
        for kept in tmp_path.glob("cut.cut-*"):
            assert whole[:size] == path.read_bytes() + kept.read_bytes()
            kept.unlink()


@pytest.mark.spec("SHELF-14", "SHELF-15", "SHELF-23", "SHELF-27")
def test_every_flipped_bit_is_noticed_and_no_wrong_state_is_shown(tmp_path: Path) -> None:
    history = make_file(tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    last_start = history[-2][0]
    path = tmp_path / "flipped"
    for bit in range(len(whole) * 8):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(FormatError) as caught:
            FileStorage(path)
        if isinstance(caught.value, UnsoundTailError):
            assert bit // 8 >= last_start
            assert value_in(path, repair=True) == history[-2][1]
            for kept in tmp_path.glob("flipped.cut-*"):
                kept.unlink()
        else:
            with pytest.raises(FormatError):
                FileStorage(path, repair=True)
            assert path.read_bytes() == damaged


@pytest.mark.spec("SHELF-1", "SHELF-3", "SHELF-7")
def test_what_is_not_a_usable_file_is_named(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("hello, this is not a database at all\n")
    with pytest.raises(FormatError, match=str(text)):
        FileStorage(text)
    with pytest.raises(FileError, match=str(tmp_path)):
        FileStorage(tmp_path)
    (tmp_path / "short").write_bytes(b"SHELF-1\n\x00\x00\x01")
    with pytest.raises(DamageError):
        FileStorage(tmp_path / "short")
    (tmp_path / "empty").touch()
    FileStorage(tmp_path / "empty").close()
    with pytest.raises(FileError):
        FileStorage(tmp_path / "absent", readonly=True)


@pytest.mark.spec("SHELF-21")
def test_second_writer_is_refused_and_a_reader_is_not(tmp_path: Path) -> None:
    make_file(tmp_path / "f")
    with Connection(tmp_path / "f"):
        with pytest.raises(LockedError, match="in use"):
            FileStorage(tmp_path / "f")
        assert value_in(tmp_path / "f", readonly=True) == 3
        reader = FileStorage(tmp_path / "f", readonly=True)
        with pytest.raises(ReadonlyError):
            reader.begin()
        reader.close()
        with pytest.raises(DurusError):
            reader.load(bytes(8))


@pytest.mark.spec("SHELF-24")
@pytest.mark.parametrize("tail_is_lost", [False, True])
def test_last_transaction_whose_beginning_was_never_written_is_cut_off(tmp_path: Path, tail_is_lost: bool) -> None:
    history = make_file(tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    start, path = history[-2][0], tmp_path / "torn"
    for size in range(start + 1, len(whole) + 1):
        torn = whole[:start] + bytes(size - start) + whole[size:]
        path.write_bytes(torn[:-40] if tail_is_lost else torn)
        if path.read_bytes() != whole:
            assert value_in(path, repair=True) == history[-2][1]


@pytest.mark.spec("SHELF-24", "SHELF-27")
def test_damaged_transaction_with_another_after_it_is_not_cut_off(tmp_path: Path) -> None:
    make_file(tmp_path / "f")
    data = bytearray((tmp_path / "f").read_bytes())
    unsealed = b"\0\0\0\0\0\0\0\x1d" + b"\0\0\0\0\0\0\0\x15" + 2 * (b"\0" * 7 + b"\5") + b"\0\0\0\1a"
    damaged = bytearray(unsealed)
    damaged[20] ^= 1
    (tmp_path / "f").write_bytes(data + damaged + unsealed)
    with pytest.raises(DamageError):
        FileStorage(tmp_path / "f", repair=True)
    (tmp_path / "f").write_bytes(data + damaged)
    assert value_in(tmp_path / "f", repair=True) == 3


@pytest.mark.spec("SHELF-14")
@pytest.mark.parametrize("lost", [slice(-124, -108), slice(-124, None), slice(-124, -80)])
def test_zeros_in_a_seal_make_no_object_of_it(tmp_path: Path, lost: slice) -> None:
    history = make_file(tmp_path / "f")
    data = bytearray((tmp_path / "f").read_bytes())
    data[lost] = bytes(len(data[lost]))
    (tmp_path / "f").write_bytes(data)
    with pytest.raises(UnsoundTailError):
        FileStorage(tmp_path / "f")
    assert value_in(tmp_path / "f", repair=True) == history[-2][1]


def test_zeros_anywhere_in_the_last_transaction_are_noticed(tmp_path: Path) -> None:
    history = make_file(tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    start, path = history[-2][0], tmp_path / "torn"
    for first in range(start, len(whole), 3):
        for end in range(first + 1, len(whole) + 1, 5):
            torn = whole[:first] + bytes(end - first) + whole[end:]
            if torn != whole:
                path.write_bytes(torn)
                with pytest.raises(UnsoundTailError):
                    FileStorage(path, durability="os")

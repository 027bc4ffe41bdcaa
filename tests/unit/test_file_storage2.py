"""FileStorage2: the bytes of DFS20 files, their damage, cuts and packs."""

import os
import pickle
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from durus.connection import Connection
from durus.error import DamageError, DurusWarning, FormatError, LockedError, RecordError, UnsoundTailError
from durus.file_storage2 import FileStorage2
from durus.files.file import File, Mode, OperatingSystem, OperatingSystemFile
from durus.oid import oid_from_int
from durus.open_file import inspect_file
from durus.persistent import Persistent
from durus.persistent_list import PersistentList
from durus.records.record import pack_record

ROOT, ONE, TWO = (oid_from_int(n) for n in range(3))
DATA = b"\x80\x02cdurus.persistent\nPersistent\n.\x80\x02}."


def entry(oid: bytes, data: bytes = DATA, refs: bytes = b"") -> bytes:
    """Return an object entry as the format has it."""
    record = oid + struct.pack(">I", len(data)) + data + refs
    return struct.pack(">I", len(record)) + record


def file_bytes(packed: bytes, index: bytes, *transactions: bytes) -> bytes:
    """Return a file with these entries packed, this pickle as index, and transactions of these entries."""
    base = packed + bytes(4) if packed else b""
    stream = zlib.compress(index)
    start = struct.pack(">Q", 14 + len(base))
    after = b"".join(entries + bytes(4) for entries in transactions)
    return b"DFS20\0" + start + base + struct.pack(">Q", len(stream)) + stream + after


NO_INDEX = pickle.dumps({})


def put(storage: FileStorage2, **objects: bytes) -> None:
    """Commit records with these data: `o0=b"a"` is the object with oid 0."""
    storage.begin()
    for name, data in objects.items():
        oid = oid_from_int(int(name[1:]))
        storage.store(oid, pack_record(oid, data, b""))
    storage.end()


def records_of(path: Path) -> dict[bytes, bytes]:
    """Return the records that a reader of the file sees, without a lock and with no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DurusWarning)
        storage = FileStorage2(path, readonly=True)
        try:
            return dict(storage.gen_oid_record())
        finally:
            storage.close()


@pytest.mark.spec("DFS-2", "DFS-3", "DFS-7", "DFS-8")
def test_bytes_of_a_new_file_and_of_two_commits(tmp_path: Path) -> None:
    storage = FileStorage2(tmp_path / "f")
    new = (tmp_path / "f").read_bytes()
    assert new[:14] == b"DFS20\0" + struct.pack(">Q", 14)
    assert new[14:22] == struct.pack(">Q", len(new) - 22)
    assert pickle.loads(zlib.decompress(new[22:])) == {}
    put(storage, o0=b"a", o1=b"b")
    put(storage, o0=b"c")
    assert storage.new_oid() == TWO
    storage.close()
    assert (tmp_path / "f").read_bytes() == (
        new + entry(ROOT, b"a") + entry(ONE, b"b") + bytes(4) + entry(ROOT, b"c") + bytes(4)
    )
    assert records_of(tmp_path / "f") == {ONE: pack_record(ONE, b"b", b""), ROOT: pack_record(ROOT, b"c", b"")}


@pytest.mark.spec("DFS-8")
def test_a_commit_is_one_append_and_one_sync(tmp_path: Path) -> None:
    operations: list[str] = []

    class Watched(OperatingSystem):
        def open(self, path: str, mode: Mode) -> File:
            class WatchedFile(OperatingSystemFile):
                def append(self, data: bytes, end: int | None = None) -> None:
                    operations.append("append")
                    super().append(data)

                def sync(self) -> None:
                    operations.append("sync")
                    super().sync()

            return WatchedFile(path, mode)

    storage = FileStorage2(tmp_path / "f", file_system=Watched())
    operations.clear()
    put(storage, o0=b"a", o1=b"b")
    assert operations == ["append", "sync"]
    storage.close()


@pytest.mark.spec("DFS-8")
def test_a_second_writer_is_locked_out(tmp_path: Path) -> None:
    storage = FileStorage2(tmp_path / "f")
    with pytest.raises(LockedError):
        FileStorage2(tmp_path / "f")
    storage.close()
    FileStorage2(tmp_path / "f").close()


@pytest.mark.spec("DFS-7")
def test_creation_that_was_cut_anywhere_is_taken_up_again(tmp_path: Path) -> None:
    FileStorage2(tmp_path / "whole").close()
    whole = (tmp_path / "whole").read_bytes()
    for size in range(len(whole)):
        (tmp_path / "f").write_bytes(whole[:size])
        FileStorage2(tmp_path / "f").close()
        assert (tmp_path / "f").read_bytes() == whole


@pytest.mark.spec("DFS-1")
@pytest.mark.parametrize("data", [b"SHELF-1\n" + bytes(40), b"DFS20\n" + bytes(40), b"text"])
def test_another_kind_of_file_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "f").write_bytes(data)
    with pytest.raises(FormatError, match="not a DFS20 file"):
        FileStorage2(tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == data


def index_of_python_2(index: dict[bytes, int]) -> bytes:
    """Return the pickle of an index as Python 2 wrote it: protocol 2, oids as str."""
    items = b"".join(b"U\x08" + oid + b"q\x01J" + struct.pack("<i", offset) for oid, offset in index.items())
    return b"\x80\x02}q\x00(" + items + b"u."


@pytest.mark.spec("DFS-4", "DFS-5")
def test_file_of_python_2_is_read_changed_and_packed(tmp_path: Path) -> None:
    high = b"\0\0\0\0\0\0\xff\x80"  # bytes that are not ASCII
    packed = entry(ROOT, refs=high) + entry(high)
    index = index_of_python_2({ROOT: 14, high: 14 + len(entry(ROOT, refs=high))})
    (tmp_path / "f").write_bytes(file_bytes(packed, index, entry(high, DATA + b"new")))
    storage = FileStorage2(tmp_path / "f")
    assert storage.load(high) == pack_record(high, DATA + b"new", b"")
    assert storage.new_oid() == b"\0\0\0\0\0\0\xff\x81"
    put(storage, o7=DATA)
    assert {oid for oid, _ in storage.gen_oid_record()} == {ROOT, high, oid_from_int(7)}
    storage.pack()
    storage.close()
    assert records_of(tmp_path / "f") == {
        ROOT: pack_record(ROOT, DATA, high),
        high: pack_record(high, DATA + b"new", b""),
    }


@pytest.mark.spec("DFS-4", "DFS-6")
@pytest.mark.parametrize(
    ("data", "offset"),
    [
        (b"DFS20\0" + struct.pack(">Q", 13) + bytes(20), 6),
        (b"DFS20\0" + struct.pack(">Q", 99) + bytes(20), 6),
        (b"DFS20\0" + struct.pack(">Q", 14) + struct.pack(">Q", 1 << 63), 14),
        (b"DFS20\0" + struct.pack(">Q", 14) + struct.pack(">Q", 3) + b"abc", 22),
        (file_bytes(b"", pickle.dumps([])), 22),
        (file_bytes(b"", pickle.dumps({b"short": 14})), 22),
        (file_bytes(b"", pickle.dumps({"\u2028" * 9: 14})), 22),
        (file_bytes(b"", pickle.dumps({ROOT: "14"})), 22),
        (file_bytes(b"", pickle.dumps({ROOT: 14})), 22),
        (file_bytes(b"", pickle.dumps({ROOT: 13})), 22),
        (file_bytes(b"", b"cos\ngetcwd\n."), 22),
    ],
    ids=str,
)
def test_index_that_cannot_be_right_is_damage_with_its_place(tmp_path: Path, data: bytes, offset: int) -> None:
    (tmp_path / "f").write_bytes(data)
    for repair in (False, True):
        with pytest.raises(DamageError) as caught:
            FileStorage2(tmp_path / "f", repair=repair)
        assert caught.value.offset == offset
        assert not isinstance(caught.value, UnsoundTailError)
    assert (tmp_path / "f").read_bytes() == data


@pytest.mark.spec("DFS-6")
def test_packed_entry_of_another_oid_is_damage_when_it_is_loaded(tmp_path: Path) -> None:
    index = pickle.dumps({ROOT: 14, ONE: 14})
    (tmp_path / "f").write_bytes(file_bytes(entry(ROOT), index))
    storage = FileStorage2(tmp_path / "f")
    assert storage.load(ROOT) == pack_record(ROOT, DATA, b"")
    with pytest.raises(DamageError, match=r"at byte 14: there is no sound entry of oid 1 "):
        storage.load(ONE)
    storage.close()


@pytest.mark.spec("DFS-9")
def test_record_that_is_too_long_is_refused_with_nothing_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durus.files.dfs20.dfs20.MAX_RECORD", 1000)
    storage = FileStorage2(tmp_path / "f")
    put(storage, o0=bytes(988))
    before = (tmp_path / "f").read_bytes()
    with pytest.raises(RecordError, match=r"record of oid 1 has 1001 bytes"):
        put(storage, o0=b"new", o1=bytes(989))
    assert (tmp_path / "f").read_bytes() == before
    put(storage, o1=b"b")
    storage.close()
    assert set(records_of(tmp_path / "f")) == {ROOT, ONE}


def cuts() -> Iterator[tuple[int, bytes]]:
    """Yield the end of the last whole transaction and the beginning of a file, for every cut in its last two."""
    base = file_bytes(entry(ROOT), pickle.dumps({ROOT: 14}), entry(ONE))
    second = entry(ROOT, DATA + b"2" * 40, ONE + TWO) + entry(TWO, DATA + b"data") + bytes(4)
    third = entry(ONE, DATA + b"3") + entry(oid_from_int(3)) + bytes(4)
    whole = base + second + third
    for size in range(len(base), len(whole) + 1):
        end = len(base) if size < len(base + second) else len(base + second)
        yield len(whole) if size == len(whole) else end, whole[:size]


@pytest.mark.spec("DFS-8", "DFS-10", "DFS-11")
def test_cut_at_any_byte_of_the_last_transactions_is_told_shown_and_repaired(tmp_path: Path) -> None:
    path = tmp_path / "f"
    for end, data in cuts():
        path.write_bytes(data)
        if end == len(data):
            FileStorage2(path).close()
            continue
        with pytest.raises(UnsoundTailError) as caught:
            FileStorage2(path)
        assert caught.value.offset == end
        assert path.read_bytes() == data
        with pytest.warns(DurusWarning, match=f"after byte {end} "):
            reader = FileStorage2(path, readonly=True)
        seen = dict(reader.gen_oid_record())
        reader.close()
        with pytest.warns(DurusWarning, match="were cut off and are kept"):
            storage = FileStorage2(path, repair=True)
        assert dict(storage.gen_oid_record()) == seen
        assert path.read_bytes() == data[:end]
        (kept,) = tmp_path.glob("f.cut-*")
        assert kept.read_bytes() == data[end:]
        put(storage, o9=DATA)
        storage.close()
        assert records_of(path) == {**seen, oid_from_int(9): pack_record(oid_from_int(9), DATA, b"")}
        kept.unlink()


@pytest.mark.spec("DFS-10", "DFS-11")
def test_damaged_length_ahead_of_a_sound_object_is_never_cut_off(tmp_path: Path) -> None:
    base = file_bytes(b"", NO_INDEX)
    sound = base + entry(ROOT) + entry(ONE) + bytes(4) + entry(TWO) + bytes(4)
    for offset in (len(base), len(base + entry(ROOT))):
        for length in (1, 11, 50, 0x01000000, 0xFFFFFFFF):
            data = sound[:offset] + struct.pack(">I", length) + sound[offset + 4 :]
            (tmp_path / "f").write_bytes(data)
            with pytest.raises(DamageError) as caught:
                FileStorage2(tmp_path / "f", repair=True)
            assert caught.value.offset == offset
            assert not isinstance(caught.value, UnsoundTailError)
            assert (tmp_path / "f").read_bytes() == data


@pytest.mark.spec("DFS-11")
def test_database_stored_inside_an_object_does_not_hide_a_cut_end(tmp_path: Path) -> None:
    inner = file_bytes(b"", NO_INDEX, *(entry(oid_from_int(n)) for n in range(50)))
    base = file_bytes(b"", NO_INDEX)
    (tmp_path / "f").write_bytes(base + entry(ROOT, DATA + inner)[:-10])
    with pytest.raises(UnsoundTailError) as caught:
        FileStorage2(tmp_path / "f")
    assert caught.value.offset == len(base)


@pytest.mark.spec("DFS-12")
@pytest.mark.parametrize("count", [1, 2, 300])
def test_zeros_after_the_last_transaction_change_nothing(tmp_path: Path, count: int) -> None:
    (tmp_path / "f").write_bytes(file_bytes(b"", NO_INDEX, entry(ROOT)) + bytes(4 * count))
    storage = FileStorage2(tmp_path / "f")
    put(storage, o1=DATA)
    storage.close()
    assert set(records_of(tmp_path / "f")) == {ROOT, ONE}


@pytest.mark.spec("CMD-17")
def test_zeros_after_the_last_transaction_are_noted_and_not_counted(tmp_path: Path) -> None:
    before = file_bytes(b"", NO_INDEX, entry(ROOT), entry(ROOT))
    size = len(before)

    def checked(data: bytes) -> tuple[int | None, list[tuple[int | None, bool]]]:
        (tmp_path / "f").write_bytes(data)
        with closing(inspect_file(tmp_path / "f")) as inspection:
            found = [(each.offset, each.is_fault) for each in inspection.findings()]
            figures = inspection.figures()
            if not any(is_fault for _, is_fault in found):
                assert inspection.heading().transactions == figures.transactions
        return figures.transactions, found

    assert checked(before) == (2, [])
    assert checked(before + bytes(4096)) == (2, [(size, False)])
    assert checked(before + bytes(4096) + entry(ROOT) + bytes(4)) == (3, [])
    assert checked(before + bytes(4095)) == (2, [(size + 4092, True), (size, False)])


@pytest.mark.spec("DFS-13")
def test_pack_keeps_what_is_reached_and_what_is_committed_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with Connection(FileStorage2(path)) as connection:
        root: Any = connection.get_root()
        for n in range(250):
            root[n] = PersistentList([n])
        connection.commit()
        garbage = root[0]
        for n in range(0, 250, 2):
            del root[n]
        connection.commit()
        before = path.read_bytes()
        packer = connection.get_storage().get_packer()
        for number, _ in enumerate(packer):
            root[f"during {number}"] = Persistent()
            if number == 1:
                root["garbage that comes back"] = garbage
            connection.commit()
        expected = set(root)
        assert (tmp_path / "f.prepack").read_bytes()[: len(before)] == before
        connection.commit()
        root["after"] = 1
        connection.commit()
    data = path.read_bytes()
    (start,) = struct.unpack(">Q", data[6:14])
    (length,) = struct.unpack(">Q", data[start : start + 8])
    index = pickle.loads(zlib.decompress(data[start + 8 : start + 8 + length]))
    for oid, offset in index.items():
        assert data[offset + 4 : offset + 12] == oid
    with Connection(FileStorage2(path)) as connection:
        root = connection.get_root()
        assert set(root) == expected | {"after"}
        assert root["garbage that comes back"] == [0]
        assert root[249] == [249]


@pytest.mark.spec("DFS-13")
def test_pack_of_a_file_without_objects_and_twice(tmp_path: Path) -> None:
    storage = FileStorage2(tmp_path / "f")
    storage.pack()
    put(storage, o0=DATA)
    storage.pack()
    storage.pack()
    storage.close()
    assert set(records_of(tmp_path / "f")) == {ROOT}
    assert sorted(os.listdir(tmp_path)) == ["f", "f.prepack"]


@pytest.mark.spec("DFS-13")
def test_pack_that_meets_a_dangling_reference_leaves_the_file(tmp_path: Path) -> None:
    data = file_bytes(b"", NO_INDEX, entry(ROOT, refs=TWO))
    (tmp_path / "f").write_bytes(data)
    storage = FileStorage2(tmp_path / "f")
    with pytest.raises(FormatError, match="refers to oid 2"):
        storage.pack()
    storage.close()
    assert os.listdir(tmp_path) == ["f"]
    assert (tmp_path / "f").read_bytes() == data


def test_temporary_file_is_gone_when_it_is_closed() -> None:
    storage = FileStorage2()
    path = Path(storage.get_filename())
    assert str(storage) == f"FileStorage2({str(path)!r})"
    assert path.exists()
    storage.close()
    assert not path.exists()

"""The SHELF-1 file as it is written: layout, seals, syncs, packing."""

import os
import pickle
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import pytest

from durus.connection import Connection
from durus.error import DamageError, DurusWarning, FileError, FormatError, TransactionError, UnsoundTailError
from durus.file_storage import FileStorage
from durus.files.file import File, Mode, OperatingSystem, OperatingSystemFile
from durus.files.shelf.layout import SEAL_SIZE, find_seals, pack_entry, pack_seal, pack_transaction, parse_seal
from durus.files.shelf.offset_map import OffsetMap, build_offset_map
from durus.files.shelf.shelf import EMPTY_FILE, LARGE_RECORD
from durus.oid import SEAL_OID, oid_from_int
from durus.persistent import Persistent
from durus.persistent_list import PersistentList
from durus.records.record import pack_record

TIME = "2026-01-02T03:04:05.000006Z"
ROOT, ONE, TWO = (oid_from_int(n) for n in range(3))


def put(storage: FileStorage, **objects: bytes) -> None:
    """Commit records with these data: `o0=b"a"` is the object with oid 0."""
    storage.begin()
    for name, data in objects.items():
        oid = oid_from_int(int(name[1:]))
        storage.store(oid, pack_record(oid, data, b""))
    storage.end()


class Watched(OperatingSystem):
    """Lists the operations on files and names in their order."""

    def __init__(self) -> None:
        self.operations: list[str] = []

    def open(self, path: str, mode: Mode) -> File:
        note = self.operations.append

        class WatchedFile(OperatingSystemFile):
            def append(self, data: bytes, end: int | None = None) -> None:
                note(f"append to {os.path.basename(self.path)}")
                super().append(data)

            def sync(self) -> None:
                note(f"sync {os.path.basename(self.path)}")
                super().sync()

            def truncate(self, size: int) -> None:
                note(f"truncate {os.path.basename(self.path)}")
                super().truncate(size)

            def lock(self) -> None:
                note(f"lock {os.path.basename(self.path)}")
                super().lock()

        return WatchedFile(path, mode)

    def replace(self, source: str, name: str) -> None:
        self.operations.append(f"replace {os.path.basename(name)}")
        super().replace(source, name)

    def sync_directory(self, path: str) -> None:
        self.operations.append("sync directory")
        super().sync_directory(path)


@pytest.mark.spec("SHELF-2", "SHELF-4", "SHELF-5", "SHELF-12", "SHELF-15", "SHELF-17")
def test_bytes_of_a_first_commit(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path / "f", clock=lambda: TIME)
    put(storage, o0=b"a")
    storage.close()
    data = (tmp_path / "f").read_bytes()
    assert data.startswith(EMPTY_FILE)
    cover, checksum = pack_transaction(b"", 40, TIME, crc32(EMPTY_FILE))
    entry = b"\0\0\0\0\0\0\0\x15" + ROOT + ROOT + b"\0\0\0\1a"
    assert pack_entry(ROOT, pack_record(ROOT, b"a", b"")) == entry
    commit, _ = pack_transaction(entry, 40 + len(cover), TIME, checksum)
    assert data == EMPTY_FILE + cover + commit
    assert commit[:8] == (len(entry) + SEAL_SIZE).to_bytes(8, "big")
    seal = parse_seal(commit[-SEAL_SIZE:])
    assert seal is not None
    assert seal.checksum == crc32(commit[:-10], checksum)


@pytest.mark.spec("SHELF-13")
def test_seal_has_its_fixed_layout_and_reads_as_a_record_of_a_persistent() -> None:
    seal, checksum = pack_seal(77, TIME, 5)
    assert len(seal) == 132
    assert seal[:28] == (124).to_bytes(8, "big") + SEAL_OID * 2 + (104).to_bytes(4, "big")
    assert pickle.loads(seal[28:60]) is Persistent
    assert pickle.loads(seal[60:]) == {"seal": f"{77:016x} {TIME} {checksum:08x}"}
    assert checksum == crc32(seal[:122], 5)


@pytest.mark.spec("SHELF-25")
def test_seals_are_found_in_their_own_place_only() -> None:
    seal, _ = pack_seal(1010, TIME, 0)
    assert list(find_seals(b"0123456789" + seal + seal, 1000)) == [1010]
    assert list(find_seals(seal, 1010)) == [1010]
    assert list(find_seals(b"0123456789" + seal, 1001)) == []


@pytest.mark.spec("SHELF-25")
def test_database_stored_inside_an_object_does_not_hide_a_cut_end(tmp_path: Path) -> None:
    with Connection(tmp_path / "inner") as connection:
        for n in range(3):
            connection.get_root()["n"] = n
            connection.commit()
    inner = (tmp_path / "inner").read_bytes()
    storage = FileStorage(tmp_path / "f")
    put(storage, o0=b"a")
    end = (tmp_path / "f").stat().st_size
    put(storage, o0=inner)
    storage.close()
    os.truncate(tmp_path / "f", end + 36 + len(inner) - 50)
    with pytest.raises(UnsoundTailError):
        FileStorage(tmp_path / "f")


@pytest.mark.spec("SHELF-11")
def test_the_newest_entry_of_an_oid_is_the_current_one(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path / "f")
    put(storage, o0=b"old", o1=b"one")
    storage.pack()
    put(storage, o0=b"new")
    storage.close()
    storage = FileStorage(tmp_path / "f")
    assert storage.load(ROOT) == pack_record(ROOT, b"new", b"")
    put(storage, o0=b"newest")
    assert storage.load(ROOT) == pack_record(ROOT, b"newest", b"")
    assert [oid for oid, _ in storage.gen_oid_record()] == [ROOT]
    assert "f" in str(storage)
    storage.close()


@pytest.mark.spec("SHELF-6", "SHELF-8", "SHELF-9", "SHELF-10")
@pytest.mark.parametrize("live", [[], [0], [0, 1, 2], [0, 3], [0, 1, 5, 6, 9], list(range(0, 3000, 7))])
def test_offset_map_gives_entries_and_free_oids(tmp_path: Path, live: list[int]) -> None:
    offsets = [0] * (live[-1] + 1 if live else 0)
    for n in live:
        offsets[n] = 16 + n
    start = 16 + len(offsets)
    (tmp_path / "map").write_bytes(bytes(start) + b"".join(build_offset_map(offsets, start)))
    file = OperatingSystem().open(str(tmp_path / "map"), "read")
    offset_map = OffsetMap(file, start)
    assert offset_map.end == file.size()
    assert offset_map.count == (live[-1] + 2 if live else 0)
    assert {n: offset_map.offset_of(oid_from_int(n)) for n in live} == {n: 16 + n for n in live}
    assert list(offset_map.offsets()) == [(oid_from_int(n), 16 + n) for n in live]
    free = [n for n in range(offset_map.count) if n not in live]
    assert list(offset_map.holes()) == free[::-1]
    assert all(offset_map.offset_of(oid_from_int(n)) is None for n in [*free, offset_map.count])
    file.close()


@pytest.mark.spec("SHELF-16", "SHELF-17")
def test_what_has_no_seal_is_covered_before_the_next_commit(tmp_path: Path) -> None:
    path = tmp_path / "f"
    entry = pack_entry(ROOT, pack_record(ROOT, b"a", b""))
    path.write_bytes(EMPTY_FILE + len(entry).to_bytes(8, "big") + entry)
    end = path.stat().st_size
    storage = FileStorage(path)
    assert storage.load(ROOT) == pack_record(ROOT, b"a", b"")
    put(storage, o1=b"b")
    storage.close()
    data = path.read_bytes()
    seal = parse_seal(data[end + 8 : end + 8 + SEAL_SIZE])
    assert seal is not None
    assert seal.checksum == crc32(data[: end + 8 + SEAL_SIZE - 10])


@pytest.mark.spec("SHELF-18", "SHELF-19", "SHELF-22")
def test_order_of_operations_of_open_and_commit(tmp_path: Path) -> None:
    system = Watched()
    storage = FileStorage(tmp_path / "f", file_system=system)
    assert system.operations == ["lock f", "truncate f", "append to f", "sync f", "sync directory"]
    put(storage, o0=b"a")
    assert system.operations[5:] == ["append to f", "sync f"] * 2
    put(storage, o0=b"b")
    assert system.operations[9:] == ["append to f", "sync f"]
    put(storage, o0=bytes(LARGE_RECORD), o1=b"b")
    assert system.operations[11:] == [*["append to f"] * 3, "sync f"]
    storage.close()
    storage = FileStorage(tmp_path / "f", file_system=system, durability="os")
    system.operations.clear()
    put(storage, o0=b"c")
    assert system.operations == ["append to f"]
    storage.close()


@pytest.mark.parametrize("size", [1 << 23, 1 << 24])  # which C encodes, and which Python does
def test_commit_of_a_large_record_takes_little_more_than_twice_its_memory(tmp_path: Path, size: int) -> None:
    connection = Connection(FileStorage(tmp_path / "f", durability="os"))
    obj = connection.get_root()["a"] = PersistentList()
    connection.commit()
    obj.append(random.Random(1).randbytes(size))
    tracemalloc.start()
    try:
        connection.commit()
        assert tracemalloc.get_traced_memory()[1] < 2.2 * size
    finally:
        tracemalloc.stop()
    connection.close()


@pytest.mark.spec("SHELF-31", "SHELF-36", "SHELF-37")
def test_order_of_operations_of_a_pack(tmp_path: Path) -> None:
    system = Watched()
    storage = FileStorage(tmp_path / "f", file_system=system)
    put(storage, o0=b"a")
    before = (tmp_path / "f").read_bytes()
    system.operations.clear()
    storage.pack()
    assert system.operations[0] == "lock f.pack"
    assert system.operations[-4:] == ["sync f.pack", "replace f", "replace f.prepack", "sync directory"]
    assert (tmp_path / "f.prepack").read_bytes() == before
    storage.close()


@pytest.mark.spec("SHELF-32")
def test_pack_refuses_a_file_with_a_dangling_reference(tmp_path: Path) -> None:
    path = tmp_path / "f"
    entry = pack_entry(ROOT, pack_record(ROOT, b"a", ONE))
    data = EMPTY_FILE + len(entry).to_bytes(8, "big") + entry
    path.write_bytes(data)
    storage = FileStorage(path)
    with pytest.raises(FormatError, match="object 0 refers to oid 1"):
        storage.pack()
    assert path.read_bytes() == data
    assert sorted(each.name for each in tmp_path.iterdir()) == ["f"]
    put(storage, o1=b"now it is there")
    storage.pack()
    storage.close()


@pytest.mark.spec("SHELF-38")
def test_oids_that_a_pack_set_free_are_given_out_again_only_after_reopening(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path / "f")
    connection = Connection(storage)
    connection.get_root()["x"] = [PersistentList() for _ in range(5)]
    connection.commit()
    del connection.get_root()["x"]
    connection.commit()
    storage.close()
    storage = FileStorage(tmp_path / "f")
    storage.pack()
    assert storage.new_oid() == oid_from_int(6)
    storage.close()
    storage = FileStorage(tmp_path / "f")
    assert storage.new_oid() == ONE
    storage.close()


@pytest.mark.spec("SHELF-30")
def test_pack_that_is_given_up_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path / "f")
    put(storage, o0=b"a", o1=b"garbage")
    packer = storage.get_packer()
    next(packer)
    with pytest.raises(TransactionError, match="is running"):
        storage.get_packer()
    packer.close()  # type: ignore[attr-defined]  # it is a generator
    assert sorted(each.name for each in tmp_path.iterdir()) == ["f"]
    assert storage.load(ONE) == pack_record(ONE, b"garbage", b"")
    storage.pack()
    storage.close()


@pytest.mark.spec("SHELF-35")
def test_commits_during_a_pack_keep_their_times(tmp_path: Path) -> None:
    times = iter(f"2026-01-02T03:04:{second:02}.000006Z" for second in range(60))
    storage = FileStorage(tmp_path / "f", clock=lambda: next(times))
    put(storage, o0=b"at second 0")
    packer = storage.get_packer()  # at second 1
    next(packer)
    put(storage, o0=b"at second 2")
    put(storage, o0=b"at second 3")
    assert list(packer)
    storage.close()
    data = (tmp_path / "f").read_bytes()
    seals = [parse_seal(data, place) for place in find_seals(data, 0)]
    assert [seal and seal.time[17:19] for seal in seals] == ["01", "01", "02", "03"]  # the first two are of the pack


@pytest.mark.spec("SHELF-21")
def test_writer_that_waited_for_a_pack_gets_the_new_file(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path / "f")
    put(storage, o0=b"a")

    class Late(OperatingSystem):
        """Opens the file just before the other storage packs and closes it."""

        def open(self, path: str, mode: Mode) -> File:
            file = super().open(path, mode)
            if path == str(tmp_path / "f") and storage._opened is not None:
                storage.pack()
                put(storage, o0=b"after the pack")
                storage.close()
            return file

    late = FileStorage(tmp_path / "f", file_system=Late())
    assert late.load(ROOT) == pack_record(ROOT, b"after the pack", b"")
    late.close()


@pytest.mark.parametrize("operation", ["size", "read_at", "append", "truncate"])
def test_errors_of_the_operating_system_name_operation_and_file(tmp_path: Path, operation: str) -> None:
    file = OperatingSystem().open(str(tmp_path / "f"), "write")
    file.close()
    calls: dict[str, Callable[[], object]] = {
        "size": file.size,
        "read_at": lambda: file.read_at(0, 1),
        "append": lambda: file.append(b"a"),
        "truncate": lambda: file.truncate(0),
    }
    with pytest.raises(FileError, match=str(tmp_path / "f")) as caught:
        calls[operation]()
    assert caught.value.operation


@pytest.mark.spec("SHELF-14")
def test_sound_looking_seal_of_another_place_is_refused(tmp_path: Path) -> None:
    moved, _ = pack_transaction(b"", 1000, TIME, crc32(EMPTY_FILE))
    (tmp_path / "f").write_bytes(EMPTY_FILE + moved)
    with pytest.raises(UnsoundTailError, match="should be the seal of its transaction"):
        FileStorage(tmp_path / "f")


@pytest.mark.spec("SHELF-24", "SHELF-27")
def test_damage_under_a_covering_seal_at_the_end_is_not_cut_off(tmp_path: Path) -> None:
    entry = pack_entry(ROOT, pack_record(ROOT, b"a", b""))
    data = EMPTY_FILE + len(entry).to_bytes(8, "big") + entry
    cover, _ = pack_transaction(b"", len(data), TIME, crc32(data))
    (tmp_path / "f").write_bytes(data + cover)
    FileStorage(tmp_path / "f", readonly=True).close()
    damaged = data[:-1] + b"b" + cover
    (tmp_path / "f").write_bytes(damaged)
    with pytest.raises(DamageError, match="checksum"):
        FileStorage(tmp_path / "f", repair=True)
    assert (tmp_path / "f").read_bytes() == damaged


@pytest.mark.spec("SHELF-26")
def test_order_of_operations_of_a_repair(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path / "f")
    put(storage, o0=b"a")
    storage.close()
    size = (tmp_path / "f").stat().st_size
    with open(tmp_path / "f", "ab") as file:
        file.write(b"torn")
    system = Watched()
    with pytest.warns(DurusWarning, match="cut off"):
        FileStorage(tmp_path / "f", repair=True, file_system=system).close()
    kept = f"f.cut-{size}"
    expected = [
        "lock f",
        f"append to {kept}",
        f"sync {kept}",
        "sync directory",
        "truncate f",
        "sync f",
        "sync directory",
    ]
    assert system.operations == expected


@pytest.mark.spec("SHELF-30")
def test_closing_a_storage_gives_up_its_pack(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path / "f")
    put(storage, o0=b"a")
    packer = storage.get_packer()
    next(packer)
    storage.close()
    assert [each.name for each in tmp_path.iterdir()] == ["f"]
    assert next(packer, None) is None
    storage = FileStorage(tmp_path / "f")
    storage.pack()
    storage.close()


@pytest.mark.spec("SHELF-37")
def test_failed_rename_of_the_old_file_leaves_nothing_behind(tmp_path: Path) -> None:
    class NoRename(OperatingSystem):
        def replace(self, source: str, name: str) -> None:
            raise FileError(5, "no", name)

    storage = FileStorage(tmp_path / "f", file_system=NoRename())
    put(storage, o0=b"a")
    with pytest.raises(FileError):
        storage.pack()
    assert [each.name for each in tmp_path.iterdir()] == ["f"]
    put(storage, o0=b"b")
    storage.close()


@pytest.mark.spec("SHELF-28")
def test_reader_sees_the_file_as_it_was_when_opened_while_a_writer_goes_on(tmp_path: Path) -> None:
    writer = FileStorage(tmp_path / "f")
    put(writer, o0=b"a")
    size = (tmp_path / "f").stat().st_size
    put(writer, o0=b"b")
    put(writer, o0=b"c")

    class MidAppend(OperatingSystem):
        """Tells the size in the middle of an append first, and the true one later."""

        def open(self, path: str, mode: Mode) -> File:
            class GrowingFile(OperatingSystemFile):
                asked = 0

                def size(self) -> int:
                    self.asked += 1
                    return size + 20 if self.asked <= 2 else super().size()

            return GrowingFile(path, mode)

    with pytest.warns(DurusWarning, match="are ignored"):
        reader = FileStorage(tmp_path / "f", readonly=True, file_system=MidAppend())
    assert reader.load(ROOT) == pack_record(ROOT, b"a", b"")
    reader.close()
    writer.close()

"""A storage that was opened for reading only follows what another process writes. [SHELF-54] to [SHELF-57]"""

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

import durus
from durus.connection import Connection
from durus.error import DamageError, DurusWarning, FileError
from durus.file_storage import FileStorage
from durus.file_storage2 import FileStorage2
from durus.files.append_only_storage import AppendOnlyStorage
from durus.files.shelf import FORMAT
from durus.files.shelf.layout import pack_entry
from durus.oid import oid_from_int
from durus.records.record import pack_record
from durus.storage import Storage
from tests.in_memory_file import CountingFile, MemoryFile, MemoryFileSystem

ROOT, ONE, TWO = (oid_from_int(n) for n in range(3))
Make = Callable[..., AppendOnlyStorage]  # type: ignore[type-arg]  # of either format

pytestmark = pytest.mark.filterwarnings("error")
formats = pytest.mark.parametrize("make", [FileStorage, FileStorage2], ids=["shelf", "dfs20"])


def record(oid: bytes, data: bytes) -> bytes:
    return pack_record(oid, data, b"" if oid != ROOT else ONE + TWO)


def put(storage: Storage, data: bytes, *oids: bytes) -> None:
    storage.begin()
    for oid in oids or (ROOT, ONE, TWO):
        storage.store(oid, record(oid, data))
    storage.end()


def texts(storage: Storage) -> list[bytes]:
    """Return the data of the three objects."""
    return [storage.load(oid)[12:13] for oid in (ROOT, ONE, TWO)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "f"


@pytest.mark.spec("SHELF-54")
@formats
def test_a_reader_shows_at_its_next_sync_what_was_committed_and_reports_it(make: Make, path: Path) -> None:
    writer = make(path)
    put(writer, b"a")
    reader = make(path, readonly=True)
    assert reader.sync() == []
    put(writer, b"b", ONE)
    put(writer, b"c", TWO)
    assert texts(reader) == [b"a", b"a", b"a"]
    changed = reader.sync()
    assert set(changed or []) == {ONE, TWO}
    assert texts(reader) == [b"a", b"b", b"c"]
    assert reader.sync() == []


@pytest.mark.spec("SHELF-54")
def test_a_reader_reads_only_what_was_appended() -> None:
    files = MemoryFileSystem()
    opened: list[CountingFile] = []

    class Counting(MemoryFileSystem):
        def open(self, path: str, mode: object) -> CountingFile:
            opened.append(CountingFile(path, files.files[path]))
            return opened[-1]

    writer = FileStorage("/f", file_system=files)
    put(writer, b"a" * 10_000)
    reader = FileStorage("/f", readonly=True, file_system=Counting())
    before, size = opened[-1].bytes_read, opened[-1].size()
    put(writer, b"b")
    assert reader.sync() is not None
    assert opened[-1].bytes_read - before < opened[-1].size() - size + 200
    before = opened[-1].bytes_read
    reader.sync()
    assert opened[-1].bytes_read - before <= 64


@pytest.mark.spec("SHELF-55")
@formats
def test_a_reader_opens_the_file_of_a_pack(make: Make, path: Path) -> None:
    writer = make(path)
    put(writer, b"a")
    reader = make(path, readonly=True)
    put(writer, b"b")
    writer.pack()
    put(writer, b"c", TWO)
    assert texts(reader) == [b"a", b"a", b"a"]
    assert reader.sync() is None
    assert texts(reader) == [b"b", b"b", b"c"]
    put(writer, b"d", ONE)
    assert reader.sync() == [ONE]


@pytest.mark.spec("SHELF-55")
def test_a_reader_follows_the_link_by_which_it_was_opened(tmp_path: Path) -> None:
    for name, data in ("first", b"1"), ("second", b"2"):
        with_data = FileStorage(tmp_path / name)
        put(with_data, data)
        with_data.close()
    link = tmp_path / "link"
    link.symlink_to("first")
    reader = FileStorage(link, readonly=True)
    (tmp_path / "new").symlink_to("second")
    os.replace(tmp_path / "new", link)
    assert reader.sync() is None
    assert texts(reader) == [b"2", b"2", b"2"]


@pytest.mark.spec("SHELF-55")
@formats
def test_a_file_that_is_gone_for_a_while_is_an_error_until_it_is_back(make: Make, path: Path) -> None:
    writer = make(path)
    put(writer, b"a")
    reader = make(path, readonly=True)
    os.rename(path, path.with_name("away"))
    for _ in range(2):
        with pytest.raises(FileError, match="cannot open"):
            reader.sync()
        assert not reader.follows
    os.rename(path.with_name("away"), path)
    assert reader.sync() == []
    assert reader.follows
    assert texts(reader) == [b"a", b"a", b"a"]


@pytest.mark.spec("SHELF-56")
@formats
def test_a_file_that_was_cut_or_written_anew_is_an_error_at_each_sync(make: Make, path: Path) -> None:
    writer = make(path)
    put(writer, b"a")
    size = path.stat().st_size
    put(writer, b"b")
    whole = path.read_bytes()
    changes: dict[str, Callable[[], object]] = {
        "it ends at byte": lambda: os.truncate(path, size),
        "the bytes before byte .* have changed": lambda: path.write_bytes(whole[:size] + bytes(len(whole) - size)),
    }
    for problem, change in changes.items():
        path.write_bytes(whole)
        reader = make(path, readonly=True)
        change()
        for _ in range(2):
            with pytest.raises(FileError, match=f"cut, repaired or rewritten .*{problem}.*open it again"):
                reader.sync()
        assert not reader.follows
        reader.close()


@pytest.mark.spec("SHELF-57")
@formats
def test_each_part_of_what_is_appended_is_read_when_it_is_complete(make: Make, path: Path, tmp_path: Path) -> None:
    writer = make(tmp_path / "source")
    put(writer, b"a")
    ends = [(tmp_path / "source").stat().st_size]
    for data in b"b", b"c":
        put(writer, data, ONE)
        ends.append((tmp_path / "source").stat().st_size)
    whole = (tmp_path / "source").read_bytes()
    path.write_bytes(whole[: ends[0]])
    reader = make(path, readonly=True)
    seen = [b"a"]
    for end in range(ends[0], len(whole)):
        with open(path, "ab") as copy:
            copy.write(whole[end : end + 1])
        changed = reader.sync()
        if changed:
            assert end + 1 in ends
            seen.append(texts(reader)[1])
            assert changed == [ONE]
        else:
            assert changed == []
    assert seen == [b"a", b"b", b"c"]


@pytest.mark.spec("SHELF-57", "SHELF-24")
def test_a_transaction_of_durus_4_3_is_read_when_it_has_its_length(path: Path) -> None:
    """4.3 writes 0 for the length, then the entries, and then the length over the 0."""
    writer = FileStorage(path)
    put(writer, b"a")
    before = path.read_bytes()
    put(writer, b"b", ONE)
    entry = pack_entry(ONE, record(ONE, b"x"))
    path.write_bytes(before)
    reader = FileStorage(path, readonly=True)
    for appended in (bytes(8), bytes(8) + entry[:9], bytes(8) + entry):
        path.write_bytes(before + appended)
        assert not reader.sync()
    path.write_bytes(before + len(entry).to_bytes(8, "big") + entry)
    assert reader.sync() == [ONE]
    assert texts(reader) == [b"a", b"x", b"a"]


@pytest.mark.spec("SHELF-54")
def test_transactions_of_durus_4_3_without_seals_are_reported_once(path: Path) -> None:
    put_away = FileStorage(path)
    put(put_away, b"a")
    put_away.close()
    reader = FileStorage(path, readonly=True)
    for oid, data in (ONE, b"x"), (TWO, b"y"):
        entry = pack_entry(oid, record(oid, data))
        with open(path, "ab") as file:
            file.write(len(entry).to_bytes(8, "big") + entry)
        assert reader.sync() == [oid]
    assert texts(reader) == [b"a", b"x", b"y"]


@pytest.mark.spec("SHELF-20", "SHELF-54")
def test_a_commit_that_failed_and_is_cut_off_while_it_is_read_is_no_damage() -> None:
    files = MemoryFileSystem()
    writer = FileStorage("/f", file_system=files)
    put(writer, b"a")
    end = len(files.files["/f"])

    class CutOff(MemoryFile):
        was_read = False

        def read_at(self, offset: int, size: int) -> bytes:
            data = bytearray(super().read_at(offset, size))
            if offset <= end + 40 < offset + len(data):
                data[end + 40 - offset] ^= 255  # what a reader finds that comes between two writes
                self.was_read = True
            return bytes(data)

        def size(self) -> int:
            if self.was_read:
                del self.data[end:]
            return super().size()

    class Cutting(MemoryFileSystem):
        def open(self, path: str, mode: object) -> MemoryFile:
            return CutOff(path, files.files[path])

    reader = FileStorage("/f", readonly=True, file_system=Cutting())
    put(writer, b"b", ONE)
    put(writer, b"c", TWO)
    assert reader.sync() == []
    assert texts(reader) == [b"a", b"a", b"a"]


@pytest.mark.spec("SHELF-54", "SHELF-19")
def test_damage_in_what_was_appended_is_an_error_that_changes_nothing(path: Path) -> None:
    writer = FileStorage(path)
    put(writer, b"a")
    reader = FileStorage(path, readonly=True)
    start = path.stat().st_size
    put(writer, b"b", ONE)
    put(writer, b"c", TWO)
    whole = path.read_bytes()
    path.write_bytes(whole[: start + 40] + b"\xff" + whole[start + 41 :])
    for _ in range(2):
        with pytest.raises(DamageError):
            reader.sync()
        assert texts(reader) == [b"a", b"a", b"a"]
    path.write_bytes(whole)
    assert set(reader.sync() or []) == {ONE, TWO}


@pytest.mark.spec("SHELF-57")
def test_an_incomplete_end_is_told_when_the_file_is_opened_and_not_later(path: Path) -> None:
    writer = FileStorage(path)
    put(writer, b"a")
    with open(path, "ab") as file:
        file.write(bytes(5))
    with pytest.warns(DurusWarning, match="not a complete transaction"):
        reader = FileStorage(path, readonly=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reader.sync() == []


@pytest.mark.spec("SHELF-54", "TXN-15")
@formats
def test_a_connection_that_only_reads_shows_each_commit_as_a_whole(make: Make, path: Path) -> None:
    writer = Connection(make(path))
    writer.get_root().update(a=durus.PersistentDict(n=0), b=durus.PersistentDict(n=0))
    writer.commit()
    reader = Connection(make(path, readonly=True))
    root = reader.get_root()
    for number in range(1, 5):
        with writer.transaction() as changed:
            changed["a"]["n"] = changed["b"]["n"] = number
        assert root["a"]["n"] == number - 1
        assert root["b"]["n"] == number - 1
        if number == 3:
            writer.pack()
        reader.abort()
        assert (root["a"]["n"], root["b"]["n"]) == (number, number)


@pytest.mark.spec("DB-4", "SHELF-54")
def test_a_readonly_database_keeps_its_connection_while_others_write(path: Path) -> None:
    with durus.open(path) as db, durus.open(path, must_exist=True, readonly=True) as reader:
        for number in range(5):
            with db.transaction() as changed:
                changed["n"] = number
            with reader.transaction() as root:
                assert root["n"] == number
            if number == 2:
                db.pack()
        assert reader.stats().connections == 1


def test_the_format_reads_on_from_where_it_was() -> None:
    """What a reader of the format has read is not read again, and a further call without news changes nothing."""
    files = MemoryFileSystem()
    writer = FileStorage("/f", file_system=files)
    put(writer, b"a")
    reader = FORMAT.read(files.open("/f", "read"))
    assert reader.read_on() == []
    put(writer, b"b", ONE)
    assert reader.read_on() == [ONE]
    assert (reader.end, reader.read_on()) == (len(files.files["/f"]), [])

"""Storages: what they refuse, what a failing file system does, and the tools over them."""

import gc
import random
import warnings
from pathlib import Path
from typing import Any

import pytest

from durus.connection import Connection
from durus.error import (
    ClosedError,
    FileError,
    StateError,
)
from durus.file_storage import FileStorage, TempFileStorage
from durus.files.file import File, Mode, OperatingSystem, OperatingSystemFile
from durus.persistent import Persistent
from durus.storage import MemoryStorage, gen_referring_oid_record, get_reference_index
from durus.utils import int8_to_str


class FullDisk(OperatingSystem):
    """A file system that can be told to fail at the next append or sync."""

    fails: str | None = None

    def open(self, path: str, mode: Mode) -> File:
        disk = self

        class FailingFile(OperatingSystemFile):
            def append(self, data: bytes, end: int | None = None) -> None:
                super().append(data[: len(data) // 2] if disk.fails == "append" else data)
                if disk.fails == "append":
                    raise FileError(28, "no space left", self.path)

            def sync(self) -> None:
                if disk.fails == "sync":
                    raise FileError(5, "input/output error", self.path)
                super().sync()

        return FailingFile(path, mode)


def test_gen_pack_does_what_the_pack_of_a_storage_does() -> None:
    class Packing(MemoryStorage):
        count = 0

        def pack(self) -> None:
            self.count += 1

    storage = Packing()
    assert list(storage.gen_pack()) == []
    assert storage.count == 1
    with_steps = MemoryStorage()
    Connection(with_steps)
    assert [each.phase for each in with_steps.gen_pack()][:1] == ["mark"]


@pytest.mark.spec("SHELF-20")
def test_full_disk_leaves_the_transaction_open_and_nothing_in_the_file(tmp_path: Path) -> None:
    disk = FullDisk()
    with Connection(FileStorage(tmp_path / "f", file_system=disk)) as connection:
        size = (tmp_path / "f").stat().st_size
        connection.get_root()["a"] = 1
        disk.fails = "append"
        with pytest.raises(FileError, match="no space left"):
            connection.commit()
        assert (tmp_path / "f").stat().st_size == size
        disk.fails = None
        connection.commit()
    with Connection(tmp_path / "f") as connection:
        assert connection.get_root()["a"] == 1


@pytest.mark.spec("SHELF-20")
def test_after_a_failed_sync_no_commit_is_taken_until_reopened(tmp_path: Path) -> None:
    disk = FullDisk()
    with Connection(FileStorage(tmp_path / "f", file_system=disk)) as connection:
        connection.get_root()["a"] = 1
        disk.fails = "sync"
        with pytest.raises(FileError):
            connection.commit()
        disk.fails = None
        with pytest.raises(ClosedError, match="open it again"):
            connection.commit()
    with Connection(tmp_path / "f") as connection:
        assert "a" not in connection.get_root()


def test_a_temporary_file_is_gone_when_it_is_closed() -> None:
    storage = TempFileStorage()
    path = Path(storage.get_filename())
    Connection(storage)
    assert path.exists()
    storage.close()
    assert not path.exists()
    with pytest.raises(ClosedError):
        storage.load(bytes(8))


def test_reference_tools() -> None:
    connection = Connection(MemoryStorage())
    connection.get_root()["a"] = Persistent()
    connection.commit()
    index = get_reference_index(connection.storage)
    assert index == {int8_to_str(1): [int8_to_str(0)]}
    assert [oid for oid, _ in gen_referring_oid_record(connection.storage, int8_to_str(1))] == [int8_to_str(0)]


@pytest.mark.spec("SHELF-37")
def test_file_system_without_links_packs_all_the_same(tmp_path: Path) -> None:
    class Linkless(OperatingSystem):
        def link(self, source: str, name: str) -> bool:
            return False

    with Connection(FileStorage(tmp_path / "f", file_system=Linkless())) as connection, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        connection.pack()
        connection.get_root()["a"] = 1
        connection.commit()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f"]


def test_storage_that_is_dropped_gives_up_its_lock(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path / "f")
    del storage
    gc.collect()
    FileStorage(tmp_path / "f").close()


def test_connection_that_cannot_be_made_closes_the_file_it_opened(tmp_path: Path) -> None:
    Connection(tmp_path / "f").close()
    with pytest.raises(StateError) as caught:
        Connection(tmp_path / "f", root_class=Persistent)
    FileStorage(tmp_path / "f").close()
    assert "PersistentDict" in str(caught.value)


def test_commit_refuses_a_file_that_grew_by_other_hands(tmp_path: Path) -> None:
    with Connection(tmp_path / "f") as connection:
        with open(tmp_path / "f", "ab") as file:
            file.write(b"something")
        connection.get_root()["a"] = 1
        with pytest.raises(ClosedError, match="ends at byte"):
            connection.commit()


def test_all_records_are_read_in_the_order_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Connection(tmp_path / "f") as connection:
        root = connection.get_root()
        items: list[Any] = [Persistent() for _ in range(20)]
        root["all"] = items
        for item in items:
            item.text = random.randbytes(100_000)  # more than is read ahead
        connection.commit()
        connection.pack()
        for number in (7, 3, 11, 3):
            items[number]._p_note_change()
            connection.commit()
        offsets: list[int] = []
        read_at = OperatingSystemFile.read_at

        def noting_read_at(file: OperatingSystemFile, offset: int, size: int) -> bytes:
            offsets.append(offset)
            return read_at(file, offset, size)

        records = connection.storage.gen_oid_record()
        next(records)  # with which the offset map is read
        monkeypatch.setattr(OperatingSystemFile, "read_at", noting_read_at)
        assert len(list(records)) == 20
        assert len(offsets) >= 20
        assert offsets == sorted(offsets)

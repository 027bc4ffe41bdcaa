"""Each file format has one face, and needs no more of a file than to read it."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from durus.connection import Connection
from durus.error import FileError, FormatError
from durus.file_storage import FileStorage
from durus.file_storage2 import FileStorage2
from durus.files import dfs20, shelf
from durus.files.append_only_storage import AppendOnlyStorage
from durus.files.file_format import FileFormat
from durus.files.inspection import Figures
from durus.open_file import inspect_file
from durus.persistent import Persistent
from durus.sqlite_storage import SqliteStorage
from durus.storage import Storage
from tests import rooms
from tests.in_memory_file import MemoryFile

TIME = "2026-01-02T03:04:05.000006Z"
Made = tuple[FileFormat[Any], bytes, dict[bytes, bytes]]


class OnlyReadable:
    """A file that can be read and closed, and nothing else."""

    __slots__ = ("_data", "path")

    def __init__(self, data: bytes) -> None:
        self.path = "/f"
        self._data = data

    def size(self) -> int:
        return len(self._data)

    def read_at(self, offset: int, size: int) -> bytes:
        return self._data[offset : offset + size]

    def close(self) -> None:
        pass


def fill(storage: Storage) -> None:
    """Pack some objects, and commit others after that."""
    with Connection(storage) as connection:
        connection.get_root()["a"] = [Persistent() for _ in range(20)]
        connection.commit()
        connection.pack()
        connection.get_root()["b"] = Persistent()
        connection.commit()


@pytest.fixture(params=[FileStorage, FileStorage2])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Made:
    """Return a format, a file of it, and the records in that."""
    storage_class: Callable[[Path], AppendOnlyStorage[Any]] = request.param
    storage = storage_class(tmp_path / "f")
    fill(storage)
    with closing(storage_class(tmp_path / "f")) as again:
        records = dict(again.gen_oid_record(None))
    assert len(records) == 22
    return storage.file_format, (tmp_path / "f").read_bytes(), records


def test_file_starts_with_the_magic_of_its_format(made: Made) -> None:
    file_format, data, _ = made
    assert data.startswith(file_format.magic)
    assert file_format.empty_file.startswith(file_format.magic)
    assert list(file_format.read(OnlyReadable(file_format.empty_file)).offsets()) == []


def test_reading_and_preparing_need_only_a_readable_file(made: Made) -> None:
    file_format, data, records = made
    found = file_format.read(OnlyReadable(data))
    assert {oid: found.read(oid) for oid, _ in found.offsets()} == records
    assert {oid: found.read_entry(oid, offset) for oid, offset in found.offsets()} == records
    new = found.prepare(list(records.items())[:2], TIME)
    again = file_format.read(OnlyReadable(data + b"".join(new.pieces)))
    for _ in range(2):
        new.accept()
        assert (found.end, dict(found.offsets())) == (again.end, dict(again.offsets()))


def test_packing_needs_only_a_readable_source(made: Made) -> None:
    file_format, data, records = made
    target = MemoryFile("/f.pack", bytearray())
    packer = file_format.packer(file_format.read(OnlyReadable(data)), target, TIME)
    for _ in packer.steps():
        pass
    packer.finish()
    found = packer.open_target()
    assert {oid: found.read(oid) for oid, _ in found.offsets()} == records
    assert not packer.removed()


def test_new_file_of_each_format_is_written_by_the_same_call(made: Made) -> None:
    file_format, _, records = made
    target = MemoryFile("/f", bytearray())
    size, highest = sum(map(len, records.values())), max(int.from_bytes(oid, "big") for oid in records)
    for _ in file_format.new_file(target, TIME).write_base(records.items(), len(records), size, highest):
        pass
    found = file_format.read(OnlyReadable(bytes(target.data)))
    assert {oid: found.read(oid) for oid, _ in found.offsets()} == records


def test_inspecting_needs_only_a_readable_file(made: Made) -> None:
    file_format, data, records = made
    inspection = file_format.inspect(OnlyReadable(data))
    assert list(inspection.findings()) == []
    assert inspection.figures().objects == len(records)
    assert dict(inspection.heading().lines())["format"] == file_format.name
    assert {oid: inspection.records.read(oid) for oid, _ in inspection.records.offsets()} == records


def test_damaged_file_has_findings_and_no_heading(made: Made) -> None:
    file_format, data, _ = made
    inspection = file_format.inspect(OnlyReadable(data[: len(file_format.magic) + 3]))
    assert [finding.is_fault for finding in inspection.findings()] == [True]
    assert inspection.figures().objects == 0
    with pytest.raises(FormatError):
        inspection.heading()


@pytest.mark.parametrize(
    ("make", "figures"),
    [
        (FileStorage, Figures(22, 1, "all", "sealed to its end")),
        (FileStorage2, Figures(22, 1, None, "no checksums, so changed bytes inside an object are not detected")),
        (SqliteStorage, Figures(22, None, None, "no checksums (SQLite)")),
    ],
)
def test_file_of_any_kind_is_inspected_by_its_name(
    make: Callable[[Path], Storage], figures: Figures, tmp_path: Path
) -> None:
    fill(make(tmp_path / "f"))
    with closing(inspect_file(tmp_path / "f")) as inspection:
        assert list(inspection.findings()) == []
        assert inspection.figures() == figures
        assert inspection.heading().sealed == figures.sealed
        assert len(list(inspection.records.offsets())) == figures.objects
        for oid, offset in inspection.records.offsets():
            assert inspection.records.read(oid) == inspection.records.read_entry(oid, offset)
        assert inspection.records.read(b"\xfe" * 8) is None


def test_file_that_is_not_there_is_not_made_by_a_look(tmp_path: Path) -> None:
    with pytest.raises(FileError):
        inspect_file(tmp_path / "f")
    assert list(tmp_path.iterdir()) == []


def importers_of(package: str) -> Iterator[str]:
    for module, imported in rooms.module_graph().items():
        if not module.startswith(package) and any(each.startswith(package) for each in imported):
            yield module


def test_only_its_storage_knows_a_format() -> None:
    importers = set(importers_of("files.shelf"))
    backups = {module for module in importers if module.startswith("backups.")}  # they go by the seals
    assert importers - backups == {"file_storage", "tools.salvage"}
    assert list(importers_of("files.dfs20")) == ["file_storage2"]
    assert (shelf.FORMAT.name, dfs20.FORMAT.name) == ("SHELF-1", "DFS20")

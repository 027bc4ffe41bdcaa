"""What crashes and errors of the disk once did to a database, each as a test of its own."""

import pytest

from durus.error import FormatError
from durus.file_storage import FileStorage
from durus.oid import ROOT_OID
from durus.record import pack_record
from durus.shelf.check import Check
from durus.shelf.shelf import EMPTY_FILE
from tests.model.simulated_files import Disk

PATH = "/simulated/f"


@pytest.fixture
def disk() -> Disk:
    return Disk()


def opened(disk: Disk, **options: bool) -> FileStorage:
    return FileStorage(PATH, file_system=disk.process(), **options)  # type: ignore[arg-type]  # readonly, repair


def put(storage: FileStorage, data: bytes) -> None:
    storage.begin()
    storage.store(ROOT_OID, pack_record(ROOT_OID, data, b""))
    storage.end()


def root_of(disk: Disk, **options: bool) -> bytes:
    storage = opened(disk, **options)
    record = storage.load(ROOT_OID)
    storage.close()
    return record[12:]


@pytest.mark.spec("SHELF-3")
@pytest.mark.parametrize("size", [1, 8, 39, 40])
def test_file_that_has_a_length_but_no_bytes_yet_is_an_unfinished_creation(disk: Disk, size: int) -> None:
    disk.put(PATH, bytes(size))
    with pytest.raises(FormatError, match="the file is empty"):
        opened(disk, readonly=True)
    (finding,) = Check(disk.process().open(PATH, "read")).findings()
    assert "nothing put into it yet" in finding.problem
    opened(disk).close()
    assert disk.contents()[PATH] == EMPTY_FILE


@pytest.mark.spec("SHELF-3")
def test_more_zeros_than_a_new_file_has_bytes_are_no_unfinished_creation(disk: Disk) -> None:
    disk.put(PATH, bytes(41))
    with pytest.raises(FormatError, match="not a Durus file"):
        opened(disk)
    assert disk.contents()[PATH] == bytes(41)


@pytest.mark.spec("SHELF-39")
def test_pack_does_not_write_into_a_second_name_of_the_database(disk: Disk) -> None:
    """A crash in the middle of the replace of an earlier pack can leave both names."""
    storage = opened(disk)
    put(storage, b"a")
    storage.close()
    process = disk.process()
    process.link(PATH, PATH + ".pack")
    process.link(PATH, PATH + ".prepack.new")
    process.sync_directory(PATH)
    storage = opened(disk)
    storage.pack()
    put(storage, b"b")
    storage.close()
    assert root_of(disk) == b"b"
    assert disk.names.keys() == {PATH, PATH + ".prepack"}

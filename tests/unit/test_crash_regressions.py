"""What crashes and errors of the disk once did to a database, each as a test of its own."""

import pytest

from durus.error import FormatError
from durus.file_storage import FileStorage
from durus.shelf.check import Check
from durus.shelf.shelf import EMPTY_FILE
from tests.model.simulated_files import Disk

PATH = "/simulated/f"


@pytest.fixture
def disk() -> Disk:
    return Disk()


def opened(disk: Disk, **options: bool) -> FileStorage:
    return FileStorage(PATH, file_system=disk.process(), **options)  # type: ignore[arg-type]  # readonly, repair


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

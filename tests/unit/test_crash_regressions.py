"""What crashes and errors of the disk once did to a database, each as a test of its own."""

import errno
import warnings
from typing import Any

import pytest

from durus.error import ClosedError, DurusWarning, FileError, FormatError
from durus.file_storage import FileStorage
from durus.files.shelf.inspection import ShelfInspection
from durus.files.shelf.shelf import EMPTY_FILE
from durus.oid import ROOT_OID
from durus.records.record import pack_record
from durus.shared_storage import SharedStorage
from tests.model.simulated_files import Disk, Fault, Operation, Share, every_outcome, failure, no_fault

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
    (finding,) = ShelfInspection(disk.process().open(PATH, "read")).findings()
    assert "nothing was stored yet" in finding.problem
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


def fails(disk: Disk, kind: str, error: type[BaseException] = FileError, done: Share = "none") -> None:
    """Make the next operation of this kind fail."""

    def observer(operation: Operation) -> Fault | None:
        if operation.kind != kind:
            return None
        disk.observer = no_fault
        return Fault(failure(errno.EIO) if error is FileError else lambda operation: error(), done)

    disk.observer = observer


def roots_after_a_crash(disk: Disk) -> set[bytes]:
    """Return the data of the root in every outcome, repaired where that is asked for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DurusWarning)
        return {root_of(after, repair=True) for after in every_outcome(disk)}


@pytest.mark.spec("SHELF-20")
def test_commit_that_was_interrupted_does_not_come_back_in_a_crash(disk: Disk) -> None:
    storage = opened(disk)
    put(storage, b"first")
    fails(disk, "append", KeyboardInterrupt, "all")
    with pytest.raises(KeyboardInterrupt):
        put(storage, b"interrupted")
    assert roots_after_a_crash(disk) == {b"first"}
    put(storage, b"second")
    assert roots_after_a_crash(disk) == {b"second"}
    storage.close()


@pytest.mark.spec("SHELF-20")
def test_storage_that_can_not_make_the_cutting_durable_takes_no_more_commits(disk: Disk) -> None:
    storage = opened(disk)
    put(storage, b"first")

    def observer(operation: Operation) -> Fault | None:
        if operation.kind == "append":
            return Fault(failure(errno.ENOSPC), "half")
        return Fault(failure(errno.EIO)) if operation.kind == "sync" else None

    disk.observer = observer
    with pytest.raises(FileError, match="append"):
        put(storage, b"second")
    disk.observer = no_fault
    with pytest.raises(ClosedError, match=r"cannot append.*cannot sync"):
        storage.begin()
    storage.close()


@pytest.mark.spec("SHELF-22")
def test_new_file_that_can_not_be_made_durable_is_left_empty(disk: Disk) -> None:
    """What a failed sync has lost no later one writes, so the next opening must write all of it."""
    fails(disk, "sync", done="half")
    with pytest.raises(FileError):
        opened(disk)
    assert disk.contents()[PATH] == b""
    storage = opened(disk)
    put(storage, b"a")
    assert roots_after_a_crash(disk) == {b"a"}
    storage.close()


@pytest.mark.spec("SHELF-36")
@pytest.mark.parametrize("kind", ["replace", "sync directory"])
def test_pack_interrupted_when_the_new_file_has_its_name_comes_to_its_end(disk: Disk, kind: str) -> None:
    storage = opened(disk)
    put(storage, b"a")

    def interrupt(operation: Operation) -> Fault | None:
        if operation.kind != kind or operation.path != PATH:
            return None
        disk.observer = no_fault
        return Fault(lambda operation: KeyboardInterrupt(), "all" if kind == "replace" else "none")

    disk.observer = interrupt
    with pytest.raises(KeyboardInterrupt):
        storage.pack()
    put(storage, b"b")
    storage.close()
    assert root_of(disk) == b"b"
    assert disk.names.keys() == {PATH, PATH + ".prepack"}


@pytest.mark.spec("SHELF-36")
def test_pack_interrupted_before_the_new_file_has_its_name_leaves_the_storage_at_work(disk: Disk) -> None:
    storage = opened(disk)
    put(storage, b"a")
    fails(disk, "replace", KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        storage.pack()
    put(storage, b"b")
    storage.close()
    assert root_of(disk) == b"b"
    assert disk.names.keys() == {PATH}


@pytest.mark.spec("SHELF-26")
@pytest.mark.parametrize("kind", ["append", "sync", "sync directory"])
def test_repair_that_can_not_keep_what_it_cuts_leaves_all_as_it_was(disk: Disk, kind: str) -> None:
    disk.put(PATH, EMPTY_FILE + b"torn")
    fails(disk, kind)
    with pytest.raises(FileError):
        opened(disk, repair=True)
    assert disk.contents() == {PATH: EMPTY_FILE + b"torn"}


def test_pack_of_a_shared_storage_is_given_up_when_its_iterator_is_closed(disk: Disk) -> None:
    """Not only when the garbage collector comes to it, in whatever thread and without the lock."""
    storage = opened(disk)
    put(storage, b"a")
    client = SharedStorage(storage).new_client()
    packer: Any = client.get_packer()
    next(packer)
    packer.close()
    assert disk.names.keys() == {PATH}
    client.close()
    storage.close()

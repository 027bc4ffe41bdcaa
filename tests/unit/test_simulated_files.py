"""What the simulated file system forgets at a crash, and what it keeps."""

import errno
import random
from collections.abc import Callable

import pytest

from durus.error import FileError, LockedError
from durus.files.file import File
from tests.model.simulated_files import (
    OLDEST,
    SECTOR,
    Crash,
    Disk,
    Fault,
    Operation,
    RandomChoices,
    Share,
    every_outcome,
    failure,
    no_fault,
    outcomes,
)

PATH = "/d/f"


@pytest.fixture
def disk() -> Disk:
    """Return a disk with one file, of 512 bytes `a` and 100 bytes `b`."""
    disk = Disk()
    disk.put(PATH, b"a" * SECTOR + b"b" * 100)
    return disk


NO_FILE = b"(no file)"


def left(disk: Disk, path: str = PATH) -> set[bytes]:
    """Return all that a crash can leave of a file."""
    return {after.contents().get(path, NO_FILE) for after in every_outcome(disk)}


def opened(disk: Disk) -> File:
    return disk.process().open(PATH, "write")


def fails(disk: Disk, kind: str, done: Share = "none", code: int = errno.EIO) -> None:
    """Make the next operation of this kind fail."""

    def observer(operation: Operation) -> Fault | None:
        if operation.kind != kind:
            return None
        disk.observer = no_fault
        return Fault(failure(code), done)

    disk.observer = observer


def test_processes_see_at_once_what_one_of_them_writes(disk: Disk) -> None:
    opened(disk).append(b"new")
    file = disk.process().open(PATH, "read")
    assert file.size() == SECTOR + 103
    assert file.read_at(SECTOR + 99, 10) == b"bnew"


def test_append_that_was_not_synced_may_be_there_missing_or_there_as_a_length_only(disk: Disk) -> None:
    opened(disk).append(b"new")
    old = b"a" * SECTOR + b"b" * 100
    assert left(disk) == {old, old + b"new", old + bytes(3)}


def test_each_sector_of_an_append_goes_by_itself(disk: Disk) -> None:
    opened(disk).append(b"c" * 412 + b"d" * SECTOR + b"e")
    old = b"a" * SECTOR + b"b" * 100
    found = left(disk)
    assert found == {old} | {
        old + c + d + e
        for c in (b"c" * 412, bytes(412))
        for d in (b"d" * SECTOR, bytes(SECTOR))
        for e in (b"e", bytes(1))
    }


def test_writes_overtake_each_other_until_a_sync(disk: Disk) -> None:
    file = opened(disk)
    file.append(b"c" * 412)
    file.append(b"d")
    assert b"a" * SECTOR + b"b" * 100 + bytes(412) + b"d" in left(disk)
    file.sync()
    assert left(disk) == {b"a" * SECTOR + b"b" * 100 + b"c" * 412 + b"d"}


def test_truncation_that_was_not_synced_may_be_undone_after_a_later_append(disk: Disk) -> None:
    file = opened(disk)
    file.append(b"1" * 412 + b"2" * 10)
    file.truncate(SECTOR + 100)
    file.append(b"3" * 412 + b"4" * 20)
    assert b"a" * SECTOR + b"b" * 100 + b"3" * 412 + b"2" * 10 in left(disk)
    file.sync()
    assert len(left(disk)) == 1


def test_noise_stands_only_where_nothing_was_written_before(disk: Disk) -> None:
    opened(disk).append(b"c" * 2000)
    old = b"a" * SECTOR + b"b" * 100
    seen = set()
    for seed in range(200):
        data = disk.after_crash(RandomChoices(random.Random(seed))).contents()[PATH]
        assert data.startswith(old)
        seen |= set(data[len(old) :])
    assert len(seen) > 2


def test_name_that_was_not_synced_may_be_missing(disk: Disk) -> None:
    process = disk.process()
    file = process.open("/d/g", "new")
    file.append(b"g")
    file.sync()
    assert left(disk, "/d/g") == {NO_FILE, b"g"}
    process.sync_directory("/d/g")
    assert left(disk, "/d/g") == {b"g"}


def test_replaced_name_leads_to_the_old_or_the_new_file_and_the_other_name_may_stay(disk: Disk) -> None:
    process = disk.process()
    file = process.open("/d/g", "new")
    file.append(b"g")
    file.sync()
    process.sync_directory("/d/g")
    process.replace("/d/g", PATH)
    old = b"a" * SECTOR + b"b" * 100
    pairs = {(after.contents()[PATH], after.contents().get("/d/g")) for after in every_outcome(disk)}
    assert pairs == {(old, b"g"), (old, None), (b"g", b"g"), (b"g", None)}
    process.sync_directory(PATH)
    assert disk.after_crash(OLDEST).contents() == {PATH: b"g"}


def test_names_of_another_directory_are_not_synced(disk: Disk) -> None:
    process = disk.process()
    process.open("/other/g", "new")
    process.sync_directory(PATH)
    assert left(disk, "/other/g") == {NO_FILE, b""}


def test_two_names_of_a_file_stay_names_of_one_file(disk: Disk) -> None:
    process = disk.process()
    assert process.link(PATH, "/d/g")
    process.sync_directory(PATH)
    after = disk.after_crash(OLDEST)
    after.process().open("/d/g", "write").truncate(1)
    assert after.contents() == {PATH: b"a", "/d/g": b"a"}
    assert len(disk.contents()[PATH]) == SECTOR + 100


def test_removed_name_may_come_back_until_its_directory_is_synced(disk: Disk) -> None:
    process = disk.process()
    process.remove(PATH)
    assert not process.exists(PATH)
    assert NO_FILE in left(disk)
    assert len(left(disk)) == 2
    process.sync_directory(PATH)
    assert left(disk) == {NO_FILE}


def test_file_that_must_be_new_is_not_opened_where_one_is(disk: Disk) -> None:
    with pytest.raises(FileError) as caught:
        disk.process().open(PATH, "new")
    assert caught.value.errno == errno.EEXIST
    with pytest.raises(FileError):
        disk.process().open("/d/g", "read")


def test_lock_is_held_until_the_file_is_closed_dropped_or_its_process_killed(disk: Disk) -> None:
    file = opened(disk)
    file.lock()
    with pytest.raises(LockedError):
        opened(disk).lock()
    file.close()
    file = opened(disk)
    file.lock()
    del file
    process = disk.process()
    file = process.open(PATH, "write")
    file.lock()
    process.kill()
    opened(disk).lock()
    with pytest.raises(Crash):
        file.append(b"x")


def test_killing_the_processes_loses_nothing_that_was_written_and_makes_nothing_durable(disk: Disk) -> None:
    file = opened(disk)
    file.lock()
    file.append(b"x")
    after = disk.after_kill()
    assert after.contents() == disk.contents()
    assert left(after) == left(disk)
    opened(after).lock()
    opened(after).sync()
    assert len(left(after)) == 1
    assert len(left(disk)) == 3


def test_file_that_lost_its_name_knows_it(disk: Disk) -> None:
    process = disk.process()
    file = opened(disk)
    assert file.has_its_name()
    process.open("/d/g", "new")
    process.replace("/d/g", PATH)
    assert not file.has_its_name()


@pytest.mark.parametrize(("done", "written"), [("none", b""), ("half", b"12"), ("all", b"1234")])
def test_failing_append_may_have_written_a_part(disk: Disk, done: Share, written: bytes) -> None:
    file = opened(disk)
    fails(disk, "append", done, errno.ENOSPC)
    with pytest.raises(FileError) as caught:
        file.append(b"1234")
    assert (caught.value.errno, caught.value.operation, caught.value.filename) == (errno.ENOSPC, "append", PATH)
    assert file.read_at(SECTOR + 100, 9) == written


@pytest.mark.parametrize("done", ["none", "all"])
@pytest.mark.parametrize("kind", ["truncate", "link", "replace", "remove", "sync directory"])
def test_failing_operation_is_done_wholly_or_not_at_all(disk: Disk, kind: str, done: Share) -> None:
    process = disk.process()
    process.link(PATH, "/d/g")
    calls: dict[str, Callable[[], object]] = {
        "truncate": lambda: process.open(PATH, "write").truncate(1),
        "link": lambda: process.link(PATH, "/d/h"),
        "replace": lambda: process.replace("/d/g", "/d/h"),
        "remove": lambda: process.remove("/d/g"),
        "sync directory": lambda: process.sync_directory(PATH),
    }
    before, outcomes_before = disk.contents(), len(list(every_outcome(disk)))
    fails(disk, kind, done)
    with pytest.raises(FileError):
        calls[kind]()
    changed = disk.contents() != before or len(list(every_outcome(disk))) != outcomes_before
    assert changed == (done == "all")


def test_what_a_failed_sync_has_lost_no_later_sync_writes(disk: Disk) -> None:
    lost = 0
    for seed in range(20):
        disk = Disk()
        disk.put(PATH, b"a" * SECTOR)
        disk.sync_chance = random.Random(seed)
        file = opened(disk)
        file.append(b"b" * SECTOR)
        fails(disk, "sync", "half")
        with pytest.raises(FileError):
            file.sync()
        file.append(b"c" * SECTOR)
        file.sync()
        assert file.read_at(0, 9999) == b"a" * SECTOR + b"b" * SECTOR + b"c" * SECTOR
        (data,) = left(disk)
        assert data in (b"a" * SECTOR + b + b"c" * SECTOR for b in (b"b" * SECTOR, bytes(SECTOR)))
        lost += bytes(SECTOR) in data
    assert 0 < lost < 20


def test_outcomes_are_all_where_they_are_few_and_some_where_they_are_many(disk: Disk) -> None:
    opened(disk).append(b"x")
    assert {after.contents()[PATH][-1] for after in outcomes(disk, 10, random.Random(0))} == set(b"bx\0")
    opened(disk).append(b"y" * 20 * SECTOR)
    found = list(outcomes(disk, 10, random.Random(0)))
    assert len(found) == 10
    assert found[0].contents() == disk.after_crash(OLDEST).contents()


def test_one_seed_gives_one_outcome(disk: Disk) -> None:
    opened(disk).append(b"y" * 20 * SECTOR)
    first, second, other = (disk.after_crash(RandomChoices(random.Random(seed))).contents() for seed in (4, 4, 5))
    assert first == second != other


def test_operations_are_numbered_and_say_what_they_are(disk: Disk) -> None:
    seen: list[str] = []

    def note(operation: Operation) -> None:
        seen.append(str(operation))

    disk.observer = note
    opened(disk).append(b"1234")
    assert seen == ["1: open f", "2: append 4 bytes f"]

"""Crashes at every operation of a backup and of a restore, and changes of the file between two operations."""

import errno
import functools
import random
from collections.abc import Callable, Sequence

import pytest

from durus.error import BackupError, DamageError, DurusError, FileError
from durus.files.shelf.layout import U64
from tests.model.backup_worlds import (
    MANIFEST_PATH,
    PATH,
    RESTORED,
    SECOND,
    TARGET,
    World,
    back_up,
    number_in,
    number_of,
    restore,
    verify,
)
from tests.model.crashes import READS
from tests.model.histories import small_steps
from tests.model.simulated_files import Disk, Disturbance, Fault, Operation, failure, no_fault, outcomes

Step = Callable[[World], object]


def open_without_fsync(world: World) -> None:
    """Make commits no longer wait for the disk: a crash must still not lose what a backup has of them."""
    world.durability = "os"
    world.open()


SCRIPTS: dict[str, Sequence[Step]] = {
    "without fsync": (open_without_fsync, World.commit, World.commit, World.back_up, World.commit, World.back_up),
    "first": (World.commit, World.back_up),
    "adding": (World.commit, World.back_up, World.commit, World.commit, World.back_up, World.commit, World.back_up),
    "packs": (World.commit, World.back_up, World.commit, World.pack, World.commit, World.back_up),
    "keep": (World.commit, World.back_up, World.pack, World.commit, lambda world: world.back_up(keep=1)),
}


class CrashWatch:
    """Makes the machine of the source, that of the target, or both, crash before each operation."""

    def __init__(self, world: World, most: int) -> None:
        self._world = world
        self._most = most
        self._chance = random.Random(1)
        self.acknowledged = 0
        """The number of the commit whose state the last completed backup has."""
        self.crashes = 0
        self._changed = True

    def __call__(self, operation: Operation) -> Fault | None:
        if self._changed:
            self.crash()
        self._changed = operation.kind not in READS
        return None

    def crash(self) -> None:
        world = self._world
        for target in outcomes(world.target, 5 * self._most, self._chance):
            self._check(world.source.after_kill(), target)
        for source in outcomes(world.source, self._most, self._chance):
            self._check(source, world.target.after_kill())
            self._check(source.after_kill(), next(outcomes(world.target, 1, self._chance)))

    def _check(self, source: Disk, target: Disk) -> None:
        """Compare what a crash has left with what is promised."""
        self.crashes += 1
        held = 0
        if MANIFEST_PATH in target.names:
            generations = verify(target)
            assert [problem for each in generations for problem in each.problems] == []
            held = number_in(target) if generations else 0
        assert self.acknowledged <= held <= self._world.number
        if PATH not in source.names or not source.names[PATH].data:
            return
        if self._world.durability == "os":  # then the file may be damaged after what is in the backup
            if held:
                restored = Disk()
                restore(target, restored)
                assert source.names[PATH].data.startswith(restored.names[RESTORED].data)
            return
        number = number_of(source, repair=True)
        assert held <= number, "the backup has what the crash has taken from the file"
        if number:
            back_up(source, target)
            assert number_in(target) == number
            assert not any(name.endswith(".part") for name in target.names)


@pytest.mark.spec("BACKUP-1", "BACKUP-10", "BACKUP-15", "BACKUP-16")
@pytest.mark.parametrize("script", SCRIPTS)
def test_crash_at_any_operation_leaves_the_backup_complete_or_as_it_was(script: str) -> None:
    world = World()
    watch = CrashWatch(world, most=3)
    with small_steps():
        world.source.observer = world.target.observer = watch
        for step in SCRIPTS[script]:
            done = step(world)
            if not isinstance(done, int | None):
                watch.acknowledged = world.number
        watch.crash()
        world.source.observer = world.target.observer = no_fault
        world.close()
    assert watch.crashes > 100


@pytest.mark.spec("BACKUP-15", "BACKUP-16")
@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_fault_at_any_operation_of_a_backup_leaves_it_complete_or_as_it_was(script: str, side: str) -> None:
    number = 0
    while True:
        number += 1
        world = World()
        disk = world.source if side == "source" else world.target
        *before, last = SCRIPTS[script]
        for step in before:
            step(world)
        held = world.restore() if MANIFEST_PATH in world.target.names else 0
        first = disk.operations
        wanted = first + number

        def fail(operation: Operation, wanted: int = wanted) -> Fault | None:
            return Fault(failure(errno.EIO), "half") if operation.number == wanted else None

        disk.observer = fail
        try:
            last(world)
        except FileError:
            disk.observer = no_fault
            if MANIFEST_PATH in world.target.names:
                assert [problem for each in verify(world.target) for problem in each.problems] == []
                assert not verify(world.target) or world.restore() in (held, world.number)
            world.back_up()
        disk.observer = no_fault
        assert world.restore() == world.number
        world.close()
        if disk.operations < wanted:
            break
    assert number > 5


def commit(world: World) -> None:
    world.commit()


def pack(world: World) -> None:
    world.pack()


def commit_that_is_cut_off(world: World) -> None:
    """Behave like a writer with a full disk: half of a commit is written and cut off; the next commit succeeds."""
    file = world.open()._require_open().file
    end = file.size()
    file.append(U64.pack(5000) + bytes(700))
    file.truncate(end)
    world.commit(300)


def commit_that_stays_incomplete(world: World) -> None:
    world.file_system.open(PATH, "write").append(U64.pack(5000) + bytes(700))


@pytest.mark.spec("BACKUP-10", "BACKUP-11", "BACKUP-12", "BACKUP-15")
@pytest.mark.parametrize("disturb", [commit, pack, commit_that_is_cut_off, commit_that_stays_incomplete])
@pytest.mark.parametrize("has_backup", [False, True], ids=["first", "adding"])
def test_backup_beside_a_writer_has_a_state_of_the_file(disturb: Callable[[World], None], has_backup: bool) -> None:
    wanted = 0
    while True:
        wanted += 1
        world = World()
        world.commit()
        if has_backup:
            world.back_up()
        before = world.commit(3000)
        disturbance = Disturbance(world.source, wanted, functools.partial(disturb, world))
        world.back_up()
        world.source.observer = no_fault
        assert [problem for each in verify(world.target) for problem in each.problems] == []
        assert before <= world.restore() <= world.number
        if not disturbance.has_come:
            break
        if disturb is not commit_that_stays_incomplete:
            world.back_up()
            assert world.restore() == world.number
        world.close()
    assert wanted > 10


@pytest.mark.spec("BACKUP-11")
def test_commit_that_is_replaced_by_smaller_ones_while_it_is_read_is_no_damage() -> None:
    wanted = 0
    while True:
        wanted += 1
        world = World()
        world.commit()
        world.back_up()
        kept = len(world.source.contents()[PATH])
        world.commit(20_000)
        world.close()

        def replace(world: World = world, kept: int = kept) -> None:
            world.source.process().open(PATH, "write").truncate(kept)
            world.number = 50
            world.commit(5000)
            world.commit(300)

        replacement = Disturbance(world.source, wanted, replace)
        world.back_up()
        world.source.observer = no_fault
        assert [problem for each in verify(world.target) for problem in each.problems] == []
        assert world.restore() in (2, 51, 52)
        if not replacement.has_come:
            break
        world.back_up()
        assert world.restore() == 52
        world.close()
    assert wanted > 8


@pytest.mark.spec("BACKUP-13", "BACKUP-15")
def test_what_was_cut_off_while_it_was_copied_is_not_backed_up() -> None:
    world = World()
    world.commit()
    world.back_up()
    kept = world.source.contents()[PATH]
    world.commit()
    world.close()

    def observe(operation: Operation) -> Fault | None:
        if operation.kind == "replace":  # the segment gets its name
            world.target.observer = no_fault
            world.source.process().open(PATH, "write").truncate(len(kept))
        return None

    world.target.observer = observe
    done = world.back_up()
    assert (done.generation, done.added) == (1, 0)
    assert world.restore() == 1


@pytest.mark.spec("BACKUP-15")
def test_file_that_is_cut_off_each_time_is_an_error() -> None:
    world = World()
    world.commit()
    world.back_up()
    kept = world.source.contents()[PATH]
    world.commit()
    world.close()

    def observe(operation: Operation) -> Fault | None:
        if operation.kind == "replace":
            world.source.process().open(PATH, "write").truncate(len(kept))
            world.commit()
            world.close()
        return None

    world.target.observer = observe
    with pytest.raises(BackupError, match="were cut off"):
        world.back_up()
    world.target.observer = no_fault
    assert world.restore() == 1


@pytest.mark.spec("BACKUP-32", "BACKUP-33")
def test_restored_file_has_its_name_only_when_it_is_complete() -> None:
    world = World()
    world.commit(2000)
    world.back_up()
    world.commit()
    world.back_up()
    world.close()
    disk = Disk()
    found: set[bytes] = set()

    def crash(operation: Operation) -> None:
        for after in outcomes(disk, 30, random.Random(operation.number)):
            found.add(after.contents().get(RESTORED, b""))

    disk.observer = crash
    restore(world.target, disk)
    disk.observer = no_fault
    assert found == {b"", world.source.contents()[PATH]}
    assert next(outcomes(disk, 1, random.Random(0))).contents()[RESTORED] == world.source.contents()[PATH]


@pytest.mark.spec("BACKUP-32", "BACKUP-40")
def test_fault_at_any_operation_of_a_restoring_leaves_no_file_or_the_whole_one() -> None:
    world = World()
    world.commit(2000)
    world.back_up()
    world.close()
    wanted = 0
    while True:
        wanted += 1
        disk = Disk()

        def fail(operation: Operation, wanted: int = wanted) -> Fault | None:
            return Fault(failure(errno.ENOSPC), "half") if operation.number == wanted else None

        disk.observer = fail
        try:
            restore(world.target, disk)
        except FileError:
            assert disk.contents().get(RESTORED, b"") in (b"", world.source.contents()[PATH])
        disk.observer = no_fault
        if disk.operations < wanted:
            break
        if RESTORED not in disk.names:
            restore(world.target, disk)
        assert disk.contents()[RESTORED] == world.source.contents()[PATH]
    assert wanted > 5


@pytest.mark.spec("BACKUP-17")
@pytest.mark.parametrize("keep", [None, 1])
def test_backup_beside_a_restoring_does_not_disturb_it(keep: int | None) -> None:
    wanted = 0
    while True:
        wanted += 1
        world = World()
        world.commit()
        world.back_up()
        world.clock.now += 10 * SECOND
        world.commit()
        world.back_up()
        world.pack()

        def back_up_again(world: World = world) -> None:
            world.commit()
            world.back_up(keep)

        disturbance = Disturbance(world.target, wanted, back_up_again)
        number = number_in(world.target)
        assert number in (2, world.number)
        if not disturbance.has_come:
            break
        world.close()
    assert wanted > 5


@pytest.mark.spec("BACKUP-17")
def test_segments_that_are_put_together_meanwhile_are_not_read_from_the_beginning() -> None:
    world = World()
    world.commit(100_000)
    world.back_up()
    world.commit(100)
    world.back_up()
    count = read = 0

    def observe(operation: Operation) -> Fault | None:
        nonlocal count, read
        if operation.kind == "read" and operation.path.endswith(".segment"):
            read += operation.size
        elif operation.kind == "open" and operation.path.endswith(".segment"):
            count += 1
            if count % 2 == 0:
                world.target.observer = no_fault
                world.commit(500 * world.number)
                world.back_up()
                world.target.observer = observe
        return None

    world.target.observer = observe
    assert number_in(world.target) == 2
    assert (count, read < 150_000) == (3, True)
    count = read = 0
    assert [each.problems for each in verify(world.target)] == [()]
    assert (count > 2, read < 150_000) == (True, True)


@pytest.mark.spec("BACKUP-11", "BACKUP-12")
def test_each_byte_that_is_new_is_compared_with_its_seal() -> None:
    world = World()
    world.commit()
    world.back_up()
    start = len(world.source.contents()[PATH])
    world.commit()
    world.commit()
    world.close()
    whole = world.source.contents()[PATH]
    last_start = whole.rindex(b"durus.persistent_dict", 0, len(whole)) - 100
    for offset in range(start, len(whole)):
        damaged = bytearray(whole)
        damaged[offset] ^= 4
        source, target = Disk(), world.target.after_kill()
        source.put(PATH, bytes(damaged))
        try:
            back_up(source, target)
        except DamageError:
            assert number_in(target) == 1
        else:  # it is a commit that is not complete
            assert number_in(target) < 3
            assert offset > last_start


@pytest.mark.spec("BACKUP-5", "BACKUP-40")
def test_each_flipped_bit_of_a_backup_is_found() -> None:
    world = World()
    world.commit(50)
    world.back_up()
    world.close()
    for name, inode in world.target.names.items():
        for offset in range(len(inode.data)):
            damaged = bytearray(inode.data)
            damaged[offset] ^= 1 << offset % 8
            target = world.target.after_kill()
            target.names[name].data = bytes(damaged)
            try:
                problems = [problem for each in verify(target) for problem in each.problems]
            except DurusError:
                continue
            assert problems, (name, offset)
            with pytest.raises(DamageError):
                number_in(target)


@pytest.mark.spec("BACKUP-12", "BACKUP-18")
def test_backup_reads_only_what_is_new() -> None:
    world = World()
    world.commit(200_000)
    world.back_up()
    for _ in range(10):
        world.commit(50)
    new = len(world.source.contents()[PATH]) - world.back_up().size + 10_000
    world.commit(50)
    read = 0

    def observe(operation: Operation) -> Fault | None:
        nonlocal read
        read += operation.size if operation.kind == "read" else 0
        return None

    world.source.observer = observe
    done = world.back_up()
    assert done.added < 1000
    assert read < new


@pytest.mark.spec("BACKUP-17")
def test_target_in_use_is_told() -> None:
    world = World()
    world.commit()
    world.back_up()
    lock = world.target.process().open(f"{TARGET}/lock", "write")
    lock.lock()
    with pytest.raises(FileError, match="another backup to this folder is in progress"):
        world.back_up()
    assert world.restore() == 1
    assert verify(world.target)[0].problems == ()
    lock.close()


@pytest.mark.spec("BACKUP-6")
def test_manifest_that_is_missing_is_told_and_segments_stay() -> None:
    world = World()
    world.commit()
    world.back_up()
    world.target.process().remove(MANIFEST_PATH)
    names = set(world.target.names)
    with pytest.raises(BackupError, match="the manifest of this backup is missing"):
        world.back_up()
    assert set(world.target.names) == names

"""Crashes, kills and faults at every operation of following, and changes of the source between two operations.

The root of the database holds the number of the commit, so that a replica says which state it has.
"""

import contextlib
import errno
import functools
import random
from collections.abc import Callable, Sequence
from typing import Literal

import pytest

from durus.backups.replica import Followed, Replica
from durus.backups.server_source import ServerSource
from durus.backups.sources import source_of
from durus.error import DamageError, FileError, FormatError, ReplicaError
from durus.file_storage import FileStorage
from durus.files.shelf.inspection import ShelfInspection
from tests.in_memory_server import InMemoryServer
from tests.model.backup_worlds import PATH, TARGET, World, back_up, number_of
from tests.model.crashes import READS
from tests.model.histories import small_steps
from tests.model.simulated_files import Disk, Disturbance, Fault, Operation, failure, no_fault, outcomes
from tests.model.test_backup_crashes import (
    commit,
    commit_that_is_cut_off,
    commit_that_stays_incomplete,
    open_without_fsync,
    pack,
)

REPLICA = "/replica/f.durus"
Kind = Literal["file", "backup", "server"]
kinds = pytest.mark.parametrize("kind", ["file", "backup", "server"])


class ReplicaWorld(World):
    """A machine with a database in use, and one with a replica of it, or of a backup of it."""

    def __init__(self, kind: Kind = "file") -> None:
        super().__init__()
        self.kind = kind
        self.backup = self.target
        self.target = Disk()
        self.contents: list[bytes] = []
        """What the source has been, after each step."""

    def follow(self) -> Followed:
        if self.kind == "backup":
            back_up(self.source, self.backup)
        return self.follow_into(self.target)

    def follow_into(self, target: Disk, source: Disk | None = None) -> Followed:
        """Make one round in processes of their own."""
        if self.kind == "backup":
            return follow(Replica(source_of(TARGET, self.backup.process()), REPLICA, target.process()))
        if self.kind == "file":
            where = source_of(PATH, (source or self.source).process())
            return follow(Replica(where, REPLICA, target.process()))
        is_open = source is None or source is self.source
        storage = self.open() if is_open else FileStorage(PATH, file_system=(source or self.source).process())
        server = InMemoryServer(storage)
        try:
            served = ServerSource("durus://source", lambda: server.new_client(0))
            return follow(Replica(served, REPLICA, target.process()))
        finally:
            if not is_open:
                storage.close()

    def followed(self) -> int:
        """Return the number of the commit whose state the replica has."""
        return number_of(self.target, REPLICA)


def follow(replica: Replica) -> Followed:
    """Make one round in a process that ends then."""
    try:
        return replica.finish()
    finally:
        replica.close()


def only_open(target: Disk) -> None:
    """Begin a round whose source can't be reached, as it is after the loss of the source."""
    with pytest.raises(FileError, match="No such file"):
        follow(Replica(source_of("/lost/f", Disk().process()), REPLICA, target.process()))


Step = Callable[[ReplicaWorld], object]
SCRIPTS: dict[str, Sequence[Step]] = {
    "without fsync": (open_without_fsync, commit, commit, ReplicaWorld.follow, commit, ReplicaWorld.follow),
    "first": (commit, ReplicaWorld.follow),
    "adding": (commit, ReplicaWorld.follow, commit, ReplicaWorld.follow, commit, commit, commit, ReplicaWorld.follow),
    "packs": (commit, ReplicaWorld.follow, commit, pack, commit, ReplicaWorld.follow, commit, ReplicaWorld.follow),
}


class CrashWatch:
    """Makes the machine of the source, that of the replica, or both, crash before each operation."""

    def __init__(self, world: ReplicaWorld, most: int) -> None:
        self._world = world
        self._most = most
        self._chance = random.Random(1)
        self.acknowledged = 0
        """The number of the commit whose state the replica has since the last complete round."""
        self.crashes = 0
        self._changed = True

    def __call__(self, operation: Operation) -> Fault | None:
        if self._changed:
            self.crash()
        self._changed = operation.kind not in READS
        return None

    def crash(self) -> None:
        world = self._world
        self._check_readable(world.target.after_kill(), after_kill=True)
        for target in outcomes(world.target, 4 * self._most, self._chance):
            self._check(world.source.after_kill(), target)
        for source in outcomes(world.source, self._most, self._chance):
            if world.durability == "os":  # then the file may be damaged after what is in the replica
                copied = world.target.contents().get(REPLICA, b"")
                assert PATH not in source.names or source.names[PATH].data.startswith(copied)
            else:
                self._check(source, world.target.after_kill())

    def _check_readable(self, target: Disk, after_kill: bool) -> None:
        """A replica shows a state that the source had, as soon as somebody has begun to follow again."""
        if REPLICA not in target.names:
            return
        if not after_kill:
            only_open(target)
        held = number_of(target, REPLICA)
        assert self.acknowledged <= held <= self._world.number
        data = target.names[REPLICA].data
        if after_kill:
            assert any(each.startswith(data) for each in self._world.contents)

    def _check(self, source: Disk, target: Disk) -> None:
        """Compare what a crash has left with what is promised."""
        self.crashes += 1
        world = self._world
        self._check_readable(target.after_kill(), after_kill=False)
        if PATH not in source.names or not source.names[PATH].data:
            return
        number = number_of(source, repair=True)
        if world.kind == "backup":
            number = number_of(target, REPLICA) if world.follow_into(target) else 0
        elif number:
            packed = source.after_kill()
            pack_file(packed)
            again = target.after_kill()
            world.follow_into(again, packed)
            assert number_of(again, REPLICA) == number
            world.follow_into(target, source)
            assert number_of(target, REPLICA) == number
            assert target.names[REPLICA].data == source.names[PATH].data
        if number:
            assert number_of(target, REPLICA) == number
            file = target.process().open(REPLICA, "read")
            assert [str(each) for each in ShelfInspection(file).findings() if each.is_fault] == []


def pack_file(disk: Disk) -> None:
    world = World()
    world.clock.now = 1
    world.source, world.file_system = disk, disk.process()
    world.pack()
    world.close()


@pytest.mark.spec("REPL-1", "REPL-3", "REPL-4", "REPL-13", "REPL-14", "REPL-15")
@kinds
@pytest.mark.parametrize("script", SCRIPTS)
def test_after_a_crash_at_any_operation_the_replica_is_sound_and_the_next_round_goes_on(
    script: str, kind: Kind
) -> None:
    world = ReplicaWorld(kind)
    watch = CrashWatch(world, most=3)
    with small_steps():
        for step in SCRIPTS[script]:
            if step is ReplicaWorld.follow:
                world.target.observer = watch
                if kind != "backup":
                    world.source.observer = watch
            done = step(world)
            world.source.observer = world.target.observer = no_fault
            world.contents.append(world.source.contents()[PATH])
            if isinstance(done, Followed):
                watch.acknowledged = world.number
        watch.crash()
        world.close()
    assert watch.crashes > 50


@pytest.mark.spec("REPL-14")
@pytest.mark.parametrize("side", ["source", "replica"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_after_a_fault_at_any_operation_of_a_round_the_next_one_goes_on(script: str, side: str) -> None:
    number = 0
    while True:
        number += 1
        world = ReplicaWorld()
        disk = world.source if side == "source" else world.target
        before = SCRIPTS[script][:-1]
        for step in before:
            step(world)
        held = world.followed() if REPLICA in world.target.names else 0
        wanted = disk.operations + number
        replica = Replica(source_of(PATH, world.source.process()), REPLICA, world.target.process())

        def fail(operation: Operation, wanted: int = wanted) -> Fault | None:
            return Fault(failure(errno.ENOSPC), "half") if operation.number == wanted else None

        disk.observer = fail
        try:
            replica.finish()
        except FileError:
            disk.observer = no_fault
            if REPLICA in world.target.names:
                assert world.followed() in (held, *range(held, world.number + 1))
        disk.observer = no_fault
        replica.finish()
        replica.close()
        assert world.followed() == world.number
        assert world.target.names[REPLICA].data == world.source.names[PATH].data
        world.close()
        if disk.operations < wanted:
            break
    assert number > 5


@pytest.mark.spec("REPL-11", "REPL-12", "REPL-13")
@pytest.mark.parametrize("disturb", [commit, pack, commit_that_is_cut_off, commit_that_stays_incomplete])
@pytest.mark.parametrize("has_replica", [False, True], ids=["first", "adding"])
def test_a_round_beside_a_writer_ends_in_a_state_of_the_source(
    disturb: Callable[[World], None], has_replica: bool
) -> None:
    wanted = 0
    while True:
        wanted += 1
        world = ReplicaWorld()
        world.commit()
        if has_replica:
            world.follow()
        before = world.commit(3000)
        disturbance = Disturbance(world.source, wanted, functools.partial(disturb, world))
        world.follow()
        world.source.observer = no_fault
        assert before <= world.followed() <= world.number
        if not disturbance.has_come:
            break
        if disturb is not commit_that_stays_incomplete:
            world.follow()
            assert world.followed() == world.number
            assert world.target.names[REPLICA].data == world.source.names[PATH].data
        world.close()
    assert wanted > 8


@pytest.mark.spec("REPL-11")
def test_each_byte_that_is_new_is_compared_with_its_seal() -> None:
    world = ReplicaWorld()
    world.commit()
    world.follow()
    start = len(world.source.contents()[PATH])
    world.commit()
    world.commit()
    world.close()
    whole = world.source.contents()[PATH]
    for offset in range(start, len(whole)):
        damaged = bytearray(whole)
        damaged[offset] ^= 4
        source, target = Disk(), world.target.after_kill()
        source.put(PATH, bytes(damaged))
        with contextlib.suppress(DamageError):
            world.follow_into(target, source)
        assert number_of(target, REPLICA) < 3
        assert whole.startswith(target.names[REPLICA].data)


@pytest.mark.spec("REPL-15")
def test_each_flipped_bit_of_a_replica_is_found_before_it_goes_on() -> None:
    world = ReplicaWorld()
    world.commit(50)
    world.follow()
    whole = world.target.contents()[REPLICA]
    world.commit()
    world.close()
    for offset in range(len(whole)):
        damaged = bytearray(whole)
        damaged[offset] ^= 1 << offset % 8
        target = world.target.after_kill()
        target.names[REPLICA].data = bytes(damaged)
        try:
            world.follow_into(target)
        except (DamageError, ReplicaError):
            assert target.names[REPLICA].data == bytes(damaged)
            continue
        except FormatError:
            continue
        assert target.names[REPLICA].data == world.source.names[PATH].data, offset


@pytest.mark.spec("REPL-12")
def test_a_round_reads_only_what_is_new() -> None:
    world = ReplicaWorld()
    world.commit(300_000)
    replica = Replica(source_of(PATH, world.source.process()), REPLICA, world.target.process())
    replica.finish()
    world.commit(50)
    read = 0

    def observe(operation: Operation) -> Fault | None:
        nonlocal read
        read += operation.size if operation.kind == "read" else 0
        return None

    world.source.observer = world.target.observer = observe
    assert 0 < replica.finish().added < 1000
    assert read < 100_000

"""Backups in an object store: killed at each request, and others at each request of one. No lock keeps these out."""

import contextlib
from collections.abc import Callable, Sequence

import pytest
from obstore.store import MemoryStore

from durus.backups.back_up import BackedUp, BackUp
from durus.backups.manifest import SEGMENT_NAME
from durus.backups.objects import ObjectTarget, Version
from durus.backups.restore import Restore
from durus.backups.target import Target
from durus.backups.verify import Verification
from durus.error import LockedError
from durus.files.shelf.layout import SEAL_SIZE, find_seals
from tests.model.backup_worlds import PATH, RESTORED, World, number_of
from tests.model.object_stores import CountDown, Killed, ObservedStore, target_in
from tests.model.simulated_files import Disk


def back_up(world: World, target: Target, keep: int | None = None) -> BackedUp:
    return BackUp(PATH, target, keep, world.source.process()).finish()


def number_in(target: Target, at: str | None = None) -> int:
    """Restore; return the number of the commit whose state the file has."""
    disk = Disk()
    Restore(target, RESTORED, at, file_system=disk.process()).finish()
    return number_of(disk, RESTORED)


def check(objects: MemoryStore) -> int:
    """Verify the backup; return the number of the commit that it has, 0 if it holds nothing or does not exist."""
    if ObservedStore(objects).get("manifest") is None:
        return 0
    generations = Verification(target_in(objects)).finish()
    assert [problem for each in generations for problem in each.problems] == []
    return number_in(target_in(objects)) if generations else 0


def segments(objects: MemoryStore) -> set[str]:
    return {name for name in ObservedStore(objects).names() if SEGMENT_NAME.fullmatch(name)}


Step = Callable[[World, MemoryStore], object]
Disturbance = Callable[[World, MemoryStore], Step | None]
"""Something that happens to the file, and what happens after it, if anything does."""


def commit(world: World, objects: MemoryStore) -> None:
    world.commit()


def pack(world: World, objects: MemoryStore) -> None:
    world.pack()


def add(world: World, objects: MemoryStore) -> None:
    back_up(world, target_in(objects))


def go_back(world: World, objects: MemoryStore) -> Step:
    """Cut off the last commit, and make another one; return a step that takes this back."""
    whole, number = world.source.contents()[PATH], world.number
    world.close()
    *_, end, _ = [offset + SEAL_SIZE for offset in find_seals(whole, 0)]
    world.source.put(PATH, whole[:end])
    world.commit()

    def go_forth(world: World, objects: MemoryStore) -> None:
        world.close()
        world.source.put(PATH, whole)
        world.number = number

    return go_forth


SCRIPTS: dict[str, Sequence[Step]] = {
    "first": (commit,),
    "adding": (commit, add, commit, commit, add, commit),
    "packs": (commit, add, commit, pack, commit),
}


def make(script: str) -> tuple[World, MemoryStore]:
    """Return a world and its backup, in which the newest commit is missing."""
    world, objects = World(), MemoryStore()
    for step in SCRIPTS[script]:
        step(world, objects)
    return world, objects


def kill() -> None:
    raise Killed


@pytest.mark.spec("BACKUP-15", "BACKUP-52")
@pytest.mark.parametrize("keep", [None, 1])
@pytest.mark.parametrize("script", SCRIPTS)
def test_backup_that_is_killed_at_any_request_is_complete_or_as_it_was(script: str, keep: int | None) -> None:
    wanted = 0
    while True:
        wanted += 1
        world, objects = make(script)
        held = check(objects)
        count_down = CountDown(wanted, kill)
        try:
            back_up(world, target_in(objects, count_down), keep)
        except Killed:
            assert check(objects) in (held, world.number)
        if count_down.left > 0:
            break
        world.commit()
        back_up(world, target_in(objects), keep)
        assert check(objects) == world.number
        named = target_in(objects).read_manifest().segments()
        assert segments(objects) == set(named), "the next backup has left something of the one that was killed"
        world.close()
    assert wanted > 4


@pytest.mark.spec("BACKUP-51", "BACKUP-52")
@pytest.mark.parametrize(
    ("script", "disturb", "keep"),
    [("first", commit, None), ("adding", pack, 1), ("packs", commit, None), ("adding", go_back, None)],
)
def test_backups_at_the_same_time_never_lose_what_a_manifest_names(
    script: str, disturb: Disturbance, keep: int | None
) -> None:
    """At each request of one backup another one is made, and at each request of that, a third one."""
    first = second = 0
    outer_left = inner_left = 0
    while outer_left <= 0:
        first += 1
        second = inner_left = 0
        while inner_left <= 0:
            second += 1
            outer_left, inner_left = three_backups(script, disturb, keep, first, second)
    assert first > 4


def three_backups(script: str, disturb: Disturbance, keep: int | None, first: int, second: int) -> tuple[int, int]:
    """Make a backup, at its request `first` another one, and at the request `second` of that a third one.

    Return what is left of these two numbers.
    """
    world, objects = make(script)
    done: list[int] = []
    take_back: Step | None = None

    def attempt(before: Callable[[str], object]) -> None:
        number = world.number
        with contextlib.suppress(LockedError):  # another one was faster
            back_up(world, target_in(objects, before), keep)
            done.append(number)

    def other() -> None:
        nonlocal take_back
        take_back = disturb(world, objects)
        attempt(inner)

    def third() -> None:
        if take_back is not None:
            take_back(world, objects)
        attempt(lambda operation: None)

    inner = CountDown(second, third)
    outer = CountDown(first, other)
    attempt(outer)
    assert check(objects) in done
    back_up(world, target_in(objects), keep)
    assert check(objects) == world.number
    world.close()
    return outer.left, inner.left


@pytest.mark.spec("BACKUP-52")
def test_backup_that_another_one_overtakes_says_so() -> None:
    world, objects = make("adding")

    def other() -> None:
        world.commit()
        back_up(world, target_in(objects))

    with pytest.raises(LockedError, match="memory://backup: another backup was made here in the meantime; back up"):
        back_up(world, target_in(objects, CountDown(3, other)))
    assert check(objects) == world.number


@pytest.mark.spec("BACKUP-52")
def test_manifest_that_was_written_but_not_confirmed_is_recognised() -> None:
    """A store may be asked again after an answer that was lost: the second request finds what the first has written."""

    class Forgetful(ObservedStore):
        def replace(self, name: str, data: bytes, version: Version | None) -> Version:
            super().replace(name, data, version)
            return super().replace(name, data, version)

    world, objects = make("adding")
    done = back_up(world, ObjectTarget(Forgetful(objects)))
    assert done.added > 0
    assert check(objects) == world.number


@pytest.mark.spec("BACKUP-17")
@pytest.mark.parametrize("keep", [None, 1])
def test_backup_beside_a_restore_does_not_disturb_it(keep: int | None) -> None:
    wanted = 0
    while True:
        wanted += 1
        world, objects = make("packs")
        back_up(world, target_in(objects))

        def other(world: World = world, objects: MemoryStore = objects) -> None:
            world.commit()
            back_up(world, target_in(objects), keep)

        before = world.number
        count_down = CountDown(wanted, other)
        assert number_in(target_in(objects, count_down)) in (before, world.number)
        world.close()
        if count_down.left > 0:
            break
    assert wanted > 3

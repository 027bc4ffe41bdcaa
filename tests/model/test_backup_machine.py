"""Commits, packs, backups, and restores of every moment, in any order, compared with lists of past states.

The oracle knows the history of the file as a list of events: a time, and the number of the commit whose state the file
had then. A backup copies the list; a pack begins a new one.
"""

from typing import NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from durus.error import ArgumentError
from tests.model.backup_worlds import PATH, SECOND, Clock, World, back_up, number_of, restore, verify
from tests.model.simulated_files import Disk


class Event(NamedTuple):
    """A seal of the file; no two of them are equal."""

    id: int
    time: int
    number: int


class Held(NamedTuple):
    """A generation: its history, and how many of its events it shares with an older one."""

    number: int
    events: list[Event]
    shared: int


def count_of_common(one: list[Event], other: list[Event]) -> int:
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count


class BackupMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.events: list[Event] = []
        """Of the file as it is."""
        self.ids = self.moves = 0
        self.held: list[Held] = []

    def _move_clock(self, seconds: int) -> None:
        """Move it, forward or back, to a new time: otherwise two packs of one state would be one file."""
        self.moves += 1
        self.world.clock.now = (self.world.clock.now // SECOND + seconds) * SECOND + self.moves

    def _note(self, number: int, time: int | None = None) -> None:
        self.ids += 1
        self.events.append(Event(self.ids, self.world.clock.now if time is None else time, number))

    def _commit(self, size: int) -> None:
        if not self.events:
            self._note(0)
        self._note(self.world.commit(size))

    @rule(size=st.sampled_from([1, 300, 3000]), seconds=st.integers(-3, 20))
    def commit(self, size: int, seconds: int) -> None:
        self._move_clock(seconds)
        self._commit(size)

    @rule(seconds=st.integers(-3, 20))
    def pack(self, seconds: int) -> None:
        self._move_clock(seconds)
        number = number_of(self.world.source) if self.events else 0
        self.world.pack()
        self.events = []
        self._note(number)

    @precondition(lambda self: self.events)
    @rule(seconds=st.integers(1, 5), saves=st.booleans())
    def pack_with_commits(self, seconds: int, saves: bool) -> None:
        """Commit while a pack is in progress, and back up the old file before the new one has its name."""
        self._move_clock(seconds)
        began, number = self.world.clock.now, self.events[-1].number
        packer = self.world.open().get_packer()
        next(packer)
        self._move_clock(1)
        self._commit(10)
        late = self.events[-1]
        if saves:
            self.back_up(None)
        for _ in packer:
            pass
        self.events = []
        self._note(number, began)
        self.events.append(late)

    @precondition(lambda self: self.events)
    @rule(keep=st.sampled_from([None, None, None, 1, 2]))
    def back_up(self, keep: int | None) -> None:
        done = self.world.back_up(keep)
        if self.held and self.held[-1].events == self.events[: len(self.held[-1].events)]:
            newest = self.held.pop()
            assert not done.is_new
        else:
            shared = max((count_of_common(each.events, self.events) for each in self.held), default=0)
            newest = Held(self.held[-1].number + 1 if self.held else 1, [], shared)
            assert done.is_new
        self.held.append(Held(newest.number, list(self.events), newest.shared))
        assert done.generation == newest.number
        assert done.dropped == (max(len(self.held) - keep, 0) if keep else 0)
        self.held = self.held[-keep:] if keep else self.held
        assert done.time == Clock.at(self.events[-1].time)

    @precondition(lambda self: self.held)
    @rule()
    def restore_the_newest(self) -> None:
        assert self.world.restore() == self.held[-1].events[-1].number

    def _expected(self, time: int) -> int | None:
        for counts_all in (False, True):
            for each in reversed(self.held):
                own = each.events[0 if counts_all else each.shared :]
                if found := [event for event in own if event.time <= time]:
                    return found[-1].number
        return None

    @precondition(lambda self: self.held)
    @rule(first=st.integers(0, 10))
    def restore_moments(self, first: int) -> None:
        """Restore at the times of up to 12 seals, and between them."""
        times = sorted({event.time for each in self.held for event in each.events})
        for time in [times[0] - 1, *times[first : first + 12], times[-1] + 1]:
            expected = self._expected(time)
            if expected is None:
                with pytest.raises(ArgumentError, match="it begins with"):
                    self.world.restore(Clock.at(time))
            else:
                assert self.world.restore(Clock.at(time)) == expected

    @precondition(lambda self: self.held)
    @rule(data=st.data(), goes_on=st.booleans())
    def go_back(self, data: st.DataObject, goes_on: bool) -> None:
        """Replace the database with a restored file, and continue with it."""
        held = self.held[-1]
        index = data.draw(st.integers(0, len(held.events) - 1))
        expected = [event for event in held.events if event.time <= held.events[index].time][-1]
        if self._expected(held.events[index].time) != expected.number:
            return
        disk = Disk()
        restore(self.world.target, disk, PATH, Clock.at(held.events[index].time))
        if (count := _count_of_seals(disk.contents()[PATH])) > len(held.events) or held.events[count - 1] != expected:
            return  # another generation has a commit of this time and state
        self.world.close()
        self.world.source.put(PATH, disk.contents()[PATH])
        self.events = held.events[:count]
        if goes_on:
            self.commit(10, 1)
            self.back_up(None)

    @rule()
    def reopen(self) -> None:
        self.world.close()
        self.world.open()

    @invariant()
    def backup_is_sound(self) -> None:
        if self.held:
            found = verify(self.world.target)
            assert [each.problems for each in found] == [()] * len(self.held)
            assert [each.number for each in found] == [each.number for each in self.held]

    def teardown(self) -> None:
        self.world.close()


def _count_of_seals(data: bytes) -> int:
    """Return how many events a file has: one for each seal, except that of a block table, which belongs to its pack."""
    return data.count(b"sealX5") - data.count(b"blocksB")


TestBackups = BackupMachine.TestCase
TestBackups.settings = settings(max_examples=40, stateful_step_count=25)
TestBackups = pytest.mark.spec(
    "BACKUP-3", "BACKUP-12", "BACKUP-13", "BACKUP-14", "BACKUP-19", "BACKUP-30", "BACKUP-31", "BACKUP-34"
)(TestBackups)


def test_history_that_goes_back_is_a_branch_that_shares_segments() -> None:
    world = World()
    sizes = []
    for size in (20_000, 5000, 500):
        world.clock.now += 10 * SECOND
        world.commit(size)
        world.commit(10)
        sizes.append(world.back_up().size)
    disk = Disk()
    restore(world.target, disk, PATH, Clock.at(20 * SECOND))
    world.close()
    world.source.put(PATH, disk.contents()[PATH])
    world.number = 10
    world.clock.now += 10 * SECOND
    world.commit()
    done = back_up(world.source, world.target)
    assert (done.generation, done.is_new) == (2, True)
    assert done.added < 1000 < sizes[0]
    assert [world.restore(Clock.at(seconds * SECOND)) for seconds in (10, 20, 30, 40)] == [2, 4, 6, 11]


@pytest.mark.spec("BACKUP-13")
def test_branch_is_one_of_the_generation_with_the_longest_common_history() -> None:
    world = World()

    def commits(*numbers: int) -> None:
        for number in numbers:
            world.clock.now = number * SECOND
            world.number = number - 1
            world.commit()
        world.back_up()
        world.close()

    def go_back(data: bytes) -> None:
        world.source.put(PATH, data)

    commits(1, 2)
    two = world.source.contents()[PATH]
    commits(3, 4)
    four = world.source.contents()[PATH]
    go_back(two)
    commits(5)
    go_back(four)
    commits(6)
    assert [world.restore(Clock.at(second * SECOND)) for second in range(1, 7)] == [1, 2, 3, 4, 5, 6]

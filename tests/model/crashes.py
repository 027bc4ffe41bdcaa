"""Crashes of the machine at any operation of a history, and what must hold after each.

The file opens, with repair=True where the spec says so. Its state is that of a commit no older than the last
acknowledged one. `durus check` finds nothing. Work continues with a commit, a pack and a reopening, and the next crash
may come during these.
"""

import random
from collections import Counter
from collections.abc import Sequence

from durus.error import DamageError, FormatError, UnsoundTailError
from durus.file_storage import FileStorage
from durus.files.shelf.inspection import ShelfInspection
from tests.model.histories import (
    BEGINNINGS,
    EMPTY,
    PATH,
    SCRIPTS,
    STEPS,
    History,
    State,
    Step,
    begin,
    read_storage,
    small_steps,
)
from tests.model.simulated_files import OLDEST, Disk, Fault, Operation, RandomChoices, no_fault, outcomes

READS = frozenset({"size", "read", "exists", "look up", "lock", "set the permissions of"})
"""Operations that leave the disk as it is."""

DEPTH = 3
"""The maximum number of crashes in a row, each during the recovery from the one before it."""

AFTER_A_CRASH: tuple[Step, ...] = (History.open, History.commit, History.reopen)
AFTER_A_CRASH_WITH_PACK = (History.commit, History.pack, History.commit, History.reopen, History.commit)


class Violation(AssertionError):
    """A promise was broken."""


class CrashWatch:
    """Observes a history, and recovers from crashes at its operations.

    The machine goes down in a `share` of the gaps between two operations, in up to `most` ways in each gap.
    """

    def __init__(self, history: History, chance: random.Random, share: float, most: int, depth: int = 1) -> None:
        self._history = history
        self._chance = chance
        self._share = share
        self._most = most
        self._depth = depth
        self._last: tuple[bool, Sequence[State]] = (True, [])
        self.figures: Counter[str] = Counter()

    def __call__(self, operation: Operation) -> Fault | None:
        is_new, states = self._last
        if is_new or states is not self._history.states:
            self.crash_before(str(operation))
        self._last = operation.kind not in READS, self._history.states
        return None

    def crash_before(self, operation: str) -> None:
        history = self._history
        if self._share < 1 and self._chance.random() >= self._share:
            return
        if self._most == 1:
            found = iter([history.disk.after_crash(RandomChoices(self._chance))])
        else:
            found = outcomes(history.disk, self._most, self._chance)
        for disk in found:
            self.figures["crashes"] += 1
            before = disk.contents()
            try:
                self.figures += recover(disk, history.states, history.exists, self._chance, self._depth)
            except Exception as error:
                left = ", ".join(f"{name} ({len(data)} bytes)" for name, data in before.items())
                raise Violation(
                    f"after a crash before operation {operation}, which left {left or 'no file'}: "
                    f"{type(error).__name__}: {error}"
                ) from error


def recover(disk: Disk, states: Sequence[State], must_exist: bool, chance: random.Random, depth: int) -> Counter[str]:
    """Open what a crash has left, check the promises, and continue to work; return figures."""
    figures: Counter[str] = Counter()
    history = History(disk, chance, EMPTY, is_shared=chance.random() < 0.3)
    if PATH not in disk.names and must_exist:
        raise Violation("there is no file")
    watch = None
    if depth < DEPTH and chance.random() < 0.3:
        watch = CrashWatch(history, chance, 0.1, 1, depth + 1)
        history.states = list(states)
        history.exists = must_exist
        disk.observer = watch
    shown = state_for_readers(disk, must_exist)
    if not must_exist and holds_noise(disk):
        disk.process().remove(PATH)
    state, was_torn = state_for_writers(disk)
    figures["repairs"] += was_torn
    if state not in states:
        raise Violation(f"the state is {state} and not one of {states}")
    if shown is not None and shown != state:
        raise Violation(f"readers are shown {shown}, but writers {state}")
    history.states = [state]
    packs = chance.random() < 0.3
    if packs:
        check(disk)  # of the file that the pack replaces; without a pack all is still there at the end
    for step in AFTER_A_CRASH_WITH_PACK if packs else AFTER_A_CRASH:
        step(history)
    history.close()
    if state_for_readers(disk, True) != history.state:
        raise Violation("what was committed after the crash is not there")
    check(disk)
    left = {name.removeprefix(PATH) for name in disk.names if ".cut-" not in name}
    if packs and left != {"", ".prepack"}:
        raise Violation(f"these files are left: {sorted(left)}")
    if watch is not None:
        figures += watch.figures
    return figures


def state_for_readers(disk: Disk, must_exist: bool) -> State | None:
    """Return the state that a reader sees; None if there is nothing to see."""
    if PATH not in disk.names:
        return None
    try:
        storage = FileStorage(PATH, readonly=True, file_system=disk.process())
    except DamageError:
        raise
    except FormatError:
        if must_exist:
            raise
        return None
    state = read_storage(storage)
    storage.close()
    return state


def holds_noise(disk: Disk) -> bool:
    """Return whether the file exists but contains nothing of a database, so that Durus does not touch it."""
    try:
        FileStorage(PATH, file_system=disk.after_kill().process(), repair=True).close()
    except DamageError:
        return False
    except FormatError:
        return True
    return False


def state_for_writers(disk: Disk) -> tuple[State, bool]:
    """Return the state that a writer sees, and whether a repair was needed; a repair must keep what it cuts off."""
    process = disk.process()
    was_torn = False
    try:
        storage = FileStorage(PATH, file_system=process)
    except UnsoundTailError as tail:
        was_torn = True
        names = set(disk.names)
        before = disk.names[PATH].data
        storage = FileStorage(PATH, repair=True, file_system=process)
        (kept,) = disk.names.keys() - names
        if disk.names[kept].data != before[tail.offset :] or disk.names[PATH].data != before[: tail.offset]:
            raise Violation(f"the repair did not cut the file at byte {tail.offset} and keep the rest") from None
    state = read_storage(storage)
    storage.close()
    return state, was_torn


def check(disk: Disk) -> None:
    """Check the file as `durus check` does."""
    found = ShelfInspection(disk.process().open(PATH, "read")).findings()
    faults = [str(finding) for finding in found if finding.is_fault]
    if faults:
        raise Violation(f"the check finds {faults}")


# Runs


def crash_everywhere(name: str, seed: int, most: int) -> Counter[str]:
    """Crash between all operations of a short history, each time in all ways unless these are more than `most`."""
    beginning, is_shared, steps = SCRIPTS[name]
    disk = Disk()
    history = History(disk, random.Random(seed), begin(disk, beginning), is_shared)
    return _watched(history, CrashWatch(history, random.Random(f"crashes {seed}"), 1.0, most), steps)


def crash_by_chance(seed: int, length: int = 15) -> Counter[str]:
    """Crash at some operations of a history of `length` steps; the seed chooses the steps too."""
    chance = random.Random(seed)
    disk = Disk()
    history = History(disk, chance, begin(disk, chance.choice(BEGINNINGS)), chance.random() < 0.5)
    watch = CrashWatch(history, random.Random(f"crashes {seed}"), 0.3, 3)
    return _watched(history, watch, chance.choices(STEPS, k=length))


def run(seed: int) -> Counter[str]:
    """Crash alternately at all points of a short history, and at some points of a longer one."""
    number, is_long = divmod(seed, 2)
    return crash_by_chance(seed) if is_long else crash_everywhere(list(SCRIPTS)[number % len(SCRIPTS)], seed, 30)


def _watched(history: History, watch: CrashWatch, steps: Sequence[Step]) -> Counter[str]:
    with small_steps():
        try:
            if history.disk.after_crash(OLDEST).contents() != history.disk.contents():
                history.open()  # what others have written and not synced is durable from here on only
            history.disk.observer = watch
            for step in steps:
                step(history)
            watch.crash_before("(none, at the end)")
        except Exception as error:
            words = "\n".join(history.words)
            raise Violation(f"{words}\n[{history.disk.operations}] {type(error).__name__}: {error}") from error
        finally:
            history.disk.observer = no_fault
            history.close()
    watch.figures["operations"] += history.disk.operations
    return watch.figures

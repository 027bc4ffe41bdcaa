"""A fault of the disk, or an interrupt, at any operation of a history, and what must hold after it.

The caller gets a DurusError that names the operation, or the interrupt. Nothing acknowledged is lost, and nothing of a
failed commit is stored. The storage continues to work, and memory and disk show the same state, or it refuses commits
until it is opened again. The machine also crashes in between.
"""

import errno
import random
from collections import Counter
from collections.abc import Iterator, Sequence

from durus.error import ClosedError, DurusError, FileError
from tests.model.crashes import READS, Violation, check, recover, state_for_readers
from tests.model.histories import SCRIPTS, History, State, Step, begin, read, small_steps
from tests.model.simulated_files import Crash, Disk, Fault, Operation, RandomChoices, Share, failure, no_fault

NO_DISK_NEEDED = frozenset({"exists"})
"""Operations that only return yes or no."""

CANNOT_BE_FULL = frozenset({"remove", "truncate"}) | READS

FORGETS = "EIO that forgets what it has not written"


def interrupt(operation: Operation) -> BaseException:
    return KeyboardInterrupt()


def faults_of(kind: str) -> Iterator[tuple[str, Fault]]:
    """Yield the faults that an operation of this kind can have, with their names."""
    if kind in NO_DISK_NEEDED:
        return
    yield "EIO", Fault(failure(errno.EIO))
    if kind in READS:
        return
    if kind not in CANNOT_BE_FULL:
        yield "ENOSPC", Fault(failure(errno.ENOSPC))
    shares: tuple[Share, ...] = ("none", "half", "all") if kind == "append" else ("none", "all")
    for done in shares:
        yield f"interrupt with {done} of it done", Fault(interrupt, done)
    if kind == "append":
        yield "EIO after a short write", Fault(failure(errno.EIO), "half")
        yield "ENOSPC after a short write", Fault(failure(errno.ENOSPC), "half")
    if kind == "sync":
        yield FORGETS, Fault(failure(errno.EIO), "half")


class FaultAt:
    """Observes a history, and makes one operation fail; with `lasts`, all later writing operations fail too."""

    def __init__(self, number: int, fault: Fault, lasts: bool) -> None:
        self._number = number
        self._fault = fault
        self._lasts = lasts
        self.hit: Operation | None = None
        """The first operation that failed."""

    def __call__(self, operation: Operation) -> Fault | None:
        if operation.number == self._number or (self._lasts and self.hit and operation.kind not in READS):
            self.hit = self.hit or operation
            return self._fault if operation.number == self._number else self._fault._replace(done="none")
        return None


class FaultRun:
    """One history with one fault, by an application that aborts after an error and continues."""

    def __init__(self, history: History, fault: FaultAt, chance: random.Random) -> None:
        self._history = history
        self._fault = fault
        self._chance = chance
        self._was_interrupted = False
        self._must_refuse = False
        self.caught: list[BaseException] = []
        self.figures: Counter[str] = Counter()

    def run(self, steps: Sequence[Step]) -> None:
        self._history.disk.observer = self._fault
        for step in steps:
            self._do(step)
            if self._fault.hit is not None and self._chance.random() < 0.2:
                self._crash()
        if self._fault.hit is None:
            return
        if not self.caught:
            raise Violation("the fault was not reported")
        self._history.disk.observer = no_fault
        for step in History.commit, History.commit, History.pack, History.commit, History.reopen, History.commit:
            self._do(step)
        self._history.close()
        if state_for_readers(self._history.disk, True) != self._history.state:
            raise Violation("what was committed after the fault is not there")
        check(self._history.disk)
        self._crash()

    def _do(self, step: Step) -> None:
        try:
            step(self._history)
        except (DurusError, KeyboardInterrupt) as error:
            self._history.say(f"  it fails: {type(error).__name__}: {error}")
            self._check_error(error)
            self.caught.append(error)
            self._settle()
        else:
            if self._must_refuse and self._history.storage is not None and step is History.commit:
                raise Violation("a commit was taken though memory and disk did not agree")

    def _check_error(self, error: BaseException) -> None:
        if self._fault.hit is None:
            raise Violation("an error without a fault") from error
        match error:
            case FileError():
                if not error.operation or not error.filename:
                    raise Violation("the error does not name the operation and the file") from error
            case KeyboardInterrupt():
                self._was_interrupted = True
            case ClosedError():
                pass
            case _:
                raise Violation("the error is of another kind") from error

    def _settle(self) -> None:
        """Compare memory and disk, and continue from the present state."""
        history = self._history
        observer, history.disk.observer = history.disk.observer, no_fault
        try:
            if history.storage is not None:
                self._settle_open(self._shown_in_memory())
            else:
                on_disk = state_for_readers(history.disk, history.exists)
                if on_disk is not None and on_disk not in history.states:
                    raise Violation(f"the disk shows {on_disk} and not one of {history.states}")
        finally:
            history.disk.observer = observer

    def _shown_in_memory(self) -> State:
        history = self._history
        try:
            history.opened().abort()
        except ClosedError:  # an interrupt has closed it, because the commit may be stored
            history.connect()
        shown = read(history.opened())[0]
        allowed = history.states if self._was_interrupted else history.states[:1]
        if shown not in allowed:
            raise Violation(f"memory shows {shown} and not {history.state}")
        return shown

    def _settle_open(self, shown: State) -> None:
        history = self._history
        assert history.storage is not None
        on_disk = state_for_readers(history.disk, history.exists)
        if on_disk not in history.states:
            raise Violation(f"the disk shows {on_disk} and not one of {history.states}")
        try:
            history.storage.begin()
        except ClosedError:
            history.say("  no commit is taken until it is opened again")
            self._must_refuse = False
            history.close()
            if self._chance.random() < 0.5:
                self._crash()
            self._reopen()
        else:
            if on_disk == shown:
                history.states = [shown]
            elif self._was_interrupted and not self._must_refuse:
                self._must_refuse = True
            else:
                raise Violation(f"memory shows {shown}, the disk {on_disk}, and a commit is taken")

    def _reopen(self) -> None:
        """Open the file again, and continue from its state, which must be one of the two possible ones."""
        history = self._history
        history.open()
        (shown, _) = read(history.opened())
        if shown not in history.states:
            raise Violation(f"the file that was opened again shows {shown} and not one of {history.states}")
        history.states = [shown]

    def _crash(self) -> None:
        """Check that a crash now would lose nothing either."""
        history = self._history
        if history.exists:
            self.figures["crashes"] += 1
            disk = history.disk.after_crash(RandomChoices(self._chance))
            try:
                self.figures += recover(disk, history.states, history.exists, self._chance, 1)
            except Exception as error:
                raise Violation(f"after a crash: {type(error).__name__}: {error}") from error


def operations_of(name: str, seed: int) -> list[Operation]:
    """Return the operations of a short history without a fault."""
    seen: list[Operation] = []

    def note(operation: Operation) -> None:
        seen.append(operation)

    beginning, is_shared, steps = SCRIPTS[name]
    disk = Disk()
    history = History(disk, random.Random(seed), begin(disk, beginning), is_shared)
    disk.observer = note
    with small_steps():
        for step in steps:
            step(history)
    history.close()
    return seen


def run(seed: int) -> Counter[str]:
    """Make some operations of a short history fail, each in some ways, and kill the process at each."""
    name = list(SCRIPTS)[seed % len(SCRIPTS)]
    return fail_everywhere(name, seed, 0.3) + kill_everywhere(name, seed)


def fail_everywhere(name: str, seed: int, share: float = 1.0) -> Counter[str]:
    """Make each operation of a short history fail in each way, or in a `share` of these; once, and permanently."""
    figures: Counter[str] = Counter()
    chance = random.Random(f"faults {seed}")
    for operation in operations_of(name, seed):
        for title, fault in faults_of(operation.kind):
            if title == FORGETS and SCRIPTS[name][0] == "4.3 in the cache":
                continue  # what others have not synced, and a failed sync has dropped, is lost
            can_last = title in ("EIO", "ENOSPC") and operation.kind not in READS
            for lasts in (False, True) if can_last else (False,):
                if chance.random() < share:
                    figures += _fail_at(name, seed, operation, fault, title, lasts)
    return figures


def _fail_at(name: str, seed: int, operation: Operation, fault: Fault, title: str, lasts: bool) -> Counter[str]:
    beginning, is_shared, steps = SCRIPTS[name]
    disk = Disk()
    history = History(disk, random.Random(seed), begin(disk, beginning), is_shared)
    chance = random.Random(f"{seed} {operation} {title} {lasts}")
    disk.sync_chance = chance
    run = FaultRun(history, FaultAt(operation.number, fault, lasts), chance)
    with small_steps():
        try:
            run.run(steps)
        except Exception as error:
            words = "\n".join(history.words)
            lasting = " and all that follow" if lasts else ""
            raise Violation(
                f"{name}: {title} at operation {operation}{lasting}:\n{words}\n{type(error).__name__}: {error}"
            ) from error
        finally:
            disk.observer = no_fault
            history.close()
    run.figures["faults"] += 1
    return run.figures


def kill_everywhere(name: str, seed: int) -> Counter[str]:
    """Kill the process at each operation of a short history with durability "os": nothing acknowledged is lost."""
    figures: Counter[str] = Counter()
    for operation in operations_of(name, seed):
        shares: tuple[Share, ...] = ("none", "half", "all") if operation.kind == "append" else ("none",)
        for done in shares if operation.kind not in READS else ():
            figures += _kill_at(name, seed, operation, done)
    return figures


def _kill_at(name: str, seed: int, operation: Operation, done: Share) -> Counter[str]:
    beginning, is_shared, steps = SCRIPTS[name]
    disk = Disk()
    history = History(disk, random.Random(seed), begin(disk, beginning), is_shared, durability="os")
    disk.observer = FaultAt(operation.number, Fault(lambda operation: Crash(), done), lasts=True)
    with small_steps():
        try:
            for step in steps:
                step(history)
        except Crash:
            pass
        after = disk.after_kill()
        disk.observer = no_fault
        try:
            figures = recover(after, history.states, history.exists, random.Random(seed), 99)
        except Exception as error:
            words = "\n".join(history.words)
            raise Violation(f"{name}: killed at operation {operation}:\n{words}\n{error}") from error
        finally:
            history.close()
    figures["kills"] += 1
    return figures

"""A file system in memory that loses unsynced data in a crash.

It implements the interface of durus/files/file.py. A Disk is that of a machine; a SimulatedFileSystem is the view of
one process on it. What a process has written is visible to all processes immediately, but is on stable storage only
when a sync has returned. Until then, a crash leaves a file with any of the lengths that it had since its last sync,
each sector with any of the contents that it had since then, and a name with any of the files to which it led since its
directory was last synced. So writes are lost, arrive in part, and overtake one another.

Nothing here is random by itself: Choices decide what a crash leaves, and an observer decides what fails.
"""

import errno
import itertools
import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, TypeVar

from durus.error import FileError, LockedError
from durus.files.file import File, Mode

SECTOR = 512
"""The number of bytes that a disk writes completely or not at all."""

T = TypeVar("T")

Share = Literal["none", "half", "all"]


class Crash(BaseException):
    """The process was killed; nothing that its program still does has an effect."""


class Operation(NamedTuple):
    """One call that a process makes."""

    number: int
    kind: str
    path: str
    size: int = 0

    def __str__(self) -> str:
        size = f" {self.size} bytes" if self.kind in ("append", "truncate") else ""
        return f"{self.number}: {self.kind}{size} {os.path.basename(self.path)}"


class Fault(NamedTuple):
    """How an operation fails.

    `done` is how much of it is done before it fails: for an append, half or all of its bytes. A sync that is half done
    has written some sectors and forgets the others: no later sync writes them either, although all processes see them
    until the machine goes down.
    """

    error: Callable[[Operation], BaseException]
    done: Share = "none"


def failure(code: int) -> Callable[[Operation], BaseException]:
    """Return a function that makes the error that durus/files/file.py raises for this errno."""

    def error(operation: Operation) -> BaseException:
        made = FileError(code, f"cannot {operation.kind}: {os.strerror(code)}", operation.path)
        made.operation = operation.kind
        return made

    return error


Observer = Callable[[Operation], Fault | None]
"""Is called before each operation; may return a fault with which the operation fails."""


class Choices(Protocol):
    """Decides what a crash leaves."""

    def choose(self, number: int) -> int:
        """Choose one of `number` versions, from 0, the oldest, to number - 1, the newest."""

    def noise(self, size: int) -> bytes | None:
        """Return the contents of the disk where nothing was written yet; None for zeros only."""


class RandomChoices:
    """Random choices. Each crash has its own kind of them: always the oldest, one of them, any."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._old_share = chance.choice((0.0, 0.05, 0.3, 0.5, 0.8, 1.0))
        self._has_noise = chance.random() < 0.2

    def choose(self, number: int) -> int:
        if self._chance.random() < self._old_share:
            return self._chance.randrange(number)
        return number - 1

    def noise(self, size: int) -> bytes | None:
        return self._chance.randbytes(size) if self._has_noise else None


class _GivenChoices:
    """Choices that begin with given ones, and continue with the oldest; records the numbers of versions."""

    def __init__(self, given: Sequence[int]) -> None:
        self._given = given
        self.taken: list[tuple[int, int]] = []

    def choose(self, number: int) -> int:
        place = len(self.taken)
        choice = self._given[place] if place < len(self._given) else 0
        self.taken.append((choice, number))
        return choice

    def noise(self, size: int) -> bytes | None:
        return None


OLDEST: Choices = _GivenChoices(())
"""Leaves only what is certainly on stable storage."""


def every_outcome(disk: "Disk") -> Iterator["Disk"]:
    """Yield each disk that a crash can leave, without noise."""
    given: list[int] = []
    while True:
        choices = _GivenChoices(given)
        yield disk.after_crash(choices)
        taken = choices.taken
        while taken and taken[-1][0] == taken[-1][1] - 1:
            taken.pop()
        if not taken:
            return
        given = [choice for choice, _ in taken[:-1]] + [taken[-1][0] + 1]


def outcomes(disk: "Disk", most: int, chance: random.Random) -> Iterator["Disk"]:
    """Yield each disk that a crash can leave if these are at most `most`, otherwise the first and random ones."""
    every = list(itertools.islice(every_outcome(disk), most + 1))
    if len(every) <= most:
        yield from every
    else:
        yield every[0]
        for _ in range(most - 1):
            yield disk.after_crash(RandomChoices(chance))


def _distinct(values: Iterable[T]) -> list[T]:
    return list(dict.fromkeys(values))


@dataclass(eq=False)
class Lock:
    """The lock of one opened file. It knows the process, not the file, which may disappear without a close."""

    process: "SimulatedFileSystem"


@dataclass(eq=False)
class Inode:
    """A file, independent of its names."""

    data: bytes = b""
    """The contents that processes see."""
    stable: bytes = b""
    """The contents that are certainly on stable storage."""
    versions: list[bytes] = field(default_factory=list)
    """The contents after each change since then."""
    first_change: int = 0
    """The lowest offset of these changes."""
    lock: "Lock | None" = None

    def change(self, data: bytes, offset: int) -> None:
        self.first_change = min(self.first_change, offset) if self.versions else offset
        self.data = data
        self.versions.append(data)

    def settle(self, stable: bytes) -> None:
        """Make these the contents on stable storage, with no unsynced changes."""
        self.stable, self.versions = stable, []

    def after_crash(self, choices: Choices) -> bytes:
        """Return one of the contents that a crash can leave."""
        if not self.versions:
            return self.stable
        versions = [self.stable, *self.versions]
        sizes = _distinct(len(version) for version in versions)
        size = sizes[choices.choose(len(sizes))] if len(sizes) > 1 else sizes[0]
        start = self.first_change // SECTOR * SECTOR
        pieces = [self.stable[:start].ljust(start, b"\0")]
        for place in range(start, size, SECTOR):
            found = _distinct(version[place : place + SECTOR].ljust(SECTOR, b"\0") for version in versions)
            if len(found) > 1:
                old = self.stable[place : place + SECTOR]
                noise = choices.noise(SECTOR - len(old))
                if noise:
                    found[0] = old + noise
            pieces.append(found[choices.choose(len(found))] if len(found) > 1 else found[0])
        return b"".join(pieces)[:size]


def no_fault(operation: Operation) -> Fault | None:
    return None


class Disk:
    """Files and names, as processes see them and as they are on stable storage."""

    def __init__(self) -> None:
        self.names: dict[str, Inode] = {}
        self._stable_names: dict[str, Inode] = {}
        self._name_changes: list[tuple[str, Inode | None]] = []
        self.operations = 0
        self.observer: Observer = no_fault
        self.sync_chance = random.Random(0)
        """Decides what a failed sync has written."""

    def process(self) -> "SimulatedFileSystem":
        """Return the file system of a new process."""
        return SimulatedFileSystem(self)

    def put(self, path: str, data: bytes, is_durable: bool = True) -> None:
        """Create a file, as the initial state of a test."""
        inode = Inode()
        inode.change(data, 0)
        self.change_name(path, inode)
        if is_durable:
            inode.settle(data)
            self.settle_names(os.path.dirname(path))

    def contents(self) -> dict[str, bytes]:
        """Return the contents to which each name leads."""
        return {name: inode.data for name, inode in self.names.items()}

    def change_name(self, name: str, inode: Inode | None) -> None:
        if inode is None:
            del self.names[name]
        else:
            self.names[name] = inode
        self._name_changes.append((name, inode))

    def settle_names(self, directory: str) -> None:
        unsettled = []
        for name, inode in self._name_changes:
            if os.path.dirname(name) != directory:
                unsettled.append((name, inode))
            elif inode is None:
                self._stable_names.pop(name, None)
            else:
                self._stable_names[name] = inode
        self._name_changes = unsettled

    def after_crash(self, choices: Choices) -> "Disk":
        """Return a disk that a crash of the machine can leave; this disk stays as it is."""
        found: dict[str, Inode | None] = dict(self._stable_names)
        for name in sorted({name for name, _ in self._name_changes}):
            changes = [inode for changed, inode in self._name_changes if changed == name]
            versions = _distinct([self._stable_names.get(name), *changes])
            found[name] = versions[choices.choose(len(versions))] if len(versions) > 1 else versions[0]
        after = Disk()
        copies: dict[Inode, Inode] = {}
        for name, inode in found.items():
            if inode is not None:
                if inode not in copies:
                    data = inode.after_crash(choices)
                    copies[inode] = Inode(data, data)
                after.names[name] = after._stable_names[name] = copies[inode]
        return after

    def after_kill(self) -> "Disk":
        """Return the disk after all processes are killed while the machine continues; this disk stays as it is."""
        after = Disk()
        copies: dict[Inode, Inode] = {}

        def copy(inode: Inode) -> Inode:
            if inode not in copies:
                copies[inode] = Inode(inode.data, inode.stable, list(inode.versions), inode.first_change)
            return copies[inode]

        after.names = {name: copy(inode) for name, inode in self.names.items()}
        after._stable_names = {name: copy(inode) for name, inode in self._stable_names.items()}
        after._name_changes = [(name, None if inode is None else copy(inode)) for name, inode in self._name_changes]
        return after


class Disturbance:
    """Does something once, right before an operation of a disk; nothing is observed from then on.

    Args:
        disk: the disk, whose observer this is.
        wanted: the number of the operation, counted from now on.
        disturb: what is done.
    """

    def __init__(self, disk: Disk, wanted: int, disturb: Callable[[], object]) -> None:
        self._disk = disk
        self._remaining = wanted
        self._disturb = disturb
        disk.observer = self

    @property
    def has_come(self) -> bool:
        """False if there were too few operations so far."""
        return self._remaining == 0

    def __call__(self, operation: Operation) -> Fault | None:
        self._remaining -= 1
        if self.has_come:
            self._disk.observer = no_fault
            self._disturb()
        return None


class SimulatedFile:
    """A File of a process."""

    def __init__(self, process: "SimulatedFileSystem", path: str, inode: Inode) -> None:
        self.path = path
        self._process = process
        self._inode = inode
        self._lock = Lock(process)
        self._is_closed = False

    def _step(self, kind: str, size: int = 0) -> tuple[Operation, Fault | None]:
        if self._is_closed:
            raise ValueError(f"{kind}: the file is closed: {self.path}")
        return self._process.step(kind, self.path, size)

    def size(self) -> int:
        _raise(*self._step("size"))
        return len(self._inode.data)

    def read_at(self, offset: int, size: int) -> bytes:
        _raise(*self._step("read", size))
        return self._inode.data[offset : offset + size]

    def append(self, data: bytes, end: int | None = None) -> None:
        operation, fault = self._step("append", len(data))
        if fault is not None:
            data = data[: {"none": 0, "half": len(data) // 2, "all": len(data)}[fault.done]]
        if data:
            before = self._inode.data
            self._inode.change(before + data, len(before))
        _raise(operation, fault)

    def truncate(self, size: int) -> None:
        operation, fault = self._step("truncate", size)
        if (fault is None or fault.done == "all") and size != len(self._inode.data):
            before = self._inode.data
            self._inode.change(before[:size].ljust(size, b"\0"), min(size, len(before)))
        _raise(operation, fault)

    def sync(self) -> None:
        operation, fault = self._step("sync")
        inode = self._inode
        if fault is None or fault.done == "all":
            # What an earlier sync has lost stays lost: only what changed since then is written.
            inode.settle(_written(inode))
        elif fault.done == "half":
            inode.settle(inode.after_crash(RandomChoices(self._process.disk.sync_chance)))
        _raise(operation, fault)

    def lock(self) -> None:
        operation, fault = self._step("lock")
        if fault is None or fault.done == "all":
            if self._inode.lock not in (None, self._lock):
                raise LockedError(errno.EWOULDBLOCK, "the file is in use by another process", self.path)
            self._inode.lock = self._lock
        _raise(operation, fault)

    def has_its_name(self, name: str | None = None) -> bool:
        _raise(*self._step("look up"))
        return self._process.disk.names.get(name or self.path) is self._inode

    def copy_permissions(self, other: File) -> None:
        _raise(*self._step("set the permissions of"))

    def close(self) -> None:
        self._is_closed = True
        if self._inode.lock is self._lock:
            self._inode.lock = None

    def __del__(self) -> None:
        self.close()


def _written(inode: Inode) -> bytes:
    """Return what a sync leaves on stable storage: the changed sectors, and the old contents of the others."""
    if not inode.versions:
        return inode.stable
    start = inode.first_change // SECTOR * SECTOR
    return inode.stable[:start].ljust(start, b"\0") + inode.data[start:]


def _raise(operation: Operation, fault: Fault | None) -> None:
    if fault is not None:
        raise fault.error(operation)


class SimulatedFileSystem:
    """The FileSystem of one process."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self._is_alive = True

    def kill(self) -> None:
        """End the process: its files are closed, and nothing that it still does has an effect."""
        self._is_alive = False
        for inode in self.disk.names.values():
            if inode.lock is not None and inode.lock.process is self:
                inode.lock = None

    def step(self, kind: str, path: str, size: int = 0) -> tuple[Operation, Fault | None]:
        if not self._is_alive:
            raise Crash
        self.disk.operations += 1
        operation = Operation(self.disk.operations, kind, path, size)
        fault = self.disk.observer(operation)
        if not self._is_alive:
            raise Crash
        return operation, fault

    def open(self, path: str, mode: Mode) -> File:
        operation, fault = self.step("open", path)
        names = self.disk.names
        if fault is None or fault.done == "all":
            if mode == "read" and path not in names:
                raise failure(errno.ENOENT)(operation)
            if mode in ("new", "private") and path in names:
                raise failure(errno.EEXIST)(operation)
            if path not in names:
                self.disk.change_name(path, Inode())
        _raise(operation, fault)
        return SimulatedFile(self, path, names[path])

    def exists(self, path: str) -> bool:
        _raise(*self.step("exists", path))
        return path in self.disk.names

    def names_beside(self, path: str) -> list[str]:
        _raise(*self.step("names beside", path))
        directory = os.path.dirname(path)
        return [os.path.basename(name) for name in self.disk.names if os.path.dirname(name) == directory]

    def link(self, source: str, name: str) -> bool:
        operation, fault = self.step("link", name)
        if fault is None or fault.done == "all":
            if name in self.disk.names:
                raise failure(errno.EEXIST)(operation)
            self.disk.change_name(name, self.disk.names[source])
        _raise(operation, fault)
        return True

    def replace(self, source: str, name: str) -> None:
        operation, fault = self.step("replace", name)
        is_done = fault is None or fault.done == "all"
        if is_done and self.disk.names.get(name) is not self.disk.names[source]:  # POSIX: otherwise both names stay
            self.disk.change_name(name, self.disk.names[source])
            self.disk.change_name(source, None)
        _raise(operation, fault)

    def remove(self, path: str) -> None:
        operation, fault = self.step("remove", path)
        if fault is None or fault.done == "all":
            if path not in self.disk.names:
                raise failure(errno.ENOENT)(operation)
            self.disk.change_name(path, None)
        _raise(operation, fault)

    def make_directory(self, path: str) -> None:
        """Directories are not simulated: every directory exists."""
        _raise(*self.step("make the directory", path))

    def sync_directory(self, path: str) -> None:
        operation, fault = self.step("sync directory", path)
        if fault is None or fault.done == "all":
            self.disk.settle_names(os.path.dirname(path))
        _raise(operation, fault)

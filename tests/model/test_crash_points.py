"""A crash, or an error of the operating system, at every single operation of short histories.

What was written before a crash is taken to be in the files: losing what was not synced is not simulated here.
"""

import errno
import shutil
import struct
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from durus.connection import Connection
from durus.error import ClosedError, DurusError, DurusWarning, FileError, UnsoundTailError
from durus.file import File, FileSystem, Mode, OperatingSystem
from durus.file_storage import FileStorage
from durus.persistent import Persistent

Part = Literal["none", "some", "all"]
PARTS: tuple[Part, ...] = ("none", "some", "all")


class Crash(BaseException):
    """The machine is gone; nothing that the program still does has an effect."""


class Fault:
    """Fails one operation, and with `lasting` all that follow; appends are done in part before."""

    def __init__(self, number: int, part: Part, make: Callable[[str], BaseException], lasting: bool) -> None:
        self.number = number
        self.part = part
        self.make = make
        self.lasting = lasting
        self.count = 0
        self.operations: list[str] = []

    def comes_to(self, operation: str, path: str) -> BaseException | None:
        """Count an operation, and return the exception that it is to raise."""
        self.count += 1
        self.operations.append(f"{operation} {Path(path).name}")
        hit = self.count >= self.number if self.lasting else self.count == self.number
        return self.make(path) if hit else None

    def check(self, operation: str, path: str) -> None:
        error = self.comes_to(operation, path)
        if error is not None:
            raise error


class FaultyFile:
    """A File that fails where the fault says so."""

    def __init__(self, file: File, fault: Fault) -> None:
        self._file = file
        self._fault = fault
        self.path = file.path

    def size(self) -> int:
        self._fault.check("size", self.path)
        return self._file.size()

    def read_at(self, offset: int, size: int) -> bytes:
        self._fault.check("read", self.path)
        return self._file.read_at(offset, size)

    def append(self, data: bytes) -> None:
        error = self._fault.comes_to("append", self.path)
        if error is None:
            self._file.append(data)
            return
        if self._fault.count == self._fault.number:
            self._file.append(data[: {"none": 0, "some": len(data) // 2, "all": len(data)}[self._fault.part]])
        raise error

    def truncate(self, size: int) -> None:
        self._fault.check("truncate", self.path)
        self._file.truncate(size)

    def sync(self) -> None:
        self._fault.check("sync", self.path)  # what is written counts as stored here, so no real sync is needed

    def lock(self) -> None:
        self._fault.check("lock", self.path)
        self._file.lock()

    def has_its_name(self) -> bool:
        self._fault.check("has_its_name", self.path)
        return self._file.has_its_name()

    def copy_permissions(self, other: File) -> None:
        self._fault.check("copy_permissions", self.path)
        self._file.copy_permissions(other)

    def close(self) -> None:
        self._file.close()


class FaultyFileSystem:
    """The operating system's files, with a fault."""

    def __init__(self, fault: Fault) -> None:
        self._real = OperatingSystem()
        self._opened: list[File] = []
        self.fault = fault

    def open(self, path: str, mode: Mode) -> File:
        self.fault.check("open", path)
        file = self._real.open(path, mode)
        self._opened.append(file)
        return FaultyFile(file, self.fault)

    def exists(self, path: str) -> bool:
        self.fault.check("exists", path)
        return self._real.exists(path)

    def link(self, source: str, name: str) -> bool:
        self.fault.check("link", name)
        return self._real.link(source, name)

    def replace(self, source: str, name: str) -> None:
        self.fault.check("replace", name)
        self._real.replace(source, name)

    def remove(self, path: str) -> None:
        self.fault.check("remove", path)
        self._real.remove(path)

    def sync_directory(self, path: str) -> None:
        self.fault.check("sync_directory", path)

    def power_off(self) -> None:
        """Give up all files and locks, as the end of the process does."""
        for file in self._opened:
            file.close()


class Pair(Persistent):
    """Holds the number of a commit a second time, so that half a commit shows."""

    def __init__(self) -> None:
        self.number = 0
        self.text = ""


class History:
    """Commits of increasing numbers, and which of them were attempted and acknowledged."""

    def __init__(self, path: Path, file_system: FileSystem, repair: bool = False, acknowledged: int = 0) -> None:
        self.acknowledged = self.attempted = acknowledged
        self._path = path
        self._file_system = file_system
        self._repair = repair
        self.connection: Connection | None = None

    def open(self) -> Connection:
        storage = FileStorage(self._path, repair=self._repair, file_system=self._file_system)
        try:
            self.connection = Connection(storage)
        except BaseException:
            storage.close()
            raise
        return self.connection

    def opened(self) -> Connection:
        return self.open() if self.connection is None else self.connection

    def opened_with_repair(self) -> Connection:
        try:
            return self.opened()
        except UnsoundTailError:
            self._repair = True
            return self.open()

    def commit(self) -> None:
        """Change two objects, make garbage and a new object, and commit."""
        connection = self.opened()
        connection.abort()
        root = connection.get_root()
        number = self.attempted + 1
        root["number"] = number
        root["new"] = [Pair(), Pair()]
        pair: Any = root.setdefault("pair", Pair())
        pair.number = number
        pair.text = f"{number} " * 50
        self.attempted = number
        connection.commit()
        self.acknowledged = number

    def pack(self) -> None:
        self.opened().pack()

    def pack_in_steps(self) -> None:
        """Pack with a commit behind every step."""
        packer = self.opened().get_storage().get_packer()
        try:
            for _ in zip(range(4), packer, strict=False):
                self.commit()
            for _ in packer:
                pass
        finally:
            packer.close()  # type: ignore[attr-defined]  # it is a generator

    def run(self, script: str) -> None:
        for step in SCRIPTS[script]:
            step(self)

    def reopen(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None
        self.open()


Step = Callable[[History], object]
Script = tuple[Step, ...]

SCRIPTS: dict[str, Script] = {
    "create": (History.open, History.commit, History.commit),
    "pack": (History.commit, History.commit, History.pack, History.commit),
    "pack in steps": (History.commit, History.commit, History.pack_in_steps, History.commit),
    "pack twice": (History.commit, History.pack, History.commit, History.pack, History.reopen, History.commit),
    "repair": (History.open, History.commit, History.reopen),
    "cover": (History.open, History.commit, History.commit),
}


def prepare(script: str, path: Path) -> tuple[bool, int]:
    """Make the file that a script begins with; return if it needs repair, and the number that it holds."""
    if script in ("repair", "cover"):
        history = History(path, OperatingSystem())
        history.commit()
        history.commit()
        history.opened().close()
        with path.open("ab") as file:
            # An empty transaction as Durus 4.3 may leave it, and a length that leads beyond the end.
            file.write(bytes(8) if script == "cover" else struct.pack(">Q", 99) + b"half a transaction")
        return script == "repair", 2
    return False, 0


def number_in(connection: Connection) -> int:
    """Return the number of the commit that the database shows; both of its objects must tell the same."""
    root: Any = connection.get_root()
    if "number" not in root:
        assert not root.keys()
        return 0
    assert root["pair"].number == root["number"]
    assert root["pair"].text == f"{root['number']} " * 50
    assert [pair.number for pair in root["new"]] == [0, 0]
    number: int = root["number"]
    return number


def number_in_file(path: Path) -> int:
    """Return the number that the file shows to the real operating system, repaired if need be."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DurusWarning)
        try:
            storage = FileStorage(path)
        except UnsoundTailError:
            storage = FileStorage(path, repair=True)
        with Connection(storage) as connection:
            return number_in(connection)


def number_seen_by_a_reader(path: Path) -> int:
    with Connection(FileStorage(path, readonly=True)) as connection:
        return number_in(connection)


def count_operations(script: str, path: Path) -> list[str]:
    """Run a script without a fault, and return its operations."""
    repair, number = prepare(script, path)
    fault = Fault(-1, "all", OSError, lasting=False)
    history = History(path, FaultyFileSystem(fault), repair, number)
    for step in SCRIPTS[script]:
        step(history)
    history.opened().close()
    assert number_in_file(path) == history.acknowledged == history.attempted
    return fault.operations


def faults(operations: list[str]) -> Iterator[tuple[int, Part]]:
    """Yield every operation by its number, an append once for each part that may be done of it."""
    for number, operation in enumerate(operations, 1):
        for part in PARTS if operation.startswith("append") else PARTS[:1]:
            yield number, part


def fresh(tmp_path: Path) -> Path:
    """Return the path of a file in an empty directory."""
    directory = tmp_path / "run"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    return directory / "f.durus"


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DurusWarning)
        yield


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.spec("TXN-5", "SHELF-18", "SHELF-26", "SHELF-36")
def test_crash_at_any_operation_leaves_a_state_between_acknowledged_and_attempted(script: str, tmp_path: Path) -> None:
    operations = count_operations(script, fresh(tmp_path))
    for number, part in faults(operations):
        path = fresh(tmp_path)
        repair, first = prepare(script, path)
        file_system = FaultyFileSystem(Fault(number, part, lambda _: Crash(), lasting=True))
        history = History(path, file_system, repair, first)
        with pytest.raises(Crash):
            history.run(script)
        file_system.power_off()
        where = f"{script}: crash at {number}, {operations[number - 1]}, {part} of it done"
        if path.exists():
            assert history.acknowledged <= number_in_file(path) <= history.attempted, where
        else:
            assert history.attempted == 0, where
        after = History(path, OperatingSystem(), acknowledged=history.attempted)
        after.commit()
        after.pack()
        after.commit()
        after.opened().close()
        assert number_in_file(path) == after.acknowledged, where


def run_with_errors(history: History, script: Script) -> list[DurusError]:
    """Go through a script as a stubborn application does: it aborts after an error and goes on."""
    caught: list[DurusError] = []
    for step in script:
        try:
            step(history)
        except DurusError as error:
            caught.append(error)
    return caught


def drop_states(connection: Connection) -> None:
    for obj in connection.get_cache().loaded_objects():
        assert obj._p_oid is not None
        connection.get_cache().make_ghost(obj._p_oid)


@pytest.mark.parametrize("lasting", [False, True], ids=["one", "lasting"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.spec("TXN-9", "SHELF-20")
def test_error_at_any_operation_is_reported_and_loses_nothing(
    script: str, code: int, lasting: bool, tmp_path: Path
) -> None:
    operations = count_operations(script, fresh(tmp_path))
    for number, part in faults(operations):
        path = fresh(tmp_path)
        repair, first = prepare(script, path)
        fault = Fault(number, part, lambda path: FileError(code, "cannot do this", path), lasting)
        file_system = FaultyFileSystem(fault)
        history = History(path, file_system, repair, first)
        caught = run_with_errors(history, SCRIPTS[script])
        where = f"{script}: error at {number}, {operations[number - 1]}, {part} of it done: {caught}"
        assert caught, where
        fault.number, fault.lasting = -1, False

        connection = history.opened_with_repair()
        connection.abort()
        drop_states(connection)
        assert history.acknowledged <= number_in(connection) <= history.attempted, where
        shown = number_in(connection)
        try:
            history.commit()
        except ClosedError:
            assert lasting or not operations[number - 1].startswith("append"), where
            connection.abort()
            assert number_in(connection) == shown, where
        else:
            assert number_seen_by_a_reader(path) == number_in(connection) == history.acknowledged, where
            history.pack()
            history.commit()
            assert number_seen_by_a_reader(path) == history.acknowledged, where
        connection.close()
        assert history.acknowledged <= number_in_file(path) <= history.attempted, where
        file_system.power_off()

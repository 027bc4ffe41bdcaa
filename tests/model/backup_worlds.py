"""A database and its backup on simulated disks, for the crash tests and the state machine of backups.

The root of the database holds the number of the commit, so that a restored file says which state it has.
"""

import random
import warnings
from datetime import UTC, datetime, timedelta
from typing import Any

from durus.backups.back_up import BackedUp, BackUp
from durus.backups.restore import Restore, Restored
from durus.backups.target import MANIFEST
from durus.backups.verify import GenerationReport, Verification
from durus.connection import Connection
from durus.error import DurusWarning
from durus.file_storage import Durability, FileStorage
from durus.files.shelf.inspection import ShelfInspection
from tests.model.simulated_files import Disk, SimulatedFileSystem

PATH = "/source/f.durus"
TARGET = "/target/backup"
MANIFEST_PATH = f"{TARGET}/{MANIFEST}"
RESTORED = "/restored/f.durus"


SECOND = 1_000_000


class Clock:
    """A clock in microseconds that moves only when a test moves it."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> str:
        return self.at(self.now)

    @staticmethod
    def at(microseconds: int) -> str:
        """Return this reading of the clock in the format of seals."""
        moment = datetime(2026, 1, 2, tzinfo=UTC) + timedelta(microseconds=microseconds)
        return moment.isoformat(timespec="microseconds")[:26] + "Z"


class World:
    """A machine with a database in use, and a machine with a backup of it."""

    def __init__(self, seed: int = 0) -> None:
        self.source = Disk()
        self.target = Disk()
        self.clock = Clock()
        self.chance = random.Random(seed)
        self.number = 0
        """The number of the last commit."""
        self.file_system: SimulatedFileSystem = self.source.process()
        self.storage: FileStorage | None = None
        self._connection: Connection[Any] | None = None
        self.durability: Durability = "fsync"

    def open(self) -> FileStorage:
        if self.storage is None:
            self.storage = FileStorage(PATH, durability=self.durability, file_system=self.file_system, clock=self.clock)
        return self.storage

    def close(self) -> None:
        if self.storage is not None:
            self.storage.close()
            self.storage = None

    def _connect(self) -> Connection[Any]:
        """Return a connection: the one before if it has the same storage, as a further one would search for it."""
        storage = self.open()
        if self._connection is None or self._connection.get_storage() is not storage:
            self._connection = Connection(storage)
        self._connection.abort()
        return self._connection

    def commit(self, size: int = 100) -> int:
        """Make the next commit; return its number."""
        connection = self._connect()
        root: Any = connection.get_root()
        root["number"] = self.number + 1
        root["text"] = self.chance.randbytes(size)
        connection.commit()
        self.number += 1
        return self.number

    def pack(self) -> None:
        self.open().pack()

    def back_up(self, keep: int | None = None) -> BackedUp:
        return back_up(self.source, self.target, keep)

    def restore(self, at: str | None = None) -> int:
        """Return the number of the commit whose state a restored file has."""
        return number_in(self.target, at)


def back_up(source: Disk, target: Disk, keep: int | None = None) -> BackedUp:
    """Back up in processes of their own."""
    return BackUp(PATH, TARGET, keep, source.process(), target.process()).finish()


def restore(target: Disk, disk: Disk, path: str = RESTORED, at: str | None = None) -> Restored:
    """Restore in processes of their own."""
    return Restore(TARGET, path, at, target.process(), disk.process()).finish()


def verify(target: Disk) -> list[GenerationReport]:
    return Verification(TARGET, target.process()).finish()


def number_in(target: Disk, at: str | None = None) -> int:
    """Restore, check the file as `durus check` does, and return the number of the commit whose state it has."""
    disk = Disk()
    restore(target, disk, at=at)
    faults = [str(each) for each in ShelfInspection(disk.process().open(RESTORED, "read")).findings() if each.is_fault]
    assert faults == []
    return number_of(disk, RESTORED)


def number_of(disk: Disk, path: str = PATH, repair: bool = False) -> int:
    """Return the number of the commit whose state a file shows, 0 if it has none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DurusWarning)
        storage = FileStorage(path, readonly=not repair, repair=repair, file_system=disk.process())
    root: Any = Connection(storage).get_root() if storage.has_record(bytes(8)) else {}
    number: int = root.get("number", 0)
    storage.close()
    return number

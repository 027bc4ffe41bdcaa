"""What a replica can follow: a file that may be in use, a backup, or a server. Statements REPL-11 to REPL-13.

A source is opened again for each round, and shows one state: the bytes up to one seal.
"""

import os
from collections.abc import Generator
from typing import Protocol

from durus.backups.copying import Write, copy_generation, copy_sealed
from durus.backups.manifest import Generation
from durus.backups.opening import is_in_object_store, open_target
from durus.backups.sealed_file import check_format, last_seal
from durus.backups.target import MANIFEST, Target
from durus.error import NothingToBackUpError
from durus.files.file import File, FileSystem, OperatingSystem, Path, path_text
from durus.files.shelf.layout import Seal
from durus.files.shelf.sealed import has_seal
from durus.files.snapshot import FileSnapshot


class SourceState(Protocol):
    """The bytes of a SHELF-1 file up to a seal."""

    @property
    def last(self) -> Seal:
        """The seal."""

    unsealed: int
    """How many bytes the source has after it."""

    def has(self, seal: Seal) -> bool:
        """Return whether the seal is among these bytes, at its offset."""

    def copy(self, after: Seal | None, write: Write) -> Generator[int, None, None]:
        """Pass the bytes after a seal, or all of them, to write(); yield the offsets that it has reached.

        DamageError if they do not fit their checksums; some of them were written then. An UnsoundTailError has the
        offset up to which they are sound, if that is not the end after all.
        """

    def close(self) -> None: ...


class Source(Protocol):
    """What is followed. A failed round may leave its state open."""

    name: str
    """What people call it."""

    def is_file(self, path: str) -> bool:
        """Return whether this is the file with a path."""

    def close(self) -> None:
        """Release what it holds between two rounds."""

    def open(self, limit: int | None = None) -> SourceState:
        """Return its present state, without what is after the byte `limit`. NothingToBackUpError without a seal."""


def source_of(where: Path, file_system: FileSystem | None = None) -> Source:
    """Return the source with a name: the address of a server, a file, or the folder of a backup."""
    path = path_text(where)
    if path.startswith("durus"):
        from durus.backups.server_source import server_source  # only for a server, because of their imports
        from durus.opening import server_named

        address = server_named(path)
        if address is not None:
            return server_source(path, address)
    system = OperatingSystem() if file_system is None else file_system
    is_backup = system.exists(os.path.join(os.path.abspath(path), MANIFEST)) or os.path.isdir(path)
    if is_backup or is_in_object_store(path):
        return BackupSource(open_target(path, system))
    return FileSource(path, system)


class FileSource:
    """A SHELF-1 file, which is neither locked nor written to."""

    def __init__(self, path: str, file_system: FileSystem) -> None:
        self.name = self._path = os.path.abspath(path)
        self._file_system = file_system

    def is_file(self, path: str) -> bool:
        if not self._file_system.exists(path) or not self._file_system.exists(self._path):
            return False
        file = self._file_system.open(self._path, "read")
        try:
            return file.has_its_name(path)
        finally:
            file.close()

    def close(self) -> None:
        """Nothing is open."""

    def open(self, limit: int | None = None) -> "_FileState":
        file = self._file_system.open(self._path, "read")
        try:
            return _FileState(file, limit)
        except BaseException:
            file.close()
            raise


class _FileState:
    last: Seal

    def __init__(self, file: File, limit: int | None) -> None:
        size = file.size()
        self._file = file
        self._view = FileSnapshot(file, size if limit is None else min(size, limit))
        check_format(self._view)
        self.last = last_seal(self._view)
        self.unsealed = size - self.last.end

    def has(self, seal: Seal) -> bool:
        return seal.end <= self.last.end and has_seal(self._view, seal)

    def copy(self, after: Seal | None, write: Write) -> Generator[int, None, None]:
        self._file.sync()  # otherwise the file could lose in a crash what the replica keeps [REPL-12]
        start, checksum = (0, 0) if after is None else (after.end, after.checksum)
        yield from copy_sealed(self._view, start, self.last.end, checksum, write)

    def close(self) -> None:
        self._file.close()


class BackupSource:
    """A backup: its newest generation."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.name = target.path

    def is_file(self, path: str) -> bool:
        return False

    def close(self) -> None:
        """Nothing is open."""

    def open(self, limit: int | None = None) -> "_BackupState":
        generations = self._target.read_manifest().generations
        if not generations:
            raise NothingToBackUpError(f"{self._target.path}: this backup holds nothing yet")
        return _BackupState(self._target, generations[-1])


class _BackupState:
    unsealed = 0
    last: Seal

    def __init__(self, target: Target, generation: Generation) -> None:
        self._target = target
        self._generation = generation
        self.last = generation.last_seal

    def has(self, seal: Seal) -> bool:
        for segment in self._generation.segments:
            if segment.start < seal.end < segment.end:
                view = self._target.open_segment(segment)
                try:
                    return has_seal(view, seal)
                finally:
                    view.close()
            if seal.end == segment.end:
                return seal == segment.seal
        return False

    def copy(self, after: Seal | None, write: Write) -> Generator[int, None, None]:
        start = 0 if after is None else after.end
        yield from copy_generation(self._target, self._generation, start, self.last.end, write)

    def close(self) -> None:
        pass

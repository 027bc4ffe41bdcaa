"""A replica: a file that is at every moment a sound beginning of its source. spec/replica.md.

What is new in the source is appended, and compared with its seals in the same read. If the source was packed, or
continues differently, all of it is written beside the replica, and then takes its name. The note is always durable
before the change that it announces: so after a crash it is known whether somebody else has written to the file.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Generator, Iterator
from typing import NamedTuple

from durus.backups.copying import check_copy, in_steps
from durus.backups.replica_note import Note, pack_note, parse_note
from durus.backups.sources import Source, SourceState
from durus.error import (
    ArgumentError,
    BackupError,
    DamageError,
    DurusError,
    FileError,
    NetworkError,
    NothingToBackUpError,
    ReplicaError,
    ServerError,
    UnsoundTailError,
)
from durus.files.file import File, FileSystem, OperatingSystem, Path, closing_on_error, path_text
from durus.files.opening import open_locked
from durus.files.publishing import publishing, read_file, replace_file
from durus.files.shelf.layout import Seal
from durus.files.shelf.sealed import has_seal, sound_transactions
from durus.files.snapshot import FileSnapshot
from durus.progress import Progress, Work

NOTE = ".replica"
"""What the name of the note has after that of the replica. [REPL-2]"""
_TRIES = 5
_REMOVE = "remove it and its .replica file, and follow again to recreate both"


class Followed(NamedTuple):
    """What one round has done."""

    is_new: bool
    """True if the replica was rewritten, because it is the first time, or the source was packed."""
    added: int
    """How many bytes were written."""
    size: int
    """The number of bytes of the replica."""
    time: str
    """The time of its last commit, from the seal."""
    unsealed: int
    """How many bytes of the source no seal covers; they are not in the replica."""


class Replica(Work[Followed]):
    """The replica in the file `path`, which it locks from the first round on until close().

    The steps of one round are its work.
    """

    def __init__(self, source: Source, path: Path, file_system: FileSystem | None = None) -> None:
        self.path = os.path.realpath(path_text(path))
        self._source = source
        self._file_system = OperatingSystem() if file_system is None else file_system
        self._file: File | None = None
        self._seal: Seal | None = None
        """The last seal of the file."""
        self._is_known = False
        """True if the file is known to come from the source."""
        self._has_been_there = False
        """True if there was a replica in an earlier round. [REPL-16]"""

    def close(self) -> None:
        """Release the file and the source; another round opens them again."""
        self._source.close()
        self._release()

    def _release(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    @property
    def is_open(self) -> bool:
        """True if the file exists and is locked."""
        return self._file is not None

    # Rounds

    def steps(self) -> Iterator[Progress]:
        """Copy what the source has now, one step at a time.

        Raises:
            NothingToBackUpError: The source has no seal yet.
            ReplicaError: The file is not a replica of this source, or was written to by others.
            LockedError: The file is open for writing elsewhere.
            DamageError: The source or the replica is damaged.
            FileError: The operating system refused something.
        """
        self._result = None
        self._open()
        limit: int | None = None
        before = ""
        for _ in range(_TRIES):
            state = self._source.open(limit)
            try:
                yield from self._run(state)
                return
            except UnsoundTailError as tail:
                limit = tail.offset  # the end may be a commit that is being written
            except DamageError as error:
                # The first time, the writer may have cut off a commit and written another one while it was read.
                if str(error) == before:
                    raise
                before, limit = str(error), None
            finally:
                state.close()
        raise ReplicaError(
            f"{self._source.name}: in each of {_TRIES} attempts, it changed while it was being read; "
            f"{before or 'try again'}"
        )

    def rounds(
        self,
        interval: float,
        wait: Callable[[float], bool],
        on_trouble: Callable[[DurusError], object],
        run: Callable[[Iterator[Progress]], object] = lambda steps: [None for _ in steps],
        has_run: bool = False,
    ) -> Iterator[Followed]:
        """Make one round after the other, and yield what was done each time something was new. [REPL-18]

        After the first complete round, a source that can't be reached, and a disk that refuses something, are waited
        for.

        Args:
            interval: The seconds between the end of a round and the beginning of the next one.
            wait: Takes the interval, waits that long, and returns whether that was the last round.
            on_trouble: Takes the error of a round that is tried again.
            run: Runs the steps of a round.
            has_run: True if there was a complete round before.
        """
        while True:
            try:
                run(self.steps())
                done, has_run = self.result, True
                if done.is_new or done.added:
                    yield done
            except NothingToBackUpError as error:
                on_trouble(error)
            except (FileError, NetworkError, ServerError, BackupError) as error:
                if not has_run:
                    raise
                on_trouble(error)
            if wait(interval):
                return

    def _run(self, state: SourceState) -> Generator[Progress, None, None]:
        file, seal = self._file, self._seal
        is_new = False
        size = 0
        if file is not None and seal is not None:
            self._check_origin(state, seal)
            if file.size() != seal.end:
                seal = self._cut(file, seal)
            size = seal.end
        if file is None or seal is None or not state.has(seal):
            is_new, size = True, 0
            yield from self._begin_anew(state)
        elif seal != state.last:
            yield from self._append(state, file, seal)
        last = state.last
        self._result = Followed(is_new, last.end - size, last.end, last.time, state.unsealed)

    def _append(self, state: SourceState, file: File, seal: Seal) -> Generator[Progress, None, None]:
        """Append what the source has after the seal. [REPL-12] [REPL-14]"""
        self._write_note(seal, state.last)
        try:
            yield from in_steps(state.copy(seal, file.append), seal.end, state.last.end)
            file.sync()
        except BaseException:
            with contextlib.suppress(FileError):  # the next round does it, or the next process
                self._cut(file, seal)
            raise
        self._seal = state.last

    def _begin_anew(self, state: SourceState) -> Generator[Progress, None, None]:
        """Write all that the source has beside the file, and give it the name of the file. [REPL-13]"""
        old = self._file
        with publishing(self.path, self._file_system, replaces=old is not None) as part_path:
            new = self._file_system.open(part_path, "private")
            with closing_on_error(new):
                new.lock()
                if old is not None:
                    new.copy_permissions(old)
                yield from in_steps(state.copy(None, new.append), 0, state.last.end)
                yield Progress("check", 0, state.last.end)
                check_copy(new, state.last)
                new.sync()
                self._write_note(self._seal, state.last)
                if old is not None and not old.has_its_name(self.path):
                    raise FileError(errno.ESTALE, "another file took its name in the meantime; try again", self.path)
        new.path = self.path
        self._file, self._seal, self._is_known, self._has_been_there = new, state.last, True, True
        if old is not None:
            old.close()

    # The file

    def _open(self) -> None:
        """Open the file if it exists, and find its last seal. [REPL-3] [REPL-15]"""
        if self._file is not None and self._file.has_its_name(self.path):
            return
        self._release()
        self._seal, self._is_known = None, False
        if self._source.is_file(self.path):
            raise ArgumentError(f"{self.path}: a replica is another file than its source")
        if not self._file_system.exists(self.path):
            if self._has_been_there and not self._file_system.exists(self.path + NOTE):
                raise FileError(
                    errno.ENOENT,
                    "the replica is gone, so its disk may not be mounted: mount it, or start again to recreate the "
                    "replica",
                    self.path,
                )
            return
        self._has_been_there = True
        note = self._read_note()
        file = open_locked(self._file_system, self.path)
        with closing_on_error(file):
            seal, damage = _last_seal(file, None)
            if damage is not None and not isinstance(damage, UnsoundTailError):
                # A crash of the machine can leave this of a copy of several commits, and nobody could read it.
                is_copying = note.seal is not None and has_seal(file, note.seal) and note.seal.end <= damage.offset
                if not is_copying or file.size() > note.next.end:
                    raise DamageError(file.path, damage.offset, damage.problem, _REMOVE) from damage
                file.truncate(damage.offset)
                file.sync()
            if seal is None:
                raise DamageError(file.path, 0, "the replica has no seal", _REMOVE)
        self._file, self._seal = file, seal

    def _check_origin(self, state: SourceState, seal: Seal) -> None:
        """Raise ReplicaError if the file was written by anything other than copies of the source. [REPL-3] [REPL-4]"""
        if self._is_known:
            return
        if not state.has(seal):
            note = self._read_note()
            if note.source != self._source.name:
                raise ReplicaError(
                    f"{self.path}: this is a replica of {note.source}, and its commit of {seal.time} is not in "
                    f"{self._source.name}; follow that into another file, or {_REMOVE}"
                )
            if not note.explains(seal):
                raise ReplicaError(
                    f"{self.path}: the commit of {seal.time} in it is not from {note.source}: the replica was opened "
                    f"for writing; follow into another file, or, if these commits are not needed, {_REMOVE}"
                )
        self._is_known = True

    def _cut(self, file: File, seal: Seal) -> Seal:
        """Cut off what is not sound and sealed, of a file that is sound up to `seal`. [REPL-14]"""
        seal = self._seal = _last_seal(file, seal)[0] or seal
        if file.size() != seal.end:
            file.truncate(seal.end)
            file.sync()
        return seal

    # The note

    def _read_note(self) -> Note:
        path = self.path + NOTE
        data = read_file(path, self._file_system)
        if data is None:
            raise ReplicaError(
                f"{self.path}: this file is not a replica, because there is no {os.path.basename(path)} beside it; "
                "follow into a file that does not exist yet"
            )
        return parse_note(data, path)

    def _write_note(self, seal: Seal | None, following: Seal) -> None:
        note = Note(self._source.name, seal, following)
        replace_file(self.path + NOTE, pack_note(note), self._file_system)


def _last_seal(file: File, seal: Seal | None) -> tuple[Seal | None, DamageError | None]:
    """Return the last seal in the sound part of a file, which is known up to `seal`, and the error at its end."""
    start, checksum = (0, 0) if seal is None else (seal.end, seal.checksum)
    try:
        for each in sound_transactions(FileSnapshot(file), start, checksum):
            seal = each.seal or seal
    except DamageError as error:
        return seal, error
    return seal, None

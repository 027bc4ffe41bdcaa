"""Add what is new in a file to a backup. Statements BACKUP-10 to BACKUP-19.

Meanwhile another process may write to the file, pack it, or cut off a failed commit.
"""

import contextlib
import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import NamedTuple

from durus.backups.copying import copy_sealed, in_steps
from durus.backups.manifest import Generation, Manifest, Segment, segment_name
from durus.backups.opening import open_target
from durus.backups.sealed_file import check_format, nothing_yet
from durus.backups.target import Target
from durus.error import (
    ArgumentError,
    BackupError,
    DamageError,
    FileError,
    UnsoundTailError,
)
from durus.files.file import File, FileSystem, OperatingSystem, Path, ReadableFile, path_text
from durus.files.shelf.layout import Seal
from durus.files.shelf.sealed import end_of_last_seal, has_seal, sound_transactions
from durus.files.snapshot import FileSnapshot
from durus.progress import Progress, Work

MERGED_SIZE = 1 << 22
"""The maximum size of a segment that is merged from others, in bytes. [BACKUP-18]"""
_TRIES = 5


class BackedUp(NamedTuple):
    """What one run has done."""

    generation: int
    """The number of the newest generation."""
    is_new: bool
    """True if this run has begun that generation."""
    size: int
    """The number of bytes of the generation."""
    added: int
    """The number of bytes that this run has added."""
    time: str
    """The time of the last commit in the backup, from its seal."""
    unsealed: int
    """The number of bytes of the file that no seal covers; they are not in the backup."""
    dropped: int
    """The number of older generations that were dropped."""


class BackUp(Work[BackedUp]):
    """One run of a backup."""

    def __init__(
        self,
        path: Path,
        target: Path | Target,
        keep: int | None = None,
        source_file_system: FileSystem | None = None,
        target_file_system: FileSystem | None = None,
    ) -> None:
        if keep is not None and keep < 1:
            raise ArgumentError(f"a backup keeps 1 generation or more, not {keep}")
        self._path = os.path.abspath(path_text(path))
        self._file_system = source_file_system or OperatingSystem()
        self._target = open_target(target, target_file_system)
        self._keep = keep
        self.has_target = False
        """True when the target has been locked and is a backup."""

    def steps(self, may_begin: bool = True) -> Iterator[Progress]:
        """Back up, one step at a time. The backup does not change before the last step is done.

        Args:
            may_begin: False if the target must be a backup already. [BACKUP-22]
        """
        self._check_source()
        with self._target.locked(may_begin) as manifest:
            self.has_target = True
            before = ""
            for _ in range(_TRIES):
                file = self._file_system.open(self._path, "read")
                try:
                    if (yield from self._run(file, manifest)):
                        return
                except DamageError as error:
                    # The first time, the writer may have cut off a commit and written another one while it was read.
                    if str(error) == before:
                        raise
                    before = str(error)
                finally:
                    file.close()
        raise BackupError(
            f"{self._path}: in each of {_TRIES} attempts, the bytes being read were cut off; {before or 'try again'}"
        )

    def _check_source(self) -> None:
        """Check that the file exists and has the right format, before a folder is created for its backup."""
        file = self._file_system.open(self._path, "read")
        try:
            check_format(FileSnapshot(file))
        finally:
            file.close()

    def _run(self, file: File, manifest: Manifest) -> Generator[Progress, None, bool]:
        """Back up the present contents of the file; False if it no longer has the bytes that were read."""
        size = file.size()
        file.sync()  # otherwise the file could lose in a crash what the backup keeps [BACKUP-10]
        while True:
            view = FileSnapshot(file, size)
            check_format(view)
            plan = self._plan(view, manifest)
            end = end_of_last_seal(view, plan.end)
            if end is None:
                break
            try:
                plan = yield from self._copy(view, plan, end)
                break
            except UnsoundTailError as tail:
                size = tail.offset
        if not plan.segments:
            raise nothing_yet(self._path)
        if not has_seal(file, plan.segments[-1].seal):
            return False
        self._finish(manifest, plan, file.size())
        return True

    def _plan(self, file: ReadableFile, manifest: Manifest) -> "_Plan":
        """Return the generation, and the part of it, that the file continues. [BACKUP-12] to [BACKUP-14]"""
        generations = manifest.generations
        if not generations:
            return _Plan(1, True, None, 0, ())
        newest = generations[-1]
        if has_seal(file, newest.last_seal):
            return _Plan(newest.number, False, newest.first_seal, newest.branched_at, newest.segments)
        plan = _Plan(newest.number + 1, True, None, 0, ())
        for each in reversed(generations):
            if has_seal(file, each.first_seal):
                common = tuple(takewhile(lambda segment: has_seal(file, segment.seal), each.segments))
                branched_at = self._end_of_common_history(file, each, len(common))
                if branched_at > plan.branched_at:
                    plan = _Plan(plan.number, True, each.first_seal, branched_at, common)
        return plan

    def _end_of_common_history(self, file: ReadableFile, generation: Generation, index: int) -> int:
        """Return the end of the last seal that the file and a generation share; it is in the segment with this index.

        If the segment can't be read, return its start: everything before it is known to be shared.
        """
        end = generation.segments[index - 1].end if index else 0
        if index == len(generation.segments):
            return end
        with contextlib.suppress(DamageError, FileError):
            segment = self._target.open_segment(generation.segments[index])
            try:
                for each in sound_transactions(segment, end, generation.checksum_at(index)):
                    if each.seal is not None:
                        if not has_seal(file, each.seal):
                            break
                        end = each.end
            finally:
                segment.close()
        return end

    def _copy(self, file: ReadableFile, plan: "_Plan", end: int) -> Generator[Progress, None, "_Plan"]:
        """Write the bytes of the file up to `end` as one segment, which replaces smaller ones. [BACKUP-18]"""
        kept = list(plan.segments)
        size = added = end - plan.end
        while kept and kept[-1].size <= size and size + kept[-1].size <= MERGED_SIZE:
            size += kept.pop().size
        start, checksum = (kept[-1].end, kept[-1].seal.checksum) if kept else (0, 0)
        part = self._target.create_part()
        try:
            steps = copy_sealed(file, start, end, checksum, part.append)
            copied = yield from in_steps(steps, start, end)
            sealed = copied.sealed
            first_seal = plan.first_seal or sealed.first_seal
            name = part.publish(segment_name(first_seal, start, sealed.last_seal))
        finally:
            part.close()
        kept.append(Segment(name, start, size, copied.sha256, sealed.earliest, sealed.last_seal))
        return replace(plan, first_seal=first_seal, segments=tuple(kept), added=added)

    def _finish(self, manifest: Manifest, plan: "_Plan", size: int) -> None:
        """Write the manifest, and remove the segments that no generation uses any more. [BACKUP-15] [BACKUP-19]"""
        generation = plan.generation()
        older = manifest.generations if plan.is_new else manifest.generations[:-1]
        generations = (*older, generation)
        kept = generations if self._keep is None else generations[-self._keep :]
        new = Manifest(kept)
        if new != manifest:
            self._target.replace_manifest(new)
        self._result = BackedUp(
            generation.number,
            plan.is_new,
            generation.size,
            plan.added,
            generation.last_seal.time,
            max(size - generation.size, 0),
            len(generations) - len(kept),
        )


@dataclass(frozen=True)
class _Plan:
    """What the newest generation will be."""

    number: int
    is_new: bool
    first_seal: Seal | None
    """None as long as it is not known."""
    branched_at: int
    segments: tuple[Segment, ...]
    added: int = 0

    @property
    def end(self) -> int:
        return self.segments[-1].end if self.segments else 0

    def generation(self) -> Generation:
        return Generation(self.number, self.first_seal or self.segments[0].seal, self.branched_at, self.segments)

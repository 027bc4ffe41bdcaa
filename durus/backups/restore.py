"""Make a file from a backup, as of its last commit or of an earlier one. Statements BACKUP-30 to BACKUP-34."""

import os
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from durus.backups.copying import check_copy, copy_generation, in_steps
from durus.backups.manifest import Generation, Manifest
from durus.backups.opening import open_target
from durus.backups.target import MissingSegmentError, Target
from durus.error import ArgumentError, BackupError
from durus.files.file import FileSystem, OperatingSystem, Path, path_text
from durus.files.moment import seal_time
from durus.files.publishing import publishing
from durus.files.shelf.layout import Seal
from durus.files.shelf.sealed import sound_transactions
from durus.progress import Progress, Work


class Restored(NamedTuple):
    """What was restored."""

    generation: int
    """The number of the generation."""
    time: str
    """The time of the commit whose state the file has, from its seal."""
    size: int
    """The number of bytes of the file."""


class _Moment(NamedTuple):
    generation: Generation
    seal: Seal


class Restore(Work[Restored]):
    """One restore of a file."""

    def __init__(
        self,
        target: Path | Target,
        path: Path,
        at: str | datetime | None = None,
        target_file_system: FileSystem | None = None,
        file_system: FileSystem | None = None,
    ) -> None:
        self._target = open_target(target, target_file_system)
        self._path = os.path.realpath(path_text(path))
        self._file_system = file_system or OperatingSystem()
        self._at = None if at is None else seal_time(at)

    def steps(self) -> Iterator[Progress]:
        """Restore, one step at a time. The file gets its name in the last step."""
        manifest = self._target.read_manifest()
        while True:
            try:
                yield from self._restore(manifest)
                return
            except MissingSegmentError:
                # A backup that runs at the same time merges segments and drops generations.
                before, manifest = manifest, self._target.read_manifest()
                if before == manifest:
                    raise

    def _restore(self, manifest: Manifest) -> Iterator[Progress]:
        with publishing(self._path, self._file_system) as part_path:
            moment = self._find(manifest)
            part = self._file_system.open(part_path, "private")
            try:
                end = moment.seal.end
                steps = copy_generation(self._target, moment.generation, 0, end, part.append)
                yield from in_steps(steps, 0, moment.generation.size)
                yield Progress("check", 0, end)
                check_copy(part, moment.seal)
                part.sync()
            finally:
                part.close()
        self._result = Restored(moment.generation.number, moment.seal.time, moment.seal.end)

    def _find(self, manifest: Manifest) -> _Moment:
        """Return the requested commit. [BACKUP-30]"""
        generations = manifest.generations
        if not generations:
            raise BackupError(f"{self._target.path}: this backup holds nothing yet")
        if self._at is None:
            return _Moment(generations[-1], generations[-1].last_seal)
        for from_branch in (True, False):  # the older generation that had the shared beginning may have been dropped
            for each in reversed(generations):
                seal = self._find_in(each, self._at, each.branched_at if from_branch else 0)
                if seal is not None:
                    return _Moment(each, seal)
        first = min(segment.earliest for each in generations for segment in each.segments)
        raise ArgumentError(
            f"{self._target.path}: the backup has no state from {self._at} or before; it begins with {first}"
        )

    def _find_in(self, generation: Generation, at: str, branched_at: int) -> Seal | None:
        """Return the last seal of a generation that is not later than `at` and ends after the byte `branched_at`."""
        for index in reversed(range(len(generation.segments))):
            segment = generation.segments[index]
            if segment.end <= branched_at:
                return None
            if segment.earliest <= at and (seal := self._find_in_segment(generation, index, at, branched_at)):
                return seal
        return None

    def _find_in_segment(self, generation: Generation, index: int, at: str, branched_at: int) -> Seal | None:
        segment = generation.segments[index]
        view = self._target.open_segment(segment)
        try:
            seals = (each.seal for each in sound_transactions(view, segment.start, generation.checksum_at(index)))
            found = [seal for seal in seals if seal is not None and seal.time <= at and seal.end > branched_at]
        finally:
            view.close()
        return found[-1] if found else None

"""Read a whole backup, and report what has changed since it was written. Statement BACKUP-40."""

import errno
from collections.abc import Iterator
from typing import NamedTuple

from durus.backups.copying import check_segment, in_steps
from durus.backups.manifest import Generation
from durus.backups.opening import open_target
from durus.backups.target import Target
from durus.error import DamageError, FileError, ObjectStoreError
from durus.files.file import FileSystem, Path
from durus.progress import Progress, Work


class GenerationReport(NamedTuple):
    """The result of verifying a generation."""

    number: int
    size: int
    """Its number of bytes."""
    first: str
    """The time of its first seal."""
    last: str
    """The time of its last seal."""
    problems: tuple[str, ...]
    """What is wrong with it; if empty, every moment of it can be restored."""


class Verification(Work[list[GenerationReport]]):
    """One verification of a backup. Its result is a report on each generation, the oldest first."""

    def __init__(self, target: Path | Target, file_system: FileSystem | None = None) -> None:
        self._target = open_target(target, file_system)
        self._problems: dict[str, str | None] = {}
        """The problem of each segment that was read, by name; None if there is none."""

    def steps(self) -> Iterator[Progress]:
        """Read everything, one step at a time."""
        while True:
            manifest = self._target.read_manifest()
            for each in manifest.generations:
                yield from self._read(each)
            if not any(self._problems.values()) or manifest == self._target.read_manifest():
                break
            # A backup that runs at the same time merges segments and drops generations.
            self._problems = {name: None for name, problem in self._problems.items() if problem is None}
        self._result = [self._report(each) for each in manifest.generations]

    def _read(self, generation: Generation) -> Iterator[Progress]:
        for index, segment in enumerate(generation.segments):
            if segment.name in self._problems:
                continue
            problem = None
            try:
                steps = check_segment(self._target, generation, index, lambda data: None)
                yield from in_steps(steps, 0, generation.size)
            except DamageError as error:
                problem = str(error)
            except FileError as error:
                if error.errno != errno.EIO or isinstance(error, ObjectStoreError):
                    raise  # it says nothing about the segment
                problem = str(error)  # the disk can't read it
            self._problems[segment.name] = problem

    def _report(self, generation: Generation) -> GenerationReport:
        problems = [self._problems[segment.name] for segment in generation.segments]
        return GenerationReport(
            generation.number,
            generation.size,
            generation.first_seal.time,
            generation.last_seal.time,
            tuple(problem for problem in problems if problem is not None),
        )

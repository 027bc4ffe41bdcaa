"""How the size of a file and its garbage have grown with its commits."""

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from durus.progress import STEP_RECORDS, Progress
from durus.storage import Storage

_MAX_POINTS = 2000


class Point(NamedTuple):
    """A file after a commit. Sizes are in bytes."""

    number: int
    """The number of the commit."""
    time: float | None
    """In seconds since 1970, None if it is not known."""
    size: int
    replaced: int
    """The records that later ones have replaced."""


class Timeline:
    """Reads the commits of a file: steps() does the work."""

    def __init__(self, storage: Storage) -> None:
        """`storage` is one with a history; otherwise steps() raises a DurusError."""
        self._storage = storage
        self._every = 1
        """One of this many commits is kept, so that there are not too many points."""
        self._last: Point | None = None
        self._points: list[Point] = []

    @property
    def points(self) -> list[Point]:
        """A point for each commit, or for some of very many, with the last one."""
        last = [] if self._last is None or self._points[-1:] == [self._last] else [self._last]
        return self._points + last

    def steps(self) -> Iterator[Progress]:
        """Read, one step at a time."""
        sizes: dict[bytes, int] = {}
        replaced = count = 0
        for index, commit in enumerate(self._storage.commits()):
            for oid, record in self._storage.records_in(commit):
                replaced += sizes.get(oid, 0)
                sizes[oid] = len(record)
                count += 1
                if count % STEP_RECORDS == 0:
                    yield Progress("history", count, None)
            time = None if commit.time is None else datetime.fromisoformat(commit.time).timestamp()
            self._last = Point(commit.number, time, commit.offset + commit.size, replaced)
            if index % self._every == 0:
                self._points.append(self._last)
                if len(self._points) >= _MAX_POINTS:
                    self._points = self._points[::2]
                    self._every *= 2
            if count % STEP_RECORDS == 0 or index % STEP_RECORDS == 0:
                yield Progress("history", count, None)

"""A database while it is browsed. Everything here runs in the thread of the reader."""

from collections.abc import Iterator
from itertools import chain

from durus.browser.index import Index
from durus.browser.source import Source
from durus.browser.timeline import Timeline
from durus.error import ArgumentError, DurusError, DurusKeyError
from durus.oid import oid_from_int
from durus.progress import Progress
from durus.records.contents import class_name_of
from durus.records.record import data_of, unpack_record
from durus.storage import Commit
from durus.tools.exported import Exported, exported_of


class View:
    """A source, and what is known of it."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.index = Index(source.records)
        self.timeline = None if source.past is None else Timeline(source.past)
        self.progress: Progress | None = Progress("index", 0, None)
        """How far steps() has come; None when everything is known."""
        self.failure: str | None = None
        """Why it will never be."""
        self._last: tuple[bytes, Exported] | None = None

    @property
    def is_indexed(self) -> bool:
        """True if the index is complete."""
        return self.progress is None or self.progress.phase != "index"

    def steps(self) -> Iterator[None]:
        """Build the index, and then read the history, in steps."""
        history = iter(()) if self.timeline is None else self.timeline.steps()
        try:
            for progress in chain(self.index.steps(), [Progress("history", 0, None)], history):
                self.progress = progress
                yield
        except DurusError as error:
            self.failure = str(error)
        self.progress = None

    def read(self, oid: bytes) -> Exported | None:
        """Return an object, None if there is none; DurusError if it can't be read."""
        record = self.source.records.read(oid)
        return None if record is None else self.exported(record)

    def exported(self, record: bytes) -> Exported:
        """Return the object in a record. The last one is kept, because the pages of a long value are all of one."""
        if self._last is None or self._last[0] != record:
            self._last = record, exported_of(*unpack_record(record))
        return self._last[1]

    def record(self, number: int, commit: int | None) -> tuple[bytes, Commit | None]:
        """Return the record of an object, now or after a commit; DurusKeyError if there is none."""
        oid = checked_oid(number)
        if commit is None:
            found = self.source.records.read(oid)
            if found is None:
                raise DurusKeyError(oid)
            return found, None
        for stored, record in self.history(oid):
            if stored.number == commit:
                return record, stored
        raise ArgumentError(f"oid {number} has no state that commit {commit} has stored")

    def history(self, oid: bytes) -> Iterator[tuple[Commit, bytes]]:
        """Yield the states of an object, the oldest first; ArgumentError if there is no history."""
        if self.source.past is None:
            raise ArgumentError("this database keeps no history: only a SHELF-1 file does")
        return self.source.past.records_of(oid)

    def class_name(self, number: int) -> str:
        """Return the class of an object, or what is wrong with it."""
        try:
            record = self.source.records.read(oid_from_int(number))
            return "(missing)" if record is None else class_name_of(data_of(record))
        except DurusError:
            return "(unreadable)"


def checked_oid(number: int) -> bytes:
    """Return the oid of a number; ArgumentError if it is none."""
    if not 0 <= number < 1 << 64:
        raise ArgumentError("an oid is a number from 0 to 18446744073709551615")
    return oid_from_int(number)

"""Finds the objects that refer to one object, without importing their classes. Statement CMD-16."""

from collections.abc import Iterator
from typing import NamedTuple

from durus.error import RecordError
from durus.files.inspection import Records
from durus.oid import oid_to_int
from durus.progress import STEP_RECORDS, Progress
from durus.records.contents import class_name_of
from durus.records.plain import read_plain
from durus.records.plain_forms import references
from durus.records.record import split_oids, unpack_record


class Referrer(NamedTuple):
    """An object that refers to another one."""

    oid: bytes
    class_name: str
    paths: list[str]
    """Where in its state the references are; empty if its state can't be read."""


class Referrers:
    """Looks at all records: steps() does the work, and `found` then has the result."""

    def __init__(self, records: Records, oid: bytes) -> None:
        self._records = records
        self._oid = oid
        self.found: list[Referrer] = []

    def steps(self) -> Iterator[Progress]:
        """Look, one step at a time."""
        number = oid_to_int(self._oid)
        for count, (oid, offset) in enumerate(self._records.walk(), 1):
            _, data, refs = unpack_record(self._records.read_entry(oid, offset))
            if oid == self._oid or (self._oid in refs and self._oid in split_oids(refs)):
                paths = _paths(data, number)
                if paths or oid != self._oid:
                    self.found.append(Referrer(oid, class_name_of(data), paths))
            if count % STEP_RECORDS == 0:
                yield Progress("look for references", count, None)


def _paths(data: bytes, number: int) -> list[str]:
    try:
        return [path for path, each in references(read_plain(data).state) if each["$ref"] == number]
    except RecordError:
        return []

"""What is known of all objects of a database: their classes, and what refers to what. Statement CMD-54.

It is built in one walk, in steps, and can be asked meanwhile. It takes about 150 bytes of memory for each object.
"""

from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from durus.error import DurusError
from durus.files.inspection import Records
from durus.oid import oid_to_int
from durus.progress import STEP_RECORDS, Progress
from durus.records.contents import class_name_of
from durus.records.record import split_oids, unpack_record

_MAX_PROBLEMS = 100


class Objects:
    """The objects of one class."""

    def __init__(self, number: int, name: str) -> None:
        self.number = number
        """Classes are numbered in the order of their first objects, from 0."""
        self.name = name
        self.oids = array("Q")
        """In the order of the file."""
        self.size = 0
        """The bytes of their records."""


class Problem(NamedTuple):
    """An object that can't be read."""

    oid: int
    text: str


class Index:
    """Knows the objects that its steps have seen."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self.classes: dict[str, Objects] = {}
        self.by_number: list[Objects] = []
        self.count = self.size = 0
        """The objects, and the bytes of their records."""
        self.unreadable = 0
        self.problems: list[Problem] = []
        """The first objects that can't be read."""
        self._referrers: dict[int, int | array[int]] = {}
        """By oid: the object that refers to it, or several."""

    def referrers(self, oid: int) -> Sequence[int]:
        """Return the oids of the objects that refer to one."""
        found = self._referrers.get(oid, ())
        return (found,) if isinstance(found, int) else found

    def steps(self) -> Iterator[Progress]:
        """Look at all objects, one step at a time. DurusError if there is no list of them."""
        for count, (oid, offset) in enumerate(self._records.offsets(), 1):
            try:
                self._add(oid, self._records.read_entry(oid, offset))
            except DurusError as error:
                self.unreadable += 1
                if len(self.problems) < _MAX_PROBLEMS:
                    self.problems.append(Problem(oid_to_int(oid), str(error)))
            if count % STEP_RECORDS == 0:
                yield Progress("index", count, None)

    def _add(self, oid: bytes, record: bytes) -> None:
        _, data, refs = unpack_record(record)
        name = class_name_of(data)
        objects = self.classes.get(name)
        if objects is None:
            objects = self.classes[name] = Objects(len(self.by_number), name)
            self.by_number.append(objects)
        number = oid_to_int(oid)
        objects.oids.append(number)
        objects.size += len(record)
        self.count += 1
        self.size += len(record)
        for ref in split_oids(refs):
            self._note(number, oid_to_int(ref))

    def _note(self, source: int, target: int) -> None:
        found = self._referrers.get(target)
        if found is None:
            self._referrers[target] = source
        elif isinstance(found, int):
            self._referrers[target] = array("Q", (found, source))
        else:
            found.append(source)

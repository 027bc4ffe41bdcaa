"""Inspecting a database in a storage that is not a file: its records, and their references."""

from collections.abc import Iterator

from durus.error import DurusKeyError
from durus.files.inspection import Figures, Finding, Heading, Inspection, record_findings
from durus.oid import ROOT_OID
from durus.storage import Storage


class StorageInspection(Inspection):
    """Inspects what a storage holds now; it is closed along with the inspection."""

    frame_size = 0

    def __init__(self, storage: Storage, name: str) -> None:
        self._name = name
        self.format_name = storage.format_name or type(storage).__name__
        self._storage = storage
        self._records = StorageRecords(storage.as_of_now())

    def findings(self) -> Iterator[Finding]:
        oids = {oid for oid, _ in self._records.offsets()}
        if oids and ROOT_OID not in oids:
            yield Finding(None, ROOT_OID, "there is no root object")
        offsets = ((oid, None) for oid, _ in self._records.offsets())
        yield from record_findings(offsets, lambda oid, _: self._records.read_entry(oid, 0), oids, self._name)

    def figures(self) -> Figures:
        count = sum(1 for _ in self._records.offsets())
        return Figures(count, None, None, f"no checksums of Durus ({self.format_name})")

    def heading(self) -> Heading:
        size = sum(len(self._records.read_entry(oid, offset)) for oid, offset in self._records.offsets())
        return Heading(format=self.format_name, size=size, remark=" in all records")

    @property
    def records(self) -> "StorageRecords":
        return self._records

    def close(self) -> None:
        self._records.storage.close()
        self._storage.close()


class StorageRecords:
    """The records of a storage, which have no offsets. What offsets() has just yielded is at hand for read_entry()."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._last: tuple[bytes, bytes] | None = None

    def offsets(self) -> Iterator[tuple[bytes, int]]:
        for pair in self.storage.gen_oid_record(batch_size=1000):
            self._last = pair
            yield pair[0], 0

    walk = offsets

    def read_entry(self, oid: bytes, offset: int) -> bytes:
        if self._last is not None and self._last[0] == oid:
            return self._last[1]
        return self._load(oid)

    def read(self, oid: bytes) -> bytes | None:
        try:
            return self._load(oid)
        except DurusKeyError:
            return None

    def _load(self, oid: bytes) -> bytes:
        return self.storage.load(oid)

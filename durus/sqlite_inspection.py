"""Inspecting a SQLite file: its rows, and the problems that SQLite finds itself. Statement SQL-1."""

import os
from collections.abc import Iterator

from durus.error import DurusKeyError
from durus.files.file import Path
from durus.files.inspection import Figures, Finding, Heading, Inspection, record_findings
from durus.oid import ROOT_OID
from durus.sqlite_storage import SqliteStorage


class SqliteInspection(Inspection):
    """Inspects a SQLite file as it was when it was opened. Errors are those of SqliteStorage."""

    format_name = "SQLite"
    frame_size = 0

    def __init__(self, path: Path) -> None:
        self._path = os.fsdecode(path)
        self._storage = SqliteStorage(path, readonly=True)

    def findings(self) -> Iterator[Finding]:
        for problem in self._storage.integrity_problems():
            yield Finding(None, None, f"SQLite finds: {problem}")
        oids = set(self._storage.gen_oids())
        if oids and ROOT_OID not in oids:
            yield Finding(None, ROOT_OID, "there is no root object")
        offsets = ((oid, None) for oid in sorted(oids))
        yield from record_findings(offsets, lambda oid, _: self._storage.load(oid), oids, self._path)

    def figures(self) -> Figures:
        return Figures(self._storage.count(), None, None, "no checksums (SQLite)")

    def heading(self) -> Heading:
        remark = f", without the contents of {self._path}-wal"
        return Heading(format=self.format_name, size=os.path.getsize(self._path), remark=remark)

    @property
    def records(self) -> "_Rows":
        return _Rows(self._storage)

    def close(self) -> None:
        self._storage.close()


class _Rows:
    """The records in the rows, which have no offsets."""

    def __init__(self, storage: SqliteStorage) -> None:
        self._storage = storage

    def offsets(self) -> Iterator[tuple[bytes, int]]:
        return ((oid, 0) for oid in self._storage.gen_oids())

    walk = offsets

    def read_entry(self, oid: bytes, offset: int) -> bytes:
        return self._storage.load(oid)

    def read(self, oid: bytes) -> bytes | None:
        try:
            return self._storage.load(oid)
        except DurusKeyError:
            return None

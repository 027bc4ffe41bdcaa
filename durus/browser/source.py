"""What is browsed: the records of a database, and what else is known of it."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from durus.error import DisconnectedError, DurusKeyError, ReadConflictError
from durus.files.inspection import Records
from durus.oid import ROOT_OID
from durus.records.record import is_record_of, refs_of
from durus.storage import Storage
from durus.storage_inspection import StorageRecords

T = TypeVar("T")

_TRIES = 3
_AT_A_TIME = 100


@dataclass
class Source:
    """A database as it was when it was opened, or a server with what it holds."""

    name: str
    """Its file or address, without a password."""
    facts: list[tuple[str, str]]
    """Names and texts, for people."""
    records: Records
    close: Callable[[], None]
    past: Storage | None = None
    """A storage with its history, if it has one."""
    renew: Callable[[], object] = field(default=lambda: None)
    """Called before each page: shows what others have committed since, where nothing is kept for the reader."""


class ServerRecords(StorageRecords):
    """The records that a server has now. What others commit between two loads is loaded again."""

    def offsets(self) -> Iterator[tuple[bytes, int]]:
        """Yield a pair for each object that the root reaches, breadth first."""
        pending = deque([ROOT_OID])
        seen = {ROOT_OID}
        while pending:
            some = [pending.popleft() for _ in range(min(_AT_A_TIME, len(pending)))]
            for oid, record in zip(some, self._load_some(some), strict=True):
                if record is None:
                    continue
                self._last = oid, record
                yield oid, 0
                for ref in refs_of(record) if is_record_of(oid, record) else ():
                    if ref not in seen:
                        seen.add(ref)
                        pending.append(ref)

    walk = offsets

    def _load(self, oid: bytes) -> bytes:
        return self._again(lambda: self.storage.load(oid))

    def _load_some(self, oids: Sequence[bytes]) -> list[bytes | None]:
        try:
            return self._again(lambda: list[bytes | None](self.storage.bulk_load(oids)))
        except DurusKeyError:
            return [self.read(oid) for oid in oids]

    def _again(self, load: Callable[[], T]) -> T:
        """Return what a load returns; begin a transaction, and load again, if others have changed that."""
        for _ in range(_TRIES):
            try:
                return load()
            except (ReadConflictError, DisconnectedError):
                self.storage.sync()
        return load()

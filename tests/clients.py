"""Several clients of one set of records in memory, by the rules of spec/transactions.md and no others."""

from collections.abc import Iterator

from durus.error import DurusKeyError, ReadConflictError
from durus.oid import oid_from_int
from durus.progress import Progress
from durus.record import split_oids, unpack_record
from durus.storage import InvalidationHandler, Storage


class SharedRecords:
    """What is stored, and who has not heard yet of which change."""

    def __init__(self) -> None:
        self.records: dict[bytes, bytes] = {}
        self.clients: list[ClientStorageInMemory] = []
        self.next_oid = 0

    def new_client(self) -> "ClientStorageInMemory":
        client = ClientStorageInMemory(self)
        self.clients.append(client)
        return client


class ClientStorageInMemory(Storage):
    """The storage of one of the clients."""

    def __init__(self, shared: SharedRecords) -> None:
        self._shared = shared
        self._pending: dict[bytes, bytes] = {}
        self.invalid: set[bytes] = set()

    def load(self, oid: bytes) -> bytes:
        if oid in self.invalid:
            raise ReadConflictError([oid])
        if oid not in self._shared.records:
            raise DurusKeyError(oid)
        return self._shared.records[oid]

    def begin(self) -> None:
        self._pending = {}

    def store(self, oid: bytes, record: bytes) -> None:
        self._pending[oid] = record

    def end(self, handle_invalidations: InvalidationHandler | None = None) -> None:
        if handle_invalidations is not None:
            handle_invalidations(self.sync())
        self._shared.records.update(self._pending)
        for client in self._shared.clients:
            if client is not self:
                client.invalid.update(self._pending)

    def sync(self) -> list[bytes]:
        invalid, self.invalid = sorted(self.invalid), set()
        return invalid

    def new_oid(self) -> bytes:
        self._shared.next_oid += 1
        return oid_from_int(self._shared.next_oid - 1)

    def get_packer(self) -> Iterator[Progress]:
        records = self._shared.records
        live: set[bytes] = set()
        pending = [bytes(8)]
        while pending:
            oid = pending.pop()
            if oid not in live:
                live.add(oid)
                pending.extend(split_oids(unpack_record(records[oid])[2]))
        for oid in set(records) - live:
            del records[oid]
            for client in self._shared.clients:
                client.invalid.add(oid)
        yield Progress("copy", len(live), len(live))

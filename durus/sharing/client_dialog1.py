"""The client's side of version 1 of the wire protocol. spec/wire.md."""

from collections.abc import Callable

from durus.error import WriteConflictError
from durus.records.record import split_oids, unpack_record
from durus.sharing.client_dialog import ClientDialog, T, record_of
from durus.sharing.protocol import (
    INVALID,
    OKAY,
    VERSION,
    BulkLoad,
    Commit,
    Goodbye,
    Load,
    Loaded,
    NewOids,
    Pack,
    Quit,
    Reader,
    Request,
    Sync,
    encode_commit,
    encode_request,
    read_all_loaded,
    read_loaded,
    read_new_oids,
    read_oids,
    read_status,
)
from durus.storage import Accesses, InvalidationHandler

_TRIES = 10_000
"""How often a commit is tried again after it came too late. Among 100 clients of an overloaded server, one that is
as fast as the others is late 99 times out of 100."""


class ClientDialog1(ClientDialog):
    """Requests to a server of Durus 4.3, or to one of this version in the same protocol."""

    version = VERSION

    def new_oids(self, count: int) -> list[bytes]:
        return self._ask(NewOids(count), read_new_oids(count))

    def load(self, oid: bytes) -> bytes:
        record = self.prefetch.take(oid)
        if record is None:
            siblings = self.prefetch.siblings(oid)
            if siblings:
                answer, *others = self.load_all([oid, *siblings])
                self.prefetch.add_siblings(zip(siblings, (each.record for each in others), strict=True))
            else:
                (answer,) = self._checked([oid], [self._ask(Load(oid), read_loaded())])
            record = record_of(oid, answer)
        self.prefetch.note_loaded(record)
        return record

    def load_all(self, oids: list[bytes]) -> list[Loaded]:
        return self._checked(oids, self._ask(BulkLoad(oids), read_all_loaded(len(oids)))) if oids else []

    def sync(self) -> list[bytes]:
        return self._note_invalid(self._ask(Sync(), read_oids()))

    def commit(
        self,
        records: dict[bytes, bytes],
        accesses: Accesses | None,
        handle_invalidations: InvalidationHandler | None,
    ) -> None:
        """Commit in a turn. [WIRE-9] [WIRE-10] [WIRE-43]"""
        data = encode_commit(records.items())
        for _ in range(_TRIES):
            if self._try_to_commit(records, data, handle_invalidations):
                return
        raise WriteConflictError()

    def _try_to_commit(
        self, records: dict[bytes, bytes], data: bytes, handle_invalidations: InvalidationHandler | None
    ) -> bool:
        """Return False if the commit came too late, and may be tried again."""
        invalid = self._note_invalid(self._ask(Commit(), read_oids()))
        try:
            if invalid and handle_invalidations is not None:
                handle_invalidations(invalid)
        except BaseException:
            self._channel.send(encode_commit([]))
            raise
        if not records:
            self._channel.send(data)
            return True
        try:
            self._channel.send(data)
            status = self._channel.receive(read_status())
        except BaseException as error:
            self._channel.note_unknown_outcome(error)
            raise
        if status == INVALID:
            self._check_conflict(records, handle_invalidations)
            return False
        self.prefetch.forget(records)
        return True

    def _check_conflict(self, records: dict[bytes, bytes], handle_invalidations: InvalidationHandler | None) -> None:
        """Raise the conflict that the server, unlike this client, has found, if it concerns this commit."""
        invalid = self.sync()
        if handle_invalidations is not None:
            handle_invalidations(invalid)
        needed = {ref for record in records.values() for ref in split_oids(unpack_record(record)[2])} - records.keys()
        oids = sorted(needed)
        missing = [oid for oid, answer in zip(oids, self.load_all(oids), strict=True) if answer.status != OKAY]
        if conflicts := missing or sorted(records.keys() & set(invalid)):
            raise WriteConflictError(conflicts)

    def pack(self, is_awaited: bool, on_wait: Callable[[], object] | None) -> None:
        self._ask(Pack(), read_status())

    def quit(self) -> None:
        self._channel.send(encode_request(Quit()))

    def say_goodbye(self) -> None:
        self._channel.send(encode_request(Goodbye()))

    def ping(self) -> None:
        self.load_all([bytes(8)])  # any request that changes nothing

    def _ask(self, request: Request, reader: Reader[T]) -> T:
        self._channel.send(encode_request(request))
        return self._channel.receive(reader)

    def _note_invalid(self, oids: list[bytes]) -> list[bytes]:
        self.prefetch.forget(oids)
        return oids

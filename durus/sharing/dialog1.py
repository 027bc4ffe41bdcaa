"""The server's side of version 1 of the wire protocol, for one client. spec/wire.md."""

from collections.abc import Generator

from durus.error import DurusError, DurusKeyError, ProtocolError, TransactionError, WriteConflictError
from durus.sharing.dialog import COST_OF_A_LOAD, SENT_AT_A_TIME, WORK_AT_A_TIME, Dialog, Steps
from durus.sharing.dialog2 import Dialog2
from durus.sharing.protocol import (
    INVALID,
    NOT_FOUND,
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
    Request,
    Sync,
    Version,
    encode_loaded,
    encode_oids,
    encode_u32,
    read_commit,
    read_request,
)
from durus.sharing.protocol2 import VERSION_2, encode, encode_failure, failure_of
from durus.sharing.roles import Role


class Dialog1(Dialog):
    """Begins every conversation, and passes it to Dialog2 if the client first asks for version 2. [WIRE2-1]"""

    _has_said_version = False
    _has_begun = False

    @property
    def has_exclusive_data(self) -> bool:
        return self._session.has_turn

    def converse(self) -> Steps:
        send, session = self._host.send, self._session
        has_no_place = self._host.refusal is not None or self._host.reserve is not None
        while not self.is_finishing:
            if self._host.is_paused or self._work >= WORK_AT_A_TIME:
                yield from self._let_others_go_first()
            self.is_between_requests = True
            request = yield from read_request()
            self.request_count += 1
            self._work += 1
            if has_no_place:
                self._check_place(request)
            if not self._has_begun and not isinstance(request, Version):
                self._has_begun = True
                yield from self._begin()
            match request:
                case Load(oid):
                    self.load_count += 1
                    send((yield from self._load(oid)))
                case BulkLoad(oids):
                    self.load_count += len(oids)
                    yield from self._bulk_load(oids)
                case NewOids(number):
                    self._require(Role.WRITE, "store objects")
                    self._work += number
                    send(b"".join(session.new_oids(number)))
                case Sync():
                    yield from self._until_fresh()
                    send(self._invalid(session.sync()))
                case Commit():
                    self._require(Role.WRITE, "store objects")
                    yield from self._commit()
                case Pack():
                    self._check_is_meant(b"P")
                    self._require(Role.ADMIN, "have the server pack")
                    self._host.pack(lambda error: None)
                    send(OKAY)
                case Version(version):
                    if version >= VERSION_2 and self.request_count == 1:
                        send(encode_u32(VERSION_2))
                        return Dialog2(self._core, self._host, session)
                    send(encode_u32(VERSION))
                    self._has_said_version = True
                    if version != VERSION:
                        raise ProtocolError(
                            f"the client uses version {version} of the protocol; this server supports {VERSION}"
                        )
                case Quit():
                    self._check_is_meant(b"Q")
                    self._require(Role.ADMIN, "stop the server")
                    yield from self._quit()
                case Goodbye():
                    return None
        return None

    def _check_place(self, request: Request) -> None:
        """Raise LimitError if there is no place for the client, or the one on which it can't do that. [WIRE2-42]"""
        refusal, reserve = self._host.refusal, self._host.reserve
        if refusal is not None:
            if isinstance(request, Version) and request.version >= VERSION_2:
                self._host.send(encode_u32(VERSION_2) + encode(b"E", encode_failure(failure_of(refusal))))
            raise refusal
        if reserve is not None and not isinstance(request, Version | Pack | Quit | Goodbye):
            raise reserve

    def _invalid(self, oids: list[bytes] | None) -> bytes:
        if oids is None:
            raise TransactionError(
                "the server no longer knows which changes this client has missed, and this version of the protocol "
                "cannot express that; connect again"
            )
        return encode_oids(oids)

    def _check_is_meant(self, command: bytes) -> None:
        """Raise ProtocolError if a request of one byte may be the beginning of another protocol. [WIRE-40]"""
        if not self._has_said_version and (self.has_unused_input or not self.is_alone):
            raise ProtocolError(
                f"the command {command!r} came together with other bytes, from a client that has not sent V"
            )

    def _load(self, oid: bytes) -> Generator[int, bytes, bytes]:
        """Return the answer to the load of an oid."""
        yield from self._until_durable(oid)
        try:
            record = self._session.load(oid)
        except DurusKeyError:
            return NOT_FOUND
        return INVALID if record is None else encode_loaded(Loaded(OKAY, record))

    def _bulk_load(self, oids: list[bytes]) -> Generator[int, bytes, None]:
        answers: list[bytes] = []
        size = 0
        for oid in oids:
            answer = yield from self._load(oid)
            answers.append(answer)
            size += len(answer) + COST_OF_A_LOAD
            if size >= SENT_AT_A_TIME:
                self._host.send(b"".join(answers))
                answers, size = [], 0
                yield from self._let_others_in()
                yield from self._until_read()
        self._host.send(b"".join(answers))

    def _commit(self) -> Generator[int, bytes, None]:
        outcomes: list[DurusError | None] = []
        count = size = 0

        def take(oid: bytes, record: bytes) -> None:
            nonlocal size
            self._session.store(oid, record)
            size += len(record)

        def done(error: DurusError | None) -> None:
            outcomes.append(error)
            self._host.commit_ended(count, size, error)
            if self.is_held:
                self._host.wake()

        self._host.send(self._invalid((yield from self._until_turn())))
        count = yield from read_commit(take, self._host.hello.max_commit)
        self._session.commit({}, done)
        if not count:
            return
        self._host.commit_is_ready()
        yield from self._until_answered(outcomes)
        error = outcomes[0]
        if error is not None and not isinstance(error, WriteConflictError):
            raise error
        self._host.send(OKAY if error is None else INVALID)

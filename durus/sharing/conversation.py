"""The server's side of the wire protocol, for one client: bytes in, bytes out. spec/wire.md.

No sockets and no clocks here.  A Conversation is fed with bytes as they arrive, and calls its Host
to send, to wait and to work.
"""

from collections.abc import Generator
from typing import Protocol

from durus.error import DurusError, DurusKeyError, ProtocolError, TransactionError, WriteConflictError
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
    Sync,
    Version,
    encode_loaded,
    encode_oids,
    encode_u32,
    read_commit,
    read_request,
)
from durus.sharing.session import SessionCore

_EVENT = -1
"""What the conversation yields when it waits for an event and not for bytes."""

_WORK_AT_A_TIME = 64
"""After how many requests, or new oids, others have their turn."""
_SENT_AT_A_TIME = 1 << 16
"""Bytes of a long answer that are sent before others have their turn."""
_COST_OF_A_LOAD = 256
"""How many bytes more a record counts as, for the work that it makes."""


class Host(Protocol):
    """What a conversation needs of the server."""

    is_paused: bool
    """True while the client is to read first what was sent; proceed() is called when it has."""

    def send(self, data: bytes) -> None:
        """Send bytes to the client."""

    def proceed_soon(self) -> None:
        """Call proceed(), but not from within this call."""

    def commit_is_ready(self) -> None:
        """The core has a commit to write."""

    def commit_ended(self, count: int, size: int, error: DurusError | None) -> None:
        """A commit of so many records and bytes is durable, or was refused: a WriteConflictError is a conflict.

        0 records are a commit that was given up.
        """

    def pack(self) -> None:
        """Begin to pack, if no pack is under way."""

    def quit(self) -> None:
        """End the server, and this connection last of all: that tells the client."""

    def end(self, error: DurusError | None) -> None:
        """Close the connection; the client has gone, or has done what it must not."""


class Conversation:
    """What one client asks, and what it is answered, in order."""

    def __init__(self, core: SessionCore, host: Host) -> None:
        self._core = core
        self._host = host
        self._session = core.connect()
        self._buffer = bytearray()
        self._event_happened = False
        self._is_closed = False
        self._is_finishing = False
        self._is_held = False
        """True while a commit is to be answered, or the client waits for the end of the server."""
        self.request_count = 0
        """How many requests have begun."""
        self._work = 0
        self._is_between_requests = True
        self._is_alone = False
        """True if what arrived last was one byte, with nothing before it that is not used up."""
        self._has_said_version = False
        self._steps = self._converse()
        self._wanted = next(self._steps)

    @property
    def has_turn(self) -> bool:
        """True while the client may send the data of a commit."""
        return self._session.has_turn

    @property
    def is_inside_request(self) -> bool:
        """True if the client has sent a part of something and is to send the rest."""
        return self._wanted != _EVENT and not self._is_between_requests

    @property
    def has_unread_input(self) -> bool:
        """True if what has arrived is not used up and more would only take memory."""
        return self._wanted == _EVENT and bool(self._buffer)

    def receive(self, data: bytes) -> None:
        """Take bytes that have arrived."""
        self._is_alone = len(data) == 1 and not self._buffer
        self._buffer += data
        self._session.note_received(len(data))
        self._advance()

    def proceed(self) -> None:
        """Look again at what the conversation waits for."""
        self._event_happened = True
        self._advance()

    def finish(self) -> None:
        """End the conversation; if a commit is under way whose data is whole, when that is answered."""
        self._is_finishing = True
        if not self._is_held:
            self._end(None)

    def close(self) -> None:
        """The connection is gone."""
        if not self._is_closed:
            self._is_closed = True
            self._session.close()

    def _advance(self) -> None:
        try:
            while not self._is_closed:
                if self._wanted == _EVENT:
                    if not self._event_happened:
                        return
                    piece = b""
                elif len(self._buffer) >= self._wanted:
                    piece = bytes(self._buffer[: self._wanted])
                    del self._buffer[: self._wanted]
                else:
                    return
                self._event_happened = self._is_between_requests = False
                self._wanted = self._steps.send(piece)
        except StopIteration:
            self._end(None)
        except DurusError as error:
            self._end(error)

    def _end(self, error: DurusError | None) -> None:
        if not self._is_closed:
            self.close()
            self._host.end(error)

    # What is said

    def _converse(self) -> Generator[int, bytes, None]:
        send, session = self._host.send, self._session
        while not self._is_finishing:
            yield from self._until_read()
            if self._work >= _WORK_AT_A_TIME:
                yield from self._let_others_in()
            self._is_between_requests = True
            request = yield from read_request()
            self.request_count += 1
            self._work += 1
            match request:
                case Load(oid):
                    send((yield from self._load(oid)))
                case BulkLoad(oids):
                    yield from self._bulk_load(oids)
                case NewOids(number):
                    self._work += number
                    send(b"".join(session.new_oids(number)))
                case Sync():
                    send(self._invalid(session.sync()))
                case Commit():
                    yield from self._commit()
                case Pack():
                    self._check_is_meant(b"P")
                    self._host.pack()
                    send(OKAY)
                case Version(version):
                    send(encode_u32(VERSION))
                    self._has_said_version = True
                    if version != VERSION:
                        raise ProtocolError(f"the client speaks version {version} of the protocol, not {VERSION}")
                case Quit():
                    self._check_is_meant(b"Q")
                    self._host.quit()
                    self._is_held = True
                    while True:
                        yield _EVENT
                case Goodbye():
                    return

    def _invalid(self, oids: list[bytes] | None) -> bytes:
        if oids is None:
            raise TransactionError(
                "the server has lost track of what this client has not heard of, for which this version of the "
                "protocol has no words; it can connect again"
            )
        return encode_oids(oids)

    def _check_is_meant(self, command: bytes) -> None:
        """Raise ProtocolError where a request of one byte may be the beginning of some other protocol's. [WIRE-40]"""
        if not self._has_said_version and (self._buffer or not self._is_alone):
            raise ProtocolError(f"the command {command!r} comes with other bytes, from a client that has not sent V")

    def _let_others_in(self) -> Generator[int, bytes, None]:
        self._work = 0
        self._host.proceed_soon()
        yield _EVENT

    def _until_read(self) -> Generator[int, bytes, None]:
        while self._host.is_paused:
            yield _EVENT

    def _load(self, oid: bytes) -> Generator[int, bytes, bytes]:
        """Return the answer to the load of an oid."""
        while self._session.must_wait(oid):
            self._core.when_written(self._host.proceed_soon)
            yield _EVENT
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
            size += len(answer) + _COST_OF_A_LOAD
            if size >= _SENT_AT_A_TIME:
                self._host.send(b"".join(answers))
                answers, size = [], 0
                yield from self._let_others_in()
                yield from self._until_read()
        self._host.send(b"".join(answers))

    def _commit(self) -> Generator[int, bytes, None]:
        grants: list[list[bytes] | None] = []
        outcomes: list[DurusError | None] = []
        count = size = 0

        def granted(invalid: list[bytes] | None) -> None:
            grants.append(invalid)
            self._host.proceed_soon()

        def take(oid: bytes, record: bytes) -> None:
            nonlocal size
            self._session.store(oid, record)
            size += len(record)

        def done(error: DurusError | None) -> None:
            outcomes.append(error)
            self._host.commit_ended(count, size, error)
            self._host.proceed_soon()

        self._session.begin_commit(granted, abandoned=self._host.proceed_soon)
        while not grants:
            yield _EVENT
            if not grants and not self._session.is_in_line:
                raise TransactionError("the storage has started anew")
        self._host.send(self._invalid(grants[0]))
        count = yield from read_commit(take)
        self._session.commit({}, done)
        if not count:
            return
        self._host.commit_is_ready()
        self._is_held = True
        while not outcomes:
            yield _EVENT
        self._is_held = False
        error = outcomes[0]
        if error is not None and not isinstance(error, WriteConflictError):
            raise error
        self._host.send(OKAY if error is None else INVALID)

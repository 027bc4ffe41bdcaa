"""ClientStorage: a storage that a server holds. The client's side of spec/wire.md."""

import contextlib
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Protocol, TypeVar

from durus.concurrency.call_guard import CallGuard, guarded
from durus.error import (
    DisconnectedError,
    DurusKeyError,
    NetworkError,
    OutcomeUnknownError,
    ProtocolError,
    ReadConflictError,
    WriteConflictError,
)
from durus.oid import format_oid
from durus.records.record import split_oids, unpack_record
from durus.sharing.address import AnyAddress, SocketAddress, connect
from durus.sharing.prefetch import Prefetch
from durus.sharing.protocol import (
    DEFAULT_HOST,
    DEFAULT_PORT,
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
    Reader,
    Request,
    Sync,
    Version,
    encode_commit,
    encode_request,
    read_all_loaded,
    read_loaded,
    read_new_oids,
    read_oids,
    read_status,
    read_u32,
    receive,
)
from durus.storage import CollectingStorage, InvalidationHandler

T = TypeVar("T")

_OIDS_AT_A_TIME = 32
_RECEIVE_SIZE = 1 << 16
_LOADS_AT_A_TIME = 1000
_TRIES = 10_000
"""How often a commit is tried that comes too late each time: among 100 clients of a server that is overloaded, one
that is no slower than the others is late 99 times of 100."""
_TIMEVAL = struct.Struct("@ll")
"""Seconds and microseconds, as the kernel takes them."""


class Stream(Protocol):
    """What carries the bytes: a connected socket, or what a test puts in its place."""

    def sendall(self, data: bytes, /) -> None: ...

    def recv(self, size: int, /) -> bytes: ...

    def close(self) -> None: ...


class ClientStorage(CollectingStorage):
    """The storage of a server, shared with its other clients.

    The server's address is `host` and `port`, or `address`: a (host, port) pair, the path of a Unix
    socket, or `@name` for an abstract one.  `connect_timeout` and `timeout` are how many seconds to
    wait for the connection, and for each answer; None is for ever.  `prefetch` is how many records
    come along at the most with one that is loaded; 0 turns that off. [TXN-26]

    ServerUnreachableError if no server is there.  When the connection is lost, this and every later
    call raises DisconnectedError, up to the sync() with which the next transaction begins: that connects again if
    `reconnect` is true [WIRE-30].  A commit whose answer did not come raises OutcomeUnknownError.
    """

    def __init__(
        self,
        host: str = DEFAULT_HOST,
        port: int = DEFAULT_PORT,
        address: AnyAddress | None = None,
        *,
        connect_timeout: float | None = 10,
        timeout: float | None = 60,
        prefetch: int = 100,
        reconnect: bool = True,
        stream: Stream | None = None,
    ) -> None:
        self._address = SocketAddress.new((host, port) if address is None else address)
        self._guard: CallGuard = CallGuard("client storage")
        self._failure: DisconnectedError | None = None
        self._loss = ""
        """How the connection was lost, in words."""
        self._is_closed = False
        self._may_reconnect = reconnect and stream is None
        self._timeouts = connect_timeout, timeout
        self._prefetch_limit = prefetch
        self._prefetch = Prefetch(prefetch)
        self._begin_session(self._open() if stream is None else stream)

    def _begin_session(self, stream: Stream) -> None:
        """Begin to speak with a server, of whom nothing is known yet."""
        self._stream = stream
        self._buffer = bytearray()
        self._spare_oids: list[bytes] = []
        is_loaded, self._prefetch = self._prefetch.is_loaded, Prefetch(self._prefetch_limit)
        self._prefetch.is_loaded = is_loaded
        self._failure = None
        version = self._ask(Version(VERSION), read_u32())
        if version != VERSION:
            self.close()
            raise ProtocolError(f"the server at {self._address} speaks version {version} of the protocol, not 1")

    def __str__(self) -> str:
        return f"ClientStorage({str(self._address)!r})"

    __repr__ = __str__

    def _open(self) -> socket.socket:
        connect_timeout, timeout = self._timeouts
        opened = connect(self._address, connect_timeout)
        if type(opened).__module__ != "socket":
            # gevent's, or another one that does not block in the kernel, and heeds no timeout there. [WIRE-31]
            opened.settimeout(timeout)
            return opened
        # By the kernel: a timeout of Python's own costs a call of poll() ahead of each other one.
        opened.settimeout(None)
        seconds = 0 if timeout is None else max(timeout, 0.000_001)
        for option in socket.SO_RCVTIMEO, socket.SO_SNDTIMEO:
            opened.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL.pack(int(seconds), int(seconds % 1 * 1_000_000)))
        return opened

    def _start_anew(self) -> None:
        """Give up a connection on which an answer may still be on its way. [TXN-30]"""
        if self._failure is None:
            self._give_up(
                f"the connection to the server at {self._address} was given up, since an exception interrupted a call; "
                "if that call was a commit, it is stored as a whole, or not at all"
            )

    # Storage

    def set_is_loaded(self, is_loaded: Callable[[bytes], bool]) -> None:
        self._prefetch.is_loaded = is_loaded

    @guarded
    def load(self, oid: bytes) -> bytes:
        record = self._prefetch.take(oid)
        if record is None:
            siblings = self._prefetch.siblings(oid)
            if siblings:
                answer, *others = self._ask_for_records([oid, *siblings])
                self._prefetch.add_answers(siblings, others)
            else:
                answer = self._ask(Load(oid), read_loaded())
            record = _record_of(oid, answer)
        self._prefetch.note_loaded(record)
        return record

    def bulk_load(self, oids: Iterable[bytes]) -> Iterator[bytes]:
        remaining = iter(oids)
        while batch := list(islice(remaining, _LOADS_AT_A_TIME)):
            for oid, answer in zip(batch, self._load_batch(batch), strict=True):
                yield _record_of(oid, answer)

    @guarded
    def _load_batch(self, oids: list[bytes]) -> list[Loaded]:
        return self._ask_for_records(oids)

    @guarded
    def begin(self) -> None:
        self._check_open()
        super().begin()

    @guarded
    def end(self, handle_invalidations: InvalidationHandler | None = None) -> None:
        """Conclude the commit. [WIRE-9] [WIRE-10] [WIRE-43]

        DisconnectedError if the connection is lost before the records are on their way, and nothing is
        stored; OutcomeUnknownError if it is lost before the answer.
        """
        records = self._take_pending()
        data = encode_commit(records.items())
        for _ in range(_TRIES):
            if self._try_to_commit(records, data, handle_invalidations):
                return
        raise WriteConflictError()

    def _try_to_commit(
        self, records: dict[bytes, bytes], data: bytes, handle_invalidations: InvalidationHandler | None
    ) -> bool:
        """Return False if the commit came too late, and nothing is in the way of another try."""
        invalid = self._note_invalid(self._ask(Commit(), read_oids()))
        try:
            if invalid and handle_invalidations is not None:
                handle_invalidations(invalid)
        except BaseException:
            self._send(encode_commit([]))
            raise
        if not records:
            self._send(data)
            return True
        with self._outcome_unknown_on_error():
            self._send(data)
            status = self._receive(read_status())
        if status == INVALID:
            self._check_conflict(records, handle_invalidations)
            return False
        self._prefetch.forget(records)
        return True

    def _check_conflict(self, records: dict[bytes, bytes], handle_invalidations: InvalidationHandler | None) -> None:
        """Raise the conflict that the server found after this client had found none, if it concerns this commit."""
        invalid = self._sync()
        if handle_invalidations is not None:
            handle_invalidations(invalid)
        needed = {ref for record in records.values() for ref in split_oids(unpack_record(record)[2])} - records.keys()
        oids = sorted(needed)
        missing = [oid for oid, answer in zip(oids, self._ask_for_records(oids), strict=True) if answer.status != OKAY]
        if conflicts := missing or sorted(records.keys() & set(invalid)):
            raise WriteConflictError(conflicts)

    @property
    def failure(self) -> DisconnectedError | None:
        return self._failure

    @guarded
    def sync(self) -> list[bytes] | None:
        """Return the oids that others changed; None, for any, from a new session, if the connection was lost. [WIRE-30]

        DisconnectedError if it was lost, and there is no other or it may not be made.
        """
        if self._failure is None:
            try:
                return self._sync()
            except DisconnectedError:
                if not self._may_reconnect:
                    raise
        elif not self._may_reconnect or self._is_closed:
            self._check_open()
        self._connect_again()
        return None

    def _sync(self) -> list[bytes]:
        return self._note_invalid(self._ask(Sync(), read_oids()))

    def _connect_again(self) -> None:
        try:
            self._begin_session(self._open())
        except NetworkError as error:
            self._failure = DisconnectedError(
                f"{self._loss}, and it can't be made again: {error}; call abort() again when the server is there, and "
                "run the transaction again"
            )
            raise self._failure from error

    @guarded
    def new_oid(self) -> bytes:
        if not self._spare_oids:
            self._spare_oids = self._ask(NewOids(_OIDS_AT_A_TIME), read_new_oids(_OIDS_AT_A_TIME))
            self._spare_oids.reverse()
        return self._spare_oids.pop()

    @guarded
    def pack(self) -> None:
        """Have the server begin to pack; it goes on while this returns. [WIRE-12]"""
        self._ask(Pack(), read_status())

    @guarded
    def stop_server(self) -> None:
        """Have the server end, and return when it has. [WIRE-13]"""
        self._send(encode_request(Quit()))
        try:
            with contextlib.suppress(EOFError, ConnectionError):
                self._fill(1)
        except BaseException as error:
            self._lose(error)
            raise
        self.close()

    def close(self) -> None:
        self._is_closed = True
        if self._guard.is_foreign:
            self._stream.close()  # the descriptor of this process; the session is another one's
        elif self._failure is None:
            with contextlib.suppress(DisconnectedError):
                self._send(encode_request(Goodbye()))
            self._give_up(f"the connection to the server at {self._address} was closed here")

    # Requests

    def _ask(self, request: Request, reader: Reader[T]) -> T:
        self._send(encode_request(request))
        return self._receive(reader)

    def _ask_for_records(self, oids: list[bytes]) -> list[Loaded]:
        answers = self._ask(BulkLoad(oids), read_all_loaded(len(oids))) if oids else []
        for oid, answer in zip(oids, answers, strict=True):
            _check_answer(oid, answer)
        return answers

    def _note_invalid(self, oids: list[bytes]) -> list[bytes]:
        self._prefetch.forget(oids)
        return oids

    def _check_open(self) -> None:
        if self._failure is not None:
            raise type(self._failure)(*self._failure.args)

    def _send(self, data: bytes) -> None:
        self._check_open()
        try:
            self._stream.sendall(data)
        except BaseException as error:
            self._lose(error)
            raise

    def _receive(self, reader: Reader[T]) -> T:
        try:
            return receive(reader, self._receive_exactly)
        except BaseException as error:
            self._lose(error)
            raise

    def _receive_exactly(self, size: int) -> bytes:
        self._fill(size)
        piece = bytes(self._buffer[:size])
        del self._buffer[:size]
        return piece

    def _fill(self, size: int) -> None:
        while len(self._buffer) < size:
            data = self._stream.recv(max(_RECEIVE_SIZE, min(size - len(self._buffer), 1 << 20)))
            if not data:
                raise EOFError("the server has closed it")
            self._buffer += data

    def _lose(self, error: BaseException) -> None:
        """Whatever keeps a message from being whole is the end of the connection."""
        reason = (
            "no answer came in time"
            if isinstance(error, TimeoutError | BlockingIOError)
            else str(error) or type(error).__name__
        )
        lost = self._give_up(f"the connection to the server at {self._address} was lost: {reason}")
        if isinstance(error, OSError | EOFError):
            raise lost from error

    @contextlib.contextmanager
    def _outcome_unknown_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            if self._failure is None:
                self._give_up(f"the connection to the server at {self._address} was given up")
            self._failure = OutcomeUnknownError(
                f"{self._loss}, before the answer to a commit: that is stored as a whole, or not at all; "
                f"{self._way_to_connect()}, and look if it is stored before you run it again"
            )
            if isinstance(error, DisconnectedError):
                raise self._failure from error
            raise

    def _give_up(self, message: str) -> DisconnectedError:
        self._stream.close()
        self._loss = message
        self._failure = DisconnectedError(f"{message}; {self._way_to_connect()}, and run the transaction again")
        return self._failure

    def _way_to_connect(self) -> str:
        if self._may_reconnect and not self._is_closed:
            return "call abort() to connect again"
        return "open a new storage and a new Connection"


def _record_of(oid: bytes, answer: Loaded) -> bytes:
    if answer.status == INVALID:
        raise ReadConflictError([oid])
    if answer.status == NOT_FOUND:
        raise DurusKeyError(oid)
    _check_answer(oid, answer)
    return answer.record


def _check_answer(oid: bytes, answer: Loaded) -> None:
    if answer.status == OKAY and answer.record[:8] != oid:
        raise ProtocolError(f"the server answered the load of oid {format_oid(oid)} with another record")

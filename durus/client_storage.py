"""ClientStorage: a storage that a server holds. The client's side of spec/wire.md.

Each call sends one request and reads its answer. A call that cannot read the complete answer closes the connection,
because the rest of the stream has no meaning then; sync() may connect again.
"""

import contextlib
import socket
import struct
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Protocol, TypeVar

from durus.concurrency.call_guard import CallGuard, guarded
from durus.concurrency.connecting_again import ConnectAgain
from durus.error import (
    ArgumentError,
    DisconnectedError,
    DurusError,
    LimitError,
    NetworkError,
    OutcomeUnknownError,
    ProtocolError,
    TlsError,
)
from durus.sharing import compression
from durus.sharing.address import AnyAddress, SocketAddress
from durus.sharing.client_dialog import ClientDialog, record_of
from durus.sharing.client_dialog1 import ClientDialog1
from durus.sharing.client_dialog2 import ClientDialog2
from durus.sharing.prefetch import Prefetch
from durus.sharing.protocol import (
    DEFAULT_HOST,
    DEFAULT_PORT,
    VERSION,
    Loaded,
    Reader,
    Version,
    encode_request,
    read_u32,
)
from durus.sharing.protocol2 import (
    MAX_SECONDS,
    VERSION_2,
    Answer,
    Failure,
    FileHead,
    error_of,
    parse_hello,
    read_answer,
    whole_answer,
)
from durus.sharing.reaching import connect
from durus.sharing.tls_stream import TlsStream
from durus.storage import Accesses, GuardedStorage, InvalidationHandler

T = TypeVar("T")

_OIDS_AT_A_TIME = 32
_RECEIVE_SIZE = 1 << 16
_LOADS_AT_A_TIME = 1000
_MAX_PREFETCH = (1 << 32) - 1
_BY_NEW_STORAGE = ConnectAgain(
    "open a new storage and a new Connection",
    "open a new storage and a new Connection, and run the transaction again",
    "open a new storage and a new Connection, and check whether it is stored before you run it again",
    "open a new storage and a new Connection when the server runs",
)
_TIMEVAL = struct.Struct("@ll")
"""Seconds and microseconds, as the kernel expects them."""

_CLOSED = "the server has closed it"
_TLS_ALERT = 0x1503
"""The first bytes of the answer of a server with TLS to a client without it. [TLS-10]"""

_version_1_addresses: set[str] = set()
"""Addresses whose servers have answered that they speak version 1 of the protocol only. [WIRE2-1]"""


class Stream(Protocol):
    """What carries the bytes: a connected socket, or a test's replacement for it."""

    def sendall(self, data: bytes, /) -> None: ...

    def recv(self, size: int, /) -> bytes: ...

    def close(self) -> None: ...


class ClientStorage(GuardedStorage):
    """The storage of a server, shared with its other clients.

    After the connection is lost, every call raises DisconnectedError until the sync() with which the next transaction
    begins. That connects again if `reconnect` is true. [WIRE-30] If a commit was sent and its answer did not come, it
    raises OutcomeUnknownError.

    Args:
        host: the host of the server.
        port: its port.
        address: the address of the server, instead of `host` and `port`: a (host, port) pair, the path of a Unix
            socket, `@name` for an abstract one, or `durus+tls://host:port`, with options for TLS as in durus.open().
        connect_timeout: how many seconds connecting may take, with the TLS handshake; None means no limit.
        timeout: how many seconds each answer may take; None means no limit.
        prefetch: how many records are loaded ahead, at most, with each loaded one; 0 turns this off. [TXN-26]
        reconnect: whether sync() connects again after the connection is lost.
        protocol: the version of the wire protocol, 1 or 2; None uses 2 if the server supports it.
        compress: whether to compress long messages of version 2; None does so over TCP from another machine,
            without TLS. [WIRE2-7]
        stream: a connected stream to use instead of a new socket; such a storage never connects again.

    Raises:
        ServerUnreachableError: no server listens on the address.
        AddressError: the address is wrong.
        TlsError: the server and the client do not accept each other's certificates. [TLS-3]
        ArgumentError: a time is not above 0, or too long, or another argument is out of its range.
        LimitError: the server has no place for one more client. [WIRE2-42]
        ProtocolError: what listens there is not a Durus server, or does not support this version of the protocol.
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
        protocol: int | None = None,
        compress: bool | None = None,
        stream: Stream | None = None,
    ) -> None:
        if protocol not in (None, VERSION, VERSION_2):
            raise ArgumentError(f"protocol={protocol!r}: there are the versions {VERSION} and {VERSION_2}")
        for name, seconds in ("connect_timeout", connect_timeout), ("timeout", timeout):
            if seconds is not None and not 0 < seconds <= MAX_SECONDS:
                raise ArgumentError(
                    f"{name}={seconds!r}: it must be a number of seconds above 0, up to {MAX_SECONDS}, or None"
                )
        if not 0 <= prefetch <= _MAX_PREFETCH:
            raise ArgumentError(f"prefetch={prefetch!r}: it must be a number from 0 to {_MAX_PREFETCH}")
        self._address = SocketAddress.new((host, port) if address is None else address)
        self._guard = CallGuard("client storage")
        self._failure: DisconnectedError | None = None
        self._loss = ""
        """How the connection was lost."""
        self._is_closed = False
        self._may_reconnect = reconnect and stream is None
        self._timeouts = connect_timeout, timeout
        self._protocol = protocol
        self._compress = compress
        self._compresses_by_default = False
        self._prefetch_limit = prefetch
        self._is_loaded: Callable[[bytes], bool] = lambda oid: False
        self._accesses: Callable[[], Accesses | None] = lambda: None
        self._shows_snapshots = False
        self._begin_session(stream)

    def _begin_session(self, stream: Stream | None = None) -> None:
        """Greet a server, of which nothing is known yet."""
        self._spare_oids: list[bytes] = []
        address = str(self._address)
        wanted = self._protocol or (VERSION if address in _version_1_addresses else VERSION_2)
        version = self._connect(wanted, stream)
        if version == VERSION and wanted == VERSION_2 and self._protocol is None and stream is None:
            self._stream.close()
            _version_1_addresses.add(address)
            version = self._connect(VERSION, None)
            wanted = VERSION
        if version != wanted:
            text = f"the server at {self._address} uses version {version} of the protocol instead of {wanted}"
            self._give_up(text)
            self._is_closed = True
            raise ProtocolError(text)
        prefetch = Prefetch(self._prefetch_limit)
        prefetch.is_loaded = self._is_loaded
        if version == VERSION:
            self._dialog: ClientDialog = ClientDialog1(self, prefetch)
        else:
            hello = parse_hello(self.receive(read_answer()))
            if isinstance(hello, Failure):
                error = error_of(hello)
                self._give_up(f"the server at {self._address} has refused this client: {error}")
                raise error
            compress = self._compresses_by_default if self._compress is None else self._compress
            method = compression.best_of(hello.compressions) if compress else compression.NONE
            self._dialog = ClientDialog2(self, prefetch, hello, method)
        if self._shows_snapshots:
            self._dialog.use_snapshots()

    def _connect(self, version: int, stream: Stream | None) -> int:
        """Connect, and return which version the server says that it speaks."""
        self._stream = self._open() if stream is None else stream
        self._buffer = bytearray()
        self._failure = None
        try:
            self.send(encode_request(Version(version)))
            found = self.receive(read_u32())
        except DisconnectedError as lost:
            if isinstance(lost.__cause__, TlsError):  # the server has refused this client
                raise TlsError(f"cannot connect to {self._address}: {lost.__cause__}") from lost
            raise
        if found >> 16 == _TLS_ALERT:
            text = f"the server at {self._address} speaks TLS: connect to durus+tls://..."
            self._give_up(text)
            raise ProtocolError(text)
        return found

    def __str__(self) -> str:
        return f"ClientStorage({str(self._address)!r})"

    __repr__ = __str__

    def _open(self) -> Stream:
        connect_timeout, timeout = self._timeouts
        deadline = None if connect_timeout is None else time.monotonic() + connect_timeout
        opened = connect(self._address, connect_timeout)
        self._compresses_by_default = self._address.compresses(opened)
        stream = self._address.stream_of(opened, deadline)
        if type(opened).__module__ != "socket":
            # A socket of gevent, for example, does not block in the kernel and ignores its timeout. [WIRE-31]
            opened.settimeout(timeout)
            return stream
        # In the kernel: a timeout of a Python socket costs a call of poll() before each other call.
        opened.settimeout(None)
        seconds = 0 if timeout is None else max(timeout, 0.000_001)
        for option in socket.SO_RCVTIMEO, socket.SO_SNDTIMEO:
            opened.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL.pack(int(seconds), int(seconds % 1 * 1_000_000)))
        return stream

    def _start_anew(self) -> None:
        """Give up a connection on which an answer may still be on its way. [TXN-30]"""
        if self._failure is None:
            self._give_up(
                f"the connection to the server at {self._address} was closed because an exception interrupted a call; "
                "if that call was a commit, it is stored completely or not at all"
            )

    # Storage

    def set_is_loaded(self, is_loaded: Callable[[bytes], bool]) -> None:
        self._is_loaded = self._dialog.prefetch.is_loaded = is_loaded

    def set_accesses(self, accesses: Accesses) -> None:
        self._accesses = weakref.ref(accesses)

    @guarded
    def load(self, oid: bytes) -> bytes:
        return self._dialog.load(oid)

    def bulk_load(self, oids: Iterable[bytes]) -> Iterator[bytes]:
        remaining = iter(oids)
        while batch := list(islice(remaining, _LOADS_AT_A_TIME)):
            for oid, answer in zip(batch, self._load_batch(batch), strict=True):
                yield record_of(oid, answer)

    @guarded
    def _load_batch(self, oids: list[bytes]) -> list[Loaded]:
        return self._dialog.load_all(oids)

    @guarded
    def end(self, handle_invalidations: InvalidationHandler | None = None) -> None:
        """Finish the commit. [WIRE-9] [WIRE2-20]

        Args:
            handle_invalidations: as for Storage.

        Raises:
            DisconnectedError: the connection was lost before the records were sent; nothing is stored.
            OutcomeUnknownError: the connection was lost before the answer came.
            ConflictError: another client was first.
        """
        self._dialog.commit(self._take_pending(), self._accesses(), handle_invalidations)

    @property
    def failure(self) -> DisconnectedError | None:
        return self._failure

    @guarded
    def sync(self) -> list[bytes] | None:
        """Return the oids that others changed. [WIRE-30]

        Returns:
            The oids; None, for any, after the client has connected again.

        Raises:
            DisconnectedError: the connection was lost, and there is no new one.
        """
        return self._begin_transaction(is_exclusive=False)

    def _begin_transaction(self, is_exclusive: bool) -> list[bytes] | None:
        """Sync or take the turn, on a new connection if this one is lost; return the oids that others changed."""
        if self._failure is None:
            try:
                return self._dialog.take_turn() if is_exclusive else self._dialog.sync()
            except DisconnectedError:
                if not self._may_reconnect:
                    raise
        elif not self._may_reconnect or self._is_closed:
            self._check_open()
        self._connect_again()
        if is_exclusive:
            self._dialog.take_turn()
        elif self._shows_snapshots:
            self._dialog.sync()
        return None

    @property
    def protocol(self) -> int:
        """The version of the protocol that is spoken with the server: 1 or 2."""
        return self._dialog.version

    @guarded
    def take_turn(self) -> list[bytes] | None:
        """Sync, and keep others from committing up to the next end() or release(), over version 2. [TXN-46]"""
        return self._begin_transaction(is_exclusive=True)

    @guarded
    def use_snapshots(self) -> bool:
        self._shows_snapshots = True
        return self._dialog.use_snapshots()

    def release(self) -> None:
        if self._failure is None:
            with contextlib.suppress(DisconnectedError):  # which the next call reports
                self._release()

    @guarded
    def _release(self) -> None:
        self._dialog.release()

    @guarded
    def ping(self) -> None:
        """Return when the server answers; DisconnectedError if it does not. [WIRE2-31]"""
        self._dialog.ping()

    @guarded
    def ask_for_file(self, after: bytes) -> FileHead:
        """Ask for what the file of the server has after a seal. [WIRE2-50]

        Args:
            after: the seal as text, or nothing.

        Returns:
            What read_file() returns then, piece by piece. No other call may come before its end.

        Raises:
            ServerError: the server has no file that can be followed.
            DisconnectedError: the connection was lost.
        """
        return self._dialog.ask_for_file(after)

    @guarded
    def read_file(self) -> bytes:
        """Return the next piece of the file that was asked for."""
        return self._dialog.read_file()

    def _connect_again(self) -> None:
        try:
            _version_1_addresses.discard(str(self._address))  # maybe another program listens there now
            self._begin_session()
        except (NetworkError, LimitError) as error:
            self._failure = DisconnectedError(
                f"{self._loss}, and connecting again failed: {error}; {self.connect_again.later}"
            )
            raise self._failure from error

    @guarded
    def new_oid(self) -> bytes:
        if not self._spare_oids:
            self._spare_oids = self._dialog.new_oids(_OIDS_AT_A_TIME)
            self._spare_oids.reverse()
        return self._spare_oids.pop()

    @guarded
    def pack(self, wait: bool = False, on_wait: Callable[[], object] | None = None) -> None:
        """Have the server start a pack. [WIRE-12]

        Args:
            wait: with version 2 of the protocol, return only when a pack that begins now has ended.
            on_wait: called every few seconds until then.

        Raises:
            ServerError: the pack has failed. [WIRE2-30]
        """
        self._dialog.pack(wait, on_wait)

    @guarded
    def stop_server(self) -> None:
        """Stop the server, and return when it has ended. [WIRE-13]

        Raises:
            NotAllowedError: this client may not stop the server. Over version 1 of the protocol that can't be told.
        """
        self._dialog.quit()
        has_answer = False
        try:
            with contextlib.suppress(EOFError, ConnectionError):
                self._fill(1)
                has_answer = True
        except BaseException as error:
            self._lose(error)
            raise
        if has_answer:
            self._dialog.read_refusal()
        self.close()

    @guarded
    def server_status(self) -> dict[str, object]:
        """Return what the server does, with the keys of `durus status --json`. [WIRE2-34]

        Raises:
            ProtocolError: the server is older, and can't tell.
        """
        return self._dialog.status()

    def close(self) -> None:
        self._is_closed = True
        if self._guard.is_foreign:
            self._stream.close()  # only the descriptor of this process: the session belongs to the parent
        elif self._failure is None:
            with contextlib.suppress(DisconnectedError):
                self._dialog.say_goodbye()
            self._give_up(f"the connection to the server at {self._address} was closed here")

    # The channel

    def _require_writable(self) -> None:
        self._check_open()

    def _check_open(self) -> None:
        if self._failure is not None:
            raise type(self._failure)(*self._failure.args)

    def send(self, data: bytes) -> None:
        self._check_open()
        try:
            self._stream.sendall(data)
        except BaseException as error:
            self._lose(error)
            raise

    def check_connected(self) -> None:
        self._check_open()
        if type(self._stream) is not socket.socket and not isinstance(self._stream, TlsStream):
            return  # one that does not block in the kernel could wait here
        try:
            if isinstance(self._stream, TlsStream):
                self._stream.check_open()
            elif self._stream.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"":
                raise EOFError(_CLOSED)
        except BlockingIOError:
            pass  # which is how it should be: there is nothing to read
        except BaseException as error:
            self._lose(error)
            raise

    def receive(self, reader: Reader[T]) -> T:
        buffer = self._buffer
        try:
            wanted = next(reader)
            while True:
                if len(buffer) < wanted:
                    self._fill(wanted)
                piece = bytes(buffer[:wanted])
                del buffer[:wanted]
                wanted = reader.send(piece)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]  # StopIteration does not tell its type
        except BaseException as error:
            self._lose(error)
            raise

    def receive_answer(self, on_wait: Callable[[], object] | None = None) -> Answer:
        if not self._buffer:
            try:
                data = self._stream.recv(_RECEIVE_SIZE)
                if not data:
                    raise EOFError(_CLOSED)
            except BaseException as error:
                self._lose(error)
                raise
            answer = whole_answer(data)  # as nearly all are
            if answer is not None:
                return answer
            self._buffer += data
        return self.receive(read_answer(on_wait))

    def _fill(self, size: int) -> None:
        while len(self._buffer) < size:
            data = self._stream.recv(max(_RECEIVE_SIZE, min(size - len(self._buffer), 1 << 20)))
            if not data:
                raise EOFError(_CLOSED)
            self._buffer += data

    def _lose(self, error: BaseException) -> None:
        """Close the connection, because a message could not be sent or received completely."""
        reason = (
            "no answer came in time"
            if isinstance(error, TimeoutError | BlockingIOError)
            else str(error) or type(error).__name__
        )
        lost = self._give_up(f"the connection to the server at {self._address} was lost: {reason}")
        if isinstance(error, OSError | EOFError):
            raise lost from error

    def note_unknown_outcome(self, error: BaseException) -> None:
        if self._failure is None:
            self._give_up(f"the connection to the server at {self._address} was closed")
        self._failure = OutcomeUnknownError(
            f"{self._loss} before the answer to a commit came, so the commit is stored completely or not at all; "
            f"{self._way_to_connect().and_look}"
        )
        if isinstance(error, DurusError):
            raise self._failure from error

    def break_off(self, error: BaseException) -> None:
        self._lose(error)

    def _give_up(self, message: str) -> DisconnectedError:
        self._stream.close()
        self._loss = message
        self._failure = DisconnectedError(f"{message}; {self._way_to_connect().and_run}")
        return self._failure

    def _way_to_connect(self) -> ConnectAgain:
        return self.connect_again if self._may_reconnect and not self._is_closed else _BY_NEW_STORAGE

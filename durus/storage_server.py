"""StorageServer: a storage shared over the network. The server's side of spec/wire.md, on asyncio.

What is said stands in conversation.py, and what is decided in session.py; here are the sockets, the
clock, the thread that waits for the disk, and the log.
"""

import asyncio
import concurrent.futures
import contextlib
import functools
import logging
import os
import selectors
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, NamedTuple, cast
from weakref import WeakSet

from durus.error import DurusError, WriteConflictError, WrongProcessError
from durus.progress import Progress
from durus.sharing.address import (
    BACKLOG,
    AnyAddress,
    HostPortAddress,
    InheritedAddress,
    SocketAddress,
    UnixAbstractAddress,
    UnixDomainSocketAddress,
    set_tcp_options,
    wait_for_server,
)
from durus.sharing.conversation import Conversation
from durus.sharing.protocol import DEFAULT_HOST, DEFAULT_PORT, INVALID, NOT_FOUND, OKAY
from durus.sharing.session import SessionCore
from durus.storage import Storage

__all__ = [
    "DEFAULT_GCBYTES",
    "DEFAULT_HOST",
    "DEFAULT_PORT",
    "STATUS_INVALID",
    "STATUS_KEYERROR",
    "STATUS_OKAY",
    "HostPortAddress",
    "InheritedAddress",
    "SocketAddress",
    "StorageServer",
    "UnixAbstractAddress",
    "UnixDomainSocketAddress",
    "wait_for_server",
]

DEFAULT_GCBYTES = 0
DEFAULT_COMMIT_TIMEOUT = 10.0
DEFAULT_STALL_TIMEOUT = 30.0
STATUS_OKAY = OKAY
STATUS_KEYERROR = NOT_FOUND
STATUS_INVALID = INVALID

_UNREAD_LIMIT = 1 << 18
"""Bytes that may wait for a client to read them before it is answered no further."""
_SECONDS_FOR_ONE_CLIENT = 0.01
"""How long the loop may stand still for the commit of the only client."""
_SECONDS_OF_PACKING = 0.002
"""How long a pack works at the most between two writes."""
_SECONDS_TO_FLUSH = 2.0
"""How long the end of the server waits for clients to read their last answers."""

_ACCEPTED_AT_ONCE = 16
"""How many connections a turn of the loop takes. Out of descriptors, asyncio fails and logs so many times in a row."""

_SECONDS_BETWEEN_COMPLAINTS = 60.0
"""How long the loop's complaints of one kind are not logged again."""

_logger = logging.getLogger("durus")


class StorageServer:
    """Serves `storage` to clients, until it is told to stop.

    It listens on `host` and `port`, or on `address`: a (host, port) pair, the path of a Unix socket,
    `@name` for an abstract one, or a SocketAddress.  It packs when more than `gcbytes` bytes were
    committed since the last pack, and every `gcinterval` seconds if anything was; 0 is never.
    A client that holds up others is dropped: `commit_timeout` is how many seconds it may take from
    its turn to commit to the end of its data [WIRE-21], `stall_timeout` how many it may take for the rest of
    a request, or leave answers unread [WIRE-22].
    """

    def __init__(
        self,
        storage: Storage,
        host: str = DEFAULT_HOST,
        port: int = DEFAULT_PORT,
        address: AnyAddress | None = None,
        gcbytes: int = DEFAULT_GCBYTES,
        *,
        gcinterval: float = 0,
        commit_timeout: float = DEFAULT_COMMIT_TIMEOUT,
        stall_timeout: float = DEFAULT_STALL_TIMEOUT,
    ) -> None:
        for number in (gcbytes, gcinterval, commit_timeout, stall_timeout):
            if not isinstance(number, int | float):
                raise DurusError(f"{number!r} is no number: gcbytes, gcinterval and timeouts must be numbers")
        if not (gcbytes >= 0 and gcinterval >= 0):
            raise DurusError(f"gcbytes ({gcbytes}) and gcinterval ({gcinterval}) must not be less than 0")
        if not (commit_timeout > 0 and stall_timeout > 0):
            raise DurusError(
                f"commit_timeout ({commit_timeout}) and stall_timeout ({stall_timeout}) must be more than 0"
            )
        self.storage = storage
        self.address = SocketAddress.new((host, port) if address is None else address)
        self.commit_timeout = commit_timeout
        self.stall_timeout = stall_timeout
        self.core = SessionCore(storage, time.monotonic)
        self._turn_timer: asyncio.TimerHandle | None = None
        self.clients: set[_Client] = set()
        self._quitters: set[_Client] = set()
        """The clients that have sent Q, and wait for the end."""
        self._gcbytes = gcbytes
        self._gcinterval = gcinterval
        self._listening: list[socket.socket] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._stop_requested = False
        self._failure: BaseException | None = None
        self._writing: asyncio.Task[None] | None = None
        self._packing: asyncio.Task[None] | None = None
        self._pack_steps: Iterator[Progress] | None = None
        self._pack_began = 0.0
        self._bytes_since_pack = 0
        self._complaints: dict[str, float] = {}
        self._disk = concurrent.futures.ThreadPoolExecutor(1, "durus-disk")
        self._handlers_before: dict[int, Callable[..., object] | int | None] = {}
        self._process = os.getpid()
        _servers.add(self)

    # Running

    def listen(self) -> None:
        """Open the sockets, so that clients can connect.

        AddressError if that can't be, WrongProcessError after a fork.
        """
        if self._process != os.getpid():
            raise WrongProcessError(
                f"this server was made in process {self._process} and is used in process {os.getpid()}: "
                "make the storage and the server after the fork"
            )
        if not self._listening:
            self._listening = self.address.get_listening_sockets()
            _logger.info("listening on %s, serving %s", self.address, self.storage)
            if not self.address.is_local:
                _logger.warning(
                    "%s can be reached from other machines, and the protocol has no authentication: "
                    "whoever connects can read, change and stop this database",
                    self.address,
                )

    def serve(self, on_hangup: Callable[[], None] | None = None) -> None:
        """Serve until stop(), a client's Q, SIGINT or SIGTERM; then close the storage. [WIRE-24]

        SIGHUP calls `on_hangup`, if there is one.  Signals are heeded in the main thread only.
        """
        handlers: dict[int, Callable[[], None]] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                handlers[number] = functools.partial(self._stop_for, number)
            if on_hangup is not None:
                handlers[signal.SIGHUP] = on_hangup
        try:
            self.listen()
            self._handlers_before = {number: signal.getsignal(number) for number in handlers}
            self._selector = selectors.DefaultSelector()
            with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(self._selector)) as runner:
                runner.run(self._serve(handlers))
        finally:
            self._loop = None
            self._restore_handlers()
            self._disk.shutdown()
            self._close()

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)
        self._handlers_before = {}

    def leave_to_parent(self) -> None:
        """In the child after a fork: leave alone what is the parent's, and keep none of it open. [WIRE-42]"""
        if self._handlers_before:
            signal.set_wakeup_fd(-1)  # or a signal for this process would be heeded by the other one
            self._restore_handlers()
        descriptors = [each.fileno() for each in self._listening]
        descriptors += [client.descriptor for client in self.clients]
        if self._loop is not None and isinstance(self._selector, getattr(selectors, "EpollSelector", ())):
            descriptors.append(self._selector.fileno())
        self._loop = None
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in descriptors:
            if descriptor >= 0:
                os.dup2(nothing, descriptor, inheritable=False)  # what has the number goes on to have it
        os.close(nothing)

    def _close(self) -> None:
        if self._process != os.getpid():
            return
        for listening in self._listening:
            self.address.close(listening)
        self.storage.close()

    def stop(self) -> None:
        """End serve() in order, or as soon as it begins; may be called from any thread."""
        self._stop_requested = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                self._loop.call_soon_threadsafe(self._stopping.set)

    async def _serve(self, signal_handlers: dict[int, Callable[[], None]]) -> None:
        self._loop = loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._note_complaint)
        for (
            number,
            handler,
        ) in signal_handlers.items():  # by the loop: at any other moment a log line may be half written
            loop.add_signal_handler(number, handler)
        for found in self._listening:
            await loop.create_server(lambda: _Client(self), sock=found, backlog=_ACCEPTED_AT_ONCE)
            found.listen(BACKLOG)  # which asyncio has set to the number above
        watching = [self._start(self._watch_clients()), self._start(self._pack_by_the_clock())]
        if not self._stop_requested:
            await self._stopping.wait()
        for found in self._listening:
            # asyncio's own close() fails for a connection that is being accepted just now.
            loop.remove_reader(found)
        for task in watching:
            task.cancel()
        await self._finish()
        if self._failure is not None:
            raise self._failure

    def _note_complaint(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log what the loop complains of: one line, and the same not all the time. [WIRE-41]"""
        message, error = str(context.get("message")), context.get("exception")
        now = time.monotonic()
        if now - self._complaints.get(message, -_SECONDS_BETWEEN_COMPLAINTS) >= _SECONDS_BETWEEN_COMPLAINTS:
            self._complaints[message] = now
            is_expected = error is None or isinstance(error, OSError)
            _logger.error("%s: %s", message, error, exc_info=None if is_expected else error)

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Have work done beside all other; if it fails unforeseen, the server ends with its error."""
        task = asyncio.create_task(work)
        task.add_done_callback(self._note_end)
        return task

    def _note_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()
            self._stopping.set()

    def _stop_for(self, number: int) -> None:
        _logger.info("stopping for %s", signal.Signals(number).name)
        self._stopping.set()

    async def _finish(self) -> None:
        """Refuse what is not whole yet, finish what is, and have the answers go out."""
        for client in list(self.clients):
            client.finish()
        self.tend_turn()
        if self._writing is not None:
            await self._writing
        if self._packing is not None:
            self._packing.cancel()
        await self._until(lambda: self.clients <= self._quitters)
        self._close()
        _logger.info("stopped")
        for client in list(self._quitters):
            client.close()
        await self._until(lambda: not self.clients)

    async def _until(self, is_done: Callable[[], bool]) -> None:
        """Wait until clients have read what is on its way, but not for ever."""
        deadline = time.monotonic() + _SECONDS_TO_FLUSH
        while not is_done() and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        for client in self.clients - self._quitters:
            client.abort()

    # Work for clients

    def tend_turn(self) -> None:
        """Pass the turn on if its client has held up others for too long, now or at the right moment. [TXN-42]"""
        seconds = self.core.pass_turn_on()
        if self.core.has_ready_commits:
            self.write()
        if seconds is not None and self._turn_timer is None and self._loop is not None:
            self._turn_timer = self._loop.call_later(seconds, self._tend_turn_again)

    def _tend_turn_again(self) -> None:
        self._turn_timer = None
        self.tend_turn()

    def write(self) -> None:
        """Have the commits that are ready written. [TXN-22]"""
        if self._writing is None:
            self._writing = self._start(self._write())

    async def _write(self) -> None:
        try:
            while self.core.has_ready_commits:
                write = self.core.begin_write()
                error = None
                try:
                    written = self._disk.submit(write.write)
                    if len(self.clients) == 1:  # nobody else is waiting, and this wakes sooner than the loop does
                        concurrent.futures.wait([written], _SECONDS_FOR_ONE_CLIENT)
                    if not written.done():
                        await asyncio.wrap_future(written)
                    written.result()
                except DurusError as failure:
                    error = failure
                    _logger.error("a commit could not be stored: %s", failure)
                write.finish(error)
                self._pack_for_a_moment()  # for a pack gets nowhere while something is being written
        finally:
            self._writing = None

    def quit(self, client: "_Client") -> None:
        """End, and have this client know when that is done. [WIRE-13]"""
        self._quitters.add(client)
        self._stopping.set()

    def note_commit(self, size: int) -> None:
        """Take note of a commit of so many bytes, which may make it time to pack."""
        self._bytes_since_pack += size
        if self._gcbytes and self._bytes_since_pack > self._gcbytes:
            self.pack()

    def pack(self) -> None:
        """Begin to pack, if no pack is under way. [WIRE-12]"""
        if self._packing is None:
            self._packing = self._start(self._pack())

    async def _pack_by_the_clock(self) -> None:
        while self._gcinterval:
            await asyncio.sleep(self._gcinterval)
            if self._bytes_since_pack:
                self.pack()

    async def _pack(self) -> None:
        """Pack, with whatever clients want between two steps. [TXN-25]"""
        _logger.info("packing")
        self._bytes_since_pack = 0
        self._pack_began = time.monotonic()
        self._pack_steps = self.core.gen_pack()
        try:
            while self._pack_steps is not None:
                await asyncio.sleep(_SECONDS_OF_PACKING if self.core.is_writing else 0)
                if not self.core.is_writing:
                    self._pack_a_step()
        finally:
            self._pack_steps = self._packing = None

    def _pack_for_a_moment(self) -> None:
        until = time.monotonic() + _SECONDS_OF_PACKING
        while self._pack_steps is not None and time.monotonic() < until:
            self._pack_a_step()

    def _pack_a_step(self) -> None:
        if self._pack_steps is not None:
            try:
                next(self._pack_steps)
            except StopIteration:
                self._pack_steps = None
                _logger.info("packed in %.1f s", time.monotonic() - self._pack_began)
            except DurusError as error:
                self._pack_steps = None
                _logger.error("the pack failed: %s", error)

    async def _watch_clients(self) -> None:
        """Drop the clients that hold up others, or the server."""
        while True:
            await asyncio.sleep(min(self.commit_timeout, self.stall_timeout, 4) / 4)
            now = time.monotonic()
            for client in list(self.clients):
                client.drop_if_stalled(now)


_servers: "WeakSet[StorageServer]" = WeakSet()


def _leave_to_parent() -> None:
    for server in list(_servers):
        server.leave_to_parent()


os.register_at_fork(after_in_child=_leave_to_parent)


class _Wait(NamedTuple):
    """What a client lets the server wait for; a new one begins when it changes."""

    what: str
    limit: float
    mark: int


class _Client(asyncio.Protocol):
    """One connection: the host of its conversation."""

    def __init__(self, server: StorageServer) -> None:
        self._server = server
        self.is_paused = False
        self._wait: _Wait | None = None
        self._waiting_since = 0.0
        self._commit_began = 0.0

    def __str__(self) -> str:
        return self._name

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        connected = transport.get_extra_info("socket")
        if connected.family != socket.AF_UNIX:
            with contextlib.suppress(OSError):  # of a client that has gone already
                set_tcp_options(connected)
        self.descriptor = connected.fileno()
        self._name = _name_of_peer(connected, transport.get_extra_info("peername"))
        self._transport.set_write_buffer_limits(_UNREAD_LIMIT)
        self._conversation = Conversation(self._server.core, self)
        self._server.clients.add(self)
        _logger.info("client %s connected", self)

    def data_received(self, data: bytes) -> None:
        self._conversation.receive(data)
        self._server.tend_turn()
        self._flow()

    def pause_writing(self) -> None:
        self.is_paused = True

    def resume_writing(self) -> None:
        self.is_paused = False
        self.proceed()

    def connection_lost(self, error: Exception | None) -> None:
        self._conversation.close()
        self._server.clients.discard(self)
        self._server.tend_turn()
        _logger.info("client %s disconnected", self)

    # What the conversation calls

    def send(self, data: bytes) -> None:
        if not self._transport.is_closing():  # else asyncio would complain
            self._transport.write(data)

    def proceed_soon(self) -> None:
        asyncio.get_running_loop().call_soon(self.proceed)

    def commit_is_ready(self) -> None:
        self._commit_began = time.monotonic()
        self._server.write()

    def commit_ended(self, count: int, size: int, error: DurusError | None) -> None:
        if not count:
            _logger.info("client %s gives up a commit", self)
        elif error is None:
            milliseconds = 1000 * (time.monotonic() - self._commit_began)
            _logger.info("client %s committed %d objects, %d bytes, %.1f ms", self, count, size, milliseconds)
            self._server.note_commit(size)
        elif isinstance(error, WriteConflictError):
            _logger.info("client %s is refused a commit: %s", self, error)

    def pack(self) -> None:
        _logger.info("client %s asks for a pack", self)
        self._server.pack()

    def quit(self) -> None:
        _logger.info("client %s stops the server", self)
        self._server.quit(self)

    def end(self, error: DurusError | None) -> None:
        if error is None:
            self._transport.close()
        else:
            _logger.warning("client %s is dropped: %s", self, error)
            self._transport.abort()

    # What the server calls

    def proceed(self) -> None:
        self._conversation.proceed()
        self._server.tend_turn()
        self._flow()

    def finish(self) -> None:
        """Take no further request; a commit that is whole is answered first."""
        self._conversation.finish()

    def close(self) -> None:
        self._conversation.close()
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def drop_if_stalled(self, now: float) -> None:
        """Drop the client if it has let the server wait for too long. [WIRE-21] [WIRE-22]"""
        wait = self._what_is_waited_for()
        if wait != self._wait:
            self._wait, self._waiting_since = wait, now
        elif wait is not None and now - self._waiting_since >= wait.limit:
            _logger.warning("client %s is dropped: %s took longer than %g seconds", self, wait.what, wait.limit)
            self._conversation.close()
            self.abort()

    def _what_is_waited_for(self) -> _Wait | None:
        conversation, server = self._conversation, self._server
        if conversation.has_turn:
            return _Wait("the data of its commit", server.commit_timeout, conversation.request_count)
        if self._transport.get_write_buffer_size():
            return _Wait("the reading of its answers", server.stall_timeout, self._transport.get_write_buffer_size())
        if conversation.is_inside_request:
            return _Wait("the rest of a request", server.stall_timeout, conversation.request_count)
        return None

    def _flow(self) -> None:
        """Read on from the client when what it sent is used up, and only then."""
        if self._conversation.has_unread_input:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()


def _name_of_peer(connected: socket.socket, peer: tuple[str, int] | None) -> str:
    """Return who is on the other side: host and port, or the process behind a Unix socket."""
    if connected.family != socket.AF_UNIX:
        return str(HostPortAddress(*peer[:2])) if peer else "that has gone already"
    if not hasattr(socket, "SO_PEERCRED"):
        return "of this machine"
    process, user, _ = struct.unpack("iII", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return f"process {process} of user {user}"

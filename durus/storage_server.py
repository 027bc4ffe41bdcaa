"""StorageServer: a storage shared over the network. The server's side of spec/wire.md, on asyncio.

sharing/ knows the messages and makes the decisions, and serving/ has the parts that touch the outside. This module puts
them together: it begins and ends the event loop, and passes the turn, the writes and the packs on. Everything but the
disk runs in that loop, so no call here may block.
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
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from durus.concurrency.uncopied import Uncopied
from durus.error import ArgumentError, DurusError, TlsError, WrongProcessError
from durus.files.single_file_storage import SingleFileStorage
from durus.serving.client import ServedClient
from durus.serving.complaints import Complaints
from durus.serving.counts import Counts, Measures
from durus.serving.disk import Disk
from durus.serving.door import Door
from durus.serving.following import Following
from durus.serving.limits import Limits
from durus.serving.packing import OnEnd, Packing, ServedFile, WhenToPack
from durus.serving.service_manager import ServiceManager
from durus.serving.status import Served, measure, status, traffic
from durus.serving.summary import Summaries
from durus.sharing.address import (
    AnyAddress,
    HostPortAddress,
    SocketAddress,
    UnixAbstractAddress,
    UnixDomainSocketAddress,
)
from durus.sharing.inherited import InheritedAddress
from durus.sharing.protocol import DEFAULT_HOST, DEFAULT_PORT, INVALID, NOT_FOUND, OKAY
from durus.sharing.protocol2 import MAX_SECONDS, Hello
from durus.sharing.reaching import wait_for_server
from durus.sharing.roles import Access
from durus.sharing.session import SessionCore
from durus.sharing.write import Write
from durus.storage import Storage

if TYPE_CHECKING:
    from durus.sharing.tls import ServerTls  # which imports ssl

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
GARBAGE_BYTES = 1 << 26
"""The least garbage of a file that a server packs on its own. [CMD-60]"""
DEFAULT_COMMIT_TIMEOUT = 10.0
DEFAULT_STALL_TIMEOUT = 30.0
MAX_SNAPSHOT_SECONDS = 3600
MAX_SNAPSHOT_BYTES = 1 << 28
"""For how long a snapshot of a client is kept, and how much memory all of them may take. [TXN-64]"""
STATUS_OKAY = OKAY
STATUS_KEYERROR = NOT_FOUND
STATUS_INVALID = INVALID

_SECONDS_TO_FLUSH = 2.0
"""How long a server that stops waits for clients to read their last answers."""

_SECONDS_TO_MEASURE = 4.0
"""How long another thread waits for the numbers of a server."""
_SECONDS_BETWEEN_SUMMARIES = 60.0
"""How often the log has a summary, if anything has happened."""

_logger = logging.getLogger("durus")


class StorageServer(Uncopied):
    """Serves a storage to clients until it is stopped.

    A client that holds up others is disconnected.

    Args:
        storage: the storage, of which the server is the only user; it is closed at the end.
        host: the host on which the server listens.
        port: the port; 0 is any free one.
        address: the address on which it listens, instead of `host` and `port`: a (host, port) pair, the path of a Unix
            socket, `@name` for an abstract one, or a SocketAddress.
        gcbytes: pack after this many committed bytes; 0 is never.
        gcinterval: the seconds between two packs, if anything was committed; 0 is never.
        gcgarbage: pack when more than half of a SHELF-1 file is garbage, and at least this many bytes; 0 is never.
            [CMD-60]
        commit_timeout: how many seconds a client may take from its turn to commit to the end of its data. [WIRE-21]
        stall_timeout: how many seconds a client may take for the rest of a request, or to read its answers. [WIRE-22]
        access: who may connect, and who may read, commit, pack and stop. By default those who can connect may commit;
            this user and root on a Unix socket, and clients on loopback, may stop the server and have it pack.
            [WIRE-52]
        tls: the certificates of the server, with which it speaks TLS on TCP; Unix sockets do not need it. SIGHUP reads
            them again. [TLS-1]
        limits: how much clients may have. [CMD-28]

    Raises:
        AddressError: the address is wrong.
        ArgumentError: a number is out of its range.
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
        gcgarbage: int = 0,
        commit_timeout: float = DEFAULT_COMMIT_TIMEOUT,
        stall_timeout: float = DEFAULT_STALL_TIMEOUT,
        access: Access | None = None,
        tls: "ServerTls | None" = None,
        limits: Limits | None = None,
    ) -> None:
        for number in (gcbytes, gcinterval, gcgarbage, commit_timeout, stall_timeout):
            if not isinstance(number, int | float):
                raise ArgumentError(
                    f"{number!r} is not a number; gcbytes, gcinterval, gcgarbage and the timeouts must be numbers"
                )
        if not (gcbytes >= 0 and gcgarbage >= 0 and 0 <= gcinterval <= MAX_SECONDS):
            raise ArgumentError(
                f"gcbytes ({gcbytes}), gcgarbage ({gcgarbage}) and gcinterval ({gcinterval}) must not be less than 0, "
                f"and the last not more than {MAX_SECONDS}"
            )
        if not (0 < commit_timeout <= MAX_SECONDS and 0 < stall_timeout <= MAX_SECONDS):
            raise ArgumentError(
                f"commit_timeout ({commit_timeout}) and stall_timeout ({stall_timeout}) must be more than 0, and not "
                f"more than {MAX_SECONDS}"
            )
        self.storage = storage
        self.address = SocketAddress.new((host, port) if address is None else address)
        self._tls = tls
        self.commit_timeout = commit_timeout
        self.stall_timeout = stall_timeout
        self.limits = (Limits() if limits is None else limits).checked()
        self.core = SessionCore(
            storage,
            time.monotonic,
            MAX_SNAPSHOT_SECONDS,
            MAX_SNAPSHOT_BYTES,
            max_unused_oids=self.limits.unused_oids,
        )
        self.hello = Hello(
            max_commit=self.limits.commit,
            turn_milliseconds=int(1000 * commit_timeout),
            snapshot_seconds=MAX_SNAPSHOT_SECONDS,
            snapshot_bytes=MAX_SNAPSHOT_BYTES,
        )
        self.counts = Counts(time.monotonic())
        self._service_manager = ServiceManager({})
        self._summaries = Summaries(self.counts.began)
        path = os.path.abspath(storage.get_filename()) if isinstance(storage, SingleFileStorage) else None
        self._file = ServedFile(storage, path)
        self._turn_timer: asyncio.TimerHandle | None = None
        self.clients: set[ServedClient] = set()
        self._quitters: set[ServedClient] = set()
        """The clients that have sent Q and wait until the server has stopped."""
        self._listening: list[socket.socket] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._selector: selectors.DefaultSelector | None = None
        self._stopping = asyncio.Event()
        self._stop_requested = False
        self._failure: BaseException | None = None
        self._writing: asyncio.Task[None] | None = None
        """What waits for the thread that writes."""
        self._is_write_due = False
        self._are_news_due = False
        self._is_settling = False
        self._woken: deque[ServedClient] = deque()
        """Clients that can continue."""
        self._complaints = Complaints()
        self._door = Door(self, Access() if access is None else access, tls, self._complaints)
        when = WhenToPack(gcbytes, gcinterval, gcgarbage)
        self._packing = Packing(self.core, self._file, self.counts, self._start, self._stopping, when)
        self._disk = Disk()
        self._following = Following(self.core, self._complaints, self.settle) if storage.follows else None
        self._handlers_before: dict[int, Callable[..., object] | int | None] = {}
        self._early_signals: list[int] = []
        """Signals that came before the event loop had handlers for them."""
        self._process = os.getpid()
        _servers.add(self)

    # Running

    def listen(self, listening: list[socket.socket] | None = None) -> None:
        """Open the sockets, so that clients can connect.

        Args:
            listening: the sockets of the address, if they listen already.

        Raises:
            AddressError: the server cannot listen on its address.
            WrongProcessError: the server was made before a fork.
        """
        if self._process != os.getpid():
            raise WrongProcessError(
                f"this server was made in process {self._process} and is used in process {os.getpid()}: "
                "make the storage and the server after the fork"
            )
        if not self._listening:
            self._listening = self.address.get_listening_sockets() if listening is None else listening
            _logger.info("listening on %s, serving %s", self.address, self.storage)
            if not self.address.is_local and not (self._tls is not None and self._tls.knows_clients):
                _logger.warning(
                    "%s can be reached from other machines, and there is no authentication, as --tls-client-ca adds: "
                    "anyone who connects can read and change this database",
                    self.address,
                )
            risk = self.address.risk
            if risk is not None:
                _logger.warning("%s: %s", self.address, risk)

    def serve(
        self,
        on_hangup: Callable[[], None] | None = None,
        service_manager: ServiceManager | None = None,
        new_loop: Callable[[], asyncio.AbstractEventLoop] | None = None,
    ) -> None:
        """Serve until stop(), a client's Q, SIGINT or SIGTERM; then close the storage. [WIRE-24]

        Signals work in the main thread only.

        Args:
            on_hangup: called for each SIGHUP, before certificates are read again. [TLS-12]
            service_manager: is told when clients are served, that the server lives, and when it stops. [CMD-26]
            new_loop: makes the event loop, such as `uvloop.new_event_loop`; None makes one of asyncio. With another one
                the program must not fork while it serves.

        Raises:
            AddressError: the server cannot listen on its address.
            WrongProcessError: the server was made before a fork.
        """
        if service_manager is not None:
            self._service_manager = service_manager
        handlers: dict[int, Callable[[], None]] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                handlers[number] = functools.partial(self._stop_for, number)
            if on_hangup is not None or self._tls is not None:
                handlers[signal.SIGHUP] = functools.partial(self._hang_up, on_hangup)
        try:
            self.listen()
            self._handlers_before = {number: signal.getsignal(number) for number in handlers}
            for each in handlers:  # a loop that is only half set up must not be left by an exception
                signal.signal(each, lambda number, frame: self._early_signals.append(number))
            with asyncio.Runner(loop_factory=self._new_loop if new_loop is None else new_loop) as runner:
                runner.run(self._serve(handlers))
        finally:
            self._loop = None
            self._restore_handlers()
            self._disk.close()
            if self._following is not None:
                self._following.close()
            self._close()

    def _new_loop(self) -> asyncio.AbstractEventLoop:
        self._selector = selectors.DefaultSelector()
        return asyncio.SelectorEventLoop(self._selector)

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)
        self._handlers_before = {}

    def leave_to_parent(self) -> None:
        """In a forked child, leave the parent's files and sockets alone, and keep none of them open. [WIRE-42]"""
        if self._handlers_before:
            signal.set_wakeup_fd(-1)  # otherwise a signal for this process would reach the parent
            self._restore_handlers()
        descriptors = [each.fileno() for each in self._listening]
        descriptors += [client.descriptor for client in self.clients]
        descriptors += self._door.descriptors()
        selector = None if self._loop is None else self._selector
        if selector is not None and isinstance(selector, getattr(selectors, "EpollSelector", ())):
            descriptors.append(selector.fileno())
        self._loop = None
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in descriptors:
            if descriptor >= 0:
                os.dup2(nothing, descriptor, inheritable=False)  # keeps the number in use, for the object that owns it
        os.close(nothing)

    def _close(self) -> None:
        if self._process != os.getpid():
            return
        for listening in self._listening:
            self.address.close(listening)
        self.storage.close()

    def stop(self) -> None:
        """Make serve() return after an orderly end, or as soon as it begins; may be called from any thread."""
        self._stop_requested = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended already
                self._loop.call_soon_threadsafe(self._stopping.set)

    async def _serve(self, signal_handlers: dict[int, Callable[[], None]]) -> None:
        self._loop = loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._note_complaint)
        for number, handler in signal_handlers.items():
            loop.add_signal_handler(number, handler)  # in the loop: at any other moment a log line may be half written
        for number in self._early_signals:
            signal_handlers[number]()
        self._door.open(self._listening)
        by_the_clock = [self._watch_clients, self._packing.by_the_clock, self._summarize_by_the_clock, self._give_signs]
        if self._following is not None:
            by_the_clock.append(self._following.by_the_clock)
        watching = [self._start(work()) for work in by_the_clock]
        self._service_manager.tell_ready(self._state())
        if not self._stop_requested:
            await self._stopping.wait()
        self._service_manager.tell_stopping()
        self._door.close()
        for task in watching:
            task.cancel()
        await self._finish()
        if self._failure is not None:
            raise self._failure

    def _hang_up(self, on_hangup: Callable[[], None] | None) -> None:
        """Do what SIGHUP asks for. [TLS-12]"""
        if on_hangup is not None:
            on_hangup()
        if self._tls is not None:
            try:
                self._tls.read()
            except TlsError as error:
                _logger.warning("the certificates and roles stay as they were: %s", error)
            else:
                _logger.info("the certificates and roles were read again")

    def _note_complaint(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log a complaint of the loop in one line, and the same one only from time to time. [WIRE-41]"""
        self._complaints.note(str(context.get("message")), context.get("exception"))

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Run as a task; an unexpected failure stops the server."""
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
        """Refuse incomplete commits, finish the complete ones, and send the answers."""
        for client in list(self.clients):
            client.finish()
        self.settle()
        self._write_now()
        while self._writing is not None:
            await self._writing
        self._packing.cancel()
        await self._until(lambda: self.clients <= self._quitters)
        if self._following is not None:
            await self._following.end()
        self._close()
        self._summarize()
        _logger.info("stopped")
        for client in list(self._quitters):
            client.close()
        await self._until(lambda: not self.clients)

    async def _until(self, is_done: Callable[[], bool]) -> None:
        """Wait, for a limited time, until clients have read their answers."""
        deadline = time.monotonic() + _SECONDS_TO_FLUSH
        while not is_done() and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        for client in self.clients - self._quitters:
            client.abort()

    # Called by clients

    def settle(self) -> None:
        """Do what the request of a client has made possible: pass the turn on, write, wake clients."""
        if self._is_settling:
            return  # the call that is in progress continues with it
        woken, core = self._woken, self.core
        self._is_settling = True
        try:
            while True:
                if not core.is_settled:
                    self._tend_turn()
                if not woken:
                    return
                woken.popleft().proceed()
        finally:
            self._is_settling = False

    def wake(self, client: ServedClient) -> None:
        """Let a `client` continue after the present work."""
        self._woken.append(client)
        if not self._is_settling and self._loop is not None:
            self._loop.call_soon(self.settle)

    def commit_is_ready(self) -> None:
        """Write a commit now if no other client could join it: its answer then needs no further step."""
        if len(self.clients) == 1:
            self._write_ready()

    def _tend_turn(self) -> None:
        """Pass the turn on if its client has held up others for too long, now or at the right moment. [TXN-42]"""
        seconds = self.core.pass_turn_on()
        if self.core.is_news_due and not self._are_news_due and self._loop is not None:
            self._are_news_due = True
            self._loop.call_soon(self._take_news)  # for all clients that ask in this turn of the loop
        if self.core.has_ready_commits:
            if len(self.clients) == 1 or self.core.is_turn_exclusive:  # so no other commit can join these
                self._write_now()
            else:
                self._write_soon()
        if seconds is not None and self._turn_timer is None and self._loop is not None:
            self._turn_timer = self._loop.call_later(seconds, self._tend_turn_again)

    def _tend_turn_again(self) -> None:
        self._turn_timer = None
        self.settle()

    def _take_news(self) -> None:
        """Ask the storage what its other clients have changed. [PG-61]"""
        self._are_news_due = False
        if self.core.is_news_due:
            self.core.take_news()
        self.settle()

    def _write_soon(self) -> None:
        """Have the commits that are ready written, with those that come in this turn of the loop. [TXN-22]"""
        if not self._is_write_due and self._writing is None and self._loop is not None:
            self._is_write_due = True
            self._loop.call_soon(self._write_now)

    def _write_now(self) -> None:
        self._is_write_due = False
        self._write_ready()
        self.settle()

    def _write_ready(self) -> None:
        try:
            while self._writing is None and self.core.has_ready_commits:
                write = self.core.begin_write()
                if not self.core.has_others and self._disk.is_fast_for(write.size):  # others may have the turn for long
                    self._finish_write(write, functools.partial(self._disk.write, write.write))
                    if self.core.has_ready_commits:
                        self._write_soon()  # after what clients have sent meanwhile
                    return
                self._writing = self._start(self._wait_for_write(write))
        except BaseException as error:  # nobody knows what is stored now
            self._failure = error
            self._stopping.set()
            raise

    async def _wait_for_write(self, write: Write) -> None:
        written = asyncio.wrap_future(self._disk.submit(write.write))
        try:
            await asyncio.wait([written])
        finally:
            self._writing = None
        self._finish_write(write, written.result)
        self._write_now()

    def _finish_write(self, write: Write, outcome: Callable[[], None]) -> None:
        error = None
        try:
            outcome()
        except DurusError as failure:
            error = failure
            self.counts.failed_writes += 1
            _logger.error("a commit was not stored: %s", failure)
        self.counts.write_seconds.note(self._disk.latest)
        write.finish(error)
        self._packing.go_on_for_a_moment()

    def quit(self, client: ServedClient) -> None:
        """Stop the server, and tell this `client` when that is done. [WIRE-13]"""
        self._quitters.add(client)
        self._stopping.set()

    def status(self, client: ServedClient | None = None) -> dict[str, object]:
        """Return what the server does, for a `client` that asks; only in the thread of serve(). [WIRE2-35]"""
        served = Served(str(self.address), self._file.path, self._process, self.limits)
        return status(served, self._measures(), self.core, self.clients, time.monotonic(), client)

    def measures(self) -> Measures | None:
        """Return the numbers of the server, in any thread but that of serve(); None if it does not answer. [CMD-27]"""
        loop = self._loop
        answer: concurrent.futures.Future[Measures] = concurrent.futures.Future()
        try:
            if loop is not None:
                loop.call_soon_threadsafe(lambda: answer.set_result(self._measures().copy()))
                return answer.result(_SECONDS_TO_MEASURE)
        except (RuntimeError, TimeoutError):  # the loop has ended, or is busy
            pass
        return None

    def _measures(self) -> Measures:
        return measure(self.counts, self.clients, self._file, self._packing, time.monotonic())

    def note_commit(self, size: int) -> None:
        """Note a commit of `size` bytes, and pack if it is time to."""
        self._packing.note_commit(size)

    def pack(self, on_end: OnEnd | None = None) -> None:
        """Start a pack, if none is running. [WIRE-12]

        Args:
            on_end: called when a pack has ended that began now or later. [WIRE2-30]
        """
        self._packing.start(on_end)

    async def _summarize_by_the_clock(self) -> None:
        while True:
            await asyncio.sleep(_SECONDS_BETWEEN_SUMMARIES)
            self._summarize()
            self._service_manager.tell_status(self._state())

    async def _give_signs(self) -> None:
        """Tell the service manager that the loop turns, twice as often as it must be told. [CMD-26]"""
        while (seconds := self._service_manager.watchdog_seconds) is not None:
            self._service_manager.tell_alive()
            await asyncio.sleep(seconds / 2)

    def _state(self) -> str:
        return f"serving {self.storage}: {len(self.clients)} clients, {self.counts.commits} commits since the start"

    def _summarize(self) -> None:
        """Log what has happened since the last summary, if anything has. [CMD-25]"""
        summary = self._summaries.next(time.monotonic(), self.counts, traffic(self.counts, self.clients))
        if summary is not None:
            _logger.info("%s", summary.text(len(self.clients)), extra={"numbers": summary.numbers()})

    async def _watch_clients(self) -> None:
        """Disconnect the clients that hold up others, or the server."""
        while True:
            await asyncio.sleep(min(self.commit_timeout, self.stall_timeout, 4) / 4)
            now = time.monotonic()
            if self.core.end_old_snapshots():
                _logger.warning("snapshots that were too old, or for which too much was kept, were ended")
            for client in list(self.clients):
                client.drop_if_stalled(now)
                client.keep_waiting(now)


_servers: "WeakSet[StorageServer]" = WeakSet()


def _leave_to_parent() -> None:
    for server in list(_servers):
        server.leave_to_parent()


os.register_at_fork(after_in_child=_leave_to_parent)

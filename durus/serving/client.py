"""One connection of a storage server: its socket, and the host of its conversation.

The event loop only reports when the socket can be read or written; the rest is done here, in fewer steps than a
transport of asyncio takes. All answers to one received piece are sent in one piece.
"""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from durus.error import DurusError, LimitError, NotAllowedError, TlsError, WriteConflictError
from durus.serving.counts import Counts
from durus.serving.limits import Limits, Place, Throttle
from durus.sharing.conversation import Conversation
from durus.sharing.protocol2 import Hello
from durus.sharing.roles import Peer, Role
from durus.sharing.session import SessionCore
from durus.sharing.sockets import set_tcp_options

if TYPE_CHECKING:
    from durus.sharing.tls import Channel  # which imports ssl

_RECEIVED_AT_A_TIME = 1 << 16
_UNREAD_LIMIT = 1 << 18
"""How many bytes may wait for a client to read them before the server stops answering it."""
_SECONDS_BETWEEN_SIGNS = 5.0
"""How often a waiting client is told that its answer is still to come."""

_SECONDS_TO_BE_REFUSED = 2.0
"""How long a connection beyond the limit is kept, so that it can be told."""

_logger = logging.getLogger("durus")


class Server(Protocol):
    """What a client needs of its server."""

    core: SessionCore
    counts: Counts
    limits: Limits
    hello: Hello
    commit_timeout: float
    stall_timeout: float
    clients: "set[ServedClient]"

    def settle(self) -> None:
        """Do what a request has made possible: pass the turn on, write, wake clients."""

    def wake(self, client: "ServedClient") -> None:
        """Have a client continue when the current work is done."""

    def commit_is_ready(self) -> None:
        """Write what is ready, now or soon."""

    def note_commit(self, size: int) -> None:
        """Take note of a commit of this many bytes."""

    def pack(self, on_end: Callable[[DurusError | None], None] | None = None) -> None:
        """Begin to pack."""

    def status(self, client: "ServedClient") -> dict[str, object]:
        """Return what the server does, for this client."""

    def quit(self, client: "ServedClient") -> None:
        """Stop the server, and let this client know when that is done."""


class _Wait(NamedTuple):
    """What the server waits for, because of a client; a change restarts the time."""

    what: str
    limit: float
    mark: int


class ServedClient:
    """One connection: the host of its conversation.

    Args:
        server: the server.
        connected: the socket.
        peer: who is at the other end.
        role: what it may do.
        place: the place of the connection, or why there is none.
        channel: the server's end of TLS, if there is TLS.
    """

    def __init__(
        self,
        server: Server,
        connected: socket.socket,
        peer: Peer,
        role: Role,
        place: Place | LimitError,
        channel: "Channel | None" = None,
    ) -> None:
        self._server = server
        self._socket = connected
        self._channel = channel
        self._place = place if isinstance(place, Place) else None
        self.refusal = None if isinstance(place, Place) else place
        self.reserve = place.problem if isinstance(place, Place) else None
        self._throttle = Throttle(server.limits.rate) if server.limits.rate else None
        self._is_throttled = False
        """True while it pauses, so that it keeps to the rate."""
        self._loop = asyncio.get_running_loop()
        self.hello = server.hello
        self.role = role
        self.is_paused = False
        self._out: list[bytes] = []
        """What is to be sent with the next flush."""
        self._out_size = 0
        self._unsent = bytearray()
        """What the socket did not take."""
        self._is_reading = False
        self._is_ending = False
        """True if the connection is to be closed when all is sent."""
        self._is_gone = False
        self._wait: _Wait | None = None
        self._waiting_since = 0.0
        self._awaited_since = 0.0
        self._commit_began = 0.0
        self.since = time.monotonic()
        """When it connected."""
        self.sent = 0
        """How many bytes it was sent."""
        connected.setblocking(False)
        if connected.family != socket.AF_UNIX:
            with contextlib.suppress(OSError):  # of a client that has disconnected already
                set_tcp_options(connected)
        self.descriptor = connected.fileno()
        self._name = peer.name
        self._conversation = Conversation(server.core, self, self._name)
        server.clients.add(self)
        if self.refusal is None:
            server.counts.connections += 1
            _logger.info("client %s connected", self)
        self._read_on()
        if channel is not None:
            self._loop.call_soon(self._take, b"")  # what came with the end of the handshake

    def __str__(self) -> str:
        return self._name

    @property
    def received(self) -> int:
        """How many bytes it has sent."""
        return self._conversation.received

    @property
    def loads(self) -> int:
        """How many records it has asked for."""
        return self._conversation.load_count

    @property
    def holds_snapshot(self) -> bool:
        """True while a state is kept for it."""
        return self._conversation.holds_snapshot

    @property
    def doing(self) -> str:
        """What it does, or waits for. [WIRE2-35]"""
        return "reads its answers" if self._unsent else self._conversation.doing

    # The socket

    def _read(self) -> None:
        try:
            data = self._socket.recv(_RECEIVED_AT_A_TIME)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.abort()
            return
        if not data:
            self.close()
            return
        if self._throttle is not None:
            self._note_traffic(self._throttle, len(data))
        if self._channel is not None:
            self._take(data)
        else:
            self._converse(data)
        if len(data) == _RECEIVED_AT_A_TIME:  # what comes in smaller pieces does not add up to much
            self._check_memory()

    def _note_traffic(self, throttle: Throttle, size: int) -> None:
        """Count bytes, and pause if they were too many. [CMD-28]"""
        seconds = throttle.note(size, time.monotonic())
        if seconds and not self._is_throttled:
            self._is_throttled = self.is_paused = True
            self._read_no_further()
            self._loop.call_later(seconds, self._end_pause, throttle)

    def _end_pause(self, throttle: Throttle) -> None:
        seconds = throttle.note(0, time.monotonic())
        if self._is_gone:
            return
        if seconds:  # more was sent meanwhile
            self._loop.call_later(seconds, self._end_pause, throttle)
            return
        self._is_throttled = False
        self.is_paused = len(self._unsent) > _UNREAD_LIMIT
        if not self.is_paused:
            self.proceed()

    def _check_memory(self) -> None:
        """Disconnect the client if too much is held for it. [CMD-28]"""
        held = self._conversation.held_bytes + self._out_size + len(self._unsent)
        limit = self._server.limits.memory
        if held > limit and not self._is_gone:
            self._conversation.refuse(
                LimitError(f"{held} bytes are held for this client, and the server allows {limit} (--max-memory)")
            )
            if self._unsent:  # and close() waits until it is read
                self.abort()

    def _take(self, data: bytes) -> None:
        """Take bytes that are protected by TLS."""
        channel = self._channel
        if self._is_gone or channel is None:
            return
        try:
            plain = channel.receive(data)
        except TlsError as error:
            self._end_for(error)
            return
        if channel.has_answer:
            self._send_or_keep(channel.outgoing())
        if plain:
            self._converse(plain)
        if channel.is_ended and not self._is_gone:
            self.close()

    def _end_for(self, error: TlsError) -> None:
        """Close the connection now, for an error of TLS."""
        _logger.warning("client %s is disconnected: %s", self, error)
        if self._channel is not None:
            self._send_some(self._channel.outgoing())
        self.abort()

    def _converse(self, data: bytes) -> None:
        try:
            self._conversation.receive(data)
            self._after_work()
        except BaseException:  # the loop reports it, and the other clients continue
            self.abort()
            raise

    def _after_work(self) -> None:
        self._flush()
        self._server.settle()
        if not self._is_gone:
            if self._conversation.has_unread_input or self._is_ending or self._is_throttled:
                self._read_no_further()
            elif not self._is_reading:
                self._read_on()

    def _read_on(self) -> None:
        self._is_reading = True
        self._loop.add_reader(self.descriptor, self._read)

    def _read_no_further(self) -> None:
        if self._is_reading:
            self._is_reading = False
            self._loop.remove_reader(self.descriptor)

    def _flush(self) -> None:
        out = self._out
        if not out or self._is_gone:
            return
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        self.sent += self._out_size
        self._out_size = 0
        if self._channel is not None:
            try:
                data = self._channel.protect(data)
            except TlsError as error:  # this may be the turn of another client, which must not notice
                self._end_for(error)
                return
        self._send_or_keep(data)
        if self._unsent or self.is_paused:
            self._note_unsent()
        if self._throttle is not None:
            self._note_traffic(self._throttle, len(data))

    def _note_unsent(self) -> None:
        """Pause if the client must read first, and disconnect it if too much is held for it."""
        self.is_paused = self._is_throttled or len(self._unsent) > _UNREAD_LIMIT
        if len(self._unsent) > self._server.limits.memory:
            self._loop.call_soon(self._check_memory)  # not within the work of the conversation

    def _send_or_keep(self, data: bytes) -> None:
        if self._unsent:
            self._unsent += data
        else:
            sent = self._send_some(data)
            if sent < len(data) and not self._is_gone:
                self._unsent += data[sent:]
                self._loop.add_writer(self.descriptor, self._write)

    def _send_some(self, data: bytes | bytearray) -> int:
        """Return how many bytes the socket took."""
        try:
            return self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            self.abort()
            return len(data)

    def _write(self) -> None:
        """Send more of what the socket did not take."""
        del self._unsent[: self._send_some(self._unsent)]
        if self._is_gone:
            return
        if not self._unsent:
            self._loop.remove_writer(self.descriptor)
            if self._is_ending:
                self.abort()
                return
        if self.is_paused and not self._is_throttled and len(self._unsent) <= _UNREAD_LIMIT // 4:
            self.is_paused = False
            self.proceed()

    # Called by the conversation

    def send(self, data: bytes) -> None:
        """Send bytes to the client: at once if they are many, otherwise when the conversation pauses."""
        self._out.append(data)
        self._out_size += len(data)
        if self._out_size > _UNREAD_LIMIT:
            self._flush()  # which decides whether the client must read first

    def proceed_soon(self) -> None:
        """Call proceed() later, not within this call."""
        self._loop.call_soon(self.proceed)

    def wake(self) -> None:
        """Call proceed() when the current work is done."""
        self._server.wake(self)

    def commit_is_ready(self) -> None:
        """Note when a commit was complete, and have it written."""
        self._commit_began = time.monotonic()
        self._server.commit_is_ready()

    def commit_ended(self, count: int, size: int, error: DurusError | None) -> None:
        """Log the outcome of a commit."""
        counts = self._server.counts
        if not count:
            counts.given_up += 1
            _logger.debug("client %s gives up a commit", self)
        elif error is None:
            seconds = time.monotonic() - self._commit_began
            counts.note_commit(count, size, seconds)
            if _logger.isEnabledFor(logging.DEBUG):
                _logger.debug("client %s committed %d objects, %d bytes, %.1f ms", self, count, size, 1000 * seconds)
            self._server.note_commit(size)
        elif isinstance(error, WriteConflictError):
            counts.note_conflict(error.oids)
            _logger.debug("client %s: its commit is refused: %s", self, error)

    def pack(self, on_end: Callable[[DurusError | None], None]) -> None:
        """Begin to pack."""
        _logger.info("client %s asks for a pack", self)
        self._server.pack(on_end)

    def status(self) -> dict[str, object]:
        """Return what the server does. [WIRE2-35]"""
        return self._server.status(self)

    def file_sent(self) -> None:
        """Note that the client has been sent the file up to its end."""
        self._server.counts.copies += 1
        self._server.counts.last_copied = time.monotonic()

    def note_refusal(self, error: NotAllowedError | LimitError) -> None:
        """Log what the client has asked for and may not do or have. [WIRE-51] [WIRE2-42]"""
        if isinstance(error, LimitError):
            self._server.counts.refused += 1
        _logger.warning("client %s is refused: %s", self, error)

    def quit(self) -> None:
        """Stop the server."""
        _logger.info("client %s stops the server", self)
        self._server.quit(self)

    def end(self, error: DurusError | None) -> None:
        """Close the connection when everything is sent."""
        if error is not None and error is not self.refusal:
            if isinstance(error, LimitError):
                self._server.counts.refused += 1
            _logger.warning("client %s is disconnected: %s", self, error)
        self.close()

    # Called by the server

    def proceed(self) -> None:
        """Go on with the conversation, after an event that it may wait for."""
        if not self._is_gone:
            try:
                self._conversation.proceed()
                self._after_work()
            except BaseException:  # as above
                self.abort()
                raise

    def finish(self) -> None:
        """Take no further request; a complete commit is answered first."""
        self._conversation.finish()
        self._flush()

    def close(self) -> None:
        """Close the connection when everything is sent."""
        self._conversation.close()
        self._flush()
        if self._channel is not None and not (self._is_ending or self._is_gone):
            self._send_or_keep(self._channel.end())
        self._is_ending = True
        if self._unsent:
            self._read_no_further()
        else:
            self.abort()

    def abort(self) -> None:
        """Close the connection now."""
        if self._is_gone:
            return
        self._is_gone = True
        self._read_no_further()
        self._loop.remove_writer(self.descriptor)
        self.descriptor = -1
        self._socket.close()
        self._conversation.close()
        self._server.clients.discard(self)
        if self._place is not None:
            self._place.give_back()
        counts = self._server.counts
        counts.loads += self.loads
        counts.received += self.received
        counts.sent += self.sent
        self._server.settle()
        if self.refusal is None:
            _logger.info("client %s disconnected", self)

    def keep_waiting(self, now: float) -> None:
        """Tell a client that waits for an answer that the server is alive. [WIRE2-33]"""
        if not self._conversation.is_awaited:
            self._awaited_since = now
        elif now - self._awaited_since >= _SECONDS_BETWEEN_SIGNS:
            self._awaited_since = now
            self._conversation.keep_waiting()
            self._flush()

    def drop_if_stalled(self, now: float) -> None:
        """Disconnect the client if it has gone, or has kept the server waiting for too long. [WIRE-21] [WIRE-22]"""
        if self._is_gone:
            return
        is_refused = self.refusal is not None and now - self.since >= _SECONDS_TO_BE_REFUSED
        if is_refused or self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.abort()  # a loop of uvloop reports an error once only, perhaps before there was more to read
            return
        wait = self._what_is_waited_for()
        if wait != self._wait:
            self._wait, self._waiting_since = wait, now
        elif wait is not None and now - self._waiting_since >= wait.limit:
            _logger.warning("client %s is disconnected: %s took longer than %g seconds", self, wait.what, wait.limit)
            self.abort()

    def _what_is_waited_for(self) -> _Wait | None:
        conversation, server = self._conversation, self._server
        if self._is_throttled:
            return None  # the client waits for the server
        if conversation.has_turn:
            return _Wait("the data of its commit", server.commit_timeout, conversation.request_count)
        if self._unsent and not conversation.may_leave_unread:
            return _Wait("the reading of its answers", server.stall_timeout, len(self._unsent))
        if conversation.is_inside_request:
            return _Wait("the rest of a request", server.stall_timeout, conversation.progress)
        return None

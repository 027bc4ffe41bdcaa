"""The beginning of a TLS connection, on a server. Statements TLS-1 to TLS-10.

Until it is complete, a connection takes a socket, a little memory and a timer, and is not a client.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from durus.error import TlsError
from durus.sharing.sockets import set_tcp_options

if TYPE_CHECKING:
    from durus.sharing.tls import Channel  # which imports ssl

_RECEIVED_AT_A_TIME = 1 << 14


class Handshake:
    """Makes one handshake in the event loop.

    Args:
        connected: the socket, which is closed if the handshake fails.
        channel: the server's end.
        seconds: how long it may take.
        on_end: called once, unless abort() is: with None if it is complete, else with the reason, "" for no special
            one.
    """

    def __init__(
        self,
        connected: socket.socket,
        channel: "Channel",
        seconds: float,
        on_end: Callable[["Handshake", str | None], None],
    ) -> None:
        connected.setblocking(False)
        set_tcp_options(connected)
        self.socket = connected
        self.channel = channel
        self._on_end = on_end
        self.names: frozenset[str] = frozenset()
        """The names in the certificate of the client."""
        self._unsent = b""
        self._loop = asyncio.get_running_loop()
        self.descriptor = connected.fileno()
        self._loop.add_reader(self.descriptor, self._read)
        self._timer = self._loop.call_later(
            seconds, self._end, f"its TLS handshake took longer than {seconds:g} seconds"
        )

    def _read(self) -> None:
        try:
            data = self.socket.recv(_RECEIVED_AT_A_TIME)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._end("")
            return
        try:
            is_complete = self.channel.shake_hands(data)
            self._unsent += self.channel.outgoing()
            if is_complete:
                self.names = self.channel.names()
        except TlsError as error:
            self._unsent += self.channel.outgoing() or self.channel.end()
            self._write()
            self._end(str(error))
        except BaseException:  # the loop reports it, and the other clients continue
            self.abort()
            raise
        else:
            self._write()
            if is_complete:
                self._end(None)

    def _write(self) -> None:
        try:
            if self._unsent:
                self._unsent = self._unsent[self.socket.send(self._unsent) :]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._unsent = b""  # reading says that it has gone
        if self._unsent:
            self._loop.add_writer(self.descriptor, self._write)
        else:
            self._loop.remove_writer(self.descriptor)

    def _end(self, reason: str | None) -> None:
        if self.descriptor == -1:
            return
        self._leave_loop()
        if reason is not None:
            self.socket.close()
        self._on_end(self, reason)

    def refuse(self) -> None:
        """Close the connection after a complete handshake."""
        with contextlib.suppress(OSError):
            self.socket.send(self.channel.end())
        self.socket.close()

    def abort(self) -> None:
        """Close the connection now."""
        if self.descriptor != -1:
            self._leave_loop()
            self.socket.close()

    def _leave_loop(self) -> None:
        self._timer.cancel()
        self._loop.remove_reader(self.descriptor)
        self._loop.remove_writer(self.descriptor)
        self.descriptor = -1

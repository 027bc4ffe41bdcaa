"""The client's end of a TLS connection, on a socket. Statements of spec/tls.md."""

import contextlib
import socket
import time
from typing import TYPE_CHECKING

from durus.error import NetworkError, TlsError

if TYPE_CHECKING:
    from durus.sharing.tls import Channel  # which imports ssl

_SENT_AT_A_TIME = 1 << 18
_RECEIVED_AT_A_TIME = 1 << 16


class TlsStream:
    """A socket with TLS around what it carries. Its times and its closing are those of the socket.

    Args:
        connected: the socket.
        channel: the client's end.
    """

    def __init__(self, connected: socket.socket, channel: "Channel") -> None:
        self._socket = connected
        self._channel = channel
        self._received = b""
        self._is_answered = False
        """True if the server has sent anything after the handshake."""

    def shake_hands(self, deadline: float | None) -> None:
        """Make the handshake. [TLS-1]

        Args:
            deadline: when it must be complete, by time.monotonic(); None for no limit.

        Raises:
            TlsError: an end does not accept the other one.
            OSError: the connection was lost, or the time is over.
        """
        channel, data = self._channel, b""
        while not self._go_on(data):
            self._socket.sendall(channel.outgoing())
            if deadline is not None:
                self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                data = self._socket.recv(_RECEIVED_AT_A_TIME)
            except ConnectionResetError:
                data = b""
            if not data:
                raise TlsError(
                    "it closes the connection instead of answering by TLS; durus://... is for a server without TLS"
                )
        self._socket.sendall(channel.outgoing())

    def _go_on(self, data: bytes) -> bool:
        try:
            return self._channel.shake_hands(data)
        except TlsError:
            self._send_alert()
            raise

    def _send_alert(self) -> None:
        with contextlib.suppress(OSError):  # the server may have gone; what went wrong is known already
            self._socket.sendall(self._channel.outgoing())

    def sendall(self, data: bytes, /) -> None:
        try:
            if len(data) <= _SENT_AT_A_TIME:
                self._socket.sendall(self._channel.protect(data))
                return
            for start in range(0, len(data), _SENT_AT_A_TIME):
                self._socket.sendall(self._channel.protect(data[start : start + _SENT_AT_A_TIME]))
        except ConnectionError:
            if not self._is_answered:  # the server may have said why
                self._take(self._socket.recv(_RECEIVED_AT_A_TIME))
            raise

    def recv(self, size: int, /) -> bytes:
        """Return what has come, b"" at an orderly end. `size` is what to ask the socket for."""
        while not self._received and not self._channel.is_ended:
            self._take(self._socket.recv(size))
        received, self._received = self._received, b""
        return received

    def check_open(self) -> None:
        """Raise EOFError if the server has ended the connection, without waiting."""
        if type(self._socket) is not socket.socket:
            return  # one that does not block in the kernel could wait here
        try:
            data = self._socket.recv(_RECEIVED_AT_A_TIME, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return  # which is how it should be: there is nothing to read
        self._take(data)
        if self._channel.is_ended:
            raise EOFError("the server has closed it")

    def _take(self, data: bytes) -> None:
        if not data:
            raise NetworkError("it was cut off, by the server or by the network")  # [TLS-11]
        try:
            self._received += self._channel.receive(data)
        except TlsError:
            self._send_alert()
            raise
        if self._channel.is_ended and not self._received and not self._is_answered:
            raise TlsError(
                "the server closed it right after the handshake: perhaps its list of roles has no name of this "
                "client's certificate; its log says why"
            )
        self._is_answered = True
        if self._channel.has_answer:
            self._socket.sendall(self._channel.outgoing())

    def close(self) -> None:
        """Close the socket. Nothing is sent: in a forked child, the session is that of the parent."""
        self._socket.close()

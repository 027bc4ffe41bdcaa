"""Tell a service manager, such as systemd, how the server is. Statement CMD-26."""

import logging
import os
import socket
from collections.abc import Mapping

from durus.error import DurusError
from durus.text import printable

_logger = logging.getLogger("durus")


class ServiceManager:
    """The process that has started this one and wants to be told; or none, and then nothing is sent.

    Args:
        environment: the environment variables. NOTIFY_SOCKET is where to send to, WATCHDOG_USEC how many microseconds
            may pass between two signs of life, and WATCHDOG_PID the process that is to give them.

    Raises:
        DurusError: one of them is wrong.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        if self._address and self._address[0] not in "/@":
            raise DurusError(
                f"NOTIFY_SOCKET is {self._address!r}; expected a path from the root, or @name for an abstract socket"
            )
        self.watchdog_seconds = self._watchdog(environment) if self._address else None
        """How many seconds may pass between two signs of life; None if nobody waits for them."""

    @staticmethod
    def _watchdog(environment: Mapping[str, str]) -> float | None:
        text = environment.get("WATCHDOG_USEC", "")
        if not text or environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
            return None
        if not (text.isascii() and text.isdecimal() and 0 < int(text[:20]) < 1 << 63):
            raise DurusError(f"WATCHDOG_USEC is {text!r}; expected a number of microseconds above 0")
        return int(text[:20]) / 1_000_000

    def tell_ready(self, status: str) -> None:
        """Say that clients are served."""
        self._send(f"READY=1\nSTATUS={printable(status)}")

    def tell_status(self, status: str) -> None:
        """Say what the server does, for those who ask the service manager."""
        self._send(f"STATUS={printable(status)}")

    def tell_alive(self) -> None:
        """Give a sign of life."""
        self._send("WATCHDOG=1")

    def tell_stopping(self) -> None:
        """Say that the server ends."""
        self._send("STOPPING=1\nSTATUS=stopping")

    def _send(self, state: str) -> None:
        if not self._address:
            return
        path = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifying:
                notifying.setblocking(False)  # a service manager that hangs must not stop the server
                notifying.sendto(state.encode(), path)
        except OSError as error:
            _logger.warning("the service manager on %s is not told %r: %s", self._address, state.split("\n")[0], error)

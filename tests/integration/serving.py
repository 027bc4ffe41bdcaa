"""A server as a process of its own, and what it logs."""

import contextlib
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from durus.client_storage import ClientStorage
from durus.connection import Connection

SECONDS = 60
"""How long to wait at most for anything."""


class Log:
    """Lines that come in over time."""

    def __init__(self) -> None:
        self.text = ""
        self._has_grown = threading.Condition()

    def add(self, text: str) -> None:
        with self._has_grown:
            self.text += text
            self._has_grown.notify_all()

    def expect(self, pattern: str, count: int = 1) -> "re.Match[str]":
        """Wait for the pattern, or for its `count`-th occurrence, and return the match."""
        with self._has_grown:
            found = self._has_grown.wait_for(lambda: list(re.finditer(pattern, self.text))[count - 1 :], SECONDS)
        assert found, f"{pattern!r} is not logged: {self.text}"
        return found[0]


class Server:
    """`durus -s` with these arguments."""

    def __init__(
        self, *arguments: str, folder: Path, python: tuple[str, ...] = (), environment: dict[str, str] | None = None
    ) -> None:
        self.log = Log()
        self.process = subprocess.Popen(
            [sys.executable, *(python or ("-m", "durus")), "-s", *arguments],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.add(line)

    @property
    def port(self) -> int:
        """The TCP port that it says it listens on."""
        found = re.search(r"listening on \S+:(\d+),", self.said)
        assert found, f"{self.said}{self.log.text}"
        return int(found[1])

    def connect(self, prefetch: int = 100) -> Connection:
        return Connection(ClientStorage(port=self.port, prefetch=prefetch))

    def open_socket(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send the signal, and return the exit status."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        try:
            status = self.process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        self._reading.join(SECONDS)
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.process.stdout.close()
        self.process.stderr.close()
        return status


@contextlib.contextmanager
def serving(*arguments: str, folder: Path) -> Iterator[Server]:
    """A server on a free port, which must end with status 0 after the block."""
    server = Server("--port", "0", *arguments, folder=folder)
    try:
        yield server
    except BaseException:
        server.process.kill()
        server.wait()
        raise
    if server.process.poll() is None:
        assert server.end() == 0, server.log.text
    else:
        assert server.wait() == 0, server.log.text


def receive(connected: socket.socket, size: int) -> bytes:
    """Return this many bytes, fewer if the server has closed the connection."""
    data = b""
    while len(data) < size:
        try:
            piece = connected.recv(size - len(data))
        except ConnectionResetError:
            break
        if not piece:
            break
        data += piece
    return data


def is_closed(connected: socket.socket) -> bool:
    """Wait for the end of the connection; False if anything else comes."""
    return receive(connected, 1) == b""

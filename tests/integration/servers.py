"""Servers as processes of their own, and clients that say whatever a test wants."""

import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from durus.address import SocketAddress
from durus.client_storage import ClientStorage
from durus.protocol import NewOids, encode_commit, encode_request
from durus.record import pack_record

SECONDS = 30
"""How long to wait at the most for what is to come."""

DURUS = [sys.executable, "-m", "durus"]
ROOT = bytes(8)
NOTHING_INVALID = bytes(4)

Address = str | tuple[str, int]


class Log:
    """Lines that another thread or process writes, and a way to wait for one."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._is_ended = False
        self._changed = threading.Condition()

    def __str__(self) -> str:
        with self._changed:
            return "".join(self._lines)

    def add(self, line: str) -> None:
        with self._changed:
            self._lines.append(line)
            self._changed.notify_all()

    def end(self) -> None:
        with self._changed:
            self._is_ended = True
            self._changed.notify_all()

    def wait_for(self, pattern: str) -> "re.Match[str]":
        """Return the first match of the pattern in a line that was written, or will be."""
        compiled, seen = re.compile(pattern), 0
        with self._changed:
            while True:
                for line in self._lines[seen:]:
                    found = compiled.search(line)
                    if found:
                        return found
                seen = len(self._lines)
                if self._is_ended or not self._changed.wait(SECONDS):
                    raise AssertionError(f"the log has no {pattern!r}:\n{''.join(self._lines)}")


class ServerProcess:
    """`durus -s` with the arguments, as a process that listens when this has been made."""

    def __init__(
        self,
        *arguments: str,
        cwd: Path,
        wrapper: Sequence[str] = (),
        hands_over: Sequence[socket.socket] = (),
    ) -> None:
        self.log = Log()
        self.process = subprocess.Popen(
            [*wrapper, *DURUS, "-s", *arguments],
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[handed.fileno() for handed in hands_over],
            text=True,
        )
        self._collector = threading.Thread(target=self._collect)
        self._collector.start()
        try:
            self.announcement = self._read_line()
            found = re.match(r"durus: listening on (.*), serving ", self.announcement)
            assert found, f"the server has not begun: {self.announcement!r}\n{self.wait_for_end()}"
        except BaseException:
            self.kill()
            raise
        self.address = _address(found[1])

    @property
    def _output(self) -> IO[str]:
        assert self.process.stdout is not None
        return self.process.stdout

    def _read_line(self) -> str:
        assert select.select([self._output], [], [], SECONDS)[0], "the server does not tell where it listens"
        return self._output.readline()

    def _collect(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                self.log.add(line)
        self.log.end()

    def client(self, prefetch: int = 100) -> ClientStorage:
        return ClientStorage(address=self.address, timeout=SECONDS, prefetch=prefetch)

    def wait_for_end(self) -> str:
        """Return the whole log of a server that was told to end."""
        self.process.wait(SECONDS)
        self._collector.join(SECONDS)
        return str(self.log)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the server in order."""
        self.process.send_signal(number)
        log = self.wait_for_end()
        assert self.process.returncode == 0, log

    def kill(self) -> None:
        """End the server at once, where it has not ended by itself."""
        if self.process.poll() is None:
            self.process.kill()
        self.wait_for_end()
        self._output.close()

    def memory(self) -> int:
        """Return the most bytes of memory that the process ever had."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found, status
        return 1024 * int(found[1])

    def __enter__(self) -> "ServerProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None and self.process.poll() is None:
                self.stop()
        finally:
            self.kill()


def _address(text: str) -> Address:
    found = re.fullmatch(r"\[?([^\[\]]+)\]?:(\d+)", text)
    return (found[1], int(found[2])) if found else text


class RawClient:
    """A connection to a server on which anything can be said."""

    def __init__(self, address: Address) -> None:
        connected = SocketAddress.new(address).get_connected_socket(SECONDS)
        assert connected is not None, f"no server listens on {address}"
        connected.settimeout(SECONDS)
        self.socket = connected

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self, size: int) -> bytes:
        """Return just so many bytes."""
        data = b""
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            assert piece, f"the server closed the connection behind {data!r}"
            data += piece
        return data

    def ask(self, request: bytes, size: int) -> bytes:
        """Return the answer to a request, which is of so many bytes."""
        self.send(request)
        return self.receive(size)

    def new_oids(self, number: int) -> list[bytes]:
        answer = self.ask(encode_request(NewOids(number)), 8 * number)
        return [answer[place : place + 8] for place in range(0, len(answer), 8)]

    def take_turn(self) -> None:
        """Ask for the turn to commit and get it; nothing may be invalid."""
        assert self.ask(b"C", 4) == NOTHING_INVALID

    def commit(self, *records: bytes) -> bytes:
        """Return the status of a commit of the records."""
        self.take_turn()
        return self.ask(commit_of(*records), 1)

    def is_closed(self) -> bool:
        """Read on to the end of the connection; a server that keeps it open fails the test."""
        try:
            while self.socket.recv(1 << 16):
                pass
        except ConnectionError:  # so it is told when there was something more to say
            pass
        return True

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Close the connection without a word, and with no trace of it in the operating system."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def __enter__(self) -> "RawClient":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def record(oid: bytes, data: bytes = b"data", *refs: bytes) -> bytes:
    return pack_record(oid, data, b"".join(sorted(refs)))


def commit_of(*records: bytes) -> bytes:
    """Return the data of a commit of the records, each under the oid in it."""
    return encode_commit((sound[:8], sound) for sound in records)


def durus(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end."""
    return subprocess.run(
        [*DURUS, *arguments],
        cwd=cwd,
        env={**os.environ, "HOME": str(cwd)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=2 * SECONDS,
        check=False,
    )


def assert_clean(path: Path) -> None:
    """See that `durus check` finds nothing wrong with a file."""
    result = durus("check", path.name, cwd=path.parent)
    assert result.returncode == 0, result.stdout + result.stderr
    assert ": clean: " in result.stdout


def run_all(threads: Iterable[threading.Thread], seconds: float = SECONDS) -> None:
    """Start the threads, and wait for the end of each."""
    started = list(threads)
    for thread in started:
        thread.start()
    join_all(started, seconds)


def join_all(threads: Iterable[threading.Thread], seconds: float = SECONDS) -> None:
    for thread in threads:
        thread.join(seconds)
        assert not thread.is_alive(), f"{thread.name} does not come to its end"

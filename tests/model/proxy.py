"""A proxy between clients and a server, which cuts connections in the middle of a message.

It also stalls, loses the answer to a message that it has passed on, and passes a message on when its client is gone.
"""

import contextlib
import random
import socket
import threading
from pathlib import Path


class Proxy:
    """Listens on a port of the loopback interface, and passes on to the Unix socket of a server."""

    def __init__(self, server: Path, seed: int) -> None:
        self._server = server
        self._chance = random.Random(seed)
        self._lock = threading.Lock()
        self._links: list[tuple[socket.socket, socket.socket]] = []
        self._threads: list[threading.Thread] = []
        self._is_closed = False
        self.passed_until_cut: int | None = None
        """How many more bytes may pass before the connection on which they pass is cut."""
        self.cuts = 0
        self.flows = threading.Event()
        """Set, unless nothing passes for now."""
        self.flows.set()
        self._to_lose: tuple[bytes, float] | None = None
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._start(self._accept)

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments)  # type: ignore[arg-type]  # it is one of the methods
        thread.start()
        self._threads.append(thread)

    def _accept(self) -> None:
        while True:
            try:
                client = self._listening.accept()[0]
            except OSError:  # close() ends it
                return
            server = socket.socket(socket.AF_UNIX)
            with self._lock:
                self._links.append((client, server))
                closing = self._is_closed
            try:
                server.connect(str(self._server))
            except OSError:
                closing = True
            if closing:
                self._cut(client, server)
                client.close()
                server.close()
            else:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._start(self._serve, client, server)

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        """Pass bytes both ways until one side ends."""
        back = threading.Thread(target=self._pump, args=(server, client, False))
        back.start()
        self._pump(client, server, True)
        back.join()
        with self._lock:
            self._links.remove((client, server))
        client.close()
        server.close()

    def _pump(self, source: socket.socket, target: socket.socket, is_of_client: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self.flows.wait()
                if is_of_client and (delay := self._delay_of_lost(data)) is not None:
                    self._cut(source)
                    threading.Event().wait(delay)
                    target.sendall(data)
                    break
                part = self._part_before_cut(len(data))
                target.sendall(data[:part])
                if part is not None:
                    break
        self._cut(source, target)

    def _part_before_cut(self, size: int) -> int | None:
        """Return how many of these bytes pass if the connection is to be cut here."""
        with self._lock:
            if self.passed_until_cut is None:
                return None
            self.passed_until_cut -= size
            if self.passed_until_cut > 0:
                return None
            part = size + self.passed_until_cut
            self.passed_until_cut = None
            self.cuts += 1
            return part

    def cut_soon(self) -> None:
        """Cut the connection on which one of the next 2,000 bytes passes, in either direction; chance chooses which."""
        with self._lock:
            self.passed_until_cut = self._chance.randrange(1, 2000)

    def lose_answer(self, having: bytes, delay: float = 0) -> None:
        """Cut the client off that sends the next message with these bytes, and pass it on after this many seconds."""
        with self._lock:
            self._to_lose = having, delay

    def _delay_of_lost(self, data: bytes) -> float | None:
        """Return how late a message passes whose answer is to be lost; None for all others."""
        with self._lock:
            if self._to_lose is None or self._to_lose[0] not in data:
                return None
            delay, self._to_lose = self._to_lose[1], None
            self.cuts += 1
            return delay

    def _cut(self, *ends: socket.socket) -> None:
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.flows.set()
        with self._lock:
            self._is_closed = True
        self._cut(self._listening)
        self._listening.close()
        with self._lock:
            links = list(self._links)
        for link in links:
            self._cut(*link)
        for thread in self._threads:
            thread.join()

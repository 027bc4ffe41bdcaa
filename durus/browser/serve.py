"""The web server: uvicorn on a port of loopback. Statements CMD-50 and CMD-51."""

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn

from durus.browser.app import make_app
from durus.browser.guard import new_token
from durus.browser.reader import Reader
from durus.browser.source import Source
from durus.error import AddressError

_HOST = "127.0.0.1"


def serve(opener: Callable[[], Source], port: int, announce: Callable[[str], None]) -> None:
    """Serve a database until a signal ends it; announce(address) is called when it can be asked.

    DurusError as raised by `opener`, which a thread calls, and AddressError if nobody can listen on the port.
    """
    with contextlib.closing(_listen(port)) as listening, contextlib.closing(Reader(opener)) as reader:
        port = listening.getsockname()[1]
        token = new_token()
        app = make_app(reader, token, [f"{_HOST}:{port}", f"localhost:{port}"])
        config = uvicorn.Config(app, lifespan="off", log_level="warning", access_log=False, server_header=False)
        server = _Server(config)
        with _ended_by_signals(server):
            announce(f"http://{_HOST}:{port}/{token}/")
            server.run(sockets=[listening])


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server((_HOST, port))
    except OSError as error:
        raise AddressError(f"{_HOST}:{port} can't be listened on: {os.strerror(error.errno or 0)}") from error


class _Server(uvicorn.Server):
    """A server that leaves signals to the command."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.contextmanager
def _ended_by_signals(server: uvicorn.Server) -> Iterator[None]:
    """Let SIGINT and SIGTERM end the server; a second one does not wait for requests."""

    def end(number: int, frame: object) -> None:
        server.force_exit = server.should_exit
        server.should_exit = True

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

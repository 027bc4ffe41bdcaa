"""The quick demo, step by step, with a server and clients in windows of their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from durus.connection import Connection
from tests.integration.terminal import CONTROL_D, Terminal


class Windows:
    """The terminal windows of somebody who tries out Durus."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = "0"
        self._opened: list[Terminal] = []

    def open(self, *arguments: str) -> Terminal:
        window = Terminal(*arguments, cwd=self.folder)
        self._opened.append(window)
        return window

    def server(self, *arguments: str) -> Terminal:
        """Start a server on a free port, which the clients use from then on."""
        window = self.open("-s", "--port", "0", *arguments)
        self.port = window.expect(r"listening on 127\.0\.0\.1:(\d+)")[1]
        return window

    def client(self, *arguments: str) -> Terminal:
        return self.open("-c", "--port", self.port, *arguments)

    def close(self) -> None:
        for window in self._opened:
            window.kill()


@pytest.fixture
def windows(tmp_path: Path) -> Iterator[Windows]:
    opened = Windows(tmp_path)
    yield opened
    opened.close()


def test_clients_share_what_they_commit(windows: Windows) -> None:
    server = windows.server()
    server.expect("temporary file")
    first = windows.client()
    first.ask("root", "<PersistentDict 0 with ")
    first.tell("root['x'] = 1")
    first.tell("connection.commit()")
    first.tell("root['x'] = 2")
    first.tell("connection.abort()")
    first.ask("root['x']", "1\n")

    second = windows.client()
    second.ask("root['x']", "1\n")
    first.tell("root['x'] = 3")
    first.tell("connection.commit()")
    second.ask("root['x']", "1\n")
    second.tell("connection.abort()")
    second.ask("root['x']", "3\n")

    first.tell("root['x'] = 4")
    second.tell("root['x'] = 5")
    first.tell("connection.commit()")
    second.ask(
        "connection.commit()", r"WriteConflictError: .*PersistentDict 0 \(changed \S+ s ago by \S+\); call abort"
    )
    second.tell("connection.abort()")
    second.ask("root['x']", "4\n")

    for client in (first, second):
        client.expect(">>> ")
        client.type(CONTROL_D)
        assert client.end() == 0
    server.interrupt()
    assert server.end() == 0


def test_a_temporary_file_is_gone_with_its_server(windows: Windows) -> None:
    server = windows.server()
    path = Path(server.expect(r"FileStorage\('(.*)'\)")[1])
    assert path.exists()
    stopped = windows.open("-s", "--stop", "--port", windows.port)
    stopped.expect("has ended")
    assert stopped.end() == 0
    assert server.end() == 0
    assert not path.parent.exists()


def test_a_file_outlives_its_server(windows: Windows) -> None:
    server = windows.server("--file", "test.durus")
    server.expect("serving test.durus")
    client = windows.client()
    client.tell("root['x'] = 'kept'")
    client.tell("connection.commit()")
    client.expect(">>> ")
    client.type(CONTROL_D)
    assert client.end() == 0
    assert windows.open("-s", "--stop", "--port", windows.port).end() == 0
    assert server.end() == 0

    server = windows.server("--file", "test.durus")
    client = windows.client()
    client.ask("root['x']", "'kept'\n")
    refused = windows.open("-c", "--file", "test.durus")
    refused.expect(r"durus: .*test\.durus: the file is in use by process \d+")
    assert refused.end() == 1
    assert windows.open("-s", "--stop", "--port", windows.port).end() == 0
    assert server.end() == 0
    client.ask("root['y'] = 1", "(?=>>> )")
    client.ask("connection.commit()", "DisconnectedError: .*lost")

    alone = windows.open("-c", "--file", "test.durus")
    alone.ask("root['x']", "'kept'\n")
    alone.tell("root['x'] = 'changed without a server'")
    alone.tell("connection.commit()")
    alone.expect(">>> ")
    alone.type(CONTROL_D)
    assert alone.end() == 0
    with Connection(windows.folder / "test.durus") as connection:
        assert connection.get_root()["x"] == "changed without a server"


def test_a_client_waits_for_a_server_that_is_about_to_start(windows: Windows, short_path: Path) -> None:
    path = str(short_path / "socket")
    client = windows.open("-c", "--address", path)
    client.expect(f"waiting for a server on {path}")
    server = windows.open("-s", "--address", path)
    server.expect(f"listening on {path}")
    client.ask("root", "<PersistentDict 0 with ")
    server.interrupt()
    assert server.end() == 0
    assert not Path(path).exists()


@pytest.mark.parametrize("command", ["-s", "-c"])
def test_help_tells_of_the_options(windows: Windows, command: str) -> None:
    window = windows.open(command, "--help")
    assert window.end() == 0
    for option in ("--file", "--host", "--port", "--address", "--storage-class", "--repair", "--readonly"):
        assert option in window.shown

"""`durus -s` as service files and people start it: addresses, logs, packing, and what it refuses."""

import os
import random
import re
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from durus.cli import console
from durus.cli.main import main
from durus.client_storage import ClientStorage
from durus.connection import Connection
from durus.error import DisconnectedError, ProtocolError, ReadonlyError
from durus.file_storage import FileStorage
from durus.persistent_list import PersistentList
from durus.storage_server import StorageServer
from tests.integration.serving import SECONDS, Server, serving


def durus(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "durus", *arguments],
        cwd=cwd,
        env={**os.environ, "HOME": str(cwd)},
        input="",
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def is_one_message(result: "subprocess.CompletedProcess[str]", *words: str) -> bool:
    """Return whether a command has failed with one line that has these words in it."""
    lines = result.stderr.splitlines()
    return (
        result.returncode == 1
        and len(lines) == 1
        and lines[0].startswith("durus: ")
        and all(word in lines[0] for word in words)
    )


def is_a_wrong_call(result: "subprocess.CompletedProcess[str]", *words: str) -> bool:
    """Return whether a command has refused its options, with the usage and one line that has these words in it."""
    lines = result.stderr.splitlines()
    return (
        result.returncode == 2
        and lines[0].startswith("usage: durus ")
        and all(word in lines[-1] for word in words)
        and "Traceback" not in result.stderr
    )


def visit(address: str | tuple[str, int]) -> None:
    with Connection(ClientStorage(address=address)) as connection:
        connection.get_root()["x"] = 1
        connection.commit()


# Addresses


def test_a_unix_socket_with_its_owner_group_and_umask(short_path: Path) -> None:
    path = short_path / "socket"
    rights = ("--owner", str(os.getuid()), "--group", str(os.getgid()), "--umask", "0077")
    # With a file of its own: nobody would remove the temporary one of a server that is killed.
    server = Server("--address", "socket", "--file", "f", *rights, folder=short_path)
    assert f"listening on {path}," in server.said
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    visit(str(path))
    server.log.expect(f"client process {os.getpid()} of user {os.getuid()} connected")

    second = durus("-s", "--address", "socket", cwd=short_path)
    assert is_one_message(second, "another server listens on it")
    visit(str(path))

    server.process.kill()
    server.wait()
    assert path.exists()
    server = Server("--address", "socket", folder=short_path)
    visit(str(path))
    assert server.end() == 0
    assert not path.exists()


def test_an_abstract_socket(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("abstract sockets are of Linux")
    name = f"@durus-test-{os.getpid()}"
    server = Server("--address", name, folder=tmp_path)
    assert f"listening on {name}," in server.said
    visit(name)
    assert durus("-s", "--stop", "--address", name, cwd=tmp_path).returncode == 0
    assert server.wait() == 0


def test_ipv6(tmp_path: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"this machine has no IPv6: {error}")
    with serving("--host", "::1", folder=tmp_path) as server:
        assert "listening on [::1]:" in server.said
        visit(("::1", server.port))


def test_sockets_that_a_service_manager_has_opened(tmp_path: Path) -> None:
    manager = (
        "-c",
        "import os, sys\n"
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'durus', *sys.argv[1:]])\n",
    )
    with socket.create_server(("127.0.0.1", 0)) as listening:
        number = listening.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, *manager, "-s", "--file", "f"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: os.dup2(listening.fileno(), 3, inheritable=True) and None,
            close_fds=False,
        )
        assert process.stdout is not None
        assert b"service manager" in process.stdout.readline()
        visit(("127.0.0.1", number))
        process.terminate()
        assert process.wait(SECONDS) == 0
        process.stdout.close()


# Logs and packing


def test_sighup_opens_the_log_anew(tmp_path: Path) -> None:
    with serving("--file", "f", "--logfile", "log", "--logginglevel", "10", folder=tmp_path) as server:
        visit(("127.0.0.1", server.port))
        (tmp_path / "log").rename(tmp_path / "old")
        server.process.send_signal(signal.SIGHUP)
        while not (tmp_path / "log").exists():
            visit(("127.0.0.1", server.port))
        visit(("127.0.0.1", server.port))
    assert "listening on" in (tmp_path / "old").read_text()
    assert "committed 1 objects" in (tmp_path / "log").read_text()
    assert "stopped" in (tmp_path / "log").read_text()


@pytest.mark.spec("CMD-72")
def test_sighup_before_clients_are_served_ends_nothing(tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary)}
    server = Server("--port", "0", "--logfile", "log", folder=tmp_path, environment=environment)
    for _ in range(50):  # the first ones before its loop runs
        server.process.send_signal(signal.SIGHUP)
    visit(("127.0.0.1", server.port))
    assert server.end() == 0
    assert not list(temporary.iterdir())


@pytest.mark.spec("CMD-72")
def test_sighup_before_clients_are_served_counts_when_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, old = tmp_path / "log", tmp_path / "old"
    listen = StorageServer.listen

    def move_log(self: StorageServer, listening: list[socket.socket] | None = None) -> None:
        listen(self, listening)
        if not old.exists():  # serve() calls it again
            log.rename(old)
            os.kill(os.getpid(), signal.SIGHUP)
            self.stop()

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    monkeypatch.setattr(StorageServer, "listen", move_log)
    try:
        assert main(["serve", str(tmp_path / "f"), "--port", "0", "--logfile", str(log)]) == 0
        os.kill(os.getpid(), signal.SIGHUP)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert "stopped" in log.read_text()


@pytest.mark.spec("WIRE-12", "TXN-25")
@pytest.mark.parametrize("arguments", [("--gcbytes", "10000"), ("--gcinterval", "0.2"), ()])
def test_a_server_packs_by_itself_or_when_it_is_asked(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    with serving("--file", "f", *arguments, folder=tmp_path) as server:
        connection = server.connect()
        connection.get_root()["much"] = PersistentList(PersistentList() for _ in range(1000))
        connection.commit()
        connection.get_root()["much"] = None
        connection.commit()
        if not arguments:
            result = durus("-p", "--port", str(server.port), cwd=tmp_path)
            assert (result.returncode, result.stderr) == (0, "")
            assert "has begun to pack" in result.stdout
        for n in range(10_000):
            if (tmp_path / "f").stat().st_size < 50_000:
                break
            connection.get_root()["n"] = str(random.Random(n).randbytes(500))
            connection.commit()
        server.log.expect(" packed ")
        assert (tmp_path / "f").stat().st_size < 50_000
        assert connection.get_root()["much"] is None
        connection.close()


def test_a_server_does_not_pack_when_nothing_was_committed(tmp_path: Path) -> None:
    with serving("--file", "f", "--gcinterval", "0.02", "--logginglevel", "10", folder=tmp_path) as server:
        visit(("127.0.0.1", server.port))
        server.log.expect(" packed ")
        for _ in range(500):
            ClientStorage(port=server.port).close()
    assert server.log.text.count(" packing") <= server.log.text.count(" committed ")


def test_a_readonly_server_serves_and_refuses_commits(tmp_path: Path) -> None:
    with Connection(tmp_path / "f") as connection:
        connection.get_root()["x"] = 1
        connection.commit()
    with serving("--file", "f", "--readonly", folder=tmp_path) as server:
        client = server.connect()
        assert client.get_root()["x"] == 1
        client.get_root()["x"] = 2
        with pytest.raises(ReadonlyError, match="readonly=True"):
            client.commit()
        client.close()
        old = Connection(ClientStorage(port=server.port, protocol=1))
        old.get_root()["x"] = 2
        with pytest.raises(DisconnectedError):
            old.commit()
        server.log.expect("disconnected: .*readonly=True")
        with server.connect() as again:
            assert again.get_root()["x"] == 1


# What is refused


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = str(listening.getsockname()[1])
        assert is_one_message(durus("-s", "--port", port, "--logginglevel", "40", cwd=tmp_path), "already in use", port)


@pytest.mark.parametrize("arguments", [("-s", "--stop"), ("-p",)])
def test_a_server_that_is_not_there(short_path: Path, arguments: tuple[str, ...]) -> None:
    result = durus(*arguments, "--address", str(short_path / "none"), cwd=short_path)
    assert is_one_message(result, "no server listens on", str(short_path / "none"))


def test_a_console_does_not_wait_for_ever(
    short_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "_TRIES", 2)
    monkeypatch.setenv("HOME", str(short_path))
    assert main(["-c", "--address", str(short_path / "none")]) == 1
    waiting, failed = capsys.readouterr().err.splitlines()
    assert waiting.startswith("durus: waiting for a server on ")
    assert failed.startswith("durus: ")


@pytest.mark.parametrize("command", [("-s",), ("-c",), ("-p",), ("-s", "--stop")])
def test_addresses_that_are_none(tmp_path: Path, command: tuple[str, ...]) -> None:
    assert is_one_message(durus(*command, "--address", "x" * 200, cwd=tmp_path), "too long")
    assert is_a_wrong_call(durus(*command, "--port", "70000", cwd=tmp_path), "'70000' is not a number from 0 to 65535")


def test_options_that_do_not_go_together(tmp_path: Path) -> None:
    for wrong in (("-s", "--umask", "077", "--port", "0"), ("-c", "--readonly")):
        assert durus(*wrong, cwd=tmp_path).returncode == 2
    assert is_a_wrong_call(durus("-s", "--readonly", "--port", "0", cwd=tmp_path), "needs the name of a file")
    assert is_one_message(durus("-s", "--logfile", "no/such/folder/log", "--port", "0", cwd=tmp_path), "log file")
    assert durus("-s", "--umask", "rw", cwd=tmp_path).returncode == 2
    assert is_a_wrong_call(durus("-s", "--port", "0", "--gcinterval", "-1", cwd=tmp_path), "'-1' is not")
    for name in ("durus.storage.MemoryStorage", "durus.client_storage.ClientStorage"):
        assert is_a_wrong_call(durus("-s", "--port", "0", "--storage-class", name, cwd=tmp_path), name)


@pytest.fixture
def fake_server() -> Iterator["FakeServer"]:
    server = FakeServer()
    yield server
    server.close()


class FakeServer:
    """Answers each connection with these bytes, one piece for each request, and then closes it."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connected, _ = self._listening.accept()
            with connected:
                for answer in self.answers:
                    if connected.recv(1 << 16) == b"end":
                        return
                    connected.sendall(answer)

    def close(self) -> None:
        self.answers = [b""]
        with socket.create_connection(("127.0.0.1", self.port)) as connected:
            connected.sendall(b"end")
            self._thread.join(SECONDS)
        self._listening.close()


VERSION = struct.pack(">I", 1)


@pytest.mark.spec("WIRE-4", "WIRE-25")
@pytest.mark.parametrize(
    ("answers", "word", "error"),
    [
        ([struct.pack(">I", 7)], "version 7", ProtocolError),
        ([VERSION, b"O\0\0"], "was lost", DisconnectedError),
        ([VERSION, b"?"], "is not an answer", ProtocolError),
    ],
    ids=["version", "gone in mid-answer", "nonsense"],
)
def test_servers_that_are_none(
    tmp_path: Path, fake_server: FakeServer, answers: list[bytes], word: str, error: type[Exception]
) -> None:
    fake_server.answers = answers
    assert is_one_message(durus("-c", "--port", str(fake_server.port), cwd=tmp_path), word)
    with pytest.raises(error):
        Connection(ClientStorage(port=fake_server.port))


def test_a_server_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, pytest.raises(DisconnectedError, match="in time"):
        ClientStorage(port=listening.getsockname()[1], timeout=0.05)


# In a program of its own


def test_a_server_in_a_thread(tmp_path: Path) -> None:
    server = StorageServer(FileStorage(tmp_path / "f"), port=0)
    server.listen()
    thread = threading.Thread(target=server.serve)
    thread.start()
    visit(("127.0.0.1", server.address.port))  # type: ignore[attr-defined]  # it is a HostPortAddress
    server.stop()
    thread.join(SECONDS)
    assert not thread.is_alive()
    server.stop()
    with Connection(tmp_path / "f") as connection:
        assert connection.get_root()["x"] == 1


@pytest.mark.spec("CMD-28")
def test_each_limit_has_an_option(tmp_path: Path) -> None:
    given = {"clients": 11, "clients_by_peer": 9, "rate": 10**6, "unused_oids": 1000, "commit": 5000, "memory": 6000}
    options = [f"--max-{name.replace('_', '-')}={number}" for name, number in given.items()]
    with serving("--file", "f", *options, folder=tmp_path) as server:
        client = ClientStorage(port=server.port)
        assert client.server_status()["limits"] == given
        client.close()


# The event loop

A_UVLOOP = """
import asyncio

__version__ = "0.0"
new_event_loop = asyncio.SelectorEventLoop
"""


def served_on(folder: Path, environment: dict[str, str]) -> str:
    """Run a server with these variables, use it, end it, and return its log."""
    server = Server(
        "f", "--port", "0", "--logginglevel", "10", folder=folder, environment={**os.environ, **environment}
    )
    connection = server.connect()
    connection.get_root()["n"] = 1
    connection.commit()
    connection.get_storage().pack()
    server.log.expect("packed in")
    connection.close()
    assert server.end() == 0, server.log.text
    return server.log.text


@pytest.mark.spec("CMD-29")
def test_the_loop_of_uvloop_is_used_where_it_is_installed(tmp_path: Path) -> None:
    (tmp_path / "uvloop.py").write_text(A_UVLOOP)
    assert "the event loop is that of uvloop 0.0" in served_on(tmp_path, {"PYTHONPATH": str(tmp_path)})
    (tmp_path / "uvloop.py").write_text("raise ImportError")
    assert "uvloop" not in served_on(tmp_path, {"PYTHONPATH": str(tmp_path)})


@pytest.mark.spec("CMD-29", "WIRE-24")
@pytest.mark.skipif(not find_spec("uvloop"), reason="uvloop is not installed")
def test_a_server_on_uvloop_serves_and_ends_in_order(tmp_path: Path) -> None:
    log = served_on(tmp_path, {})
    assert re.search(r"the event loop is that of uvloop \d", log)
    assert "stopped" in log.splitlines()[-1]
    with Connection(FileStorage(tmp_path / "f")) as connection:
        assert connection.get_root()["n"] == 1

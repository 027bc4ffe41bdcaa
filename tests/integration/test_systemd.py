"""A server under systemd: what it tells the service manager, and the units in examples/."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from durus.client_storage import ClientStorage
from durus.connection import Connection
from durus.error import DurusError
from durus.serving.service_manager import ServiceManager
from tests.integration.serving import SECONDS, Server

UNITS = Path(__file__).resolve().parent.parent.parent / "examples" / "systemd"
MAX_EXPOSURE = 1.0
"""Of 10, as `systemd-analyze security` counts what a service may do."""

needs_analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


class Manager:
    """A service manager that receives datagrams."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + name[1:] if name.startswith("@") else name)
        self._socket.settimeout(SECONDS)

    def receive(self) -> dict[str, str]:
        lines = self._socket.recv(4096).decode().split("\n")
        return dict(line.split("=", 1) for line in lines)

    def wait_for(self, key: str) -> dict[str, str]:
        while key not in (found := self.receive()):
            pass
        return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest) -> Iterator[Manager]:
    if request.param == "abstract" and sys.platform != "linux":
        pytest.skip("only Linux has abstract sockets")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        name = f"{folder}/notify" if request.param == "path" else f"@durus-{folder.rpartition('/')[2]}"
        with closing(Manager(name)) as manager:
            yield manager


@pytest.mark.spec("CMD-26")
@pytest.mark.parametrize("how", ["SIGTERM", "Q"])
def test_the_service_manager_is_told(tmp_path: Path, manager: Manager, how: str) -> None:
    environment = {**os.environ, "NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "50000"}
    environment.pop("WATCHDOG_PID", None)
    server = Server("--port", "0", "--file", "f", folder=tmp_path, environment=environment)
    ready = manager.wait_for("READY")
    assert ready["READY"] == "1"
    assert ready["STATUS"] == "serving FileStorage('f'): 0 clients, 0 commits since the start"
    with Connection(ClientStorage(port=server.port)) as connection:
        connection.get_root()
        for _ in range(3):
            assert manager.wait_for("WATCHDOG") == {"WATCHDOG": "1"}
    if how == "Q":
        ClientStorage(port=server.port).stop_server()
        assert server.wait() == 0
    else:
        assert server.end(signal.SIGTERM) == 0
    assert manager.wait_for("STOPPING") == {"STOPPING": "1", "STATUS": "stopping"}


@pytest.mark.spec("CMD-26")
def test_a_service_manager_that_has_gone_or_hangs_does_not_stop_the_server(
    manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    told = ServiceManager({"NOTIFY_SOCKET": manager.name})
    for _ in range(5000):  # more than the buffer of the socket has room for
        told.tell_status("x" * 100)
    manager.close()
    told.tell_ready("x")
    assert "the service manager on" in caplog.text
    assert "is not told 'READY=1'" in caplog.text


@pytest.mark.spec("CMD-26")
def test_a_status_is_one_line(manager: Manager) -> None:
    ServiceManager({"NOTIFY_SOCKET": manager.name}).tell_ready("a\nSTOPPING=1\x1b")
    assert manager.receive() == {"READY": "1", "STATUS": r"a\nSTOPPING=1\x1b"}


@pytest.mark.spec("CMD-26")
def test_signs_of_life_are_for_the_process_that_is_meant() -> None:
    named = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "3000000"}
    assert ServiceManager(named).watchdog_seconds == 3
    assert ServiceManager({**named, "WATCHDOG_PID": str(os.getpid())}).watchdog_seconds == 3
    assert ServiceManager({**named, "WATCHDOG_PID": "1"}).watchdog_seconds is None
    assert ServiceManager({"WATCHDOG_USEC": "3000000"}).watchdog_seconds is None
    assert ServiceManager({}).watchdog_seconds is None


@pytest.mark.spec("CMD-26")
@pytest.mark.parametrize("text", ["soon", "0", "-1", "9" * 5000, "\u0663"])
def test_a_wrong_time_is_an_error(text: str) -> None:
    with pytest.raises(DurusError, match="expected a number of microseconds above 0"):
        ServiceManager({"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": text})


@pytest.mark.spec("CMD-26")
def test_a_wrong_socket_is_an_error() -> None:
    with pytest.raises(DurusError, match="expected a path from the root, or @name"):
        ServiceManager({"NOTIFY_SOCKET": "vsock:2:1"})


# The units


@pytest.fixture
def units(tmp_path: Path) -> list[str]:
    """Copies of the units, which name a program that is there."""
    program = tmp_path / "durus"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    found = []
    for unit in UNITS.iterdir():
        text = unit.read_text(encoding="utf-8").replace("/opt/durus/bin/durus", str(program))
        (tmp_path / unit.name).write_text(text, encoding="utf-8")
        found.append(str(tmp_path / unit.name))
    assert sorted(os.path.basename(each) for each in found) == ["durus.service", "durus.socket"]
    return found


needs_activate = pytest.mark.skipif(
    shutil.which("systemd-socket-activate") is None, reason="systemd-socket-activate is not installed"
)


@needs_activate
@pytest.mark.spec("CMD-26")
def test_the_command_of_the_service_takes_the_socket_and_tells_the_manager(short_path: Path) -> None:
    """The program of systemd that tries out socket units opens the socket, and starts the command of the unit."""
    unit = (UNITS / "durus.service").read_text(encoding="utf-8")
    (command,) = re.findall(r"^ExecStart=/opt/durus/bin/durus (.*)$", unit, re.MULTILINE)
    assert re.search(r"^WatchdogSec=\d+$", unit, re.MULTILINE)
    assert re.search(r"^ExecReload=kill -HUP \$MAINPID$", unit, re.MULTILINE)
    file, where = str(short_path / "data.durus"), short_path / "durus.socket"
    run = [sys.executable, "-m", "durus", *command.replace("/var/lib/durus/data.durus", file).split()]
    with closing(Manager(str(short_path / "notify"))) as manager:
        environment = {"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "50000"}
        options = [option for name, value in environment.items() for option in ("-E", f"{name}={value}")]
        activated = subprocess.Popen(
            ["systemd-socket-activate", "-l", str(where), *options, *run], stderr=subprocess.PIPE, text=True
        )
        assert activated.stderr is not None
        assert "Listening on" in activated.stderr.readline()
        assert not os.path.exists(file), "nothing is started before the first client"
        with Connection(ClientStorage(address=str(where))) as connection:  # waits while the server starts
            assert manager.wait_for("READY")["STATUS"].startswith("serving FileStorage(")
            assert manager.wait_for("WATCHDOG") == {"WATCHDOG": "1"}
            connection.get_root()["x"] = 1
            connection.commit()
            activated.send_signal(signal.SIGHUP)
            connection.get_root()["x"] = 2
            connection.commit()
        activated.send_signal(signal.SIGTERM)
        assert activated.wait(SECONDS) == 0
        assert manager.wait_for("STOPPING") == {"STOPPING": "1", "STATUS": "stopping"}
        assert "Traceback" not in activated.stderr.read()
        activated.stderr.close()
    with Connection(file) as stored:
        assert stored.get_root()["x"] == 2


def analyze(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=SECONDS, check=False)


@needs_analyze
def test_systemd_finds_nothing_wrong_with_the_units(units: list[str]) -> None:
    verified = analyze("verify", "--man=no", *units)
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")


@needs_analyze
def test_the_service_may_do_little(units: list[str]) -> None:
    (service,) = (unit for unit in units if unit.endswith(".service"))
    judged = analyze("security", "--offline=true", f"--threshold={10 * MAX_EXPOSURE:.0f}", "--no-pager", service)
    if "unrecognized option" in judged.stderr:
        pytest.skip("this systemd-analyze can't judge a unit that is not loaded")
    assert judged.returncode == 0, judged.stdout + judged.stderr

"""`durus pack`: how far it is, and waiting for a server."""

import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from durus.connection import Connection
from durus.persistent_list import PersistentList
from tests.integration.serving import SECONDS, serving
from tests.integration.terminal import without


def shown_in_a_terminal(folder: Path, term: str, python: tuple[str, ...]) -> tuple[str, str]:
    """Pack a file; return what stdout gets, and what the terminal on stderr shows."""
    Connection(folder / "f").close()
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, *python, "pack", "f"],
        cwd=folder,
        env={**os.environ, "TERM": term},
        stdout=subprocess.PIPE,
        stderr=follower,
        text=True,
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            piece = os.read(leader, 4096)
        except OSError:  # what Linux says when the other side of a terminal is gone
            break
        if not piece:
            break
        shown += piece
    os.close(leader)
    told = process.communicate(timeout=SECONDS)[0]
    assert process.returncode == 0
    return told, shown.decode()


@pytest.mark.spec("CMD-21")
def test_a_terminal_without_rich_shows_one_line_that_is_written_over(tmp_path: Path) -> None:
    told, shown = shown_in_a_terminal(tmp_path, "xterm", without("rich"))
    assert "bytes packed into" in told
    assert "copy: 1 of 1" in shown
    assert shown.endswith("\r\x1b[K")
    assert "\n" not in shown


@pytest.mark.spec("CMD-21")
def test_a_terminal_with_rich_shows_a_bar(tmp_path: Path) -> None:
    pytest.importorskip("rich")
    told, shown = shown_in_a_terminal(tmp_path, "xterm", ("-m", "durus"))
    assert "bytes packed into" in told
    assert "copy" in shown
    assert "━" in shown
    assert "\x1b[2K" in shown


@pytest.mark.spec("CMD-21")
def test_a_dumb_terminal_shows_no_control_characters(tmp_path: Path) -> None:
    assert shown_in_a_terminal(tmp_path, "dumb", ("-m", "durus"))[1] == ""


@pytest.mark.spec("CMD-20")
def test_waiting_for_a_server_returns_when_it_has_packed(tmp_path: Path) -> None:
    with serving("--file", "f", folder=tmp_path) as server:
        with server.connect() as connection:
            connection.get_root()["much"] = PersistentList(PersistentList("x" * 100) for _ in range(2000))
            connection.commit()
            connection.get_root()["much"] = None
            connection.commit()
        stop = threading.Event()

        def work() -> None:
            with server.connect() as connection:
                while not stop.is_set():
                    connection.get_root()["n"] = connection.get_root().get("n", 0) + 1
                    connection.commit()

        worker = threading.Thread(target=work)
        worker.start()
        try:
            command = [sys.executable, "-m", "durus", "pack", "--wait", "--port", str(server.port)]
            result = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
            size = (tmp_path / "f").stat().st_size
            is_replaced = (tmp_path / "f.prepack").exists()
        finally:
            stop.set()
            worker.join()
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.startswith(f"durus: the server on 127.0.0.1:{server.port} has packed, in ")
        assert is_replaced
        assert size < (tmp_path / "f.prepack").stat().st_size
        server.log.expect("packed in")


@pytest.mark.spec("CMD-20")
def test_a_server_that_can_not_pack_ends_the_waiting(tmp_path: Path) -> None:
    Connection(tmp_path / "f").close()
    with serving("--file", "f", "--readonly", folder=tmp_path) as server:
        command = [sys.executable, "-m", "durus", "pack", "--wait", "--port", str(server.port)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("durus: ")
    assert result.stderr.count("\n") == 1

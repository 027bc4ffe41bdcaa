"""A child of a server's process: what it does when it ends, or gets a signal, is nothing to the server."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from durus.client_storage import ClientStorage
from durus.connection import Connection
from durus.error import WrongProcessError
from durus.storage import MemoryStorage
from durus.storage_server import StorageServer

if not hasattr(os, "fork"):
    pytest.skip("this system has no fork", allow_module_level=True)


def in_child(work: Callable[[], None]) -> int:
    """Run a function in a child that ends as Python ends; return its exit status."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            sys.stdout.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.spec("WIRE-42")
def test_a_child_removes_no_socket_and_can_not_serve(short_path: Path) -> None:
    server = StorageServer(MemoryStorage(), address=str(short_path / "socket"))
    server.listen()

    def misuse() -> None:
        with pytest.raises(WrongProcessError, match="after the fork"):
            server.serve()
        for listening in server._listening:
            server.address.close(listening)

    assert in_child(misuse) == 0
    assert (short_path / "socket").is_socket()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(short_path / "socket"))
    server.stop()
    server.serve()
    assert not (short_path / "socket").exists()


FORKING = """
import os, sys, threading
from durus.storage import MemoryStorage
from durus.storage_server import StorageServer

server = StorageServer(MemoryStorage(), address="socket")
server.listen()
print("listening", flush=True)

def fork() -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os.close(0)
            print(os.getpid(), flush=True)  # from here, since its signals are the parent's until the fork is over
            threading.Event().wait()  # until a signal ends it

threading.Thread(target=fork, daemon=True).start()
server.serve()
"""


@pytest.mark.spec("WIRE-42")
def test_a_signal_for_a_child_ends_the_child_and_a_child_holds_no_client(short_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", FORKING],
        cwd=short_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        connection = Connection(ClientStorage(address=str(short_path / "socket")))
        children = []
        for _ in range(2):
            process.stdin.write("\n")
            process.stdin.flush()
            children.append(int(process.stdout.readline()))
        os.kill(children[0], signal.SIGTERM)
        connection.get_root()["n"] = 1
        connection.commit()
        while os.path.exists(f"/proc/{children[0]}") and "Z" not in state_of(children[0]):
            pass
        connection.get_root()["n"] = 2
        connection.commit()
        with socket.socket(socket.AF_UNIX) as dropped:
            dropped.settimeout(60)
            dropped.connect(str(short_path / "socket"))
            dropped.sendall(b"V" + bytes([0, 0, 0, 1]))
            assert dropped.recv(4) == bytes([0, 0, 0, 1])
            process.stdin.write("\n")
            process.stdin.flush()
            children.append(int(process.stdout.readline()))
            dropped.sendall(b"x")
            assert dropped.recv(1) == b""
        connection.close()
        process.terminate()
        assert process.wait(60) == 0
        assert not (short_path / "socket").exists()
        for child in children[1:]:
            os.kill(child, signal.SIGKILL)


def state_of(process: int) -> str:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"

"""`durus serve` and the users of the machine: who may connect, and who may stop it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from durus.client_storage import ClientStorage
from durus.connection import Connection
from durus.error import NotAllowedError
from durus.sharing.protocol import Quit, encode_request
from tests.integration.serving import SECONDS, Server, is_closed, serving
from tests.short_paths import short_folder

OTHER, GROUP = 54321, 65432
_AS_ANOTHER_USER = """
import os, sys
from durus.client_storage import ClientStorage
from durus.connection import Connection
from durus.error import DurusError
from durus.persistent_dict import PersistentDict
address, user, group, protocol, what = sys.argv[1:]
os.setgroups([int(group)] if group else [])
os.setgid(OTHER); os.setuid(int(user))
try:
    client = ClientStorage(address=address, protocol=int(protocol))
    if what == "stop":
        client.stop_server()
    elif what == "pack":
        client.pack()
    else:
        connection = Connection(client)
        if what == "commit":
            connection.get_root()["x"] = 2
            connection.commit()
    print("done")
except DurusError as error:
    print(type(error).__name__)
""".replace("OTHER", str(OTHER))

needs_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can be another user")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users can enter, as they can't enter those of pytest, and perhaps not TMPDIR."""
    with short_folder(for_other_users=True) as path:
        path.chmod(0o755)
        yield path


def as_user(folder: Path, what: str, group: int | str = "", protocol: int = 2, user: int = OTHER) -> str:
    """Return what becomes of a request of another user: `done`, or the name of the error."""
    arguments = [str(folder / "socket"), str(user), str(group), str(protocol), what]
    # Coverage measures what this program starts, and could not save it as the other user.
    unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    ended = subprocess.run(
        [sys.executable, "-c", _AS_ANOTHER_USER, *arguments],
        env=unmeasured,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert not ended.stderr, ended.stderr
    return ended.stdout.strip()


def open_server(*arguments: str, folder: Path) -> Server:
    """Return a server on a Unix socket to which all users can connect, with a root object."""
    server = Server("--file", "f", "--address", "socket", "--umask", "0", *arguments, folder=folder)
    with Connection(ClientStorage(address=str(folder / "socket"))) as connection:
        connection.get_root()["x"] = 1
        connection.commit()
    return server


@needs_root
@pytest.mark.spec("WIRE-52", "WIRE-51")
def test_another_user_may_commit_and_not_stop(folder: Path) -> None:
    server = open_server(folder=folder)
    assert as_user(folder, "commit") == "done"
    for what in ("pack", "stop"):
        assert as_user(folder, what) == "NotAllowedError"
    server.log.expect(f"WARNING client process [0-9]+ of user {OTHER} is refused: this client may not stop the server")
    as_user(folder, "stop", protocol=1)
    server.log.expect(f"WARNING client process [0-9]+ of user {OTHER} is disconnected: this client may not stop")
    assert as_user(folder, "commit") == "done"
    ClientStorage(address=str(folder / "socket")).stop_server()
    assert server.wait() == 0


@needs_root
@pytest.mark.spec("WIRE-52")
def test_anyone_may_stop_a_server_that_is_told_so(folder: Path) -> None:
    server = open_server("--may-stop", "anyone", folder=folder)
    assert as_user(folder, "pack") == "done"
    assert as_user(folder, "stop") == "done"
    assert server.wait() == 0


@needs_root
@pytest.mark.spec("WIRE-53")
def test_users_and_groups_that_are_not_named_are_refused(folder: Path) -> None:
    server = open_server("--allow-uid", f"{OTHER}:read", "--allow-gid", f"{GROUP}:admin", folder=folder)
    assert as_user(folder, "load") == "done"
    assert as_user(folder, "commit") == "NotAllowedError"
    assert as_user(folder, "load", user=OTHER + 1) != "done"
    server.log.expect(f"WARNING client process [0-9]+ of user {OTHER + 1} is refused: the options --allow-uid and")
    assert as_user(folder, "commit", GROUP, user=OTHER + 1) == "done"
    assert as_user(folder, "stop", GROUP) == "done"
    assert server.wait() == 0


@pytest.mark.spec("WIRE-52")
def test_a_client_on_loopback_may_be_kept_from_stopping(tmp_path: Path) -> None:
    with serving("--may-stop", "user", folder=tmp_path) as server:
        client = ClientStorage(port=server.port)
        with pytest.raises(NotAllowedError, match="may not stop the server"):
            client.stop_server()
        client.close()
        connected = server.open_socket()
        connected.sendall(encode_request(Quit()))
        assert is_closed(connected)
        connected.close()
        server.log.expect("is disconnected: this client may not stop the server")
        stop = [sys.executable, "-m", "durus", "serve", "--stop", "--port", str(server.port)]
        ended = subprocess.run(stop, capture_output=True, text=True, timeout=SECONDS)
        assert ended.returncode == 1
        assert ended.stderr.startswith("durus: this client may not stop the server")
        with server.connect() as connection:
            connection.get_root()["x"] = 1
            connection.commit()
    with serving(folder=tmp_path) as server:
        ClientStorage(port=server.port).stop_server()
        assert server.wait() == 0


@pytest.mark.spec("WIRE-53")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--allow-uid", "1"], "are for a Unix socket"),
        (["--allow-uid", "nobody of this name", "--address", "s"], "there is no 'nobody of this name'"),
        (["--allow-gid", "1:rule", "--address", "s"], "'rule' is not a role; the roles are read, write, admin"),
    ],
)
def test_a_wrong_call_is_told(arguments: list[str], words: str, tmp_path: Path) -> None:
    run = [sys.executable, "-m", "durus", "serve", *arguments]
    ended = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS)
    assert ended.returncode == 2
    assert words in ended.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.spec("WIRE-54")
def test_a_folder_that_all_can_write_to_is_warned_of(short_path: Path) -> None:
    folder = short_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    server = Server("--address", "socket", folder=folder)
    server.log.expect("WARNING .*/socket: every user can write to the folder")
    assert server.end() == 0

"""Replicas of a file that another process writes and packs, with processes that are killed at any moment."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from durus.client_storage import ClientStorage
from durus.connection import Connection
from durus.error import ReadonlyError
from durus.file_storage import FileStorage
from tests.certificates import make_certificates
from tests.integration.serving import SECONDS, Server
from tests.integration.test_backup_beside_a_writer import WRITER, number_in

KILLS = int(os.environ.get("DURUS_FOLLOW_KILLS", "5"))
COMMITS = int(os.environ.get("DURUS_BACKUP_COMMITS", "300"))


def command(*arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "durus", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def ending(process: "subprocess.Popen[str]") -> Iterator["subprocess.Popen[str]"]:
    with process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def writing(path: Path, commits: int) -> Iterator["subprocess.Popen[str]"]:
    """A process that commits and packs; its first commit is done."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(commits)], stdout=subprocess.PIPE, text=True
    )
    with ending(process):
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        yield process


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def put(path: Path, number: int) -> None:
    with closing(FileStorage(path)) as storage:
        connection = Connection(storage)
        connection.get_root()["number"] = number
        connection.commit()


@pytest.mark.spec("REPL-1", "REPL-14", "REPL-17")
@pytest.mark.filterwarnings("ignore:.*are not a complete transaction")  # a round that was killed in the middle
def test_a_replica_whose_process_is_killed_again_and_again_is_a_state_of_the_source(tmp_path: Path) -> None:
    path, copy = tmp_path / "f.durus", tmp_path / "copy.durus"
    chance = random.Random(1)
    number = held = 0
    with closing(FileStorage(path)) as storage:
        connection = Connection(storage)
        root: Any = connection.get_root()
        for _ in range(KILLS):
            since = time.monotonic()
            with ending(command("follow", path, copy, "--every", "0.001")) as follower:
                sizes = {size_of(copy)}
                wanted = chance.randrange(2, 5)
                while len(sizes) < wanted:
                    number += 1
                    root["number"] = number
                    root["text"] = "x" * chance.randrange(5000)
                    connection.commit()
                    if number % 200 == 0:
                        storage.pack()
                    sizes.add(size_of(copy))
                    assert time.monotonic() - since < SECONDS
                follower.kill()
                follower.wait(SECONDS)
            found = number_in(copy)
            assert held <= found <= number
            held = found
    with ending(command("follow", path, copy)) as follower:
        assert follower.stdout is not None
        assert "following" in follower.stdout.readline()
        since = time.monotonic()
        while copy.read_bytes() != path.read_bytes():
            assert time.monotonic() - since < SECONDS
        follower.send_signal(signal.SIGTERM)
        assert follower.wait(SECONDS) == 0
    assert number_in(copy) == number


@pytest.mark.spec("CMD-64", "CMD-65")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_tells_what_it_has_copied_until_it_is_told_to_end(tmp_path: Path, number: int) -> None:
    path, copy = tmp_path / "f.durus", tmp_path / "copy.durus"
    put(path, 1)
    with ending(command("follow", path, copy, "--every", "0.01")) as follower:
        assert follower.stdout is not None
        assert follower.stderr is not None
        assert follower.stdout.readline() == f"{copy}: following {path}\n"
        assert " bytes copied, from the beginning, up to the commit of " in follower.stdout.readline()
        put(path, 2)
        line = follower.stdout.readline()
        assert " bytes added, up to the commit of " in line
        assert line.endswith(" s ago\n")
        assert number_in(copy) == 2
        os.rename(path, tmp_path / "moved")
        assert "durus: waiting: " in follower.stderr.readline()
        os.rename(tmp_path / "moved", path)
        put(path, 3)
        assert " bytes added, " in follower.stdout.readline()
        follower.send_signal(number)
        assert follower.wait(SECONDS) == 0
        assert follower.stderr.read() == ""


def numbers_from(client: ClientStorage) -> Iterator[int]:
    """Yield the number that a server shows, each time in another transaction."""
    connection = Connection(client)
    while True:
        root: Any = connection.get_root()
        yield root["number"]
        connection.abort()


@pytest.mark.spec("CMD-66", "CMD-63", "REPL-20")
def test_a_server_follows_and_serves_and_takes_the_place_of_the_source(tmp_path: Path) -> None:
    path, copy = tmp_path / "f.durus", tmp_path / "copy.durus"
    seen: list[int] = []
    with writing(path, COMMITS) as writer:
        server = Server("--port", "0", "--readonly", "--follow", str(path), str(copy), folder=tmp_path)
        with closing(ClientStorage(port=server.port)) as client:
            since = time.monotonic()
            numbers = numbers_from(client)
            while not seen or seen[-1] != COMMITS:
                seen.append(next(numbers))
                assert time.monotonic() - since < SECONDS
            client.begin()
            client.store(bytes(8), client.load(bytes(8)))
            with pytest.raises(ReadonlyError):
                client.end()
        assert writer.wait(SECONDS) == 0
        assert server.end() == 0
    assert seen == sorted(seen)
    path.unlink()
    server = Server("--port", "0", "--readonly", "--follow", str(path), str(copy), folder=tmp_path)
    with closing(ClientStorage(port=server.port)) as client:
        assert next(numbers_from(client)) == COMMITS
    server.log.expect("waiting: .*No such file")
    assert server.end() == 0
    server = Server("--port", "0", str(copy), folder=tmp_path)
    connection = server.connect()
    root: Any = connection.get_root()
    root["number"] = 9999
    connection.commit()
    connection.close()
    assert server.end() == 0
    assert number_in(copy) == 9999


@pytest.mark.spec("CMD-66")
def test_a_server_that_is_killed_while_it_follows_goes_on(tmp_path: Path) -> None:
    path, copy = tmp_path / "f.durus", tmp_path / "copy.durus"
    with writing(path, COMMITS) as writer:
        number = 0
        while writer.poll() is None:
            server = Server("--port", "0", "--readonly", "--follow", str(path), str(copy), folder=tmp_path)
            with closing(ClientStorage(port=server.port)) as client:
                found = next(numbers_from(client))
                assert found >= number
                number = found
            server.end(signal.SIGKILL)
    server = Server("--port", "0", "--readonly", "--follow", str(path), str(copy), folder=tmp_path)
    assert server.end() == 0
    assert number_in(copy) == COMMITS


@pytest.mark.spec("REPL-19", "CMD-66")
@pytest.mark.parametrize("kind", ["tcp", "unix", "tls"])
def test_a_server_follows_another_one_beside_commits_and_packs(tmp_path: Path, kind: str) -> None:
    path, copy = tmp_path / "f.durus", tmp_path / "copy.durus"
    put(path, 0)
    with tempfile.TemporaryDirectory() as folder:  # with a short path
        listening = ["--address", f"{folder}/s"] if kind == "unix" else ["--port", "0"]
        query = ""
        if kind == "tls":
            made = make_certificates(tmp_path)
            listening += ["--tls-cert", made("server")]
            query = f"?tls_ca={made('ca')}"
        source = Server(*listening, str(path), folder=tmp_path)
        if kind == "unix":
            address = f"durus+unix:{folder}/s"
        else:
            address = f"durus{'+tls' if kind == 'tls' else ''}://localhost:{source.port}{query}"
        replica = Server("--address", f"{folder}/r", "--readonly", "--follow", address, str(copy), folder=tmp_path)
        to_source = address if kind == "tls" else f"{folder}/s" if kind == "unix" else ("localhost", source.port)
        with (
            closing(ClientStorage(address=to_source)) as writer,
            closing(ClientStorage(address=f"{folder}/r")) as reader,
        ):
            connection = Connection(writer)
            root: Any = connection.get_root()
            numbers = numbers_from(reader)
            number = 0
            for batch in range(3):
                for _ in range(20):
                    number += 1
                    root["number"] = number
                    root["text"] = "x" * 50_000
                    connection.commit()
                if batch == 1:
                    writer.pack(wait=True)
                since = time.monotonic()
                while next(numbers) != number:
                    assert time.monotonic() - since < SECONDS
        assert replica.end() == 0
        assert source.end() == 0
    assert copy.read_bytes() == path.read_bytes()

"""How a server ends, properly or not, and what is left afterwards."""

import asyncio
import contextlib
import logging
import random
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from durus.client_storage import ClientStorage
from durus.connection import Connection
from durus.error import DisconnectedError, DurusWarning, NetworkError, OutcomeUnknownError, UnsoundTailError
from durus.file_storage import FileStorage
from durus.files.file import OperatingSystem
from durus.files.shelf.inspection import ShelfInspection
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.records.record import pack_record
from durus.sharing.protocol import Commit, NewOids, encode_commit, encode_request
from durus.storage import MemoryStorage
from durus.storage_server import StorageServer
from tests.integration.serving import SECONDS, Server, is_closed, receive

LOGGING_COMMITS = ("--logginglevel", "10")
CLIENTS = 4


class Writer(threading.Thread):
    """Commits to its own object, again and again, until the server is gone."""

    def __init__(self, server: Server, number: int) -> None:
        super().__init__()
        self._server = server
        self._number = number
        self.acknowledged = 0
        self.tried = 0
        self.failure: DisconnectedError | None = None
        self.has_begun = threading.Event()

    def run(self) -> None:
        try:
            connection = self._server.connect()
            pairs: PersistentList[PersistentDict[str, int]] = connection.get_root()["pairs"]
            pair = pairs[self._number]
            while True:
                self.tried = pair["a"] = pair["b"] = pair["a"] + 1
                connection.commit()
                self.acknowledged = self.tried
                self.has_begun.set()
        except DisconnectedError as error:
            self.failure = error
        except NetworkError:  # it was gone before this one connected
            pass
        finally:
            self.has_begun.set()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    """A file with a pair of equal numbers for each writer."""
    path = tmp_path / "f"
    with Connection(path) as connection:
        connection.get_root()["pairs"] = PersistentList(PersistentDict({"a": 0, "b": 0}) for _ in range(CLIENTS))
        connection.commit()
    yield path
    opened = OperatingSystem().open(str(path), "read")
    assert list(ShelfInspection(opened).findings()) == []
    opened.close()


def pairs_in(path: Path) -> list[tuple[int, int]]:
    try:
        storage = FileStorage(path)
    except UnsoundTailError:
        with pytest.warns(DurusWarning, match="cut off"):
            storage = FileStorage(path, repair=True)
    with Connection(storage) as connection:
        pairs: PersistentList[PersistentDict[str, int]] = connection.get_root()["pairs"]
        return [(pair["a"], pair["b"]) for pair in pairs]


def start_writers(server: Server) -> list[Writer]:
    writers = [Writer(server, number) for number in range(CLIENTS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        assert writer.has_begun.wait(SECONDS)
    return writers


def check_what_is_there(writers: list[Writer], path: Path) -> None:
    """Everything acknowledged is there, and a commit that was in progress is there completely or not at all."""
    for writer, (a, b) in zip(writers, pairs_in(path), strict=True):
        writer.join(SECONDS)
        assert writer.failure is not None
        assert a == b
        if isinstance(writer.failure, OutcomeUnknownError):
            assert a in (writer.acknowledged, writer.tried)
        else:
            assert a == writer.acknowledged


@pytest.mark.spec("TXN-22", "WIRE-25", "SHELF-18")
def test_all_that_was_acknowledged_outlives_a_server_that_is_killed(file: Path) -> None:
    chance = random.Random(1)
    for _ in range(8):
        with Connection(FileStorage(file)) as connection:
            for pair in connection.get_root()["pairs"]:
                pair.update(a=0, b=0)
            connection.commit()
        server = Server("--port", "0", "--file", str(file), "--gcbytes", "20000", *LOGGING_COMMITS, folder=file.parent)
        writers = start_writers(server)
        server.log.expect("committed", count=chance.randrange(10, 200))
        server.process.kill()
        server.wait()
        check_what_is_there(writers, file)


@pytest.mark.spec("WIRE-24")
@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "Q"])
def test_a_server_that_is_told_to_end_finishes_commits_or_refuses_them(file: Path, how: str) -> None:
    server = Server("--port", "0", "--file", str(file), *LOGGING_COMMITS, folder=file.parent)
    half = server.open_socket()
    half.sendall(encode_request(NewOids(1)))
    oid = receive(half, 8)
    writers = start_writers(server)
    server.log.expect("committed", count=50)
    half.sendall(encode_request(Commit()))
    receive(half, 8 * int.from_bytes(receive(half, 4), "big"))
    half.sendall(encode_commit([(oid, pack_record(oid, b"never whole", b""))])[:-1])
    if how == "Q":
        ClientStorage(port=server.port).stop_server()
        FileStorage(file).close()  # nobody has it locked any more when stop_server() has returned
    else:
        server.process.send_signal(getattr(signal, how))
    assert server.wait() == 0, server.log.text
    assert is_closed(half)
    half.close()
    server.log.expect("stopped")
    assert "Traceback" not in server.log.text
    check_what_is_there(writers, file)
    with contextlib.closing(FileStorage(file, readonly=True)) as storage:
        assert not storage.has_record(oid)


@pytest.mark.spec("WIRE-24")
def test_a_pack_under_way_does_not_keep_a_server_from_ending(file: Path) -> None:
    with Connection(file) as connection:
        connection.get_root()["many"] = PersistentList(PersistentDict() for _ in range(20_000))
        connection.commit()
    server = Server("--port", "0", "--file", str(file), folder=file.parent)
    client = server.connect()
    client.pack()
    server.log.expect("packing")
    assert server.end() == 0
    assert sorted(path.name for path in file.parent.iterdir()) in (["f"], ["f", "f.prepack"])
    client.close()


@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM"])
def test_a_temporary_file_does_not_outlive_its_server(tmp_path: Path, how: str) -> None:
    server = Server("--port", "0", folder=tmp_path)
    path = Path(server.log.expect(r"FileStorage\('(.*)'\)")[1])
    assert path.exists()
    assert server.end(getattr(signal, how)) == 0, server.log.text
    assert not path.parent.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_event_loop_is_made_ends_a_server_properly(
    number: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "durus")
    before = signal.getsignal(number)
    server = StorageServer(MemoryStorage(), port=0)

    def new_loop() -> asyncio.AbstractEventLoop:
        signal.raise_signal(number)
        return asyncio.new_event_loop()

    server.serve(new_loop=new_loop)
    assert f"stopping for {number.name}" in caplog.messages
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("turns", range(12))
def test_a_server_that_ends_while_connections_come_in_logs_no_error(
    turns: int, caplog: pytest.LogCaptureFixture
) -> None:
    server = StorageServer(MemoryStorage(), port=0)
    server.listen()
    for _ in range(3):
        socket.create_connection(server._listening[0].getsockname()).close()

    async def serve() -> None:
        serving = asyncio.create_task(server._serve({}))
        for _ in range(turns):  # of the loop, in each of which the three come a step further
            await asyncio.sleep(0)
        server._stopping.set()
        await serving

    asyncio.run(serve())
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []

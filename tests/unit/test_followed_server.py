"""A server sends the bytes of its file to those that follow it. [WIRE2-50] to [WIRE2-54], [REPL-19]"""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from durus.backups.replica import Replica
from durus.backups.server_source import ServerSource
from durus.backups.sources import source_of
from durus.client_storage import ClientStorage
from durus.error import (
    DamageError,
    DisconnectedError,
    DurusError,
    NothingToBackUpError,
    ProtocolError,
    ServerError,
)
from durus.file_storage import FileStorage
from durus.files.shelf.layout import SEAL_SIZE, parse_seal
from durus.oid import ROOT_OID
from durus.records.record import pack_record
from durus.sharing import protocol2 as messages
from durus.sharing.dialog import SENT_AT_A_TIME
from durus.sharing.roles import Role
from durus.storage import MemoryStorage, Storage
from tests.in_memory_server import InMemoryConnection, InMemoryServer, answers, greeted
from tests.threaded_server import serving
from tests.unit.test_replica import Database, value_in


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[FileStorage]:
    made = FileStorage(tmp_path / "f")
    yield made
    made.close()


def put(storage: Storage, data: bytes) -> None:
    storage.begin()
    storage.store(ROOT_OID, pack_record(ROOT_OID, data, b""))
    storage.end()


def asked(connection: InMemoryConnection, after: bytes = b"") -> tuple[messages.FileHead, bytes]:
    """Ask for the file; return how it is announced, and its bytes."""
    connection.sendall(messages.encode_request(messages.Follow(after)))
    head, *parts = answers(connection)
    assert head.kind == b"F"
    assert {part.kind for part in parts} <= {b"D"}
    assert all(0 < len(part.body) <= SENT_AT_A_TIME for part in parts)
    return messages.parse_file_head(head.body), b"".join(part.body for part in parts)


def last_seal(data: bytes) -> bytes:
    return str(parse_seal(data, len(data) - SEAL_SIZE)).encode()


@pytest.mark.spec("WIRE2-50", "WIRE2-51", "WIRE2-52")
def test_the_bytes_after_a_seal_are_sent_or_all_of_them(tmp_path: Path, storage: FileStorage) -> None:
    connection = greeted(InMemoryServer(storage))
    put(storage, b"a" * 200_000)
    first = (tmp_path / "f").read_bytes()
    assert asked(connection) == ((False, last_seal(first)), first)
    assert asked(connection, last_seal(first)) == ((True, last_seal(first)), b"")
    put(storage, b"b")
    second = (tmp_path / "f").read_bytes()
    assert asked(connection, last_seal(first)) == ((True, last_seal(second)), second[len(first) :])
    storage.pack()
    packed = (tmp_path / "f").read_bytes()
    assert asked(connection, last_seal(second)) == ((False, last_seal(packed)), packed)


@pytest.mark.spec("WIRE2-51")
def test_a_file_that_does_not_end_in_a_seal_is_announced_as_nothing(storage: FileStorage) -> None:
    assert asked(greeted(InMemoryServer(storage))) == ((False, b""), b"")


@pytest.mark.spec("WIRE2-50")
@pytest.mark.parametrize("kind", [MemoryStorage, "at"])
def test_a_server_without_a_file_says_so(tmp_path: Path, kind: object) -> None:
    with closing(FileStorage(tmp_path / "f")) as storage:
        put(storage, b"a")
    served = MemoryStorage() if kind is MemoryStorage else FileStorage(tmp_path / "f", damaged=True, readonly=True)
    connection = greeted(InMemoryServer(served))
    connection.sendall(messages.encode_request(messages.Follow(b"")))
    (answer,) = answers(connection)
    assert answer.kind == b"E"
    assert messages.parse_failure(answer.body).code == messages.FAILED
    connection.sendall(messages.encode_request(messages.Ping(b"x")))
    assert answers(connection) == [(b"G", b"x")]


@pytest.mark.spec("WIRE2-50")
def test_who_may_read_may_follow_and_a_malformed_request_is_refused(storage: FileStorage) -> None:
    put(storage, b"a")
    connection = greeted(InMemoryServer(storage))
    connection.role = Role.READ
    assert asked(connection)[1]
    connection.sendall(messages.encode_request(messages.Follow(b"x" * 53)))
    assert [answer.kind for answer in answers(connection)] == [b"E"]
    connection.sendall(messages.encode(b"F", b"x"))
    assert connection.is_closed


@pytest.mark.spec("WIRE2-52", "WIRE2-53")
def test_a_slow_client_gets_one_file_a_piece_at_a_time_beside_commits_and_packs(
    tmp_path: Path, storage: FileStorage
) -> None:
    put(storage, os.urandom(4 * SENT_AT_A_TIME))
    before = (tmp_path / "f").read_bytes()
    server = InMemoryServer(storage)
    connection = greeted(server)
    connection.is_paused = True
    connection.sendall(messages.encode_request(messages.Follow(b"")))
    found = answers(connection)
    assert len(found) == 1
    while sum(len(each.body) for each in found[1:]) < len(before):
        put(storage, b"b")
        storage.pack()
        connection.is_paused = False
        server.work.append(connection.conversation.proceed)
        server.work.popleft()()
        connection.is_paused = True
        pieces = answers(connection)
        assert len(pieces) <= 1
        found += pieces
        server.settle()
    assert b"".join(each.body for each in found[1:]) == before


@pytest.mark.spec("WIRE2-52")
def test_a_file_that_can_not_be_read_on_is_told_in_place_of_a_piece(tmp_path: Path, storage: FileStorage) -> None:
    put(storage, os.urandom(4 * SENT_AT_A_TIME))
    server = InMemoryServer(storage)
    connection = greeted(server)
    connection.is_paused = True
    connection.sendall(messages.encode_request(messages.Follow(b"")))
    os.truncate(tmp_path / "f", SENT_AT_A_TIME)
    connection.is_paused = False
    connection.proceed_soon()
    server.settle()
    assert [answer.kind for answer in answers(connection)] == [b"F", b"D", b"E"]
    connection.sendall(messages.encode_request(messages.Ping(b"x")))
    assert answers(connection) == [(b"G", b"x")]


def source(server: InMemoryServer) -> ServerSource:
    return ServerSource("durus://test", lambda: server.new_client(0))


@pytest.mark.spec("REPL-19", "REPL-12", "REPL-13")
def test_a_replica_follows_a_server_over_one_connection(tmp_path: Path, storage: FileStorage) -> None:
    server = InMemoryServer(storage)
    path, copy = tmp_path / "f", tmp_path / "copy"
    with closing(Replica(source(server), copy)) as replica:
        with pytest.raises(NothingToBackUpError):
            replica.finish()
        for number in range(4):
            put(storage, os.urandom(100_000))
            put(storage, b"b" * (number + 1))
            if number == 2:
                storage.pack()
            done = replica.finish()
            assert (done.is_new, done.size) == (number in (0, 2), path.stat().st_size)
            assert copy.read_bytes() == path.read_bytes()
            assert replica.finish().added == 0
    assert len(server.connections) == 1
    with closing(Replica(source(server), copy)) as replica:
        put(storage, b"c")
        assert replica.finish().is_new is False
    assert copy.read_bytes() == path.read_bytes()


class Corrupting(InMemoryConnection):
    """Changes one byte of the last pieces of the file."""

    offset = 0

    def send(self, data: bytes) -> None:
        if data[4:5] == b"D":
            data = data[: 5 + self.offset] + bytes([data[5 + self.offset] ^ 1]) + data[6 + self.offset :]
        super().send(data)


@pytest.mark.spec("WIRE2-54", "REPL-11")
@pytest.mark.parametrize("is_first", [False, True])
def test_each_byte_that_a_server_sends_is_checked(tmp_path: Path, storage: FileStorage, is_first: bool) -> None:
    server = InMemoryServer(storage)
    put(storage, b"a")
    copy = tmp_path / "copy"
    if not is_first:
        with closing(Replica(source(server), copy)) as replica:
            replica.finish()
    before = copy.read_bytes() if copy.exists() else b""
    put(storage, b"b")
    for offset in range((tmp_path / "f").stat().st_size - len(before)):
        connection = Corrupting(server)
        connection.offset = offset

        def connect(connection: InMemoryConnection = connection) -> ClientStorage:
            return ClientStorage(stream=connection, prefetch=0, protocol=2)

        with closing(Replica(ServerSource("durus://test", connect), copy)) as replica, pytest.raises(DurusError):
            replica.finish()
        assert (copy.read_bytes() if copy.exists() else b"") == before


@pytest.mark.spec("WIRE2-54")
@pytest.mark.parametrize(
    ("head", "pieces"),
    [
        (messages.encode(b"F", b"\1" + b"x" * 53), []),
        (messages.encode(b"F", b"\0" + b"x" * 53), []),
        (messages.encode(b"F", b""), []),
        (messages.encode(b"Y", b""), []),
        ("good", [b""]),
        ("good", [b"x" * 5000]),
        ("good", [b"x"]),
    ],
)
def test_an_answer_that_makes_no_sense_is_refused(
    tmp_path: Path, storage: FileStorage, head: "bytes | str", pieces: list[bytes]
) -> None:
    put(storage, b"a")
    data = (tmp_path / "f").read_bytes()
    if isinstance(head, str):
        head = messages.encode(b"F", b"\0" + last_seal(data))

    class Lying(InMemoryConnection):
        def sendall(self, data: bytes) -> None:
            if data[4:5] == b"F":
                assert isinstance(head, bytes)
                self.received += head + b"".join(messages.encode(b"D", piece) for piece in pieces)
                self.is_closed = True
            else:
                super().sendall(data)

    server = InMemoryServer(storage)
    lying = ServerSource("durus://test", lambda: ClientStorage(stream=Lying(server), prefetch=0, protocol=2))
    with closing(Replica(lying, tmp_path / "copy")) as replica, pytest.raises((ProtocolError, DisconnectedError)):
        replica.finish()
    assert not (tmp_path / "copy").exists()


def test_a_server_that_speaks_only_version_1_can_not_be_followed(storage: FileStorage) -> None:
    with (
        closing(InMemoryServer(storage).new_client(protocol=1)) as client,
        pytest.raises(ServerError, match="version 1"),
    ):
        client.ask_for_file(b"")


@pytest.mark.spec("REPL-19")
def test_a_server_that_ends_is_waited_for(tmp_path: Path) -> None:
    database = Database(tmp_path)
    database.commit("one")
    address = tmp_path / "s"
    with closing(Replica(source_of(f"durus+unix:{address}"), database.copy)) as replica:
        with serving(database.storage, address):
            assert replica.finish().is_new
            assert value_in(database.copy) == "one"
        for _ in range(2):
            with pytest.raises(DurusError):
                replica.finish()
        again = FileStorage(database.path)
        put(again, b"two")
        with serving(again, address):
            assert replica.finish().is_new is False
    assert database.copy.read_bytes() == database.path.read_bytes()


def test_damage_is_an_error_of_the_source(tmp_path: Path, storage: FileStorage) -> None:
    put(storage, b"a")
    server = InMemoryServer(storage)
    with closing(Replica(source(server), tmp_path / "copy")) as replica:
        replica.finish()
        put(storage, b"b")
        put(storage, b"c")
        size = (tmp_path / "copy").stat().st_size
        data = bytearray((tmp_path / "f").read_bytes())
        data[size + 40] ^= 1
        with open(tmp_path / "f", "r+b") as file:
            file.write(data)
        with pytest.raises(DamageError, match="durus://test"):
            replica.finish()
    assert (tmp_path / "copy").stat().st_size == size

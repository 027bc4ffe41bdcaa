"""How much the clients of a server may have, and what happens beyond that."""

import logging
import resource
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durus.cli.main import main
from durus.client_storage import ClientStorage
from durus.connection import Connection
from durus.error import ArgumentError, DisconnectedError, LimitError, ProtocolError, TransactionError
from durus.oid import ROOT_OID, oid_from_int
from durus.records.record import pack_record
from durus.serving import client as serving_client
from durus.serving.limits import MAX_MEMORY, Limits, Places, Throttle, clients_by_default
from durus.serving.peer import peer_of
from durus.sharing import protocol2 as messages
from durus.sharing.address import SocketAddress
from durus.sharing.compression import ZLIB
from durus.sharing.protocol import MAX_COMMIT, Sync, Version, encode_request, receive
from durus.sharing.protocol2 import Hello, encode, encode_commit
from durus.sharing.roles import Access, Peer, Role
from durus.storage import MemoryStorage, Storage
from durus.storage_server import StorageServer
from tests.in_memory_server import InMemoryConnection, InMemoryServer

SECONDS = 60


def peer(origin: str) -> Peer:
    return Peer("peer", is_unix=True, origin=origin)


# Values


@pytest.mark.spec("CMD-28")
@pytest.mark.parametrize(("soft", "expected"), [(1024, 992), (40, 20), (1, 1), (1 << 30, 1 << 20)])
def test_by_default_some_descriptors_are_left(soft: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda what: (soft, soft))
    assert clients_by_default() == expected
    assert Limits().checked() == (expected, 0, 0, 1 << 24, MAX_COMMIT, MAX_MEMORY)
    monkeypatch.setattr(resource, "getrlimit", lambda what: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert clients_by_default() == 1 << 20


@pytest.mark.parametrize(
    "limits",
    [
        Limits(clients=0),
        Limits(clients_by_peer=-1),
        Limits(rate=-1),
        Limits(unused_oids=0),
        Limits(commit=0),
        Limits(commit=MAX_COMMIT + 1),
        Limits(memory=0),
        Limits(rate=1.5),  # type: ignore[arg-type]
        Limits(clients=True),
    ],
)
def test_a_limit_out_of_its_range_is_refused(limits: Limits) -> None:
    with pytest.raises(ArgumentError, match=r"the limit \w+ is .*; it must be a whole number of at least [01]"):
        StorageServer(MemoryStorage(), port=0, limits=limits)


@pytest.mark.spec("CMD-28")
def test_a_commit_must_fit_the_memory() -> None:
    assert Limits(commit=1000, memory=100).checked().commit == 100


# Places


@pytest.mark.spec("CMD-28")
def test_there_are_so_many_places_and_one_for_an_admin() -> None:
    places = Places(Limits(clients=2).checked())
    first, second = places.take(peer("a"), Role.ADMIN), places.take(peer("b"), Role.READ)
    assert first.problem is None
    for role in Role.READ, Role.WRITE:
        with pytest.raises(LimitError, match="no place for one more connection: there are 2, and --max-clients"):
            places.take(peer("c"), role)
    kept = places.take(peer("c"), Role.ADMIN)
    assert isinstance(kept.problem, LimitError)
    with pytest.raises(LimitError):
        places.take(peer("d"), Role.ADMIN)
    kept.give_back()
    assert places.take(peer("d"), Role.ADMIN).problem is not None
    second.give_back()
    second.give_back()
    assert places.take(peer("e"), Role.WRITE).problem is None
    with pytest.raises(LimitError):
        places.take(peer("f"), Role.WRITE)


@pytest.mark.spec("CMD-28")
def test_a_peer_has_so_many_places() -> None:
    places = Places(Limits(clients=10, clients_by_peer=2).checked())
    taken = [places.take(peer("host a"), Role.WRITE) for _ in range(2)]
    with pytest.raises(LimitError, match="of host a: it has 2, and --max-clients-by-peer allows no more"):
        places.take(peer("host a"), Role.WRITE)
    assert places.take(peer("host b"), Role.WRITE).problem is None
    taken.pop().give_back()
    places.take(peer("host a"), Role.WRITE)


class FromNetwork:
    family = socket.AF_INET6


@pytest.mark.spec("CMD-28")
@pytest.mark.parametrize(
    ("host", "origin", "is_loopback"),
    [
        ("192.0.2.1", "host 192.0.2.1", False),
        ("::ffff:127.0.0.1", "host 127.0.0.1", True),
        ("2001:db8::1", "network 2001:db8::/64", False),
        ("2001:db8::ffff:0:1", "network 2001:db8::/64", False),
        ("fe80::1%eth0", "network fe80::/64", False),
    ],
)
def test_connections_of_a_host_are_counted_together(host: str, origin: str, is_loopback: bool) -> None:
    found = peer_of(FromNetwork(), (host, 1, 0, 0))  # type: ignore[arg-type]
    assert (found.origin, found.is_loopback) == (origin, is_loopback)


@pytest.mark.spec("CMD-28")
def test_connections_of_a_user_are_counted_together() -> None:
    one, other = socket.socketpair()
    with one, other:
        found = peer_of(one, "")
    assert found.origin == f"user {found.user}"


@pytest.mark.spec("CMD-28")
@given(st.integers(1, 1000), st.lists(st.tuples(st.integers(0, 5000), st.floats(0, 5)), max_size=50))
def test_a_connection_that_pauses_as_it_is_told_keeps_to_its_rate(rate: int, pieces: list[tuple[int, float]]) -> None:
    throttle, now, total = Throttle(rate), 100.0, 0
    for size, idle in pieces:
        now += idle
        pause = throttle.note(size, now)
        total += size
        now += pause
        assert total <= rate * (now - 100 + 1) + 1
        assert pause <= size / rate + 1e-6


# Requests


def server_with(limits: Limits, storage: Storage | None = None) -> InMemoryServer:
    server = InMemoryServer(MemoryStorage() if storage is None else storage)
    server.core._max_unused_oids = limits.unused_oids
    return server


@pytest.mark.spec("WIRE2-42", "TXN-24", "WIRE2-12")
def test_a_client_with_too_many_unused_oids_is_told_and_goes_on() -> None:
    server = server_with(Limits(unused_oids=40))
    client = server.new_client()
    used = client.new_oid()
    for _ in range(31):
        client.new_oid()
    with pytest.raises(LimitError, match="asked for more than 40 oids without using them"):
        client.new_oid()
    (connection,) = server.connections
    assert len(connection.refusals) == 1
    client.begin()
    client.store(used, pack_record(used, b"x", b""))
    client.end()
    with closing(server_with(Limits(unused_oids=10)).new_client(protocol=1)) as older, pytest.raises(DisconnectedError):
        older.new_oid()


def announced(server: InMemoryServer, max_commit: int) -> InMemoryConnection:
    """Return a connection of version 2 to a server that takes commits of this many bytes."""
    connection = server.connect()
    connection.hello = Hello(max_commit=max_commit, compressions=1 << ZLIB)
    connection.sendall(encode_request(Version(2)))
    assert connection.recv(4) == b"\0\0\0\2"
    hello = messages.parse_hello(receive(messages.read_answer(), connection.recv))
    assert isinstance(hello, Hello)
    assert hello.max_commit == max_commit
    return connection


def answer(connection: InMemoryConnection) -> messages.Answer:
    return receive(messages.read_answer(), connection.recv)


def commit_of(size: int, method: int = 0) -> bytes:
    """Return a commit of the root whose records have this many bytes, with 4 for their length."""
    record = pack_record(ROOT_OID, bytes(size - 4 - 12), b"")
    assert len(record) == size - 4
    return encode_commit(0, (), [record], method)


@pytest.mark.spec("WIRE2-42", "WIRE2-5")
@pytest.mark.parametrize("method", [0, ZLIB])
@pytest.mark.parametrize("size", [1001, 100_000, 1_000_000])
def test_a_commit_that_is_too_long_is_skipped_and_the_client_goes_on(size: int, method: int) -> None:
    server = InMemoryServer(MemoryStorage())
    connection = announced(server, 1000)
    connection.sendall(encode(b"N", b"\0\1"))
    assert answer(connection).kind == b"N"
    data = commit_of(size, method)
    for start in range(0, len(data), 5000):
        connection.sendall(data[start : start + 5000])
        assert connection.conversation.held_bytes < 100_000, "what is skipped is not kept"
    kind, body = answer(connection)
    assert kind == b"E"
    assert body[0] == messages.LIMIT
    assert b"than the 1000 that this server takes" in body
    assert isinstance(messages.error_of(messages.parse_failure(body)), LimitError)
    assert len(connection.refusals) == 1
    assert not server.storage.has_record(ROOT_OID)
    connection.sendall(commit_of(1000, method))
    assert answer(connection).kind == b"C"
    assert server.storage.has_record(ROOT_OID)


@pytest.mark.spec("WIRE2-5")
def test_a_commit_that_is_longer_than_any_server_takes_is_malformed() -> None:
    connection = announced(InMemoryServer(MemoryStorage()), 1000)
    connection.sendall((messages.MAX_COMMIT_MESSAGE + 1).to_bytes(4, "big") + b"C")
    assert isinstance(connection.error, ProtocolError)


@pytest.mark.spec("WIRE2-5", "WIRE2-2")
def test_a_client_keeps_to_the_limit_that_the_server_has_announced() -> None:
    server = InMemoryServer(MemoryStorage())
    stream = server.connect()
    stream.hello = Hello(max_commit=1000, compressions=1 << ZLIB)
    client = ClientStorage(stream=stream)
    client.begin()
    oid = client.new_oid()
    client.store(oid, pack_record(oid, bytes(1000), b""))
    with pytest.raises(TransactionError, match=r"longer than the 1000 that the server takes; commit in parts"):
        client.end()
    client.ping()
    assert not stream.refusals


@pytest.mark.spec("WIRE-23")
def test_over_version_1_a_commit_that_is_too_long_ends_the_connection() -> None:
    server = InMemoryServer(MemoryStorage())
    stream = server.connect()
    stream.hello = Hello(max_commit=1000)
    stream.sendall(b"C")
    stream.sendall((1001).to_bytes(4, "big"))
    assert "exceeds the limit of 1000" in str(stream.error)


@pytest.mark.spec("WIRE2-42")
@pytest.mark.parametrize("protocol", [1, 2])
def test_a_client_without_a_place_is_told_where_it_can_be(protocol: int) -> None:
    server = InMemoryServer(MemoryStorage())
    stream = server.connect(refusal=LimitError("no place"))
    if protocol == 2:
        with pytest.raises(LimitError, match="no place"):
            ClientStorage(stream=stream)
    else:
        with pytest.raises(DisconnectedError):
            ClientStorage(stream=stream, protocol=1)
    assert stream.error is stream.refusal
    assert stream.is_closed


@pytest.mark.spec("WIRE2-42")
def test_on_the_place_that_is_kept_the_database_can_not_be_used() -> None:
    server = InMemoryServer(MemoryStorage())
    uses: list[Callable[[ClientStorage], object]] = [
        lambda client: client.load(ROOT_OID),
        lambda client: client.sync(),
        lambda client: client.new_oid(),
        lambda client: client.take_turn(),
    ]
    for use in uses:
        stream = server.connect(reserve=LimitError("no place"))
        client = ClientStorage(stream=stream)
        client.ping()
        client.server_status()
        client.pack()
        with pytest.raises(LimitError, match="no place"):
            use(client)
        assert stream.is_closed
        assert stream.refusals == ["no place"]
    stream = server.connect(reserve=LimitError("no place"))
    stream.sendall(encode_request(Version(1)))
    stream.sendall(encode_request(Sync()))
    assert stream.error is stream.reserve
    stream = server.connect(reserve=LimitError("no place"))
    ClientStorage(stream=stream, protocol=1).stop_server()
    assert stream.error is None


# A server


@contextmanager
def serving(
    limits: Limits, storage: Storage | None = None, **options: Any
) -> Iterator[tuple[StorageServer, SocketAddress]]:
    """Serve in a thread, on loopback, where clients may commit but not stop the server."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        server = StorageServer(
            MemoryStorage() if storage is None else storage,
            address=("127.0.0.1", 0) if "access" in options else Path(folder, "s"),
            limits=limits,
            **options,
        )
        server.listen()
        thread = threading.Thread(target=server.serve)
        thread.start()
        try:
            yield server, server.address
        finally:
            server.stop()
            thread.join()


def wait_until(is_so: Callable[[], object]) -> None:
    """Wait for a state of the server that no answer tells."""
    for _ in range(SECONDS * 100):
        if is_so():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it has not come")


@pytest.mark.spec("WIRE2-42", "CMD-28")
def test_a_full_server_refuses_clients_until_one_has_gone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "durus")
    with serving(Limits(clients=2), access=Access(may_stop="user")) as (server, address), ExitStack() as open_now:
        first, second = (open_now.enter_context(closing(ClientStorage(address=address))) for _ in range(2))
        for _ in range(3):
            with pytest.raises(LimitError, match="there are 2, and --max-clients allows no more; close connections"):
                ClientStorage(address=address)
        with pytest.raises(DisconnectedError):
            ClientStorage(address=address, protocol=1)
        status = first.server_status()
        assert status["refused"] == 4
        assert status["connections"] == 2
        assert status["limits"] == server.limits._asdict()
        second.close()
        wait_until(lambda: server._door._places._taken.total() == 1)
        open_now.enter_context(closing(ClientStorage(address=address))).ping()
    told = [each for each in caplog.records if "a connection is refused: client 127.0.0.1:" in each.getMessage()]
    assert len(told) == 1, "the log is not flooded"
    assert told[0].levelno >= logging.WARNING
    assert not server.clients
    assert server._door._places._taken.total() == 0


@pytest.mark.spec("WIRE2-42")
def test_who_has_lost_its_place_is_told_so() -> None:
    with serving(Limits(clients=1), access=Access(may_stop="user")) as (server, address):
        lost = ClientStorage(address=address)
        lost._stream.close()
        wait_until(lambda: not server.clients)
        with closing(ClientStorage(address=address)):
            with pytest.raises(DisconnectedError):
                lost.ping()
            with pytest.raises(DisconnectedError, match="no place for one more connection"):
                lost.sync()
        wait_until(lambda: not server.clients)
        lost.sync()
        lost.close()


@pytest.mark.spec("WIRE2-42", "CMD-28")
def test_a_full_server_can_be_asked_and_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Limits(clients=1)) as (server, address), closing(ClientStorage(address=address)) as first:
        assert main(["status", "--address", str(address)]) == 0
        assert "clients       2" in capsys.readouterr().out
        wait_until(lambda: len(server.clients) == 1)
        with closing(ClientStorage(address=address)) as second, pytest.raises(LimitError, match="no place"):
            Connection(second)
        first.ping()
        wait_until(lambda: len(server.clients) == 1)
        assert main(["status", "--address", str(address)]) == 0
        assert "since it started; refused because of a limit: 1\n" in capsys.readouterr().out
        wait_until(lambda: len(server.clients) == 1)
        assert main(["serve", "--stop", "--address", str(address)]) == 0


@pytest.mark.spec("CMD-28")
def test_a_host_has_so_many_connections() -> None:
    limits = Limits(clients_by_peer=1)
    with (
        serving(limits, access=Access(may_stop="user")) as (_, address),
        closing(ClientStorage(address=address)),
        pytest.raises(LimitError, match=r"of host 127\.0\.0\.1: it has 1"),
    ):
        ClientStorage(address=address)


@pytest.mark.spec("WIRE2-42")
def test_refused_connections_that_say_nothing_are_few_and_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_client, "_SECONDS_TO_BE_REFUSED", 10 * SECONDS)
    with (
        serving(Limits(clients=1), access=Access(may_stop="user"), stall_timeout=0.2) as (server, address),
        closing(ClientStorage(address=address)) as first,
        ExitStack() as silent,
    ):
        connected: list[socket.socket] = []
        for _ in range(40):
            new = address.get_connected_socket(SECONDS)
            assert new is not None
            connected.append(silent.enter_context(new))
        assert connected[-1].recv(1) == b"", "it is closed at once"
        assert len(server.clients) == 1 + 16
        monkeypatch.setattr(serving_client, "_SECONDS_TO_BE_REFUSED", 0)
        wait_until(lambda: len(server.clients) == 1)
        first.ping()


@pytest.mark.spec("CMD-28")
def test_a_client_that_is_too_fast_is_slowed_down_and_never_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    note = Throttle.note

    def noted(self: Throttle, size: int, now: float) -> float:
        pauses.append(note(self, size, now))
        return pauses[-1]

    monkeypatch.setattr(Throttle, "note", noted)
    with (
        serving(Limits(rate=400_000), stall_timeout=0.05, commit_timeout=0.05) as (_, address),
        closing(ClientStorage(address=address)) as client,
    ):
        oids = [client.new_oid() for _ in range(20)]
        client.begin()
        for oid in oids:
            client.store(oid, pack_record(oid, bytes(30_000), b""))
        client.end()
        assert [record[:8] for record in client.bulk_load(oids)] == oids
    assert max(pauses) > 0


@pytest.mark.spec("CMD-28", "WIRE2-42")
def test_a_client_for_which_too_much_is_held_is_disconnected(caplog: pytest.LogCaptureFixture) -> None:
    oid = oid_from_int(1)
    storage = MemoryStorage()
    storage.begin()
    storage.store(oid, pack_record(oid, bytes(3_000_000), b""))
    storage.end()
    with serving(Limits(memory=1_000_000), storage) as (server, address), closing(ClientStorage(address=address)) as ok:
        greedy = ClientStorage(address=address)
        greedy.send(messages.encode_load([oid], 0))
        wait_until(lambda: len(server.clients) == 1)
        ok.ping()
        assert ok.server_status()["refused"] == 1
        with pytest.raises(DisconnectedError):
            greedy.ping()
    assert "bytes are held for this client, and the server allows 1000000 (--max-memory)" in caplog.text


@pytest.mark.spec("CMD-28", "WIRE2-42")
def test_a_client_that_sends_too_much_of_a_request_is_told_and_disconnected() -> None:
    with serving(Limits(memory=100_000)) as (server, address):
        connected = address.get_connected_socket(SECONDS)
        assert connected is not None
        with connected, connected.makefile("rb") as received:
            connected.sendall(encode_request(Version(2)))
            assert received.read(4) == b"\0\0\0\2"
            assert receive(messages.read_answer(), received.read).kind == b"H"
            with suppress(BrokenPipeError, ConnectionResetError):
                connected.sendall(encode(b"G", bytes(2_000_000))[:-1])
            kind, body = receive(messages.read_answer(), received.read)
            assert (kind, body[0]) == (b"E", messages.LIMIT)
        wait_until(lambda: not server.clients)


# The command


@pytest.mark.spec("CMD-28", "CMD-6")
@pytest.mark.parametrize(
    "arguments",
    [
        ("--max-clients", "0"),
        ("--max-clients-by-peer", "-1"),
        ("--max-rate", "fast"),
        ("--max-unused-oids", "0"),
        ("--max-commit", str(MAX_COMMIT + 1)),
        ("--max-memory", "0"),
    ],
)
def test_a_wrong_limit_is_a_usage_error(
    arguments: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(tmp_path / "f"), *arguments]) == 2
    assert f"argument {arguments[0]}: " in capsys.readouterr().err
    assert not (tmp_path / "f").exists()

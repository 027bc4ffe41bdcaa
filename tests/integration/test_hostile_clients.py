"""What no client of this project sends: it is dropped, the log says why, and nobody else is concerned."""

import random
import signal
import socket
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from durus.files.file import OperatingSystem
from durus.files.shelf.inspection import ShelfInspection
from durus.oid import oid_from_int
from durus.records.record import pack_record
from durus.sharing import protocol2 as messages
from durus.sharing.protocol import Commit, Load, NewOids, Sync, encode_commit, encode_request, encode_u32
from tests.integration.serving import Server, is_closed, receive, serving
from tests.model import hostile_peers

MAX_MEMORY_MORE = 64 << 20
"""How many bytes more the server may take for what claims to be gigabytes."""
FOUR_GIB = b"\xff\xff\xff\xff"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("hostile")
    with serving("--file", "f", folder=folder) as started:
        with started.connect() as connection:
            connection.get_root()["x"] = 1
            connection.commit()
        yield started
    file = OperatingSystem().open(str(folder / "f"), "read")
    assert list(ShelfInspection(file).findings()) == []
    file.close()


def memory(server: Server) -> int:
    """Return the most memory that the server has had, in bytes."""
    status = Path(f"/proc/{server.process.pid}/status")
    if not status.exists():
        pytest.skip("this system has no /proc that tells the memory of a process")
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) << 10


def is_served(server: Server) -> bool:
    """Return whether another client can read and write."""
    with server.connect() as connection:
        connection.get_root()["x"] = 2
        connection.commit()
        return bool(connection.get_root()["x"] == 2)


def attack(server: Server, message: bytes, reason: str, answer: int = 0) -> None:
    """Send a message; the server must drop the client for this reason, and serve others.

    Before that, the client is sent this many bytes.
    """
    attacker = server.open_socket()
    me = f"client {attacker.getsockname()[0]}:{attacker.getsockname()[1]}"
    attacker.sendall(message)
    receive(attacker, answer)
    while answer and attacker.recv(1000):
        pass  # an error that tells why
    assert is_closed(attacker)
    server.log.expect(f"{me} is disconnected: .*{reason}")
    attacker.close()
    assert is_served(server)


@pytest.mark.spec("WIRE-20", "WIRE-23")
@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"x", "b'x' is not a command"),
        (b"\0", "is not a command"),
        (b"B" + FOUR_GIB, "4294967295 oids .* limit"),
        (b"POST / HTTP/1.1\r\n", "the command b'P' came together with other bytes"),
    ],
    ids=["unknown command", "zero", "4 Gi oids", "web page"],
)
def test_bad_requests(server: Server, message: bytes, reason: str) -> None:
    before = memory(server)
    attack(server, message, reason, answer=len(encode_u32(2) + messages.encode_hello(messages.Hello())))
    assert memory(server) < before + MAX_MEMORY_MORE


def attack_with_commit(server: Server, data: bytes, reason: str) -> None:
    """Take the turn, and send the data; the server must drop the client for this reason, and serve others."""
    attacker = server.open_socket()
    me = f"client {attacker.getsockname()[0]}:{attacker.getsockname()[1]}"
    attacker.sendall(encode_request(Commit()))
    assert receive(attacker, 4) == bytes(4)
    attacker.sendall(data)
    assert is_closed(attacker)
    server.log.expect(f"{me} is disconnected: .*{reason}")
    attacker.close()
    assert is_served(server)


ROOT = bytes(8)
RESERVED = oid_from_int(2**64 - 1)
UNKNOWN = oid_from_int(10**6)
RECORD = pack_record(ROOT, b"data", b"")


def entry(oid: bytes, record: bytes, size: int | None = None) -> bytes:
    return (8 + len(record) if size is None else size).to_bytes(4, "big") + oid + record


def commit(*entries: bytes) -> bytes:
    data = b"".join(entries)
    return len(data).to_bytes(4, "big") + data


@pytest.mark.spec("WIRE-10", "WIRE-20", "WIRE-23", "TXN-24")
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (FOUR_GIB, "commit of 4294967295 bytes exceeds the limit"),
        (commit(entry(ROOT, RECORD, size=2**32 - 1)), "does not fit"),
        (commit(entry(ROOT, RECORD, size=7)), "does not fit"),
        (commit(entry(ROOT, RECORD)[:10]), "ends inside"),
        (commit(entry(ROOT, RECORD), entry(ROOT, RECORD)), "two records of oid 0"),
        (commit(entry(ROOT, b"")), "record"),
        (commit(entry(ROOT, RECORD[:-1])), "claims 4 of data"),
        (commit(entry(ROOT, RECORD + b"123")), "not 8 bytes long"),
        (commit(entry(ROOT, pack_record(oid_from_int(1), b"data", b""))), "can't be stored as oid 0"),
        (
            commit(entry(oid_from_int(2**64 - 1), pack_record(oid_from_int(2**64 - 1), b"data", b""))),
            "18446744073709551615",
        ),
        (
            commit(entry(oid_from_int(10**6), pack_record(oid_from_int(10**6), b"data", b""))),
            "this client was not given",
        ),
    ],
    ids=[
        "4 GiB of data",
        "4 GiB in an entry",
        "entry shorter than its oid",
        "half an entry",
        "duplicate",
        "no record",
        "record cut off",
        "ragged references",
        "record of another oid",
        "reserved oid",
        "oid of nobody",
    ],
)
def test_bad_commits(server: Server, data: bytes, reason: str) -> None:
    before = memory(server)
    attack_with_commit(server, data, reason)
    assert memory(server) < before + MAX_MEMORY_MORE


@pytest.mark.spec("TXN-24", "WIRE-23")
def test_an_oid_of_another_client(server: Server) -> None:
    owner = server.open_socket()
    owner.sendall(encode_request(NewOids(1)))
    oid = receive(owner, 8)
    attack_with_commit(server, encode_commit([(oid, pack_record(oid, b"stolen", b""))]), "this client was not given")
    owner.sendall(encode_request(Load(oid)))
    assert receive(owner, 1) == b"K"
    owner.close()


@pytest.mark.spec("WIRE-23")
def test_random_bytes(server: Server) -> None:
    chance = random.Random(1)
    before = memory(server)
    for _ in range(500):
        with server.open_socket() as attacker:
            data = chance.randbytes(chance.randrange(1, 200)).replace(b"Q", b"x")  # which is for the next test
            attacker.sendall(data)
            attacker.shutdown(socket.SHUT_WR)
            while receive(attacker, 1 << 16):
                pass
    assert is_served(server)
    assert memory(server) < before + MAX_MEMORY_MORE


@pytest.mark.spec("WIRE-22")
def test_ten_thousand_connections_that_come_and_go(tmp_path: Path) -> None:
    with serving("--logginglevel", "30", folder=tmp_path) as server:
        before = memory(server)
        for _ in range(10_000):
            server.open_socket().close()
        assert is_served(server)
        assert memory(server) < before + MAX_MEMORY_MORE
        assert server.log.text == ""


@pytest.mark.spec("WIRE-41")
def test_more_connections_than_there_are_file_descriptors(tmp_path: Path) -> None:
    with serving("--logginglevel", "30", folder=tmp_path) as server:
        limit_descriptors(server, 64)
        crowd = [server.open_socket() for _ in range(200)]
        server.log.expect("Too many open files")  # which it comes upon only while they are open
        for attacker in crowd:
            attacker.close()
        assert is_served(server)
        assert "Traceback" not in server.log.text
        assert len(server.log.text.splitlines()) < 5


def limit_descriptors(server: Server, count: int) -> None:
    resource = pytest.importorskip("resource")
    if not hasattr(resource, "prlimit"):
        pytest.skip("this system can't limit the descriptors of another process")
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (count, count))


def test_requests_without_an_end_take_no_memory(server: Server) -> None:
    """A client that sends on and on without reading is not read further."""
    before = memory(server)
    attacker = server.open_socket()
    attacker.setblocking(False)
    requests = encode_request(Load(ROOT)) * 1000 + encode_request(Sync()) * 1000
    sent = 0
    try:
        while sent < 256 << 20:
            sent += attacker.send(requests)
    except BlockingIOError:
        pass
    assert is_served(server)
    assert memory(server) < before + MAX_MEMORY_MORE
    assert sent < 256 << 20
    attacker.close()


VERSION_2 = b"V\0\0\0\2"


@pytest.mark.spec("WIRE2-5", "WIRE2-40", "WIRE-23")
@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (VERSION_2 + b"\0\0\0\0S", "of no bytes"),
        (VERSION_2 + FOUR_GIB + b"L", "4294967295 bytes"),
        (VERSION_2 + FOUR_GIB + b"C", "4294967295 bytes"),
        (
            VERSION_2 + messages.encode(b"Z", b"\1\x7f\xff\xff\xff" + zlib.compress(bytes(10**6))),
            "longer than the limit",
        ),
        (VERSION_2 + messages.encode_commit(0, [], [b"junk"]), "record"),
        (VERSION_2 + messages.encode_commit(1 << 60, [], [pack_record(ROOT, b"x", b"")]), "does not exist yet"),
        (VERSION_2 + messages.encode_commit(0, None, [pack_record(ROOT, b"x", b"")]), "out of turn"),
    ],
    ids=["no kind", "4 GiB load", "4 GiB commit", "bomb", "no record", "serial to come", "no turn"],
)
def test_bad_messages_of_version_2(server: Server, message: bytes, reason: str) -> None:
    before = memory(server)
    attack(server, message, reason, answer=len(encode_u32(2) + messages.encode_hello(messages.Hello())))
    assert memory(server) < before + MAX_MEMORY_MORE


@pytest.mark.spec("WIRE-22")
@pytest.mark.parametrize("version", [1, 2])
def test_large_answers_that_nobody_reads_take_no_memory(tmp_path: Path, version: int) -> None:
    with serving("--file", "f", folder=tmp_path) as server:
        with server.connect() as connection:
            connection.get_root()["noise"] = random.Random(1).randbytes(4 << 20)
            connection.commit()
        before = memory(server)
        attacker = server.open_socket()
        loads = VERSION_2 + 60 * messages.encode_load([ROOT], 0) if version == 2 else 60 * encode_request(Load(ROOT))
        attacker.sendall(loads)
        assert is_served(server)
        assert memory(server) < before + MAX_MEMORY_MORE
        attacker.close()


@pytest.mark.spec("WIRE-22")
def test_client_that_resets_the_connection_right_after_a_request_is_gone(server: Server) -> None:
    attacker = server.open_socket()
    host, port = attacker.getsockname()
    attacker.sendall(VERSION_2)
    receive(attacker, len(encode_u32(2) + messages.encode_hello(messages.Hello())))
    server.process.send_signal(signal.SIGSTOP)  # so that both are there when it looks
    attacker.sendall(messages.encode_request(messages.Options(1, 1, 0)))  # which has no answer
    attacker.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    attacker.close()
    server.process.send_signal(signal.SIGCONT)
    server.log.expect(f"client {host}:{port} disconnected")


@pytest.mark.spec("WIRE-23", "TLS-9")
def test_no_state_of_a_connection_lets_its_client_harm_others() -> None:
    counts = hostile_peers.run(3 * len(hostile_peers.STATES), 1).sound()
    assert all(counts[state] for state in hostile_peers.STATES)

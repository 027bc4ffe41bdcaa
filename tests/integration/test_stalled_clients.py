"""A client that stops in the middle of something: others go on, and it is dropped."""

import functools
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from durus.connection import Connection
from durus.files.file import OperatingSystem
from durus.files.shelf.inspection import ShelfInspection
from durus.oid import oid_from_int
from durus.persistent import Persistent
from durus.records.record import pack_record
from durus.sharing import protocol, protocol2
from durus.sharing.compression import NONE
from durus.sharing.protocol import BulkLoad, Commit, NewOids, Version, encode_commit, encode_request
from tests.integration.serving import Server, is_closed, receive, serving

LOADS = 200


class Big(Persistent):
    def __init__(self) -> None:
        self.data = random.Random(1).randbytes(1 << 18)  # which does not get smaller by compression


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Connection(tmp_path / "f") as connection:
        connection.get_root()["big"] = Big()
        connection.commit()
    with serving("--file", "f", "--commit-timeout", "1", "--stall-timeout", "1", folder=tmp_path) as started:
        yield started
    file = OperatingSystem().open(str(tmp_path / "f"), "read")
    assert list(ShelfInspection(file).findings()) == []
    file.close()


def new_oid(stalled: socket.socket) -> bytes:
    stalled.sendall(encode_request(NewOids(1)))
    return receive(stalled, 8)


def take_the_turn(stalled: socket.socket) -> None:
    stalled.sendall(encode_request(Commit()))
    assert receive(stalled, 4) == bytes(4)


def load_often(server: Server) -> None:
    """Load objects one by one with another client while the stalled client is connected."""
    storage = server.connect(prefetch=0).storage
    for _ in range(LOADS):
        storage.load(bytes(8))
    storage.close()


@pytest.mark.spec("WIRE-22")
@pytest.mark.parametrize("half", [b"L123", b"B\0\0\1\0" + bytes(8), b"V\0", b"M"], ids=["L", "B", "V", "M"])
def test_half_a_request_holds_up_nobody_and_ends_its_client(server: Server, half: bytes) -> None:
    stalled = server.open_socket()
    stalled.sendall(half)
    load_often(server)
    other = server.connect()
    other.get_root()["x"] = 1
    other.commit()
    assert is_closed(stalled)
    server.log.expect("disconnected: the rest of a request took longer than 1 seconds")
    other.get_root()["x"] = 2
    other.commit()
    other.close()
    stalled.close()


@pytest.mark.spec("WIRE-21", "TXN-27")
@pytest.mark.parametrize("sent", [0, 3, 30], ids=["nothing", "half the length", "half the data"])
def test_a_turn_that_is_not_used_is_passed_on_and_its_client_is_dropped_at_a_deadline(
    server: Server, sent: int
) -> None:
    stalled = server.open_socket()
    oid = new_oid(stalled)
    take_the_turn(stalled)
    stalled.sendall(encode_commit([(oid, pack_record(oid, b"never stored", b""))])[:sent])
    load_often(server)
    other = server.connect()
    for number in range(100):
        other.get_root()["x"] = number
        other.commit()
    assert is_closed(stalled)
    server.log.expect("disconnected: the data of its commit took longer than 1 seconds")
    assert not other.storage.has_record(oid)
    other.close()
    stalled.close()


@pytest.mark.spec("WIRE-22")
def test_answers_that_nobody_reads_hold_up_nobody_and_end_their_client(server: Server) -> None:
    stalled = server.open_socket()
    stalled.sendall(encode_request(BulkLoad([oid_from_int(1)] * 1000)))
    load_often(server)
    other = server.connect()
    other.get_root()["x"] = 1
    other.commit()
    server.log.expect("disconnected: the reading of its answers took longer than 1 seconds")
    other.get_root()["x"] = 2
    other.commit()
    other.close()
    stalled.close()


@pytest.mark.spec("WIRE2-17")
def test_what_was_asked_for_ahead_may_stay_unread(server: Server) -> None:
    silent = server.open_socket()
    silent.sendall(encode_request(Version(protocol2.VERSION_2)))
    ahead = protocol2.encode_request(protocol2.LoadAhead([oid_from_int(1)], 0))
    silent.sendall(protocol2.encode_request(protocol2.Options(0, 1 << 20, NONE)) + 60 * ahead)
    load_often(server)
    stalled = server.open_socket()
    stalled.sendall(b"L")
    assert is_closed(stalled)  # so more than the time for reading an answer has passed
    stalled.close()
    silent.sendall(protocol2.encode_request(protocol2.Ping(b"")))
    assert receive(silent, 4) == bytes([0, 0, 0, protocol2.VERSION_2])
    kinds = [protocol.receive(protocol2.read_answer(), functools.partial(receive, silent)).kind for _ in range(62)]
    assert kinds == [b"H", *[b"A"] * 60, b"G"]
    silent.close()


@pytest.mark.spec("WIRE-22")
def test_a_client_that_has_nothing_to_ask_may_be_silent(server: Server) -> None:
    silent = server.connect()
    stalled = server.open_socket()
    stalled.sendall(b"L")
    assert is_closed(stalled)  # so more than the time for that has passed
    silent.get_root()["x"] = 1
    silent.commit()
    silent.close()
    stalled.close()

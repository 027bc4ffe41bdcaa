"""The server's side of a connection: waiting, flow control, the end of it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from durus.error import ClosedError, DurusError, LimitError, NotAllowedError, ProtocolError, ReadonlyError
from durus.file_storage import FileStorage
from durus.records.record import pack_record
from durus.sharing import protocol2
from durus.sharing.conversation import Conversation
from durus.sharing.protocol import (
    BulkLoad,
    Commit,
    Load,
    NewOids,
    Quit,
    Request,
    Sync,
    Version,
    encode_commit,
    encode_request,
)
from durus.sharing.protocol2 import Hello
from durus.sharing.roles import Role
from durus.sharing.session import MAX_UNUSED_OIDS, SessionCore
from durus.storage import MemoryStorage
from tests.in_memory_server import InMemoryConnection, InMemoryServer

NOTHING_INVALID = bytes(4)
ROOT = bytes(8)


def record(oid: bytes, data: bytes = b"data", *refs: bytes) -> bytes:
    return pack_record(oid, data, b"".join(sorted(refs)))


def commit_root(connection: InMemoryConnection, data: bytes = b"data") -> None:
    connection.sendall(encode_request(NewOids(1)))
    connection.sendall(encode_request(Commit()))
    connection.sendall(encode_commit([(ROOT, record(ROOT, data))]))
    assert connection.received.endswith(b"O")
    connection.received.clear()


@pytest.fixture
def server() -> InMemoryServer:
    return InMemoryServer(MemoryStorage())


@pytest.mark.spec("WIRE-1")
def test_requests_sent_ahead_are_answered_in_their_order(server: InMemoryServer) -> None:
    connection = server.connect()
    connection.sendall(encode_request(Load(ROOT)) + encode_request(Sync()) + encode_request(NewOids(1)))
    assert connection.received == b"K" + NOTHING_INVALID + ROOT


@pytest.mark.spec("WIRE-9", "WIRE2-22")
@pytest.mark.parametrize("version", [1, 2])
def test_a_host_may_write_a_commit_at_once(
    server: InMemoryServer, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    connection = server.connect()
    monkeypatch.setattr(connection, "commit_is_ready", server.write)
    connection.sendall(encode_request(Version(version)))
    if version == 1:
        connection.sendall(encode_request(NewOids(1)) + encode_request(Commit()))
        commit = encode_commit([(ROOT, record(ROOT))])
    else:
        connection.sendall(protocol2.encode_request(protocol2.NewOids(1)))
        commit = protocol2.encode_commit(0, [], [record(ROOT)])
    connection.received.clear()
    connection.conversation.receive(commit)
    assert connection.received == (b"O" if version == 1 else protocol2.encode(b"C", bytes(7) + b"\0\1" + bytes(4)))
    assert not server.work, "nobody is woken for an outcome that has come"
    assert server.storage.load(ROOT) == record(ROOT)


@pytest.mark.spec("WIRE-6", "TXN-20")
def test_invalid_goes_before_not_found(server: InMemoryServer) -> None:
    writer, reader = server.connect(), server.connect()
    commit_root(writer)
    assert reader.conversation.is_inside_request is False
    reader.sendall(encode_request(Load(ROOT)))
    assert reader.received == b"I"


@pytest.mark.spec("WIRE-22")
def test_a_client_that_does_not_read_is_not_answered_further(server: InMemoryServer) -> None:
    connection = server.connect()
    commit_root(connection)
    connection.is_paused = True
    connection.sendall(encode_request(BulkLoad([ROOT] * 1000)))
    assert 0 < len(connection.received) < 1000 * len(record(ROOT)) / 3
    connection.sendall(encode_request(Sync()))
    assert connection.conversation.has_unread_input
    connection.is_paused = False
    connection.conversation.proceed()
    server.settle()
    assert len(connection.received) == 1000 * (5 + len(record(ROOT))) + len(NOTHING_INVALID)
    assert not connection.conversation.has_unread_input


@pytest.mark.spec("WIRE-22")
def test_a_long_answer_lets_others_in_between(server: InMemoryServer) -> None:
    greedy, other = server.connect(), server.connect()
    commit_root(greedy)
    greedy.conversation.receive(encode_request(BulkLoad([ROOT] * 1000)))
    sent_at_once = len(greedy.received)
    other.conversation.receive(encode_request(Sync()))
    assert other.received
    server.settle()
    assert 0 < sent_at_once < len(greedy.received) / 3


@pytest.mark.spec("WIRE2-52")
@pytest.mark.parametrize("is_sending", [False, True])
def test_a_client_that_goes_while_it_gets_the_file_leaves_none_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_sending: bool
) -> None:
    storage = FileStorage(tmp_path / "f")
    server = InMemoryServer(storage)
    commit_root(server.connect(), bytes(1 << 18))
    opened: list[object] = []
    closed: list[object] = []
    sealed_part = storage.sealed_part

    def noted(after: str) -> object:
        part = sealed_part(after)
        close = part.close

        def noted_close() -> None:
            closed.append(part)
            close()

        monkeypatch.setattr(part, "close", noted_close, raising=False)
        opened.append(part)
        return part

    monkeypatch.setattr(storage, "sealed_part", noted)
    connection = server.connect()
    connection.sendall(encode_request(Version(2)))
    if is_sending:
        monkeypatch.setattr(connection, "send", lambda data: connection.conversation.close())
    connection.conversation.receive(protocol2.encode_request(protocol2.Follow(b"")))
    connection.conversation.close()
    assert opened
    assert closed == opened
    storage.close()


@pytest.mark.spec("WIRE-22", "WIRE2-12")
def test_many_new_oids_let_others_in_between(server: InMemoryServer) -> None:
    greedy, other = server.connect(), server.connect()
    commit_root(other)
    greedy.sendall(encode_request(Version(2)))
    hello = len(greedy.received)
    greedy.conversation.receive(protocol2.encode_request(protocol2.NewOids(60_000)))
    assert len(greedy.received) == hello
    other.conversation.receive(encode_request(Sync()))
    assert other.received
    server.settle()
    oids = greedy.received[hello + 5 :]
    assert len({bytes(oids[at : at + 8]) for at in range(0, len(oids), 8)}) == 60_000


@pytest.mark.spec("WIRE-22")
@pytest.mark.parametrize("request_", [NewOids(255), NewOids(1), Sync(), Load(ROOT)])
def test_many_short_requests_let_others_in_between(server: InMemoryServer, request_: Request) -> None:
    greedy, other = server.connect(), server.connect()
    commit_root(greedy)
    greedy.conversation.receive(encode_request(request_) * 1000)
    sent_at_once = len(greedy.received)
    other.conversation.receive(encode_request(Sync()))
    assert other.received
    server.settle()
    assert 0 < sent_at_once < len(greedy.received) / 10


@pytest.mark.spec("WIRE-22")
def test_a_half_request_is_told_from_silence(server: InMemoryServer) -> None:
    connection = server.connect()
    assert not connection.conversation.is_inside_request
    connection.sendall(b"L123")
    assert connection.conversation.is_inside_request
    connection.sendall(b"45678")
    assert not connection.conversation.is_inside_request
    assert connection.conversation.request_count == 1


@pytest.mark.spec("WIRE-21", "TXN-27")
def test_the_turn_of_a_client_that_goes_passes_on(server: InMemoryServer) -> None:
    first, second = server.connect(), server.connect()
    first.sendall(encode_request(Commit()))
    second.sendall(encode_request(Commit()))
    assert first.conversation.has_turn
    assert not second.received
    first.sendall(encode_commit([(ROOT, record(ROOT))])[:20])
    first.close()
    assert second.received == NOTHING_INVALID
    assert not server.storage.has_record(ROOT)


@pytest.mark.spec("TXN-24", "WIRE-5")
def test_a_client_may_not_hoard_oids(server: InMemoryServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_UNUSED_OIDS >= 1 << 20
    monkeypatch.setattr("durus.sharing.session.MAX_UNUSED_OIDS", 300)
    connection = server.connect()
    commit_root(connection)  # what is used is not hoarded
    connection.sendall(encode_request(NewOids(200)))
    connection.sendall(encode_request(NewOids(100)))
    assert not connection.is_closed
    connection.sendall(encode_request(NewOids(1)))
    assert "more than 300 oids" in str(connection.error)


@pytest.mark.spec("WIRE-11")
def test_a_commit_on_a_readonly_storage_is_refused_before_its_list(tmp_path: Path) -> None:
    FileStorage(tmp_path / "f").close()
    storage = FileStorage(tmp_path / "f", readonly=True)
    connection = InMemoryServer(storage).connect()
    connection.sendall(encode_request(Commit()))
    assert isinstance(connection.error, ReadonlyError)
    assert not connection.received
    storage.close()


@pytest.mark.spec("WIRE-11", "TXN-22")
def test_a_commit_that_cannot_be_stored_is_not_answered(
    server: InMemoryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, other = server.connect(), server.connect()

    def fail(records: dict[bytes, bytes]) -> None:
        raise ClosedError("the disk is gone")

    monkeypatch.setattr(server.storage, "stage_commit", fail)
    connection.sendall(encode_request(NewOids(1)) + encode_request(Commit()))
    connection.received.clear()
    connection.sendall(encode_commit([(ROOT, record(ROOT))]))
    assert isinstance(connection.error, ClosedError)
    assert not connection.received
    other.sendall(encode_request(Load(ROOT)) + encode_request(Sync()) + encode_request(Load(ROOT)))
    assert other.received == b"I" + b"\0\0\0\1" + ROOT + b"K"


@pytest.mark.spec("WIRE-13", "WIRE-24")
def test_the_end_of_the_server_finishes_the_commit_that_is_whole_and_refuses_the_other() -> None:
    core = SessionCore(MemoryStorage())
    whole, half = Paused(core), Paused(core)
    whole.conversation.receive(encode_request(NewOids(1)) + encode_request(Commit()))
    whole.conversation.proceed()
    whole.conversation.receive(encode_commit([(ROOT, record(ROOT))]))
    half.conversation.receive(encode_request(Commit()))
    half.conversation.proceed()
    whole.conversation.finish()
    half.conversation.finish()
    assert not whole.has_ended
    assert half.has_ended
    write = core.begin_write()
    write.write()
    write.finish(None)
    whole.conversation.proceed()
    assert whole.sent.endswith(b"O")
    assert whole.has_ended


class Paused:
    """A host that leaves the calling of proceed() to the test."""

    is_paused = False
    hello = Hello()
    role = Role.ADMIN
    refusal: LimitError | None = None
    reserve: LimitError | None = None

    def __init__(self, core: SessionCore) -> None:
        self.sent = bytearray()
        self.has_ended = False
        self.conversation = Conversation(core, self)

    def send(self, data: bytes) -> None:
        self.sent += data

    def proceed_soon(self) -> None:
        pass

    def wake(self) -> None:
        pass

    def commit_is_ready(self) -> None:
        pass

    def status(self) -> dict[str, object]:
        return {}

    def commit_ended(self, count: int, size: int, error: DurusError | None) -> None:
        pass

    def pack(self, on_end: Callable[[DurusError | None], None]) -> None:
        pass

    def file_sent(self) -> None:
        pass

    def note_refusal(self, error: NotAllowedError | LimitError) -> None:
        pass

    def quit(self) -> None:
        pass

    def end(self, error: DurusError | None) -> None:
        self.has_ended = True


@pytest.mark.spec("WIRE-13")
def test_a_client_can_end_the_server(server: InMemoryServer) -> None:
    connection, other = server.connect(), server.connect()
    connection.sendall(encode_request(Quit()))
    assert connection.is_closed
    assert other.is_closed


@pytest.mark.spec("WIRE-40")
@pytest.mark.parametrize("piece", [b"POST", b"PP", b"SP", b"QUIT", b"SQ", b"N" * 100 + b"P"])
def test_a_pack_and_an_end_in_one_piece_with_other_bytes_are_refused(server: InMemoryServer, piece: bytes) -> None:
    connection, other = server.connect(), server.connect()
    connection.sendall(piece)
    assert "came together with other bytes" in str(connection.error)
    assert server.packing is None
    assert not other.is_closed


@pytest.mark.spec("WIRE-40")
def test_a_pack_alone_or_of_a_client_that_sent_its_version_is_meant(server: InMemoryServer) -> None:
    alone, known = server.connect(), server.connect()
    alone.sendall(b"S")
    alone.sendall(b"P")
    assert alone.received == NOTHING_INVALID + b"O"
    known.sendall(b"V\0\0\0\1SPS")
    assert known.received == b"\0\0\0\1" + NOTHING_INVALID + b"O" + NOTHING_INVALID


@pytest.mark.spec("WIRE-40")
def test_bytes_that_come_soon_after_a_pack_make_it_one_that_was_not_meant() -> None:
    host = Paused(SessionCore(MemoryStorage()))
    host.conversation.receive(b"S" * 200)  # which are not all answered yet
    host.conversation.receive(b"P")
    host.conversation.receive(b"OST")
    for _ in range(10):
        host.conversation.proceed()
    assert host.has_ended
    assert b"O" not in host.sent


@pytest.mark.spec("TXN-45")
def test_a_client_in_line_is_closed_when_the_storage_has_started_anew(server: InMemoryServer) -> None:
    first, second = server.connect(), server.connect()
    first.sendall(encode_request(Commit()))
    second.sendall(encode_request(Commit()))
    server.core.start_anew(is_write_lost=False)
    server.settle()
    assert "restarted after an interrupt" in str(second.error)
    first.sendall(encode_commit([(ROOT, record(ROOT))]))
    assert isinstance(first.error, ProtocolError)


@pytest.mark.spec("WIRE-23")
def test_a_dropped_client_is_told_nothing_more_and_heard_no_longer(server: InMemoryServer) -> None:
    connection = server.connect()
    connection.sendall(b"x" + encode_request(NewOids(1)))
    assert isinstance(connection.error, ProtocolError)
    assert not connection.received
    assert server.connect().conversation is not connection.conversation

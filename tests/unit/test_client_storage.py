"""ClientStorage against a server in memory: prefetch, oids, and connections that are lost."""

import random
from collections.abc import Callable, Collection

import pytest

from durus.client_storage import ClientStorage
from durus.connection import Connection
from durus.error import (
    DisconnectedError,
    DurusKeyError,
    OutcomeUnknownError,
    ProtocolError,
    ReadConflictError,
    TransactionError,
    WriteConflictError,
)
from durus.oid import oid_from_int
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.records.record import pack_record
from durus.storage import MemoryStorage
from tests.in_memory_server import InMemoryConnection, InMemoryServer
from tests.unit.served_items import CountingConnection, Item, items_of, store_items


@pytest.fixture
def server() -> InMemoryServer:
    return InMemoryServer(MemoryStorage(), protocol=1)


def new_client(server: InMemoryServer, prefetch: int = 100) -> tuple[Connection, CountingConnection]:
    stream = CountingConnection(server)
    return Connection(ClientStorage(stream=stream, prefetch=prefetch, protocol=1)), stream


@pytest.mark.spec("TXN-26")
def test_siblings_come_along_with_the_one_that_is_loaded(server: InMemoryServer) -> None:
    store_items(server, 1000)
    connection, stream = new_client(server)
    assert sum(item.n for item in items_of(connection)) == sum(range(1000))
    assert stream.loads() <= 5 + 1000 / 100
    slow, slow_stream = new_client(server, prefetch=0)
    assert sum(item.n for item in items_of(slow)) == sum(range(1000))
    assert slow_stream.loads() >= 1000


@pytest.mark.spec("TXN-26")
def test_what_is_loaded_already_does_not_come_along(server: InMemoryServer) -> None:
    store_items(server, 15)
    connection, stream = new_client(server)
    items = items_of(connection)
    assert items[0].n == 0
    before = stream.loads()
    assert [item.n for item in items] == list(range(15))
    assert stream.loads() == before
    items[7]._p_set_status_ghost()
    connection.cache.make_ghost(oid := items[7]._p_oid or b"")
    assert items[7].n == 7
    assert stream.requests[-1] == b"L" + oid


@pytest.mark.spec("TXN-26", "TXN-12")
def test_a_record_that_came_along_is_dropped_when_a_sync_shows_it_invalid(server: InMemoryServer) -> None:
    store_items(server, 10)
    reader, _ = new_client(server)
    items = items_of(reader)
    assert items[0].n == 0
    writer = Connection(server.new_client())
    items_of(writer)[5].n = 55
    writer.commit()
    assert items[5].n == 5, "the state of its last sync"
    items[1].n = 11
    with pytest.raises(WriteConflictError):
        reader.commit()
    reader.abort()
    items[0].n = 1
    writer_items = items_of(writer)
    writer_items[6].n = 66
    writer.commit()
    reader.abort()
    assert [items[5].n, items[6].n] == [55, 66]


@pytest.mark.spec("TXN-26", "WIRE-9")
def test_a_record_that_came_along_is_dropped_when_the_list_of_a_turn_has_it(server: InMemoryServer) -> None:
    store_items(server, 10)
    reader, writer = Connection(server.new_client()), Connection(server.new_client())
    items = items_of(reader)
    assert items[0].n == 0
    items_of(writer)[5].n = 55
    writer.commit()
    reader.abort()
    assert items[0].n == 0
    items_of(writer)[6].n = 66
    writer.commit()
    items[0].n = 1
    reader.commit()
    assert [items[5].n, items[6].n] == [55, 66]


@pytest.mark.spec("TXN-26")
def test_a_record_that_came_along_is_dropped_when_this_client_commits_another(server: InMemoryServer) -> None:
    store_items(server, 10)
    storage = server.new_client()
    connection = Connection(storage)
    items = items_of(connection)
    assert items[0].n == 0
    oid = items[3]._p_oid or b""
    record = server.storage.load(oid)
    assert record.count(b"K\x03") == 1, "the pickled 3"
    storage.begin()
    storage.store(oid, record.replace(b"K\x03", b"K\x21"))
    storage.end()
    assert items[3].n == 0x21


def test_what_came_along_is_bounded(server: InMemoryServer, monkeypatch: pytest.MonkeyPatch) -> None:
    store_items(server, 300)
    monkeypatch.setattr("durus.sharing.prefetch._MAX_SIZE", 1)
    connection, stream = new_client(server)
    assert [item.n for item in items_of(connection)] == list(range(300))
    assert stream.loads() >= 300


def test_long_records_do_not_come_along_in_vain(server: InMemoryServer) -> None:
    writer = Connection(server.new_client())
    chance = random.Random(1)
    items = PersistentList(Item(n) for n in range(60))
    for item in items:
        item.data = chance.randbytes(1 << 20)
    writer.get_root()["items"] = items
    writer.commit()

    class Weighing(CountingConnection):
        weight = 0

        def recv(self, size: int) -> bytes:
            data = super().recv(size)
            self.weight += len(data)
            return data

    stream = Weighing(server)
    connection = Connection(ClientStorage(stream=stream, protocol=1))
    assert [item.n for item in items_of(connection)] == list(range(60))
    assert stream.weight < 1.5 * (60 << 20)


@pytest.mark.spec("TXN-12", "TXN-13")
def test_a_crawl_goes_on_with_current_states_when_a_transaction_ends_meanwhile(server: InMemoryServer) -> None:
    store_items(server, 20)
    crawling, other = Connection(server.new_client()), Connection(server.new_client())
    crawler = crawling.get_crawler()
    assert next(crawler) is crawling.root
    next(crawler)
    first = next(crawler)
    assert isinstance(first, Item)
    for item in items_of(other):
        item.n += 100
    other.commit()
    crawling.abort()
    found = [first, *(item for item in crawler if isinstance(item, Item))]
    for item in found:
        item.n += 1000
    crawling.commit()
    other.abort()
    assert [item.n for item in items_of(other)] == [1100 + n for n in range(20)]


@pytest.mark.spec("TXN-14")
def test_a_crawl_syncs_as_loads_do(server: InMemoryServer) -> None:
    store_items(server, 3)
    crawling, other = Connection(server.new_client()), Connection(server.new_client())
    other.get_root()["more"] = Item(7)
    other.commit()
    assert len(list(crawling.get_crawler())) == 6
    crawling.abort()
    assert crawling.get_root()["more"]
    other.get_root()["more"] = None
    other.commit()
    crawling.cache.make_ghost(bytes(8))
    with pytest.raises(ReadConflictError):
        list(crawling.get_crawler())


def test_siblings_are_found_in_any_order_and_beside_other_objects(server: InMemoryServer) -> None:
    writer = Connection(server.new_client())
    writer.get_root()["tree"] = PersistentDict(
        {name: PersistentList(PersistentList([Item(n), Item(-n)]) for n in range(100)) for name in ("a", "b")}
    )
    writer.commit()
    connection, stream = new_client(server)
    tree: dict[str, list[list[Item]]] = connection.get_root()["tree"]
    assert sum(pair[0].n + pair[1].n for name in ("b", "a") for pair in reversed(tree[name])) == 0
    assert stream.loads() <= 210, "200 pairs of siblings, and a few for the lists"


@pytest.mark.spec("WIRE-7")
def test_bulk_load_gives_records_in_order_and_errors_as_load_does(server: InMemoryServer) -> None:
    store_items(server, 3)
    storage = server.new_client()
    oids = [oid_from_int(n) for n in (3, 0, 3, 2)]
    assert [record[:8] for record in storage.bulk_load(oids)] == oids
    with pytest.raises(DurusKeyError):
        list(storage.bulk_load([oid_from_int(0), oid_from_int(99)]))
    writer = Connection(server.new_client())
    writer.get_root()["x"] = 1
    writer.commit()
    with pytest.raises(ReadConflictError):
        list(storage.bulk_load([bytes(8)]))


@pytest.mark.spec("TXN-24")
def test_two_clients_of_a_new_storage_get_one_root(server: InMemoryServer) -> None:
    class LateConnection(InMemoryConnection):
        """Lets another client make the root between this one's look for it and its commit."""

        def sendall(self, data: bytes) -> None:
            if data == b"C" and len(server.connections) == 0:
                server.connections.append(self)
                first = Connection(server.new_client())
                first.get_root()["x"] = 1
                first.commit()
            super().sendall(data)

    second = Connection(ClientStorage(stream=LateConnection(server), protocol=1))
    assert second.get_root()["x"] == 1
    second.get_root()["x"] = 2
    second.commit()
    assert Connection(server.new_client()).get_root()["x"] == 2


@pytest.mark.spec("WIRE-11", "TXN-25", "TXN-10")
def test_a_conflict_that_only_the_server_finds_names_its_oids(server: InMemoryServer) -> None:
    writer = Connection(server.new_client())
    writer.get_root()["item"] = item = Item(1)
    writer.commit()
    del writer.get_root()["item"]
    writer.commit()

    class PackingConnection(InMemoryConnection):
        """Packs between the list of the turn and the data."""

        def sendall(self, data: bytes) -> None:
            super().sendall(data)
            if data == b"C":
                for _ in server.core.gen_pack():
                    pass

    storage = ClientStorage(stream=PackingConnection(server), protocol=1)
    loaded = Connection(storage)
    held = loaded.get(item._p_oid or b"")
    loaded.get_root()["back"] = held
    with pytest.raises(WriteConflictError) as raised:
        loaded.commit()
    assert raised.value.oids == [item._p_oid]
    with pytest.raises(WriteConflictError):
        loaded.commit()
    loaded.abort()
    loaded.get_root()["n"] = 1
    loaded.commit()


class Scripted:
    """A server that answers each request with the next of its lines, or fails."""

    def __init__(self, *answers: bytes | Exception | Callable[[], bytes]) -> None:
        self._answers = list(answers)
        self.is_closed = False

    def sendall(self, data: bytes) -> None:
        pass

    def recv(self, size: int) -> bytes:
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, bytes) else answer()

    def close(self) -> None:
        self.is_closed = True


HELLO = b"\0\0\0\1"


@pytest.mark.spec("WIRE-4", "WIRE-25")
def test_a_server_of_another_version_is_refused() -> None:
    stream = Scripted(b"\0\0\0\2")
    with pytest.raises(ProtocolError, match="version 2"):
        ClientStorage(stream=stream, protocol=1)
    assert stream.is_closed


@pytest.mark.spec("WIRE-25")
@pytest.mark.parametrize("failure", [b"", ConnectionResetError("reset by peer"), TimeoutError()])
def test_a_connection_that_is_lost_stays_lost(failure: bytes | Exception) -> None:
    stream = Scripted(HELLO, b"\0\0", failure)
    storage = ClientStorage(stream=stream, protocol=1)
    with pytest.raises(DisconnectedError, match="2972 was lost") as raised:
        storage.sync()
    assert stream.is_closed
    for call in (storage.sync, storage.begin, storage.new_oid, storage.pack, lambda: storage.load(bytes(8))):
        with pytest.raises(DisconnectedError) as again:
            call()
        assert str(again.value) == str(raised.value)
    storage.close()


@pytest.mark.spec("WIRE-25")
def test_an_answer_that_the_protocol_does_not_have_ends_the_connection() -> None:
    storage = ClientStorage(protocol=1, stream=Scripted(HELLO, b"?"))
    with pytest.raises(ProtocolError, match="is not an answer"):
        storage.load(bytes(8))
    with pytest.raises(DisconnectedError):
        storage.sync()


@pytest.mark.spec("WIRE-25")
def test_a_record_of_another_oid_is_refused() -> None:
    storage = ClientStorage(protocol=1, stream=Scripted(HELLO, b"O\0\0\0\x0d" + bytes(7) + b"\1\0\0\0\1x"))
    with pytest.raises(ProtocolError, match="another record"):
        storage.load(bytes(8))
    with pytest.raises(DisconnectedError):
        storage.sync()


@pytest.mark.spec("WIRE-25", "TXN-26")
def test_a_record_of_another_oid_is_refused_that_came_along() -> None:
    one, two = oid_from_int(1), oid_from_int(2)
    root, sibling = pack_record(bytes(8), b"x", one + two), pack_record(one, b"x", b"")
    answers = [b"O" + len(each).to_bytes(4, "big") + each for each in (root, sibling, sibling)]
    storage = ClientStorage(protocol=1, stream=Scripted(HELLO, answers[0], answers[1] + answers[2]))
    storage.load(bytes(8))
    with pytest.raises(ProtocolError, match="oid 2 with another record"):
        storage.load(one)


@pytest.mark.spec("WIRE-25")
@pytest.mark.parametrize("failure", [b"", TimeoutError(), b"K"])
def test_a_commit_without_an_answer_has_an_unknown_outcome(server: InMemoryServer, failure: bytes | Exception) -> None:
    store_items(server, 1)
    record = server.storage.load(bytes(8))
    storage = ClientStorage(protocol=1, stream=Scripted(HELLO, bytes(4), failure))
    storage.begin()
    storage.store(bytes(8), record)
    with pytest.raises(OutcomeUnknownError):
        storage.end()
    with pytest.raises(OutcomeUnknownError, match="completely or not at all"):
        storage.sync()


@pytest.mark.spec("WIRE-25", "WIRE-9")
def test_a_commit_that_is_lost_before_its_turn_is_not_stored(server: InMemoryServer) -> None:
    storage = ClientStorage(protocol=1, stream=Scripted(HELLO, b""))
    storage.begin()
    with pytest.raises(DisconnectedError) as raised:
        storage.end()
    assert not isinstance(raised.value, OutcomeUnknownError)


@pytest.mark.spec("WIRE-20")
def test_a_claimed_length_takes_no_memory() -> None:
    sizes: list[int] = []

    class Claiming(Scripted):
        def recv(self, size: int) -> bytes:
            sizes.append(size)
            return super().recv(size)

    storage = ClientStorage(stream=Claiming(HELLO, b"O\xff\xff\xff\xff", b"x" * 100, b""), protocol=1)
    with pytest.raises(DisconnectedError):
        storage.load(bytes(8))
    assert max(sizes) <= 1 << 20


def test_a_closed_storage_says_so(server: InMemoryServer) -> None:
    storage = server.new_client()
    storage.close()
    storage.close()
    with pytest.raises(DisconnectedError, match="was closed here"):
        storage.load(bytes(8))


def test_calls_out_of_order_are_told(server: InMemoryServer) -> None:
    storage = server.new_client()
    with pytest.raises(TransactionError, match="begin"):
        storage.store(bytes(8), b"")
    with pytest.raises(TransactionError, match="begin"):
        storage.end()


@pytest.mark.spec("WIRE-9")
def test_an_error_of_the_handler_gives_the_turn_back(server: InMemoryServer) -> None:
    store_items(server, 1)
    first, second = server.new_client(), Connection(server.new_client())
    second.get_root()["n"] = 1
    second.commit()

    def refuse(oids: Collection[bytes] | None) -> None:
        raise WriteConflictError(oids)

    first.begin()
    first.store(bytes(8), second.storage.load(bytes(8)))
    with pytest.raises(WriteConflictError):
        first.end(refuse)
    second.get_root()["n"] = 2
    second.commit()
    assert first.sync() == [bytes(8)]


@pytest.mark.spec("TXN-13")
def test_the_client_that_made_the_root_has_conflicts_on_it_at_once(server: InMemoryServer) -> None:
    first = Connection(server.new_client())
    first.get_root()["x"] = 1
    second = Connection(server.new_client())
    second.get_root()["y"] = 2
    second.commit()
    with pytest.raises(WriteConflictError):
        first.commit()

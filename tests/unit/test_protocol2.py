"""Version 2 of the wire protocol: messages, and what a client and a server say with them."""

import itertools
import random
import struct
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durus.client_storage import ClientStorage
from durus.connection import Connection
from durus.error import (
    DisconnectedError,
    LimitError,
    NotAllowedError,
    OutcomeUnknownError,
    ProtocolError,
    ReadConflictError,
    ReadonlyError,
    ServerError,
    SnapshotEndedError,
    TransactionError,
    WriteConflictError,
)
from durus.file_storage import FileStorage
from durus.oid import oid_from_int
from durus.oid_array import OidArray, encoded
from durus.persistent_list import PersistentList
from durus.records.record import pack_record
from durus.sharing import compression
from durus.sharing import protocol2 as messages
from durus.sharing.protocol import Version, encode_request, receive
from durus.storage import MemoryStorage
from tests.in_memory_server import InMemoryConnection, InMemoryServer, answers, greeted
from tests.unit.served_items import CountingConnection, Item, items_of, store_items

ROOT = bytes(8)
VERSION_2 = b"V\0\0\0\2"


@pytest.fixture
def server() -> InMemoryServer:
    return InMemoryServer(MemoryStorage())


def connect(server: InMemoryServer, prefetch: int = 100) -> tuple[Connection, CountingConnection]:
    stream = CountingConnection(server)
    connection = Connection(ClientStorage(stream=stream, prefetch=prefetch))
    stream.kinds()
    return connection, stream


# Messages


@pytest.mark.spec("WIRE2-21")
@given(
    st.sets(st.one_of(st.integers(0, 50), st.integers(0, 2**64 - 1))),
    st.integers(0, 60),
    st.sets(st.integers(0, 60)),
)
def test_an_array_of_oids_has_what_it_was_made_of(numbers: set[int], other: int, others: set[int]) -> None:
    oids = {oid_from_int(number) for number in numbers}
    width, data = OidArray.of(oids).to_bytes()
    assert width == (4 if numbers and max(numbers) < 2**32 else 8)
    found = OidArray.from_bytes(width, data)
    assert len(found) == len(oids)
    assert all(oid in found for oid in oids)
    assert (oid_from_int(other) in found) == (other in numbers)
    assert list(found) == sorted(oids)
    assert encoded(found) == found.encoded == encoded(sorted(oids)) == b"".join(sorted(oids))
    for more in others, others | set(range(100, 200)):
        their_oids = [oid_from_int(each) for each in more]
        are_disjoint = numbers.isdisjoint(more)
        assert found.isdisjoint(their_oids) == are_disjoint
        assert found.isdisjoint(OidArray.of(their_oids)) == OidArray.of(their_oids).isdisjoint(found) == are_disjoint


@pytest.mark.parametrize("width", [0, 1, 5, 16])
def test_an_array_has_one_of_two_widths(width: int) -> None:
    with pytest.raises(ProtocolError, match="only 4 and 8"):
        OidArray.from_bytes(width, b"")


records = st.integers(0, 100).flatmap(
    lambda number: st.binary(max_size=50).map(lambda data: pack_record(oid_from_int(number), data, b""))
)
points = st.builds(
    messages.SyncPoint,
    st.integers(0, 2**64 - 1),
    st.none() | st.lists(st.integers(0, 2**64 - 1).map(oid_from_int)),
    st.lists(records),
)


@pytest.mark.spec("WIRE2-13", "WIRE2-22")
@given(points)
def test_a_sync_point_is_read_as_it_was_written(point: messages.SyncPoint) -> None:
    assert messages.parse_point(messages.encode_point(point)) == point


@pytest.mark.spec("WIRE2-23")
@given(st.lists(st.integers(0, 99).map(oid_from_int)), st.text(max_size=200), points)
def test_a_conflict_is_read_as_it_was_written(oids: list[bytes], text: str, point: messages.SyncPoint) -> None:
    conflict = messages.Conflict(oids, text.encode("utf-8", "replace").decode(), point)
    assert messages.parse_conflict(messages.encode_conflict(conflict)) == conflict


@pytest.mark.spec("WIRE2-20")
@given(st.integers(0, 2**64 - 1), st.none() | st.sets(st.integers(0, 2**40).map(oid_from_int)), st.lists(records))
def test_a_commit_is_read_as_it_was_written(serial: int, accessed: set[bytes] | None, written: list[bytes]) -> None:
    data = messages.encode_commit(serial, accessed, written)
    taken: list[bytes] = []
    commit = receive(messages.read_request(taken.append), source(data))
    assert isinstance(commit, messages.Commit)
    assert commit.serial == serial
    assert taken == written
    assert (commit.accessed is None) == (accessed is None)
    assert commit.accessed is None or all(oid in commit.accessed for oid in accessed or ())


def source(data: bytes) -> Callable[[int], bytes]:
    """Return a function that gives these bytes, and fails when there are no more."""
    rest = bytearray(data)

    def take(size: int) -> bytes:
        if size > len(rest):
            raise EOFError(f"{size} bytes are wanted, and {len(rest)} are there")
        piece = bytes(rest[:size])
        del rest[:size]
        return piece

    return take


@pytest.mark.spec("WIRE2-13")
def test_what_came_unasked_is_sent_again_to_a_client_that_has_used_it(server: InMemoryServer) -> None:
    store_items(server, 2)
    one, other = oid_from_int(2), oid_from_int(3)
    connection, writer = greeted(server), Connection(server.new_client())

    def answer_to(request: bytes) -> messages.Answer:
        connection.sendall(request)
        (answer,) = answers(connection)
        return answer

    def change() -> None:
        writer.abort()
        for item in items_of(writer):
            item.n += 1
        writer.commit()

    def sent_after_a_change() -> list[bytes]:
        change()
        point = messages.parse_point(answer_to(messages.encode_request(messages.Sync())).body)
        assert point.invalid == [one, other]
        return [record[:8] for record in point.records]

    def commit_of(oid: bytes, serial: int) -> bytes:
        return messages.encode_commit(serial, [oid], [server.storage.load(oid)])

    connection.sendall(messages.encode_request(messages.Options(9, 1000, 0)))
    answer_to(messages.encode_load([one, other], 0))
    assert sent_after_a_change() == [one, other]
    assert sent_after_a_change() == []
    answer_to(messages.encode_load([one], 0))
    assert sent_after_a_change() == [one]
    assert answer_to(commit_of(other, server.core._log.end)).kind == b"C"
    assert sent_after_a_change() == [other]
    before = server.core._log.end
    change()
    refused = messages.parse_conflict(answer_to(commit_of(one, before)).body)
    assert [record[:8] for record in refused.point.records] == [one], "it will be run again"
    assert sent_after_a_change() == []


@pytest.mark.spec("WIRE2-3")
@pytest.mark.parametrize("size", [1, 3, 4, 5, 64, 10_000])
def test_requests_may_come_in_any_pieces(server: InMemoryServer, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    store_items(server, 3)
    monkeypatch.setattr("durus.sharing.conversation.MAX_WHOLE", 100)
    oids = [oid_from_int(n) for n in range(1, 4)]
    records = [server.storage.load(oid) for oid in oids]
    requests = [
        messages.encode_load([ROOT], 0),
        messages.encode_load(oids * 9, 0),
        messages.encode_request(messages.Sync()),
        messages.encode_commit(server.core.connect().serial, oids, records),
        messages.encode_request(messages.Ping(b"")),
    ]
    connection = greeted(server)
    data = b"".join(requests)
    inside: set[int] = set()
    for start in range(0, len(data), size):
        connection.sendall(data[start : start + size])
        if connection.conversation.is_inside_request:
            inside.add(min(start + size, len(data)))
    assert [answer.kind for answer in answers(connection)] == [b"R", b"R", b"Y", b"C", b"G"]
    ends = set(itertools.accumulate(map(len, requests)))
    assert inside == {*range(size, len(data), size)} - ends


@pytest.mark.spec("WIRE2-20", "WIRE2-5")
def test_a_long_commit_is_read_record_by_record() -> None:
    written = [pack_record(oid_from_int(n), bytes(30_000), b"") for n in range(10)]
    wanted: list[int] = []
    give = source(messages.encode_commit(7, [ROOT], written))

    def take(size: int) -> bytes:
        wanted.append(size)
        return give(size)

    taken: list[bytes] = []
    receive(messages.read_request(taken.append), take)
    assert taken == written
    assert max(wanted) < 31_000


@pytest.mark.spec("WIRE2-5")
@pytest.mark.parametrize(
    "head",
    [b"\0\0\0\0S", b"\x00\x21\x00\x00S", b"\x00\x21\x00\x00L", b"\x41\0\0\0C", b"\x41\0\0\0Z", b"\xff\xff\xff\xff?"],
)
def test_a_message_beyond_its_limit_is_refused_by_its_head(server: InMemoryServer, head: bytes) -> None:
    connection = greeted(server)
    connection.sendall(head)
    assert connection.is_closed
    (answer,) = answers(connection)
    assert answer.kind == b"E"
    assert answer.body[0] == messages.MALFORMED


# The beginning


@pytest.mark.spec("WIRE2-1", "WIRE2-2")
def test_a_client_begins_at_the_serial_that_it_is_told(server: InMemoryServer) -> None:
    store_items(server, 1)
    connection, stream = connect(server)
    items_of(connection)[0].n = 5
    connection.commit()
    assert stream.kinds() == b"C", "no conflict on what changed before it came"
    assert connection.storage.protocol == 2  # type: ignore[attr-defined]  # a ClientStorage


@pytest.mark.spec("WIRE2-1")
@pytest.mark.parametrize("wanted", [2, 3, 2**32 - 1])
def test_a_server_answers_with_the_latest_version_that_it_speaks(server: InMemoryServer, wanted: int) -> None:
    connection = server.connect()
    connection.sendall(b"V" + struct.pack(">I", wanted))
    assert connection.received[:4] == b"\0\0\0\2"
    assert not connection.is_closed


@pytest.mark.spec("WIRE2-2", "TXN-31")
def test_client_that_has_connected_is_greeted_after_the_core_has_started_anew(server: InMemoryServer) -> None:
    connection = server.connect()
    server.core.start_anew(is_write_lost=False)
    connection.sendall(encode_request(Version(2)))
    del connection.received[:4]
    (answer,) = answers(connection)
    assert messages.parse_hello(answer) == connection.hello._replace(serial=server.core.connect().serial)


@pytest.mark.spec("WIRE2-2")
def test_what_a_later_server_tells_of_its_limits_is_ignored() -> None:
    hello = messages.Hello(serial=7, max_accessed=3)
    answer = messages.Answer(b"H", messages.encode_hello(hello)[5:] + b"more")
    assert messages.parse_hello(answer) == hello
    with pytest.raises(ProtocolError, match="not with its limits"):
        messages.parse_hello(messages.Answer(b"H", b"short"))


def limited(server: InMemoryServer, hello: messages.Hello) -> CountingConnection:
    """Return a connection whose server announces these limits."""
    stream = CountingConnection(server)
    stream.hello = hello
    return stream


@pytest.mark.spec("WIRE2-2")
def test_a_client_loads_more_oids_than_the_limit_in_several_requests(server: InMemoryServer) -> None:
    store_items(server, 7)
    stream = limited(server, messages.Hello(max_oids=3))
    storage = ClientStorage(stream=stream)
    stream.kinds()
    oids = [oid_from_int(number) for number in range(7)]
    assert [record[:8] for record in storage.bulk_load(oids)] == oids
    assert stream.kinds() == b"LLL"


@pytest.mark.spec("WIRE2-2")
@pytest.mark.parametrize("most", [1, 2, 5])
def test_a_client_asks_for_no_more_oids_ahead_than_the_limit(server: InMemoryServer, most: int) -> None:
    store_items(server, 20)
    stream = limited(server, messages.Hello(max_oids=most))
    connection = Connection(ClientStorage(stream=stream))
    assert [item.n for item in items_of(connection)] == [*range(20)]
    longest = max((len(each) - 7) // 8 for each in stream.requests if each[4:5] == b"L")
    assert longest <= most


@pytest.mark.spec("WIRE2-2")
def test_a_commit_beyond_the_limit_of_the_server_is_refused_unsent(server: InMemoryServer) -> None:
    record = pack_record(ROOT, b"x", b"")
    stream = limited(server, messages.Hello(max_commit=4 + len(record)))
    storage = ClientStorage(stream=stream)
    assert storage.new_oid() == ROOT
    for size, is_refused in (1, False), (2, True):
        storage.begin()
        storage.store(ROOT, pack_record(ROOT, size * b"x", b""))
        stream.kinds()
        if is_refused:
            with pytest.raises(TransactionError, match="longer than the 17 that the server takes"):
                storage.end()
            assert stream.kinds() == b""
        else:
            storage.end()
    assert storage.load(ROOT) == record


@pytest.mark.spec("WIRE2-4")
def test_a_request_of_an_unknown_kind_is_skipped(server: InMemoryServer) -> None:
    connection = greeted(server)
    connection.sendall(messages.encode(b"?", b"what a later version has") + messages.encode(b"G", b"x"))
    first, second = answers(connection)
    assert (first.kind, first.body[0]) == (b"E", messages.UNSUPPORTED)
    assert second == (b"G", b"x")


@pytest.mark.spec("WIRE2-4", "WIRE2-33")
def test_a_client_ignores_signs_of_life_and_what_it_need_not_know() -> None:
    data = messages.encode(b"W") + messages.encode(b"\x80", b"news") + messages.encode(b"W") + messages.encode(b"O")
    waits: list[int] = []
    answer = receive(messages.read_answer(lambda: waits.append(1)), source(data))
    assert answer.kind == b"O"
    assert len(waits) == 3


@pytest.mark.spec("WIRE2-3", "WIRE2-5", "WIRE2-41")
def test_a_message_of_no_bytes_is_refused_before_more_bytes_come() -> None:
    for read in messages.read_answer(), messages.read_request(lambda record: None):
        with pytest.raises(ProtocolError, match="of no bytes"):
            receive(read, source(bytes(4)))


# Compression


@pytest.mark.spec("WIRE2-6", "WIRE2-7")
@pytest.mark.parametrize("method", [number for number in (1, 2) if compression.KNOWN & 1 << number])
def test_long_messages_are_compressed_in_both_directions(server: InMemoryServer, method: int) -> None:
    record = pack_record(ROOT, bytes(100_000), b"")
    assert len(messages.encode(b"R", record, method)) < 1000
    assert messages.encode(b"R", bytes(100), method) == messages.encode(b"R", bytes(100)), "it would be no shorter"
    noise = random.Random(1).randbytes(100_000)
    assert messages.encode(b"R", noise, method) == messages.encode(b"R", noise)
    answer = receive(messages.read_answer(), source(messages.encode(b"R", record, method)))
    assert answer == (b"R", record)


@pytest.mark.spec("WIRE2-7")
def test_a_client_that_compresses_stores_and_loads(server: InMemoryServer) -> None:
    stream = CountingConnection(server)
    connection = Connection(ClientStorage(stream=stream, compress=True))
    connection.get_root()["item"] = item = Item(1)
    item.data = bytes(10**6) + random.Random(1).randbytes(10**4)
    connection.commit()
    assert sum(map(len, stream.requests)) < 30_000
    assert Connection(server.new_client()).get_root()["item"].data == item.data
    other = Connection(ClientStorage(stream=CountingConnection(server), compress=True))
    assert other.get_root()["item"].data == item.data


@pytest.mark.spec("WIRE2-6")
@pytest.mark.parametrize("claimed", [0, 1, 99_999, 100_002, 2**31])
def test_a_compressed_message_of_another_size_is_refused(server: InMemoryServer, claimed: int) -> None:
    body = compression.compress(compression.ZLIB, b"G" + bytes(100_000))
    connection = greeted(server)
    connection.sendall(messages.encode(b"Z", struct.pack(">BI", compression.ZLIB, claimed) + body))
    assert connection.is_closed


@pytest.mark.spec("WIRE2-6")
@pytest.mark.parametrize(
    "body", [b"", b"\1\0\0\0\5junk", b"\x09\0\0\0\5junk", b"\1\0\0\0\1" + compression.compress(1, b"S")[:-2]]
)
def test_what_can_t_be_decompressed_is_refused(server: InMemoryServer, body: bytes) -> None:
    connection = greeted(server)
    connection.sendall(messages.encode(b"Z", body))
    assert connection.is_closed


@pytest.mark.spec("WIRE2-7", "WIRE2-10")
def test_a_method_that_the_server_does_not_know_is_refused(server: InMemoryServer) -> None:
    connection = greeted(server)
    connection.sendall(messages.encode_request(messages.Options(0, 0, 7)))
    assert connection.is_closed


# Loads


@pytest.mark.spec("WIRE2-11", "TXN-26")
def test_what_an_object_refers_to_comes_along(server: InMemoryServer) -> None:
    store_items(server, 500)
    connection, stream = connect(server)
    assert sum(item.n for item in items_of(connection)) == sum(range(500))
    assert len(stream.kinds()) < 20
    slow, slow_stream = connect(server, prefetch=0)
    assert sum(item.n for item in items_of(slow)) == sum(range(500))
    assert len(slow_stream.kinds()) >= 500


@pytest.mark.spec("WIRE2-11")
def test_what_comes_along_is_bounded_by_count_and_bytes(server: InMemoryServer) -> None:
    store_items(server, 100)
    connection = greeted(server)
    connection.sendall(messages.encode_request(messages.Options(0, 1 << 20, 0)))
    list_oid = oid_from_int(1)
    connection.sendall(messages.encode_load([list_oid], 7))
    (answer,) = answers(connection)
    assert len(messages.parse_loaded(answer.body)) == 1 + 7
    connection.sendall(messages.encode_load([list_oid], 7))
    (answer,) = answers(connection)
    assert len(messages.parse_loaded(answer.body)) == 1 + 7, "it asks again, so it has dropped states"
    connection = greeted(server)
    connection.sendall(messages.encode_request(messages.Options(0, 1300, 0)))
    connection.sendall(messages.encode_load([ROOT], 50))
    (answer,) = answers(connection)
    assert 2 < len(messages.parse_loaded(answer.body)) < 10


@pytest.mark.spec("WIRE2-10")
def test_without_options_nothing_comes_along(server: InMemoryServer) -> None:
    store_items(server, 10)
    connection = greeted(server)
    connection.sendall(messages.encode_load([ROOT], 50))
    (answer,) = answers(connection)
    assert len(messages.parse_loaded(answer.body)) == 1


def test_what_comes_along_in_vain_becomes_less(server: InMemoryServer) -> None:
    writer = Connection(server.new_client())
    writer.get_root()["items"] = PersistentList(PersistentList(Item(n) for _ in range(100)) for n in range(100))
    writer.commit()
    lists = [some._p_oid or b"" for some in writer.get_root()["items"]]
    storage = server.new_client()
    prefetch = storage._dialog.prefetch
    for oid in lists:
        storage.load(oid)  # and nothing of what it refers to
    assert prefetch.ahead == 1
    connection = Connection(storage)
    for some in connection.get_root()["items"]:
        for item in some:
            assert item.n >= 0
    assert prefetch.ahead > 16


def greeted_before_a_commit(server: InMemoryServer) -> InMemoryConnection:
    """Return a client for which the first of three items is invalid."""
    store_items(server, 3)
    reader = greeted(server)
    reader.sendall(messages.encode_request(messages.Options(50, 1 << 20, 0)))
    writer = Connection(server.new_client())
    items_of(writer)[0].n = 10
    writer.commit()
    return reader


def commit_the_second_item_without_writing_it(server: InMemoryServer) -> None:
    other = server.core.connect()
    other.begin_commit(lambda invalid: None)
    record = server.storage.load(oid_from_int(3))
    other.commit({oid_from_int(3): record}, lambda error: None)


@pytest.mark.spec("WIRE2-11", "WIRE2-13", "TXN-23")
def test_what_is_invalid_or_not_durable_does_not_come_along(server: InMemoryServer) -> None:
    reader = greeted_before_a_commit(server)
    reader.sendall(messages.encode_load([oid_from_int(1)], 50))
    (answer,) = answers(reader)
    assert {loaded.record[:8] for loaded in messages.parse_loaded(answer.body)} == {oid_from_int(n) for n in (1, 3, 4)}
    commit_the_second_item_without_writing_it(server)
    reader.conversation.receive(messages.encode_request(messages.Sync()))
    point = messages.parse_point(answers(reader)[0].body)
    assert point.invalid == [oid_from_int(2), oid_from_int(3)]
    assert point.records == []
    server.settle()


@pytest.mark.spec("WIRE2-11")
def test_a_long_answer_comes_in_parts_and_lets_others_in_between(server: InMemoryServer) -> None:
    store_items(server, 1)
    greedy, other = greeted(server), greeted(server)
    greedy.conversation.receive(messages.encode_load([ROOT] * 2000, 0))
    sent_at_once = len(greedy.received)
    other.conversation.receive(messages.encode_request(messages.Ping(b"")))
    assert other.received
    server.settle()
    assert 0 < sent_at_once < len(greedy.received) / 3
    found = answers(greedy)
    assert [answer.kind for answer in found] == [b"r"] * (len(found) - 1) + [b"R"]
    assert sum(len(messages.parse_loaded(answer.body)) for answer in found) == 2000


@pytest.mark.spec("WIRE2-17", "TXN-23")
def test_what_is_asked_for_ahead_has_neither_what_is_invalid_nor_what_is_not_durable(server: InMemoryServer) -> None:
    reader = greeted_before_a_commit(server)
    commit_the_second_item_without_writing_it(server)
    oids = [oid_from_int(number) for number in (4, 3, 2, 99)]
    reader.conversation.receive(messages.encode_request(messages.LoadAhead(oids, 5)))
    (answer,) = answers(reader)
    assert answer == (b"A", messages.encode_records([server.storage.load(oid_from_int(4))]))
    server.settle()


@pytest.mark.spec("WIRE2-17", "TXN-26")
def test_the_next_siblings_are_asked_for_before_the_last_ones_are_used(server: InMemoryServer) -> None:
    store_items(server, 2000)
    connection, stream = connect(server)
    items = items_of(connection)
    assert sum(item.n for item in items) == sum(range(2000))
    kinds = stream.kinds()
    assert kinds.count(b"L") <= 4 < kinds.count(b"A") < 40
    connection.abort()  # the answer to it comes after those
    writer = Connection(server.new_client())
    for item in items_of(writer):
        item.n += 1
    writer.commit()
    connection.abort()
    assert sum(item.n for item in items[:1000]) == sum(range(1001))
    for item in items_of(writer):
        item.n += 1
    writer.commit()
    items[0].n = 0
    with pytest.raises(WriteConflictError):  # although the answer to a request for more comes first
        connection.commit()
    connection.abort()
    assert sum(item.n for item in items) == sum(range(2, 2002))


@pytest.mark.spec("WIRE2-17", "WIRE2-4")
def test_a_server_that_sends_nothing_ahead_is_asked_once(
    server: InMemoryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    parse = messages.parse_request

    def parse_others(message: bytes, *rest: Any) -> messages.Request:
        return messages.Unknown(b"A") if message[:1] == b"A" else parse(message, *rest)

    monkeypatch.setattr(messages, "parse_request", parse_others)
    store_items(server, 1000)
    connection, stream = connect(server)
    assert sum(item.n for item in items_of(connection)) == sum(range(1000))
    assert stream.kinds().count(b"A") == 1


@pytest.mark.spec("WIRE2-12")
def test_new_oids_are_of_one_client(server: InMemoryServer) -> None:
    one, other = greeted(server), greeted(server)
    found: list[bytes] = []
    for connection in one, other:
        connection.sendall(messages.encode_request(messages.NewOids(500)))
        found += messages.parse_oids(answers(connection)[0].body, 500)
    assert len(set(found)) == 999, "the root is for whoever makes it first"
    record = pack_record(found[5], b"x", b"")
    other.sendall(messages.encode_commit(0, [], [record]))
    assert other.is_closed


# Commits


@pytest.mark.spec("WIRE2-20", "WIRE2-22")
def test_a_commit_and_the_next_transaction_take_one_round_trip(server: InMemoryServer) -> None:
    store_items(server, 5)
    connection, stream = connect(server)
    items = items_of(connection)
    other = Connection(server.new_client())
    for n in range(3):
        items_of(other)[4].n = 100 + n
        other.commit()
        items[0].n = n
        stream.kinds()
        connection.commit()
        assert stream.kinds() == b"C"
        assert items[4].n == 100 + n, "what others changed is seen after the commit"
        connection.abort()


@pytest.mark.spec("WIRE2-13", "WIRE2-23")
def test_a_conflict_brings_the_new_states_along(server: InMemoryServer) -> None:
    store_items(server, 1)
    connection, stream = connect(server)
    item, other = items_of(connection)[0], Connection(server.new_client())
    assert item.n == 0
    items_of(other)[0].n = 7
    other.commit()
    item.n += 1
    stream.kinds()
    with pytest.raises(WriteConflictError) as raised:
        connection.commit()
    assert raised.value.oids == [item._p_oid]
    assert raised.value.detail == "changed 0 s ago by another client"
    connection.abort()
    item.n += 1
    connection.commit()
    assert item.n == 8
    assert stream.kinds() == b"CSC"


@pytest.mark.spec("WIRE2-21", "TXN-13")
def test_with_too_many_accesses_a_client_takes_its_turn(
    server: InMemoryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_items(server, 20)
    connection, stream = connect(server)
    limits = stream.hello._replace(max_accessed=10)
    monkeypatch.setattr(connection.storage._dialog, "_hello", limits)  # type: ignore[attr-defined]  # a ClientStorage
    items, other = items_of(connection), Connection(server.new_client())
    assert sum(item.n for item in items) == sum(range(20))
    items[0].n = 1
    stream.kinds()
    connection.commit()
    assert stream.kinds() == b"TC"
    assert sum(item.n for item in items) == sum(range(20)) + 1
    items_of(other)[19].n = 0
    other.commit()
    items[0].n = 2
    with pytest.raises(WriteConflictError) as raised:
        connection.commit()
    assert raised.value.oids == [items[19]._p_oid]
    assert stream.kinds()[-2:] == b"TU"
    assert not server.core.turn


@pytest.mark.spec("WIRE2-21")
def test_a_turn_that_was_lost_is_taken_again(server: InMemoryServer, monkeypatch: pytest.MonkeyPatch) -> None:
    store_items(server, 3)

    class Late(CountingConnection):
        """Another client commits between the list of the turn and the commit, when the turn was passed on."""

        losses = 0

        def sendall(self, data: bytes) -> None:
            if data[4:5] == b"C" and self.losses < 2:
                self.losses += 1
                items_of(other)[2].n += 1
                commit = other.storage
                assert isinstance(commit, ClientStorage)
                other.commit()
            super().sendall(data)

    other = Connection(server.new_client())
    stream = Late(server)
    connection = Connection(ClientStorage(stream=stream))
    limits = stream.hello._replace(max_accessed=0)
    monkeypatch.setattr(connection.storage._dialog, "_hello", limits)  # type: ignore[attr-defined]  # a ClientStorage
    items_of(connection)[0].n = 5
    connection.commit()
    assert stream.losses == 2
    assert [item.n for item in items_of(Connection(server.new_client()))] == [5, 1, 4]


@pytest.mark.spec("WIRE2-20", "TXN-47")
def test_a_slow_sender_holds_up_nobody_and_what_is_not_whole_is_not_stored(server: InMemoryServer) -> None:
    store_items(server, 2)
    slow = greeted(server)
    serial = server.core.connect().serial
    data = messages.encode_commit(serial, [oid_from_int(2)], [server.storage.load(oid_from_int(2))])
    slow.sendall(data[:-1])
    other = Connection(server.new_client())
    items_of(other)[1].n = 5
    other.commit()
    assert server.now == 0
    slow.sendall(data[-1:])
    assert [answer.kind for answer in answers(slow)] == [b"C"]
    slow.sendall(data[:-1])
    slow.close()
    assert server.core._waiting_bytes == 0


@pytest.mark.spec("TXN-47")
def test_a_server_without_room_for_more_answers_with_a_conflict(
    server: InMemoryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_items(server, 2)
    monkeypatch.setattr("durus.sharing.session.MAX_WAITING", 100_000)
    monkeypatch.setattr("durus.sharing.conversation.MAX_WHOLE", 1000)
    greedy, late = greeted(server), greeted(server)
    serial = server.core.connect().serial
    record = pack_record(oid_from_int(2), bytes(90_000), b"")
    commit = messages.encode_commit(serial, [], [record, server.storage.load(oid_from_int(3))])
    greedy.sendall(commit[:-5])
    late.sendall(messages.encode_commit(serial, [], [record]))
    (answer,) = answers(late)
    assert answer.kind == b"X"
    assert "no room for more commits" in messages.parse_conflict(answer.body).text
    greedy.sendall(commit[-5:])
    assert [answer.kind for answer in answers(greedy)] == [b"C"], "its own are not refused"
    late.sendall(messages.encode_commit(serial, [], [record]))
    assert [answer.kind for answer in answers(late)] == [b"C"]
    assert server.core._waiting_bytes == 0


@pytest.mark.spec("TXN-47", "WIRE2-20")
def test_a_commit_from_a_serial_that_is_yet_to_come_is_refused(server: InMemoryServer) -> None:
    store_items(server, 1)
    connection = greeted(server)
    connection.sendall(messages.encode_commit(99, [], [server.storage.load(ROOT)]))
    assert connection.is_closed


@pytest.mark.spec("WIRE2-23", "TXN-41")
def test_a_client_that_lost_track_has_a_conflict_and_then_goes_on(server: InMemoryServer) -> None:
    store_items(server, 1)
    connection, _ = connect(server)
    item = items_of(connection)[0]
    item.n = 1
    server.core.start_anew(is_write_lost=False)
    with pytest.raises(WriteConflictError):
        connection.commit()
    connection.abort()
    item.n = 2
    connection.commit()
    assert items_of(Connection(server.new_client()))[0].n == 2


@pytest.mark.spec("WIRE2-40", "WIRE2-23")
def test_a_commit_that_fails_hides_nothing_that_others_changed(
    server: InMemoryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_items(server, 2)
    connection, _ = connect(server)
    items, other = items_of(connection), Connection(server.new_client())
    assert [item.n for item in items] == [0, 1]
    connection.abort()
    items_of(other)[1].n = 11
    other.commit()
    items[0].n = 10

    def refuse(records: object) -> None:
        raise ServerError("the disk is full")

    with monkeypatch.context() as full:
        full.setattr(server.core.storage, "stage_commit", refuse)
        with pytest.raises(ServerError, match="the disk is full"):
            connection.commit()
    connection.abort()
    assert [item.n for item in items] == [0, 11]


@pytest.mark.spec("WIRE2-40")
def test_a_readonly_storage_says_so(tmp_path: Path) -> None:
    Connection(tmp_path / "f").close()
    storage = FileStorage(tmp_path / "f", readonly=True)
    connection, _ = connect(InMemoryServer(storage))
    connection.get_root()["x"] = 1
    with pytest.raises(ReadonlyError, match="readonly=True"):
        connection.commit()
    connection.abort()
    assert list(connection.get_root()) == []
    storage.close()


@pytest.mark.spec("WIRE2-40")
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (1, ProtocolError),
        (2, ProtocolError),
        (3, ReadonlyError),
        (4, ServerError),
        (5, TransactionError),
        (6, SnapshotEndedError),
        (7, NotAllowedError),
        (8, LimitError),
        (9, DisconnectedError),
        (10, ServerError),
        (255, ServerError),
    ],
)
def test_each_code_is_an_error_of_its_kind(code: int, expected: type[Exception]) -> None:
    assert type(messages.error_of(messages.Failure(code, "why"))) is expected


@pytest.mark.spec("WIRE2-3", "WIRE2-4", "WIRE2-33")
@pytest.mark.parametrize("size", [1, 3, 5, 1 << 16])
@pytest.mark.parametrize("before", [b"", messages.encode(b"W"), messages.encode(b"\x80", b"later")])
def test_answers_may_arrive_in_any_pieces(server: InMemoryServer, size: int, before: bytes) -> None:
    class InPieces(InMemoryConnection):
        def send(self, data: bytes) -> None:
            super().send((before if self.is_greeted else b"") + data)
            self.is_greeted = True

        def recv(self, _: int) -> bytes:
            return super().recv(size)

        is_greeted = False

    store_items(server, 3)
    connection = Connection(ClientStorage(stream=InPieces(server)))
    for item in items_of(connection):
        item.n += 5
    connection.commit()
    connection.abort()
    assert [item.n for item in items_of(Connection(server.new_client()))] == [5, 6, 7]


@pytest.mark.spec("WIRE2-41", "WIRE-25")
@pytest.mark.parametrize("answer", [b"", messages.encode(b"?"), messages.encode(b"C", b"junk"), messages.encode(b"X")])
def test_a_commit_without_an_answer_that_makes_sense_has_an_unknown_outcome(
    server: InMemoryServer, answer: bytes
) -> None:
    class Deaf(InMemoryConnection):
        """Gives another answer to a commit."""

        def recv(self, size: int) -> bytes:
            data = super().recv(size)
            return data if data[4:5] != b"C" else answer

    store_items(server, 1)
    connection = Connection(ClientStorage(stream=Deaf(server)))
    connection.get_root()["x"] = 1
    with pytest.raises((OutcomeUnknownError, ProtocolError)):
        connection.commit()
    with pytest.raises(OutcomeUnknownError, match="stored completely or not at all"):
        connection.commit()


@pytest.mark.spec("WIRE2-41")
@pytest.mark.parametrize(
    ("rest", "problem"),
    [(b"\0\0\0", "inside of the length of a record"), (b"\0\0\0\5abcd", "a record of 5 bytes ends after its")],
)
def test_a_record_that_its_message_does_not_hold_is_told(rest: bytes, problem: str) -> None:
    with pytest.raises(ProtocolError, match=problem):
        messages.parse_loaded(b"O" + rest)
    with pytest.raises(ProtocolError, match=problem):
        messages.parse_point(bytes(messages._SYNC_POINT.size) + rest)


@pytest.mark.spec("WIRE2-41")
@pytest.mark.parametrize(
    "entry", [b"O", b"O\0\0\0\5abc", b"?", b"O" + struct.pack(">I", 13) + pack_record(oid_from_int(9), b"x", b"")]
)
def test_a_load_answer_that_makes_no_sense_is_refused(entry: bytes) -> None:
    class Lying(InMemoryConnection):
        def recv(self, size: int) -> bytes:
            data = super().recv(size)
            return messages.encode(b"R", entry) if data[4:5] == b"R" else data

    server = InMemoryServer(MemoryStorage())
    store_items(server, 1)
    storage = ClientStorage(stream=Lying(server))
    with pytest.raises(ProtocolError):
        storage.load(ROOT)


# Turns


@pytest.mark.spec("WIRE2-15", "TXN-46")
def test_an_exclusive_turn_keeps_others_from_committing(server: InMemoryServer) -> None:
    store_items(server, 1)
    connection, stream = connect(server)
    waiting = greeted(server)
    with connection.transaction(exclusive=True):
        item = items_of(connection)[0]
        item.n += 1
        commit = messages.encode_commit(server.core.connect().serial, [], [server.storage.load(ROOT)])
        waiting.sendall(commit)
        assert answers(waiting) == []
    assert [answer.kind for answer in answers(waiting)] == [b"C"]
    assert stream.kinds()[:1] == b"T"
    assert item.n == 1


@pytest.mark.spec("WIRE2-15", "WIRE2-13", "TXN-23")
@pytest.mark.parametrize("is_exclusive", [True, False])
def test_the_answer_to_an_exclusive_turn_waits_for_the_records_that_it_brings(
    server: InMemoryServer, is_exclusive: bool
) -> None:
    store_items(server, 2)
    client, other = greeted(server), server.core.connect()
    client.sendall(messages.encode_request(messages.Options(50, 1 << 20, 0)))
    client.sendall(messages.encode_load([oid_from_int(3)], 0))
    assert answers(client)
    other.begin_commit(lambda invalid: None)
    records = {oid: server.storage.load(oid) for oid in (oid_from_int(2), oid_from_int(3))}
    other.commit(records, lambda error: None)  # not written yet
    client.conversation.receive(messages.encode_request(messages.TakeTurn(is_exclusive)))
    found = answers(client)
    assert len(found) == (not is_exclusive)
    server.settle()
    (answer,) = found or answers(client)
    point = messages.parse_point(answer.body)
    assert point.invalid == list(records)
    assert point.records == ([records[oid_from_int(3)]] if is_exclusive else [])


@pytest.mark.spec("WIRE2-15", "TXN-31")
@pytest.mark.parametrize("is_exclusive", [True, False])
def test_a_turn_that_was_lost_before_its_answer_is_taken_again(server: InMemoryServer, is_exclusive: bool) -> None:
    store_items(server, 2)
    client, other = greeted(server), server.core.connect()
    client.sendall(messages.encode_request(messages.Options(50, 1 << 20, 0)))
    client.sendall(messages.encode_load([oid_from_int(3)], 0))
    assert answers(client)
    other.begin_commit(lambda invalid: None)
    if is_exclusive:
        other.commit({oid_from_int(3): server.storage.load(oid_from_int(3))}, lambda error: None)  # not written yet
    client.conversation.receive(messages.encode_request(messages.TakeTurn(is_exclusive)))
    if not is_exclusive:
        other.give_up_commit()  # the client has the turn, and is not told yet
    assert server.core.turn
    assert not answers(client)
    server.core.start_anew(is_write_lost=False)
    assert not server.core.turn
    server.settle()
    (answer,) = answers(client)
    assert messages.parse_point(answer.body) == messages.SyncPoint(server.core.connect().serial, None, [])
    assert server.core.turn


@pytest.mark.spec("WIRE2-15", "TXN-31")
def test_a_commit_whose_turn_was_lost_by_a_start_anew_is_a_conflict(server: InMemoryServer) -> None:
    store_items(server, 1)
    client = ClientStorage(stream=server.connect())
    oids: list[Collection[bytes] | None] = []

    def handle(invalid: Collection[bytes] | None) -> None:
        oids.append(invalid)
        if len(oids) == 1:
            server.core.start_anew(is_write_lost=False)

    other = server.core.connect()
    other.begin_commit(lambda invalid: None)
    other.commit({ROOT: server.storage.load(ROOT)}, lambda error: None)
    server.settle()
    client.begin()
    client.store(ROOT, server.storage.load(ROOT))
    client.end(handle)  # in another turn, since the handler does not mind that any oid may be invalid
    assert oids == [[ROOT], None]


@pytest.mark.spec("WIRE2-16")
@pytest.mark.parametrize("error", [None, KeyError])
def test_a_turn_without_a_commit_is_given_up(server: InMemoryServer, error: type[Exception] | None) -> None:
    store_items(server, 1)
    connection, stream = connect(server)
    try:
        with connection.transaction(exclusive=True):
            assert server.core.turn
            if error is not None:
                raise error
    except KeyError:
        pass
    assert not server.core.turn
    assert b"U" in stream.kinds()


@pytest.mark.spec("TXN-46")
def test_a_lease_runs_out_and_the_commit_is_looked_at_as_any_other(server: InMemoryServer) -> None:
    store_items(server, 2)
    connection, other = connect(server)[0], Connection(server.new_client())
    with connection.transaction(exclusive=True):
        items_of(connection)[0].n += 1
        items_of(other)[1].n = 5
        other.commit()  # waits for the end of the lease
        assert server.now == pytest.approx(10)
    assert [item.n for item in items_of(Connection(server.new_client()))] == [1, 5]
    other.abort()
    held = connection.transaction(exclusive=True)
    held.__enter__()
    items_of(connection)[0].n += 1
    items_of(other)[0].n = 7
    other.commit()
    with pytest.raises(WriteConflictError):
        held.__exit__(None, None, None)
    assert server.now < 11, "a lease that ran out makes the next ones short"


# Snapshots


@pytest.mark.spec("WIRE2-14", "TXN-60", "TXN-65")
def test_a_connection_of_snapshots_reads_one_state(server: InMemoryServer) -> None:
    store_items(server, 3)
    reader = Connection(server.new_client(prefetch=0), snapshot=True)
    writer = Connection(server.new_client())
    items = items_of(reader)
    assert items[0].n == 0
    for n in range(3):
        items_of(writer)[1].n += 10
        del writer.get_root()["items"][2]
        writer.get_root()["items"].append(Item(100 + n))
        writer.commit()
        writer.pack()
    assert [item.n for item in items] == [0, 1, 2]
    reader.abort()
    assert [item.n for item in items_of(reader)] == [0, 31, 102]
    items_of(reader)[0].n = 1
    with pytest.raises(ReadonlyError, match="snapshot=True"):
        reader.commit()
    reader.abort()
    reader.commit()


@pytest.mark.spec("TXN-64", "WIRE2-14")
@pytest.mark.parametrize("limits", [(60, None), (None, 1000)])
def test_a_snapshot_that_costs_too_much_is_ended_and_tells_so(
    server: InMemoryServer, limits: tuple[float | None, int | None]
) -> None:
    snapshots = server.core._snapshots
    snapshots.max_seconds, snapshots.max_bytes = limits
    store_items(server, 3)
    reader = Connection(server.new_client(prefetch=0), snapshot=True)
    items, writer = items_of(reader), Connection(server.new_client())
    for _ in range(2):
        for item in items_of(writer):
            item.n += 10
            item.data = bytes(1000)
        writer.commit()
        server.now += 40
    assert server.core.end_old_snapshots() == 1
    with pytest.raises(SnapshotEndedError, match=r"the snapshot has ended: .*; call abort"):
        items[0].n  # noqa: B018  # the read is the work
    reader.abort()
    assert [item.n for item in items] == [20, 21, 22]


@pytest.mark.spec("WIRE2-14", "TXN-23", "TXN-60")
def test_a_snapshot_tells_of_a_change_again_that_it_has_not_shown(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path / "f", durability="os")
    server = InMemoryServer(storage)
    store_items(server, 2)
    reader = Connection(server.new_client(prefetch=0), snapshot=True)
    items = items_of(reader)
    other = server.core.connect()
    other.begin_commit(lambda invalid: None)
    record = server.storage.load(oid_from_int(2))
    assert record.count(b"K\x00") == 1, "the pickled 0"
    other.commit({oid_from_int(2): record.replace(b"K\x00", b"K\x09")}, lambda error: None)
    write = server.core.begin_write()
    reader.abort()
    assert items[0].n == 0, "it is not durable"
    write.write()
    write.finish(None)
    assert items[0].n == 0
    reader.abort()
    assert items[0].n == 9
    storage.close()


# Others


@pytest.mark.spec("WIRE2-30")
def test_a_pack_is_waited_for_and_its_failure_is_told(server: InMemoryServer, monkeypatch: pytest.MonkeyPatch) -> None:
    store_items(server, 3)
    writer = Connection(server.new_client())
    del writer.get_root()["items"]
    writer.commit()
    storage = server.new_client()
    storage.pack(wait=True)
    assert len(list(server.storage.gen_oid_record())) == 1

    def fail() -> Iterable[None]:
        raise ServerError("the disk is full")

    monkeypatch.setattr(server.core.storage, "get_packer", fail)
    with pytest.raises(ServerError, match="the disk is full"):
        storage.pack(wait=True)
    storage.ping()


@pytest.mark.spec("WIRE2-31")
def test_a_ping_finds_out_if_the_server_is_there(server: InMemoryServer) -> None:
    for protocol in 1, 2:
        storage = server.new_client(protocol=protocol)
        storage.ping()
        server.connections[-1].end(None)
        with pytest.raises(DisconnectedError):
            storage.ping()


@pytest.mark.spec("WIRE2-32")
def test_the_client_goes_and_stops_the_server(server: InMemoryServer) -> None:
    storage = server.new_client()
    storage.close()
    assert server.connections[-1].is_closed
    storage = server.new_client()
    storage.stop_server()
    assert all(connection.is_closed for connection in server.connections)


@pytest.mark.spec("WIRE2-33")
def test_a_client_that_waits_for_its_turn_gets_signs_of_life(server: InMemoryServer) -> None:
    holder, waiting = greeted(server), greeted(server)
    holder.sendall(messages.encode_request(messages.TakeTurn(is_exclusive=True)))
    waiting.sendall(messages.encode_request(messages.TakeTurn(is_exclusive=False)))
    holder.conversation.keep_waiting()
    waiting.conversation.keep_waiting()
    assert [answer.kind for answer in answers(holder)] == [b"Y"]
    assert waiting.received == messages.encode(b"W")
    assert waiting.conversation.is_awaited
    holder.sendall(messages.encode_request(messages.Release()))
    assert [answer.kind for answer in answers(waiting)] == [b"Y"]
    assert not waiting.conversation.is_awaited


@pytest.mark.spec("WIRE2-3")
def test_requests_sent_ahead_are_answered_in_their_order(server: InMemoryServer) -> None:
    store_items(server, 1)
    connection = greeted(server)
    requests: list[messages.Request] = [
        messages.Sync(),
        messages.Load([ROOT], 0),
        messages.NewOids(1),
        messages.Ping(b"x"),
    ]
    connection.sendall(b"".join(map(messages.encode_request, requests)))
    assert b"".join(answer.kind for answer in answers(connection)) == b"YRNG"


def test_a_read_conflict_over_version_2_is_one(server: InMemoryServer) -> None:
    store_items(server, 2)
    reader = Connection(server.new_client(prefetch=0))
    writer = Connection(server.new_client())
    items = items_of(reader)
    assert items[0].n == 0
    for item in items_of(writer):
        item.n += 5
    writer.commit()
    with pytest.raises(ReadConflictError):
        items[1].n  # noqa: B018  # the read is the work
    reader.abort()
    assert [item.n for item in items] == [5, 6]

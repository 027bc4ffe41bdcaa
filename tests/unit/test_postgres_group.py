"""Servers between programs and a PostgreSQL server: PG-60 to PG-70."""

import contextlib
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from durus import postgres_group
from durus.client_storage import ClientStorage
from durus.connection import Connection
from durus.error import (
    ConflictError,
    DisconnectedError,
    DurusError,
    DurusWarning,
    OutcomeUnknownError,
    RecordError,
    ServerError,
    ServerUnreachableError,
    SnapshotEndedError,
    WriteConflictError,
)
from durus.oid import oid_from_int, oid_to_int
from durus.persistent_dict import PersistentDict
from durus.postgres.connecting import Connector
from durus.postgres_storage import PostgresStorage
from durus.progress import Progress
from durus.records.record import pack_record
from durus.shared_storage import SharedStorage
from durus.sharing.compression import NONE
from durus.sharing.protocol2 import Options, encode_load, encode_request, parse_loaded
from durus.sharing.session import Session, SessionCore
from durus.storage_server import StorageServer
from tests.in_memory_server import InMemoryServer, answers, greeted
from tests.integration.serving import SECONDS
from tests.model.engine import Engine, EngineStorage
from tests.postgres import PostgresServer
from tests.threaded_server import running, serving_with
from tests.unit.databases import in_threads
from tests.unit.test_postgres_storage import World, fill, statements_run

pytest.importorskip("psycopg")
import psycopg

from durus.postgres import link, packing

ROOT, ONE, TWO, THREE = (oid_from_int(n) for n in range(4))

Outcomes = list[tuple[list[bytes] | None, DurusError | None]]


@pytest.fixture
def world(postgres: PostgresServer, postgres_address: str) -> Iterator[World]:
    world = World(postgres, postgres_address)
    yield world
    world.close()


def record(oid: bytes, data: bytes = b"data", *refs: bytes) -> bytes:
    return pack_record(oid, data, b"".join(refs))


class Front:
    """A server between, of which a test takes the steps."""

    def __init__(self, world: World) -> None:
        self.storage = world.open()
        self.core = SessionCore(self.storage)

    def connect(self) -> Session:
        """Connect, as a client that begins with what is there now."""
        session = self.core.connect()
        self.sync(session)
        return session

    def sync(self, session: Session) -> list[bytes] | None:
        told: list[DurusError | None] = []
        self.core.when_fresh(told.append)
        self.core.take_news()
        assert told == [None]
        return session.sync()

    def commit(self, session: Session, *records: bytes, accessed: tuple[bytes, ...] = ()) -> Outcomes:
        """Have a client ask for a commit; return where its outcome will be."""
        outcomes: Outcomes = []
        stored = {each[:8]: each for each in records}
        used = frozenset(accessed) | stored.keys()
        session.commit_whole(session.serial, used, stored, lambda *outcome: outcomes.append(outcome))
        return outcomes

    def write(self) -> None:
        """Have the group stored that waits."""
        write = self.core.begin_write()
        try:
            write.write()
        except DurusError as error:
            write.finish(error)
        else:
            write.finish(None)

    def store(self, *records: bytes) -> None:
        """Have a further client commit, and the group stored."""
        self.commit(self.connect(), *records)
        self.write()


def conflict_of(outcomes: Outcomes) -> list[bytes]:
    ((_, error),) = outcomes
    assert isinstance(error, WriteConflictError)
    return error.oids


def fill_four(world: World) -> None:
    fill(world, record(ROOT, b"data", ONE, TWO, THREE), *(record(oid) for oid in (ONE, TWO, THREE)))


# Groups


@pytest.mark.spec("PG-3", "PG-60", "PG-61", "TXN-12")
def test_clients_of_two_shared_storages_see_what_all_commit(world: World) -> None:
    one, other = SharedStorage(world.open()), SharedStorage(world.open())
    a, b, direct = Connection(one.new_client()), Connection(other.new_client()), world.connect()
    a.get_root()["n"] = 1
    a.commit()
    for number, (writer, reader) in enumerate([(b, a), (direct, b), (a, direct), (b, direct), (direct, a)]):
        writer.abort()
        writer.get_root()["n"] = number
        writer.commit()
        reader.abort()
        assert reader.get_root()["n"] == number
    assert Connection(other.new_client()).get_root()["n"] == 4
    one.close()
    other.close()


@pytest.mark.spec("PG-60", "TXN-22")
def test_commits_that_wait_are_one_transaction_of_the_engine(world: World) -> None:
    fill_four(world)
    front = Front(world)
    before = world.sql("select tid from d.head")[0][0]
    a, b, c = (front.connect() for _ in range(3))
    outcomes = [front.commit(a, record(ONE, b"a")), front.commit(b, record(TWO, b"b"))]
    first = front.core.begin_write()
    outcomes.append(front.commit(c, record(THREE, b"c")))
    first.write()
    first.finish(None)
    assert [len(each) for each in outcomes] == [1, 1, 0]
    front.write()
    assert [error for each in outcomes for _, error in each] == [None, None, None]
    assert world.sql(f"select tid, oid from d.change where tid > {before} order by 1, 2") == [
        (before + 1, 1),
        (before + 1, 2),
        (before + 2, 3),
    ]
    assert front.core.storage.load(THREE) == record(THREE, b"c")


@pytest.mark.spec("PG-21", "PG-60", "PG-62")
def test_group_is_one_round_trip_unless_there_may_be_a_conflict(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_four(world)
    front, other = Front(world), Front(world)
    sessions = [front.connect() for _ in range(3)]
    (new,) = sessions[2].new_oids(1)
    trips = trips_of(monkeypatch)
    outcomes = [front.commit(session, record(oid, b"a")) for session, oid in zip(sessions, (ONE, TWO), strict=False)]
    outcomes.append(front.commit(sessions[2], record(THREE, b"a", new), record(new)))
    front.write()
    assert [each[0][1] for each in outcomes] == [None] * 3
    assert len(trips) == 1
    other.store(record(TWO, b"b"))
    del trips[:]
    used = front.commit(sessions[0], record(ONE, b"c"), accessed=(TWO,))
    unused = front.commit(sessions[1], record(THREE))
    front.write()
    assert conflict_of(used) == [TWO]
    assert unused == [([ONE, TWO], None)]
    assert len(trips) == 3
    front.sync(sessions[2])
    unknown = front.commit(sessions[2], record(THREE, b"d", oid_from_int(90)))
    front.write()
    assert conflict_of(unknown) == [oid_from_int(90)]


@pytest.mark.spec("PG-61")
def test_engine_is_asked_once_for_all_that_wait_and_a_newer_row_is_invalid(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_four(world)
    front, other = Front(world), Front(world)
    a, b = front.connect(), front.connect()
    other.store(record(ONE, b"new"))
    assert a.load(ONE) is None
    seen = statements_run(front.storage, monkeypatch)
    told: list[DurusError | None] = []
    front.core.when_fresh(told.append)
    front.core.when_fresh(told.append)
    assert front.core.is_news_due
    front.core.take_news()
    assert told == [None, None]
    assert len(seen) == 1
    assert not front.core.is_news_due
    assert a.sync() == b.sync() == [ONE]
    assert a.load(ONE) == record(ONE, b"new")


@pytest.mark.spec("PG-61", "TXN-36")
@pytest.mark.parametrize("protocol", [1, 2])
def test_session_and_sync_show_what_was_committed_before(world: World, protocol: int) -> None:
    servers = [InMemoryServer(world.open(), protocol=protocol) for _ in range(2)]
    a = Connection(servers[0].new_client())
    idle = servers[1].connect()
    a.get_root()["n"] = 1
    a.commit()
    b = Connection(servers[1].new_client())
    assert b.get_root()["n"] == 1
    a.get_root()["n"] = 2
    a.commit()
    b.abort()
    assert b.get_root()["n"] == 2
    idle.sendall(b"L" + ROOT)  # of version 1, without a sync
    assert idle.recv(1) == b"O"


# Conflicts


@pytest.mark.spec("PG-62", "TXN-13")
def test_only_the_members_fail_that_have_used_what_others_changed(world: World) -> None:
    fill_four(world)
    front, other = Front(world), Front(world)
    a, b, c = (front.connect() for _ in range(3))
    with_two, without, stores_two = (
        front.commit(a, record(ONE, b"a"), accessed=(TWO,)),
        front.commit(b, record(THREE, b"b")),
        front.commit(c, record(TWO, b"c")),
    )
    other.store(record(TWO, b"new"))
    front.write()
    assert conflict_of(with_two) == conflict_of(stores_two) == [TWO]
    assert without == [([ONE, TWO], None)]  # that one was accepted, too, before it failed [TXN-22]
    assert [front.core.storage.load(oid) for oid in (ONE, TWO, THREE)] == [
        record(ONE),
        record(TWO, b"new"),
        record(THREE, b"b"),
    ]


@pytest.mark.spec("PG-62")
def test_commit_that_waits_is_compared_with_each_answer(world: World) -> None:
    fill_four(world)
    front, other = Front(world), Front(world)
    a, b, c = (front.connect() for _ in range(3))
    waits = front.commit(a, record(ONE, b"a"), accessed=(TWO,))
    goes_on = front.commit(b, record(THREE, b"b"))
    other.store(record(TWO, b"new"))
    assert front.sync(c) == [ONE, TWO, THREE]
    assert conflict_of(waits) == [TWO]
    assert not goes_on
    front.write()
    assert goes_on == [([ONE, TWO], None)]


@pytest.mark.spec("PG-62")
def test_member_whose_reads_are_not_known_fails_by_any_change(world: World) -> None:
    fill_four(world)
    front, other = Front(world), Front(world)
    sessions = [front.connect() for _ in range(2)]
    theirs = other.connect()
    for change_at in ("the turn", "the group", None):
        session, outcomes = sessions[0], []  # type: Session, list[DurusError | None]
        front.sync(session)
        session.begin_commit(lambda invalid: None)
        if change_at == "the turn":
            other.commit(theirs, record(TWO, b"new"))
            other.write()
            front.sync(sessions[1])
        session.commit({ONE: record(ONE, b"a")}, outcomes.append)
        if change_at == "the group":
            other.sync(theirs)
            other.commit(theirs, record(TWO, b"newer"))
            other.write()
        if front.core.has_ready_commits:
            front.write()
        assert [isinstance(error, WriteConflictError) for error in outcomes] == [change_at is not None]


@pytest.mark.spec("PG-62", "TXN-10", "TXN-24")
def test_oids_and_references_of_members_are_looked_up_in_the_engine(world: World) -> None:
    fill_four(world)
    front, other = Front(world), Front(world)
    a, b, c, d = (front.connect() for _ in range(4))
    (new,) = a.new_oids(1)
    (not_stored,) = other.connect().new_oids(1)
    stored = front.commit(a, record(new), record(ONE, b"data", new))
    refers = front.commit(b, record(TWO, b"data", new))  # to what the member before it stores
    dangles = front.commit(c, record(THREE, b"data", not_stored))
    stolen = front.commit(d, record(not_stored))
    front.write()
    assert [stored[0][1], refers[0][1]] == [None, None]
    assert conflict_of(dangles) == conflict_of(stolen) == [not_stored]
    again = front.commit(a, record(new, b"again"))
    front.write()
    assert again == [([TWO, THREE, not_stored], None)] or again[0][1] is None


@pytest.mark.spec("PG-4", "PG-62")
def test_record_that_does_not_fit_the_engine_fails_alone(world: World) -> None:
    fill_four(world)
    front = Front(world)
    a, b = front.connect(), front.connect()
    too_high = front.commit(a, record(ONE, b"data", oid_from_int(1 << 63)))
    fits = front.commit(b, record(TWO, b"b"))
    front.write()
    assert isinstance(too_high[0][1], RecordError)
    assert fits[0][1] is None


@pytest.mark.spec("PG-62", "PG-65", "TXN-80")
def test_threads_that_move_money_keep_the_sum(world: World) -> None:
    shared = [SharedStorage(world.open()) for _ in range(2)]
    with Connection(shared[0].new_client()) as connection:
        connection.get_root()["accounts"] = PersistentDict({n: PersistentDict({"n": 10}) for n in range(6)})
        connection.commit()
    done = [0] * 4

    def work(number: int) -> None:
        connection = Connection(shared[number % 2].new_client())
        while done[number] < 25:
            connection.abort()
            try:
                accounts = connection.get_root()["accounts"]
                assert sum(each["n"] for each in accounts.values()) == 60
                accounts[number]["n"] -= 1
                accounts[done[number] % 6]["n"] += 1
                connection.commit()
                done[number] += 1
                assert sum(each["n"] for each in accounts.values()) == 60  # the state after the commit
            except ConflictError:
                pass

    in_threads(4, work)
    for each in shared:
        each.close()
    assert done == [25] * 4


# The order


@pytest.mark.spec("PG-63", "PG-65")
def test_nobody_sees_a_commit_without_what_came_before_it(world: World) -> None:
    fill_four(world)
    front, other = Front(world), Front(world)
    writer, reader = front.connect(), front.connect()
    outcomes = front.commit(writer, record(ONE, b"a"))
    assert front.sync(reader) == [ONE]
    assert reader.must_wait(ONE)
    other.store(record(TWO, b"before"))
    front.write()
    assert reader.load(ONE) is None
    assert reader.sync() == [ONE, TWO]
    assert reader.load(ONE) == record(ONE, b"a")
    assert outcomes == [([TWO], None)]
    assert writer.sync() == []


@pytest.mark.spec("PG-63")
def test_answer_that_shows_a_group_in_flight_is_not_used(world: World) -> None:
    fill_four(world)
    front, other = Front(world), Front(world)
    writer, reader = front.connect(), front.connect()
    outcomes = front.commit(writer, record(ONE, b"a"))
    write = front.core.begin_write()
    write.write()
    other.store(record(TWO, b"after"))
    told: list[DurusError | None] = []
    front.core.when_fresh(told.append)
    front.core.take_news()
    assert not told
    assert not front.core.is_news_due
    write.finish(None)
    assert outcomes == [([], None)]
    assert front.core.is_news_due
    front.core.take_news()
    assert told == [None]
    assert writer.sync() == [TWO]
    assert reader.sync() == [ONE, TWO]


# Failures


def trips_of(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return a list to which each round trip that begins, goes on with or ends a commit adds its last statement."""
    seen: list[bytes] = []
    run = link.Link.run

    def noting(self: link.Link, *steps: link.Step, prepare: bool | None = None) -> list[link.Rows]:
        if len(steps) > 1:
            seen.append(steps[-1][0])
        return run(self, *steps, prepare=prepare)

    monkeypatch.setattr(link.Link, "run", noting)
    return seen


def lose_at(storage: Any, statement: str, monkeypatch: pytest.MonkeyPatch, times: int, is_done: bool) -> list[str]:
    """Have connections lost at a statement, so often, before or after it has run; return when that was."""
    lost: list[str] = []
    run = link.Link.run

    def losing(self: link.Link, *steps: link.Step, prepare: bool | None = None) -> list[link.Rows]:
        if not any(statement in text.decode() for text, _ in steps) or len(lost) >= times:
            return run(self, *steps, prepare=prepare)
        lost.append(statement)
        if is_done:
            run(self, *steps, prepare=prepare)
        self.close()
        raise DisconnectedError("a test has cut the connection")

    monkeypatch.setattr(link.Link, "run", losing)
    return lost


def unreachable(storage: PostgresStorage) -> link.Link:
    raise ServerUnreachableError("a test keeps the server out of reach")


@pytest.mark.spec("PG-64", "PG-25", "PG-26")
@pytest.mark.parametrize(
    ("statement", "is_done"),
    [("UPDATE", False), ("INSERT", False), ("INSERT", True)],
    ids=["before the turn", "before the records", "before the answer"],
)
def test_group_whose_connection_is_lost_is_stored_once(
    world: World, monkeypatch: pytest.MonkeyPatch, statement: str, is_done: bool
) -> None:
    fill_four(world)
    front = Front(world)
    a, b = front.connect(), front.connect()
    outcomes = [front.commit(a, record(ONE, b"a")), front.commit(b, record(TWO, b"b"))]
    before = world.sql("select count(distinct tid) from d.change")[0][0]
    lost = lose_at(front.storage, statement, monkeypatch, 1, is_done)
    front.write()
    assert lost
    assert outcomes == [[([], None)], [([ONE], None)]] or [each[0][1] for each in outcomes] == [None, None]
    assert world.sql("select count(distinct tid) from d.change") == [(before + 1,)]
    assert front.core.storage.load(TWO) == record(TWO, b"b")
    assert front.sync(a) in ([TWO], [])


@pytest.mark.spec("PG-26", "PG-63", "PG-65")
def test_group_whose_answer_is_lost_is_told_what_was_committed_before_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_four(world)
    front, other = Front(world), Front(world)
    writer, reader = front.connect(), front.connect()
    other.store(record(THREE, b"c"))
    outcomes = front.commit(writer, record(ONE, b"a"))
    lost = lose_at(front.storage, "INSERT", monkeypatch, 1, is_done=True)
    front.write()
    assert lost
    assert outcomes == [([THREE], None)]
    assert front.sync(reader) == [ONE, THREE]
    assert front.core.storage.load(ONE) == record(ONE, b"a")
    assert front.core.storage.load(THREE) == record(THREE, b"c")


@pytest.mark.spec("PG-64", "WIRE-25", "WIRE2-40")
def test_clients_learn_that_a_commit_is_unknown_or_that_the_engine_is_gone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = InMemoryServer(world.open(timeout=0.3))
    connection = Connection(server.new_client())
    connection.get_root()["n"] = 1
    connection.commit()
    connection.get_root()["n"] = 2
    with monkeypatch.context() as patch:
        lose_at(server.storage, "INSERT", patch, 1, is_done=True)
        patch.setattr(Connector, "new_link", unreachable)
        with pytest.raises(OutcomeUnknownError):
            connection.commit()
    assert server.connections[0].is_closed
    reader = Connection(server.new_client())
    assert reader.get_root()["n"] == 2
    reader.get_root()["n"] = 3
    with monkeypatch.context() as patch:
        lose_at(server.storage, "head", patch, 1_000_000, is_done=False)
        with pytest.raises(DisconnectedError, match="cut the connection") as raised:
            reader.commit()
        assert not isinstance(raised.value, OutcomeUnknownError)
        with pytest.raises(DisconnectedError):
            reader.abort()
    reader.abort()
    assert reader.get_root()["n"] == 2
    reader.get_root()["n"] = 4
    reader.commit()


@pytest.mark.spec("PG-64", "WIRE2-22")
def test_answer_to_a_stored_commit_is_no_error_of_what_it_brings_along(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = InMemoryServer(world.open())
    a, b = Connection(server.new_client()), Connection(server.new_client())
    a.get_root()["other"] = PersistentDict(n=1)
    a.get_root()["own"] = PersistentDict(n=1)
    a.commit()
    b.abort()
    assert b.get_root()["other"]["n"] == b.get_root()["own"]["n"] == 1
    b.abort()
    a.get_root()["other"]["n"] = 2
    a.commit()
    b.get_root()["own"]["n"] = 2
    with monkeypatch.context() as patch:
        lost = lose_at(server.storage, "SELECT oid, tid, data", patch, 1, is_done=False)
        b.commit()
        assert lost
    assert world.connect().get_root()["own"]["n"] == 2


@pytest.mark.spec("PG-70")
def test_many_oids_of_a_request_are_few_statements(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    oids = [oid_from_int(number) for number in range(1, 500)]
    fill(world, record(ROOT, b"root", *oids), *map(record, oids))
    storage = world.open()
    client = InMemoryServer(storage).new_client(prefetch=0)
    seen = statements_run(storage, monkeypatch)
    assert list(client.bulk_load(oids)) == list(map(record, oids))
    assert len(seen) <= 4  # the first ones show how long records are


@pytest.mark.spec("PG-70")
def test_what_comes_along_with_several_records_is_few_statements(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    parents = [oid_from_int(10 * number) for number in range(1, 7)]
    children = {oid: [oid_from_int(oid_to_int(oid) + n) for n in range(1, 6)] for oid in parents}
    fill(
        world,
        record(ROOT, b"root", *parents),
        *(record(oid, b"parent", *children[oid]) for oid in parents),
        *(record(child) for oid in parents for child in children[oid]),
    )
    storage = world.open()
    connection = greeted(InMemoryServer(storage))
    seen = statements_run(storage, monkeypatch)
    connection.sendall(encode_request(Options(0, 1 << 16, NONE)) + encode_load(parents, 100))
    (answer,) = answers(connection)
    assert len(parse_loaded(answer.body)) == 36
    assert len(seen) == 2  # the parents, and all of their children


@pytest.mark.spec("PG-64")
def test_other_error_of_the_engine_leaves_nothing_of_any_member(world: World) -> None:
    fill_four(world)
    front = Front(world)
    a, b = front.connect(), front.connect()
    world.sql("alter table d.object add constraint no_b check (data <> 'b')")
    outcomes = [front.commit(a, record(ONE, b"a")), front.commit(b, record(TWO, b"b"))]
    front.write()
    assert all(isinstance(each[0][1], ServerError) for each in outcomes)
    assert front.core.storage.load(ONE) == record(ONE)
    again = front.commit(a, record(ONE, b"again"))
    front.write()
    assert again[0][1] is None


@pytest.mark.spec("PG-61", "PG-64")
def test_server_connects_again_after_its_sessions_were_ended(world: World) -> None:
    server = InMemoryServer(world.open(application_name=world.schema))
    connection = Connection(server.new_client())
    connection.get_root()["n"] = 1
    connection.commit()
    world.end_sessions(world.schema)
    connection.abort()
    assert connection.get_root()["n"] == 1
    connection.get_root()["n"] = 2
    connection.commit()
    assert world.connect().get_root()["n"] == 2


@pytest.mark.spec("PG-69", "PG-13")
def test_clients_lose_track_when_the_engine_has_lost_commits(world: World) -> None:
    fill_four(world)
    front = Front(world)
    a, b, c = (front.connect() for _ in range(3))
    (new,) = c.new_oids(1)
    front.commit(a, record(ONE, b"a"))
    front.write()
    tid = world.sql("select tid from d.head")[0][0]
    world.sql(f"update d.head set tid = {tid - 1}; delete from d.txn where tid = {tid}")
    in_flight, waits = front.commit(b, record(TWO, b"b")), front.commit(c, record(new))
    write = front.core.begin_write()
    write.write()
    write.finish(None)
    assert conflict_of(in_flight) == [TWO]
    assert conflict_of(waits) == [new]
    with pytest.warns(DurusWarning, match="has lost commits"):
        assert front.sync(a) is None
    assert front.sync(b) is None
    front.sync(c)
    stolen = front.commit(c, record(new))
    front.write()
    assert conflict_of(stolen) == [new]


@pytest.mark.spec("PG-64", "TXN-31")
def test_interrupt_of_the_thread_that_writes_gives_the_turn_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = SharedStorage(world.open())
    connection, other = Connection(shared.new_client()), Connection(shared.new_client())
    connection.get_root()["n"] = 1
    connection.commit()
    other.abort()
    run = link.Link.run

    def interrupted(self: link.Link, *steps: link.Step, prepare: bool | None = None) -> list[link.Rows]:
        if any(b"INSERT" in text for text, _ in steps):
            raise KeyboardInterrupt
        return run(self, *steps, prepare=prepare)

    connection.get_root()["n"] = 2
    with monkeypatch.context() as patch:
        patch.setattr(link.Link, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            connection.commit()
    other.abort()
    assert other.get_root()["n"] == 1
    other.get_root()["n"] = 3
    other.commit()
    connection.abort()
    assert connection.get_root()["n"] == 3
    direct = world.connect()
    direct.get_root()["n"] = 4
    direct.commit()
    shared.close()


# What a server does not have, and oids


@pytest.mark.spec("PG-66", "TXN-60", "TXN-65")
@pytest.mark.parametrize("is_threaded", [False, True])
def test_snapshot_shows_one_state_whoever_commits_and_packs(world: World, is_threaded: bool) -> None:
    one, two = world.open(), world.open()
    clients = [
        SharedStorage(each).new_client if is_threaded else InMemoryServer(each).new_client for each in (one, two)
    ]
    a, direct = Connection(clients[1]()), world.connect()
    a.get_root().update(x=PersistentDict(n=1), y=PersistentDict(n=1), z=PersistentDict(n=1))
    a.commit()
    reader = Connection(clients[0](), snapshot=True)
    shown = reader.get_root()
    assert shown["x"]["n"] == 1
    own = Connection(clients[0]())
    for number, writer in enumerate((a, direct, own), 2):
        writer.abort()
        for name in "xyz":
            writer.get_root()[name]["n"] = number
        if number == 4:
            del writer.get_root()["z"]
        writer.commit()
    direct.abort()
    direct.pack()
    assert [shown[name]["n"] for name in "xyz"] == [1, 1, 1]
    reader.abort()
    assert [shown[name]["n"] for name in "xy"] == [4, 4]
    assert sorted(shown) == ["x", "y"]
    reader.close()
    for storage in one, two:
        storage.close()


def states_of(world: World) -> int:
    """Return how many connections show a state."""
    shows = "state = 'idle in transaction' and query like"
    return int(world.sql(f"select count(*) from pg_stat_activity where {shows} '%{world.schema}.%'")[0][0])


@pytest.mark.spec("PG-66", "TXN-62")
def test_snapshots_of_one_state_share_its_connection_and_nothing_stays_open(world: World) -> None:
    fill_four(world)
    server = InMemoryServer(world.open())
    readers = [server.new_client(prefetch=0) for _ in range(3)]
    for reader in readers:
        reader.use_snapshots()
        reader.sync()
    assert states_of(world) == 1
    fill(world, record(ONE, b"new"))
    readers[0].sync()
    assert [reader.load(ONE) for reader in readers] == [record(ONE, b"new"), record(ONE), record(ONE)]
    assert states_of(world) == 2
    readers[1].release()
    readers[2].release()
    assert states_of(world) == 1
    readers[0].close()
    assert states_of(world) == 0


@pytest.mark.spec("PG-66", "TXN-64")
def test_oldest_state_is_ended_when_there_are_too_many(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_four(world)
    monkeypatch.setattr(postgres_group, "MAX_STATES", 2)
    server = InMemoryServer(world.open())
    readers = [server.new_client(prefetch=0) for _ in range(3)]
    for number, reader in enumerate(readers):
        fill(world, record(ONE, b"%d" % number))
        reader.use_snapshots()
        reader.sync()
    with pytest.raises(SnapshotEndedError, match="2 newer ones are held"):
        readers[0].load(ONE)
    assert [reader.load(ONE) for reader in readers[1:]] == [record(ONE, b"1"), record(ONE, b"2")]
    readers[0].sync()
    assert readers[0].load(ONE) == record(ONE, b"2")


@pytest.mark.spec("PG-66", "TXN-64")
def test_snapshot_whose_connection_is_lost_is_ended(world: World) -> None:
    fill_four(world)
    reader = InMemoryServer(world.open()).new_client(prefetch=0)
    reader.use_snapshots()
    reader.sync()
    world.sql("select pg_terminate_backend(pid) from pg_stat_activity where state = 'idle in transaction'")
    with pytest.raises(SnapshotEndedError, match="can't be reached"):
        reader.load(ONE)
    with pytest.raises(SnapshotEndedError, match="can't be reached"):
        reader.load(TWO)
    reader.sync()
    assert reader.load(ONE) == record(ONE)


@pytest.mark.spec("PG-68")
def test_a_server_that_only_reads_does_not_pack(world: World, tmp_path: Path) -> None:
    fill(world, record(ROOT, b"root"), record(ONE))
    server = StorageServer(world.open(readonly=True), address=str(tmp_path / "s"))
    with serving_with(server) as client, pytest.raises(DurusError, match="readonly=True"):
        client.pack(wait=True)
    assert world.open().has_record(ONE)


@pytest.mark.spec("PG-66", "PG-70")
def test_many_oids_of_a_snapshot_are_few_statements(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    oids = [oid_from_int(number) for number in range(1, 80)]
    fill(world, record(ROOT, b"root", *oids), *map(record, oids))
    storage = world.open()
    client = InMemoryServer(storage).new_client(prefetch=0)
    client.use_snapshots()
    client.sync()
    (state,) = storage.group_storage()._states
    assert isinstance(state.storage, PostgresStorage)
    seen = statements_run(state.storage, monkeypatch)
    assert list(client.bulk_load(oids)) == list(map(record, oids))
    assert len(seen) <= 2


@pytest.mark.spec("PG-67", "TXN-46")
def test_exclusive_turn_keeps_only_the_clients_of_its_server_waiting(world: World) -> None:
    fill_four(world)
    server = InMemoryServer(world.open())
    holder, direct = server.new_client(), world.open()
    assert holder.take_turn() == []
    direct.begin()
    direct.store(ONE, record(ONE, b"direct"))
    direct.end()
    holder.begin()
    holder.store(TWO, record(TWO, b"turn"))
    holder.end()
    assert holder.take_turn() == []  # the outcome has told of the change
    assert direct.sync() == [TWO]
    direct.begin()
    direct.store(TWO, record(TWO, b"direct"))
    direct.end()
    holder.begin()
    holder.store(TWO, record(TWO, b"late"))
    with pytest.raises(WriteConflictError):
        holder.end()


@pytest.mark.spec("PG-68", "PG-31", "TXN-24")
def test_one_root_is_made_and_each_oid_given_once(world: World) -> None:
    fronts = [Front(world) for _ in range(2)]
    sessions = [front.connect() for front in fronts for _ in range(2)]
    given = [session.new_oids(50) for session in sessions]
    assert [oids[0] for oids in given] == [ROOT] * 4
    others = [oid for oids in given for oid in oids[1:]]
    assert len(set(others)) == len(others) == 4 * 49
    outcomes = [fronts[n // 2].commit(sessions[n], record(ROOT, bytes([n]))) for n in range(4)]
    for front in fronts:
        front.write()
    assert [each[0][1] is None for each in outcomes] == [True, False, False, False]
    assert all(conflict_of(each) == [ROOT] for each in outcomes[1:])
    for front, session in zip(fronts, sessions[::2], strict=True):
        front.sync(session)
        done = front.commit(session, record(ROOT, b"changed"))
        front.write()
        assert done[0][1] is None


@pytest.mark.spec("PG-68", "PG-40", "TXN-16")
def test_pack_by_a_server_goes_on_beside_commits(world: World) -> None:
    servers = [InMemoryServer(world.open(), packs_at_once=False) for _ in range(2)]
    a, b = (Connection(server.new_client()) for server in servers)
    a.get_root()["kept"] = PersistentDict(n=1)
    a.get_root()["lost"] = PersistentDict(n=1)
    a.commit()
    b.abort()
    lost = b.get_root()["lost"]
    lost._p_set_status_ghost()
    del a.get_root()["lost"]
    a.commit()
    servers[0].packing = servers[0].core.gen_pack()
    number = 0
    while servers[0].packing is not None:
        servers[0].pack_a_step()
        number += 1
        a.get_root()["kept"]["n"] = number
        a.commit()
    assert world.sql("select count(*) from d.object") == [(2,)]
    with pytest.raises(ConflictError):
        lost["n"]
    b.abort()
    assert b.get_root()["kept"]["n"] == number


class SlowPack:
    """Stands for the pack of an engine whose first answer comes when it is told to."""

    def __init__(self, error: DurusError | None = None) -> None:
        self.has_begun, self.may_go_on, self.is_closed = threading.Event(), threading.Event(), threading.Event()
        self._error = error

    def __call__(self, storage: EngineStorage) -> Generator[Progress, None, None]:
        try:
            self.has_begun.set()
            assert self.may_go_on.wait(SECONDS)
            if self._error is not None:
                raise self._error
            yield Progress("mark", 0, None)
        finally:
            self.is_closed.set()


def slow_server(
    pack: SlowPack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> contextlib.AbstractContextManager[ClientStorage]:
    monkeypatch.setattr(EngineStorage, "gen_pack", lambda storage: pack(storage))
    return serving_with(StorageServer(EngineStorage(Engine()), address=tmp_path / "s"))


@pytest.mark.spec("PG-68")
def test_clients_of_a_server_do_not_wait_for_a_step_of_its_pack(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pack = SlowPack()
    with slow_server(pack, monkeypatch, tmp_path) as client:
        connection = Connection(client)
        client.pack()
        assert pack.has_begun.wait(SECONDS)
        connection.get_root()["n"] = 1
        connection.commit()
        assert not pack.is_closed.is_set()
        pack.may_go_on.set()
        client.pack(wait=True)
        assert pack.is_closed.wait(SECONDS)


@pytest.mark.spec("PG-68", "WIRE2-30")
def test_client_is_told_why_a_pack_by_a_server_has_failed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pack = SlowPack(DurusError("a reference leads to nothing"))
    pack.may_go_on.set()
    with slow_server(pack, monkeypatch, tmp_path) as client, pytest.raises(ServerError, match="leads to nothing"):
        client.pack(wait=True)


@pytest.mark.spec("PG-68")
def test_server_that_stops_ends_the_step_of_its_pack(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fill_four(world)
    monkeypatch.setattr(packing, "_PATIENCE", float("inf"))
    packs = f"query like '%{world.schema}.pack%' and pid <> pg_backend_pid()"
    with psycopg.connect(world.server.conninfo) as other:
        other.execute(f"lock table {world.schema}.pack".encode())
        with serving_with(StorageServer(world.open(), address=tmp_path / "s")) as client:
            client.pack()
            world.wait_for(f"select count(*) = 1 from pg_stat_activity where wait_event_type = 'Lock' and {packs}")
        for thread in threading.enumerate():
            if thread.name.startswith("pack"):
                thread.join(SECONDS)
                assert not thread.is_alive()
    world.wait_for(f"select count(*) = 0 from pg_stat_activity where {packs}")


@pytest.mark.spec("PG-68")
def test_server_that_stops_closes_its_pack_after_the_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pack = SlowPack()
    with running(StorageServer(EngineStorage(Engine()), address=tmp_path / "s")) as server:
        monkeypatch.setattr(EngineStorage, "gen_pack", lambda storage: pack(storage))
        with contextlib.closing(ClientStorage(address=server.address)) as client:
            client.pack()
            assert pack.has_begun.wait(SECONDS)
    assert not pack.is_closed.is_set()
    pack.may_go_on.set()
    assert pack.is_closed.wait(SECONDS)

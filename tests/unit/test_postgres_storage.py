"""PostgresStorage on a real server: what spec/sql-engine.md says, one statement after the other."""

import contextlib
import gc
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest

import durus
from durus.connection import Connection
from durus.error import (
    ArgumentError,
    ClosedError,
    ConflictError,
    DisconnectedError,
    DurusKeyError,
    DurusWarning,
    FormatError,
    InterruptedTransactionError,
    OutcomeUnknownError,
    ReadConflictError,
    ReadonlyError,
    RecordError,
    ServerError,
    ServerUnreachableError,
    TransactionError,
    WriteConflictError,
    WrongProcessError,
)
from durus.oid import oid_from_int, oid_to_int
from durus.persistent_list import PersistentList
from durus.postgres.connecting import Connector
from durus.postgres.statements import Statements
from durus.postgres_storage import PostgresStorage
from durus.records.record import pack_record
from durus.shared_storage import SharedStorage
from tests.interrupts import each_line, interrupted_at
from tests.portable_sql import outside
from tests.postgres import PostgresServer, open_handed, storage_at
from tests.spec import documents, examples, steps
from tests.spec_steps import StepRunner
from tests.unit.databases import SECONDS, in_threads

pytest.importorskip("psycopg")
import psycopg

from durus.postgres import decisions, link, packing, rows

ROOT, ONE, TWO, THREE = (oid_from_int(n) for n in range(4))


class World:
    """An empty database, and what looks at it and disturbs it from outside."""

    def __init__(self, server: PostgresServer, address: str) -> None:
        self.server = server
        self.address = address
        self.schema = address.rpartition("schema=")[2]
        self._opened: list[PostgresStorage] = []

    def open(self, **options: Any) -> PostgresStorage:
        """Open one more storage."""
        more = "".join(f"&{name}={value}" for name, value in options.items())
        storage = storage_at(self.address + more)
        self._opened.append(storage)
        return storage

    def connect(self, **options: Any) -> Connection:
        return Connection(self.open(**options))

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement, in which `d.` stands for the schema."""
        return self.server.execute(re.sub(r"\bd\.", f"{self.schema}.", statement))

    def wait_for(self, condition: str) -> None:
        """Wait until a statement returns true."""
        end = time.monotonic() + SECONDS
        while self.sql(condition) != [(True,)]:
            assert time.monotonic() < end, f"not so after {SECONDS} s: {condition}"

    def end_sessions(self, name: str) -> None:
        """End the sessions of clients with this application_name, and return when they are gone."""
        sessions = f"from pg_stat_activity where application_name = '{name}'"
        self.sql(f"select pg_terminate_backend(pid) {sessions}")
        self.wait_for(f"select count(*) = 0 {sessions}")

    def close(self) -> None:
        for storage in self._opened:
            storage.close()
        if self._opened:
            self.sql(f"drop schema if exists {self.schema} cascade")


@pytest.fixture
def world(postgres: PostgresServer, postgres_address: str) -> Iterator[World]:
    world = World(postgres, postgres_address)
    yield world
    world.close()


def record(oid: bytes, refs: bytes = b"", data: bytes = b"data") -> bytes:
    return pack_record(oid, data, refs)


def put(storage: PostgresStorage, *records: bytes) -> None:
    storage.begin()
    for each in records:
        storage.store(each[:8], each)
    storage.end()


def fill(world: World, *records: bytes) -> None:
    """Store records, whatever their oids."""
    storage = open_handed(world.open())
    put(storage, *records)
    storage.close()
    world.sql("update d.oid_block set next = 100 where next < 100")


def link_of(storage: PostgresStorage) -> "link.Link":
    assert storage._link is not None
    return storage._link


def statements_run(storage: PostgresStorage, monkeypatch: pytest.MonkeyPatch) -> list[tuple[bytes, ...]]:
    """Return a list to which each round trip adds its statements."""
    seen: list[tuple[bytes, ...]] = []
    run = link_of(storage).run

    def noting(*steps: link.Step, prepare: bool | None = None) -> list[link.Rows]:
        seen.append(tuple(statement for statement, _ in steps))
        return run(*steps, prepare=prepare)

    monkeypatch.setattr(link_of(storage), "run", noting)
    return seen


# Tables


@pytest.mark.spec("PG-1")
def test_the_tables_are_those_of_the_specification(world: World) -> None:
    world.open()
    found: dict[str, list[str]] = {}
    for table, column in world.sql(
        f"select table_name, column_name from information_schema.columns where table_schema = '{world.schema}' "
        "order by table_name, ordinal_position"
    ):
        found.setdefault(table, []).append(column)
    (text,) = [document.text for document in documents() if document.name == "sql-engine.md"]
    named = {
        table: re.findall(r"`(\w+)`", columns) for table, columns in re.findall(r"^\| `(\w+)` \| (.*?) \|", text, re.M)
    }
    assert found == named
    assert world.sql("select tid, log_from, sweep_tid, version from d.head") == [(0, 0, 0, 1)]


@pytest.mark.spec("PG-2")
def test_clients_that_come_first_at_the_same_time_make_the_tables_once(world: World) -> None:
    in_threads(6, lambda number: world.open())
    assert world.sql("select count(*) from d.head") == [(1,)]
    assert world.sql("select count(*) from d.txn") == [(1,)]


@pytest.mark.spec("PG-2")
def test_tables_of_another_version_and_none_at_all_are_refused(world: World) -> None:
    with pytest.raises(ServerError, match="has no tables of Durus"):
        world.open(readonly="true")
    world.open()
    world.sql("update d.head set version = 2")
    with pytest.raises(ServerError, match="tables of version 2, and this program knows version 1"):
        world.open()


@pytest.mark.spec("PG-2")
def test_server_that_acknowledges_what_it_may_lose_is_refused(world: World) -> None:
    off = "-csynchronous_commit=off"
    with pytest.raises(ServerError, match="synchronous_commit=off"):
        world.open(options=off)
    put(open_handed(world.open(options=off, durability="os")), record(ROOT))
    assert world.open(options=off, readonly="true").has_record(ROOT)


@pytest.mark.spec("PG-3")
def test_storage_with_other_clients_is_shared_only_in_groups(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = world.open()
    with monkeypatch.context() as patch:
        patch.setattr(storage, "group_storage", lambda: None)
        with pytest.raises(ArgumentError, match="has other clients"):
            SharedStorage(storage)
    connection = Connection(storage)
    with pytest.raises(TransactionError, match="already has a Connection"):
        Connection(storage)
    connection.close()


@pytest.mark.spec("PG-4")
@pytest.mark.parametrize(
    "bad",
    [record(oid_from_int(1 << 63)), record(ROOT, oid_from_int(1 << 63)), record(ROOT, b"", b"x" * 101)],
    ids=["oid", "reference", "data"],
)
def test_record_that_the_engine_cannot_hold_is_refused(
    world: World, bad: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "MAX_DATA", 100)
    storage = open_handed(world.open())
    with pytest.raises(RecordError, match=r"does not fit|too many"):
        put(storage, record(ONE), bad)
    assert list(storage.gen_oid_record()) == []
    assert not storage.has_record(bad[:8])
    with pytest.raises(DurusKeyError):
        storage.load(bad[:8])
    highest = oid_from_int((1 << 63) - 1)
    put(storage, record(ROOT, highest), record(highest, b"", b"x" * 100))
    assert storage.load(highest) == record(highest, b"", b"x" * 100)


@pytest.mark.spec("PG-4", "PG-21")
def test_long_records_are_stored(world: World) -> None:
    long = [record(oid, b"", bytes(8 << 20)) for oid in (ROOT, ONE)]
    fill(world, *long)
    assert list(world.open().bulk_load([ROOT, ONE])) == long


@pytest.mark.spec("PG-5")
def test_statements_keep_to_what_engines_have_in_common() -> None:
    sql = Statements("s")
    texts = [value for value in vars(sql).values() if isinstance(value, bytes)] + list(sql.relations.values())
    assert len(texts) > 40
    assert {text: found for text in texts if (found := outside(text))} == {}


@pytest.mark.spec("PG-5")
@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("SELECT pg_advisory_xact_lock(1)", ["pg_advisory_xact_lock"]),
        ("LISTEN head", ["listen head", "listen"]),
        ("SET lock_timeout = '5s'", ["set lock_timeout ="]),
        ("CREATE TEMPORARY TABLE object (oid bigint)", ["create temporary table object (oid bigin", "temporary"]),
        ("WITH RECURSIVE m AS (SELECT 1) SELECT 1", None),
        ("SELECT oid FROM s.object FOR SHARE", ["share", "for share"]),
        ("SELECT oid FROM s.object WHERE data ~ 'x'", ["~"]),
        ("SELECT nextval('s')", ["nextval"]),
        ("BEGIN ISOLATION LEVEL SERIALIZABLE", None),
        ("SELECT tid FROM s.head WHERE id = 0 FOR UPDATE SKIP LOCKED", None),
        ("COPY s.object FROM stdin", None),
    ],
)
def test_other_statements_are_told_apart(statement: str, found: list[str] | None) -> None:
    told = outside(statement.encode())
    assert told == found if found else told


@pytest.mark.spec("PG-5")
def test_each_statement_that_is_run_is_looked_at(world: World) -> None:
    with pytest.raises(AssertionError, match="has what not all engines have"):
        link_of(world.open()).run((b"SELECT pg_sleep(0)", ()))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("bigint", []),
        ("bigint", [0, -1, 1 << 40, (1 << 63) - 1]),
        ("bytea", [b"", b'\0{,}\\"', bytes(range(256))]),
        ("text", ["{}", "{1,2}", "\u00e9"]),
    ],
)
def test_lists_are_sent_as_arrays(world: World, kind: str, value: list[object]) -> None:
    statement = f"SELECT n FROM unnest(%s::{kind}[]) AS n".encode()
    assert link_of(world.open()).run((statement, (value,))) == [[(each,) for each in value]]


@pytest.mark.parametrize("is_in_transaction", [True, False])
def test_what_the_engine_passes_over_after_an_error_is_prepared_later(world: World, is_in_transaction: bool) -> None:
    storage = open_handed(world.open())
    used = link_of(storage)
    begin: list[Any] = [(storage._sql.begin, ())] if is_in_transaction else []
    count = f"count(*) FROM {world.schema}.txn WHERE tid < %s".encode()
    for times in range(12):
        if times != 5:
            with pytest.raises(link.SqlError, match="division"):
                used.run(*begin, (b"SELECT 1 / " + count, (0,)), (b"SELECT " + count, (0,)))
        assert used.run((b"SELECT " + count, (0,)))[0] == [(0,)]


@pytest.mark.spec("PG-5")
def test_no_transaction_is_open_between_calls(world: World) -> None:
    one, two = world.connect(application_name="idle-test"), world.connect(application_name="idle-test")
    one.get_root()["a"] = PersistentList([1])
    one.commit()
    two.abort()
    two.get_root()["a"].append(2)
    two.commit()
    one.get_root()["a"].append(3)
    with pytest.raises(ConflictError):
        one.commit()
    one.abort()
    one.pack()
    states = world.sql("select state from pg_stat_activity where application_name = 'idle-test'")
    assert [state for (state,) in states] == ["idle", "idle"]


# Reading


@pytest.mark.spec("PG-10", "PG-11")
def test_a_sync_tells_what_others_have_committed_since_the_last_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, reader = open_handed(world.open()), world.open()
    put(writer, record(ROOT, ONE + TWO), record(ONE), record(TWO))
    put(writer, record(ONE))
    late = world.open()
    seen = statements_run(reader, monkeypatch)
    assert sorted(reader.sync() or []) == [ROOT, ONE, TWO]
    assert len(seen) == len(seen[0]) == 1
    put(writer, record(TWO))
    assert (reader.sync(), reader.sync(), late.sync(), writer.sync()) == ([TWO], [], [TWO], [])


@pytest.mark.spec("PG-11")
def test_any_oid_may_have_changed_if_the_log_is_too_short_or_too_long(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, reader, other = open_handed(world.open()), world.open(), world.open()
    put(writer, record(ROOT, ONE), record(ONE))
    monkeypatch.setattr(decisions, "MAX_CHANGES", 2)
    assert reader.sync() is None
    monkeypatch.undo()
    put(writer, record(ONE))
    world.sql("update d.head set log_from = 1")
    assert reader.sync() == [ONE]
    assert other.sync() is None
    assert other.sync() == []


@pytest.mark.spec("PG-11")
def test_an_oid_that_changed_often_hides_no_later_change(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, reader = open_handed(world.open()), world.open()
    put(writer, record(ROOT, ONE + TWO), record(ONE), record(TWO))
    assert reader.sync() == [ROOT, ONE, TWO]
    monkeypatch.setattr(decisions, "MAX_CHANGES", 3)
    monkeypatch.setattr("durus.postgres_storage.MAX_CHANGES", 3)
    for changed in (ONE, ONE, ONE, TWO):
        put(writer, record(changed))
    assert reader.sync() is None


@pytest.mark.spec("PG-11")
def test_a_sync_reads_no_more_of_the_log_than_it_tells(world: World) -> None:
    world.open()
    world.sql("insert into d.change select n / 100, n from generate_series(100, 50000) n")
    world.sql("analyze d.change")
    sync = Statements(world.schema).sync.decode().replace("%s", "{}").format("$1", "$2", "$3")
    with psycopg.connect(world.server.conninfo) as connection:
        connection.execute("set plan_cache_mode = force_generic_plan")  # the one for a session that continues for long
        connection.execute(f"prepare sync (bigint, bigint, bigint) as {sync}".encode())
        plan = "\n".join(line for (line,) in connection.execute("explain execute sync (1, 1, 1)"))
    assert re.search(r"Limit.*\n.*Index (Only )?Scan using change_pkey", plan), plan


@pytest.mark.spec("PG-12")
def test_what_is_newer_than_the_last_sync_is_invalid(world: World) -> None:
    writer, reader = open_handed(world.open()), world.open()
    put(writer, record(ROOT))
    for read in (reader.load, lambda oid: list(reader.bulk_load([oid])), lambda oid: list(reader.gen_oid_record())):
        with pytest.raises(ReadConflictError):
            read(ROOT)
    assert reader.sync() == [ROOT]
    assert reader.load(ROOT) == record(ROOT)
    with pytest.raises(DurusKeyError):
        reader.load(ONE)


@pytest.mark.spec("PG-12")
def test_what_a_pack_has_removed_since_the_last_sync_is_invalid(world: World) -> None:
    fill(world, record(ROOT), record(ONE))
    reader = world.open()
    world.open().pack()
    with pytest.raises(ReadConflictError):
        reader.load(ONE)
    assert reader.sync() == [ONE]
    with pytest.raises(DurusKeyError):
        reader.load(ONE)
    world.sql("update d.head set log_from = tid + 1")
    with pytest.raises(ReadConflictError):
        reader.load(ONE)


@pytest.mark.spec("TXN-26")
def test_siblings_are_loaded_ahead_and_forgotten_when_they_change(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(world, record(ROOT, ONE + TWO + THREE), record(ONE), record(TWO), record(THREE))
    reader, writer = world.open(), world.open()
    seen = statements_run(reader, monkeypatch)
    for oid in ROOT, ONE, TWO:
        reader.load(oid)
    assert len(seen) == 2
    put(writer, record(THREE, b"", b"new"))
    assert reader.load(THREE) == record(THREE)
    reader.load(ONE)  # and the others with it
    assert reader.sync() == [THREE]
    assert reader.load(THREE) == record(THREE, b"", b"new")


def test_what_was_loaded_ahead_and_is_committed_here_is_loaded_anew(world: World) -> None:
    fill(world, record(ROOT, ONE + TWO), record(ONE), record(TWO))
    client = world.open()
    for oid in ROOT, ONE:
        client.load(oid)
    put(client, record(TWO, b"", b"new"))
    assert client.load(TWO) == record(TWO, b"", b"new")


def rewind(world: World, tid: int) -> None:
    """Have the engine lose the commits after this one."""
    world.sql(f"delete from d.txn where tid > {tid}")
    world.sql(f"delete from d.change where tid > {tid}")
    world.sql(f"update d.head set tid = {tid}")


@pytest.mark.spec("PG-13")
@pytest.mark.parametrize("goes_on", [False, True], ids=["gone back", "gone on in another way"])
def test_engine_that_has_lost_commits_is_noticed_and_told(world: World, goes_on: bool) -> None:
    fill(world, record(ROOT), record(ONE))
    fill(world, record(ONE))
    client, other = world.open(), world.open()
    spare = client.new_oid()
    rewind(world, 1)
    if goes_on:
        for _ in range(3):
            fill(world, record(ROOT))
    with pytest.warns(DurusWarning, match="has lost commits: this client has seen commit 2"):
        assert client.sync() is None
    assert client.sync() == []
    with pytest.raises(WriteConflictError):
        put(client, record(spare))
    with pytest.warns(DurusWarning, match="has lost commits"), pytest.raises(WriteConflictError):
        put(other, record(ROOT))
    assert other.sync() is None


@pytest.mark.spec("PG-13")
def test_another_database_in_the_same_place_is_noticed(world: World) -> None:
    client = world.open()
    world.sql(f"update d.head set epoch = '{uuid4()}'")
    with pytest.warns(DurusWarning, match="is another one"):
        assert client.sync() is None


@pytest.mark.spec("PG-14", "TXN-81")
def test_a_lost_connection_ends_the_transaction_and_the_next_sync_connects_again(world: World) -> None:
    one, two = world.connect(), world.connect()
    one.get_root()["a"] = 1
    one.commit()
    two.abort()
    assert two.get_root()["a"] == 1
    world.server.kill_backends()
    with pytest.raises(DisconnectedError, match=r"was lost.*call abort\(\) to connect again"):
        two.storage.load(ONE)
    with pytest.raises(DisconnectedError):
        two.storage.has_record(ROOT)
    two.abort()
    assert two.get_root()._p_is_saved(), "what was loaded stays valid"
    one.abort()
    one.get_root()["a"] = 2
    one.commit()
    two.abort()
    assert two.get_root()["a"] == 2


def test_a_server_that_is_gone_is_told_at_each_sync_until_it_is_back(world: World) -> None:
    storage = world.open()
    world.server.stop()
    try:
        for _ in range(2):
            with pytest.raises(DisconnectedError, match="connecting again failed"):
                storage.sync()
        with pytest.raises(DisconnectedError):
            storage.begin()
        with pytest.raises(ServerUnreachableError):
            world.open()
    finally:
        world.server.start()
    assert storage.sync() == []


# Committing


@pytest.mark.spec("PG-20", "PG-21")
def test_a_commit_is_two_round_trips(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(world, record(ROOT))
    client = world.open()
    seen = statements_run(client, monkeypatch)
    put(client, record(ROOT))
    assert [len(each) for each in seen] == [6, 4]


@pytest.mark.spec("PG-21")
def test_a_commit_of_a_connection_is_one_round_trip(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = world.connect(), world.connect()
    one.get_root()["a"] = one.get_root()["b"] = PersistentList([1])
    one.commit()
    two.abort()
    assert list(two.get_root()["a"]) == [1]
    seen = statements_run(two.storage, monkeypatch)  # type: ignore[arg-type]  # it is of this class
    two.get_root()["b"] = PersistentList([2])
    two.commit()
    assert [len(each) for each in seen if each[0].startswith(b"BEGIN")] == [11]
    one.abort()
    assert [list(each) for each in one.get_root().values()] == [[1], [2]]


@pytest.mark.spec("PG-21", "TXN-21")
def test_a_commit_in_one_round_trip_is_told_what_others_have_changed(world: World) -> None:
    one, two = world.connect(), world.connect()
    one.get_root()["a"], one.get_root()["b"] = PersistentList([1]), PersistentList([1])
    one.commit()
    two.abort()
    a, b = two.get_root()["a"], two.get_root()["b"]
    assert [list(a), list(b)] == [[1], [1]]
    two.abort()
    one.get_root()["a"].append(2)
    one.commit()
    b.append(2)
    two.commit()
    assert [list(a), list(b)] == [[1, 2], [1, 2]]
    a.append(3)
    two.commit()
    one.get_root()["b"].append(3)
    with pytest.raises(ConflictError):
        one.commit()


@pytest.mark.spec("PG-21", "PG-22", "PG-23", "PG-24")
@pytest.mark.parametrize("seed", range(3))
def test_the_engine_finds_what_the_client_would_find(world: World, seed: int) -> None:
    """What is committed in one round trip would be in two, and the other way round."""
    chance = random.Random(seed)
    fill(world, record(ROOT, ONE), record(ONE), record(TWO), record(THREE))
    oids = [ROOT, ONE, TWO, THREE, *(oid_from_int(n) for n in (4, 5))]
    outcomes = set()
    for _ in range(30):
        world.sql("update d.head set sweep_tid = 0")
        client = world.open()
        accessed = set(chance.sample(oids, chance.randrange(4)))
        fill(world, record(chance.choice([ONE, TWO])))
        world.sql(f"delete from d.mark; update d.head set sweep_tid = {chance.choice([0, 0, 4, 1000])}")
        world.sql(f"insert into d.mark select oid, 1 from d.object where oid in (0, 1, {chance.randrange(4)})")
        client._oids.given.add(chance.sample(oids[3:], 2))
        stored = [rows.row_of(record(oid, chance.choice(oids))) for oid in chance.sample(oids, chance.randrange(1, 3))]
        is_given = client._oids.given.__contains__
        values = decisions.check_values(stored, client.seen, [oid_to_int(oid) for oid in accessed], is_given)
        engine = link_of(client)
        needed = client._sql.existing, (decisions.needed_oids(stored),)
        turn, news, (existing,) = client._lock_head(engine, needed)
        changed = decisions.invalid_oids(client.seen, news)
        assert changed is not None
        found = decisions.conflicts(stored, decisions.existing_of(existing), turn.sweep_tid, changed, is_given)
        is_conflict = bool(found) or not accessed.isdisjoint(changed)
        outcomes.add(is_conflict)
        steps = (client._sql.check, values), *client._steps_to_write(stored, turn.commit_id, is_given)
        if is_conflict:
            with pytest.raises(link.SqlError, match=r"division by zero|duplicate key"):
                engine.run(*steps)
        else:
            assert engine.run(*steps)[0] == [(1,)]
            engine.roll_back()
        client.close()
    assert outcomes == {True, False}


@pytest.mark.spec("PG-20", "PG-27", "TXN-21")
def test_a_commit_that_waits_for_its_turn_is_told_what_was_committed_meanwhile(world: World) -> None:
    fill(world, record(ROOT, ONE), record(ONE))
    holder, waiting = world.open(application_name="holder"), world.open(application_name="waiting")
    assert holder.take_turn() == []
    told: list[Collection[bytes] | None] = []

    def commit() -> None:
        waiting.begin()
        waiting.store(ROOT, record(ROOT))
        waiting.end(told.append)

    thread = threading.Thread(target=commit)
    thread.start()
    world.wait_for(
        "select count(*) = 1 from pg_stat_activity where application_name = 'waiting' and wait_event_type = 'Lock'"
    )
    put(holder, record(ONE))
    thread.join(SECONDS)
    assert told == [[ONE]]
    assert holder.sync() == [ROOT]
    assert world.sql("select tid, oid from d.change order by tid, oid") == [(1, 0), (1, 1), (2, 1), (3, 0)]
    assert world.sql("select tid from d.txn order by tid") == [(n,) for n in range(4)]


@pytest.mark.spec("PG-22", "TXN-24")
def test_record_of_an_oid_that_was_not_given_is_refused(world: World) -> None:
    fill(world, record(ROOT))
    client = world.open()
    with pytest.raises(WriteConflictError) as caught:
        put(client, record(ROOT), record(TWO))
    assert caught.value.oids == [TWO]
    new = client.new_oid()
    put(client, record(ROOT, new), record(new))
    assert client.load(new) == record(new)


@pytest.mark.spec("PG-22", "PG-30")
def test_oid_that_two_clients_were_given_is_stored_by_one(world: World) -> None:
    fill(world, record(ROOT))
    one, two = world.open(), world.open()
    oid = one.new_oid()
    world.sql("update d.oid_block set next = 100")
    assert two.new_oid() == oid
    put(two, record(oid, b"", b"of two"))
    world.sql("delete from d.change")  # otherwise the change is told, which is a conflict by itself
    with pytest.raises(WriteConflictError) as caught:
        put(one, record(oid, b"", b"of one"))
    assert caught.value.oids == [oid]
    assert two.load(oid) == record(oid, b"", b"of two")
    assert one.sync() is None, "all oids that it was given are worth nothing"
    assert one.new_oid() != oid


@pytest.mark.spec("PG-23")
def test_what_others_have_changed_is_never_overwritten_unseen(world: World) -> None:
    fill(world, record(ROOT), record(ONE))
    one, two = world.open(), world.open()
    put(one, record(ONE, b"", b"of one"))
    with pytest.raises(WriteConflictError) as caught:
        put(two, record(ONE, b"", b"of two"))
    assert caught.value.oids == [ONE]
    assert two.sync() == [ONE]
    assert two.load(ONE) == record(ONE, b"", b"of one")
    put(two, record(ONE, b"", b"of two"))


@pytest.mark.spec("PG-25")
def test_a_commit_that_the_engine_rolls_back_is_tried_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(world, record(ROOT), record(ONE))
    client, other = world.open(), world.open()
    put(other, record(ONE))
    failures = [1, 2]  # round trips
    run = link_of(client).run

    def failing(*given: link.Step, prepare: bool | None = None) -> list[link.Rows]:
        number = 1 if given[0][0].startswith(b"BEGIN") else 2
        if number in failures:
            failures.remove(number)
            link_of(client).roll_back()
            raise link.Postponed("could not serialize access")
        return run(*given, prepare=prepare)

    monkeypatch.setattr(link_of(client), "run", failing)
    told: list[Collection[bytes] | None] = []
    client.begin()
    client.store(ROOT, record(ROOT, b"", b"new"))
    client.end(told.append)
    assert failures == []
    assert told == [[ONE], [ONE]]
    assert other.sync() == [ROOT]


@pytest.mark.spec("PG-25", "PG-11")
def test_what_the_next_sync_has_to_tell_outlasts_a_commit_that_is_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(world, record(ROOT), record(ONE), record(TWO))
    client, other = world.open(), world.open()
    put(other, record(ONE))
    put(client, record(TWO))  # without a handler for what has changed
    run = link_of(client).run

    def failing(*given: link.Step, prepare: bool | None = None) -> list[link.Rows]:
        monkeypatch.setattr(link_of(client), "run", run)
        raise link.Postponed("the lock was not free in time")

    monkeypatch.setattr(link_of(client), "run", failing)
    put(client, record(TWO))
    assert client.sync() == [ONE]


@pytest.mark.spec("PG-25")
def test_a_turn_that_does_not_come_is_an_error_and_leaves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(world, record(ROOT))
    holder, client = world.open(), world.open(timeout=0.05)
    monkeypatch.setattr(client._sql, "lock_timeout", b"SET LOCAL lock_timeout = '10ms'")
    holder.take_turn()
    with pytest.raises(ServerError, match=r"no commit could be made in 0.05 s"):
        put(client, record(ROOT, b"", b"new"))
    with pytest.raises(ServerError, match="another client holds the turn"):
        client.take_turn()
    holder.release()
    assert client.load(ROOT) == record(ROOT)
    put(client, record(ROOT, b"", b"new"))
    assert holder.sync() == [ROOT]


@pytest.mark.spec("PG-25")
def test_an_error_of_the_engine_leaves_nothing_of_a_commit(world: World) -> None:
    fill(world, record(ROOT))
    client = world.open()
    world.sql("alter table d.object add constraint small check (octet_length(data) < 100)")
    with pytest.raises(ServerError, match="small"):
        put(client, record(ROOT, b"", b"x" * 100))
    assert client.load(ROOT) == record(ROOT)
    put(client, record(ROOT, b"", b"x" * 99))
    assert client.load(ROOT) == record(ROOT, b"", b"x" * 99)


@pytest.mark.spec("PG-25")
def test_a_disk_that_is_full_leaves_nothing_of_a_commit(world: World) -> None:
    fill(world, record(ROOT))
    client = world.open(application_name="full")
    ((pid,),) = world.sql("select pid from pg_stat_activity where application_name = 'full'")
    world.server.limit_files(pid, "20971520")  # the files of its log are shorter
    stored = [record(ROOT)]

    def fill_the_disk() -> None:
        for _ in range(20):
            data = record(ROOT, b"", random.randbytes(2 << 20))
            put(client, data)
            stored.append(data)

    with pytest.raises(ServerError, match="could not extend file"):
        fill_the_disk()
    assert len(stored) > 5
    assert client.load(ROOT) == stored[-1]
    world.server.limit_files(pid, "unlimited")
    put(client, record(ROOT, b"", b"more"))
    assert client.load(ROOT) == record(ROOT, b"", b"more")


@pytest.mark.spec("PG-29")
def test_the_clock_of_a_client_does_not_count(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(world, record(ROOT))
    other = world.open()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    client = world.open()
    put(client, record(ROOT, b"", b"by a clock in 1970"))
    assert other.sync() == [ROOT]
    assert world.sql("select count(*) from d.txn where abs(extract(epoch from time - now())) > 3600") == [(0,)]


def lose_the_answer(storage: PostgresStorage, monkeypatch: pytest.MonkeyPatch, is_done: bool) -> None:
    """Have the connection be lost at the second round trip of a commit, after or before the engine did it."""
    lost = link_of(storage)
    run = lost.run

    def losing(*given: link.Step, prepare: bool | None = None) -> list[link.Rows]:
        if given[-1][0] != b"COMMIT":
            return run(*given, prepare=prepare)
        if is_done:
            run(*given, prepare=prepare)
        lost.close()
        raise DisconnectedError("the connection was lost: by a test")

    monkeypatch.setattr(lost, "run", losing)


@pytest.mark.spec("PG-26")
def test_a_commit_whose_answer_is_lost_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = world.connect(), world.connect()
    lose_the_answer(one.storage, monkeypatch, is_done=True)  # type: ignore[arg-type]  # it is of this class
    one.get_root()["a"] = PersistentList([1])
    one.commit()
    two.abort()
    assert list(two.get_root()["a"]) == [1]
    one.get_root()["a"].append(2)
    one.commit()
    two.abort()
    assert list(two.get_root()["a"]) == [1, 2]


@pytest.mark.spec("PG-26")
def test_a_commit_that_was_not_made_is_told_as_not_stored(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(world, record(ROOT))
    client = world.open()
    lose_the_answer(client, monkeypatch, is_done=False)
    with pytest.raises(DisconnectedError, match="nothing of it is stored") as caught:
        put(client, record(ROOT, b"", b"new"))
    assert not isinstance(caught.value, OutcomeUnknownError)
    with pytest.raises(DisconnectedError):
        client.load(ROOT)
    assert client.sync() == []
    assert client.load(ROOT) == record(ROOT)


@pytest.mark.spec("PG-14", "PG-26")
def test_a_commit_on_a_connection_that_was_ended_before_is_known_not_to_be_stored(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = world.connect(application_name="ended")
    client.get_root()["a"] = 1
    world.end_sessions("ended")
    monkeypatch.setattr(Connector, "settle_commit", lambda *_: pytest.fail("there is nothing to find out"))
    with pytest.raises(DisconnectedError, match="was lost"):
        client.commit()
    client.abort()
    assert dict(client.get_root()) == {}


@pytest.mark.spec("PG-26")
def test_a_commit_that_is_told_as_not_stored_comes_too_late(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    client = world.connect()
    under_way = link_of(client.storage)  # type: ignore[arg-type]  # it is of this class
    late: list[link.Step] = []

    def delay(*given: link.Step, prepare: bool | None = None) -> list[link.Rows]:
        late.extend(given)
        under_way.close()
        raise DisconnectedError("the network is slow")

    monkeypatch.setattr(under_way, "run", delay)
    client.get_root()["a"] = 1
    with pytest.raises(DisconnectedError, match="nothing of it is stored"):
        client.commit()
    with contextlib.closing(world.open()) as other, pytest.raises(link.SqlError, match="duplicate key"):
        link_of(other).run(*late)
    client.abort()
    assert dict(client.get_root()) == {}
    client.get_root()["a"] = 2
    client.commit()


@pytest.mark.spec("PG-26")
def test_the_outcome_is_unknown_if_nobody_can_be_asked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(world, record(ROOT))
    client = world.open(timeout=0)
    lose_the_answer(client, monkeypatch, is_done=True)

    def unreachable() -> link.Link:
        raise ServerUnreachableError("there is no server")

    with monkeypatch.context() as patch:
        patch.setattr(client._connector, "new_link", unreachable)
        with pytest.raises(OutcomeUnknownError, match="stored completely or not at all"):
            put(client, record(ROOT, b"", b"new"))
        with pytest.raises(OutcomeUnknownError):
            client.load(ROOT)
    assert client.sync() == [ROOT]
    assert client.load(ROOT) == record(ROOT, b"", b"new")


@pytest.mark.spec("PG-26")
def test_the_outcome_is_told_when_the_lost_transaction_has_ended(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(world, record(ROOT))
    client = world.open()
    monkeypatch.setattr(client._sql, "lock_timeout", b"SET LOCAL lock_timeout = '10ms'")
    under_way = link_of(client)
    run = under_way.run

    def cut(*given: link.Step, prepare: bool | None = None) -> list[link.Rows]:
        if given[-1][0] != b"COMMIT":
            return run(*given, prepare=prepare)
        run(*given[:-1], prepare=prepare)  # the last statement is still on its way
        raise DisconnectedError("the network is cut")

    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            run((b"COMMIT", ()))

    monkeypatch.setattr(under_way, "run", cut)
    monkeypatch.setattr("durus.postgres_storage._sleep", sleep)
    put(client, record(ROOT, b"", b"new"))
    assert len(waits) == 3
    under_way.close()
    assert client.load(ROOT) == record(ROOT, b"", b"new")


@pytest.mark.spec("PG-26")
def test_a_client_that_is_silent_in_its_transaction_loses_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(world, record(ROOT))
    silent, other = world.open(application_name="silent"), world.open()
    monkeypatch.setattr(silent._sql, "idle_timeout", b"SET LOCAL idle_in_transaction_session_timeout = '1ms'")
    silent.take_turn()
    world.wait_for("select count(*) = 0 from pg_stat_activity where application_name = 'silent'")
    put(other, record(ROOT, b"", b"new"))
    with pytest.raises(DisconnectedError):
        put(silent, record(ROOT))
    assert silent.sync() == [ROOT]


@pytest.mark.spec("PG-27", "DB-12")
def test_an_exclusive_transaction_has_no_conflict_and_keeps_commits_out(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = world.connect(), world.connect(timeout=0)
    monkeypatch.setattr(two.storage._sql, "lock_timeout", b"SET LOCAL lock_timeout = '10ms'")  # type: ignore[attr-defined]  # it is of this class
    with one.transaction(exclusive=True) as root:
        two.get_root()["a"] = 2
        with pytest.raises(ServerError, match="another client holds the turn"):
            two.commit()
        root["a"] = PersistentList([PersistentList() for _ in range(100)])  # needs more oids than a block has
    with pytest.raises(WriteConflictError):
        two.commit()
    two.abort()
    assert len(two.get_root()["a"]) == 100
    one._sync_and_begin_next(is_exclusive=True)
    one.get_root()["b"] = PersistentList()
    one.abort()
    two.get_root()["b"] = PersistentList()
    two.commit()
    with one.transaction() as root:
        root["c"] = PersistentList()
    assert world.sql("select count(*) from d.object") == [(104,)]


@pytest.mark.spec("PG-28", "TXN-60", "TXN-65")
def test_a_snapshot_shows_one_state_whatever_is_committed_and_packed(world: World) -> None:
    writer = world.connect()
    root: Any = writer.get_root()
    root["a"] = PersistentList([PersistentList([1])])
    writer.commit()
    reader = Connection(world.open(), snapshot=True)
    root["a"][0].append(2)
    writer.commit()
    del root["a"]
    writer.commit()
    writer.pack()
    assert [list(each) for each in reader.get_root()["a"]] == [[1]]
    with pytest.raises(ReadonlyError):
        reader.storage.begin()
    reader.abort()
    assert "a" not in reader.get_root()
    reader.storage.release()
    assert world.sql("select count(*) from pg_stat_activity where state like 'idle in%'") == [(0,)]


@pytest.mark.spec("PG-29")
def test_the_log_is_trimmed_after_a_commit_in_one_round_trip(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = world.connect()
    monkeypatch.setattr("durus.postgres_storage._TRIM_EVERY", 2)
    world.sql("update d.txn set time = now() - interval '61 minutes'")
    client.get_root()["a"] = 1
    client.commit()
    assert world.sql("select log_from from d.head") == [(1,)]
    monkeypatch.setattr(client.storage._sql, "trim_txns", b"DELETE FROM txn")  # type: ignore[attr-defined]  # it is of this class
    for number in range(2):
        client.get_root()["a"] = number
        client.commit()
    assert "the log of changes was not trimmed" in caplog.text


@pytest.mark.spec("PG-29")
def test_the_log_of_changes_is_trimmed_by_age(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(world, record(ROOT))
    stale, fresh = world.open(), world.open()
    monkeypatch.setattr("durus.postgres_storage._TRIM_EVERY", 4)
    for _ in range(2):
        fill(world, record(ROOT))
    world.sql("update d.txn set time = now() - interval '61 minutes' where tid <= 2")
    assert fresh.sync() == [ROOT]
    assert world.sql("select log_from from d.head") == [(0,)]
    fill(world, record(ROOT))
    assert world.sql("select tid from d.change order by tid") == [(3,), (4,)]
    assert world.sql("select tid from d.txn order by tid") == [(2,), (3,), (4,)]
    assert world.sql("select log_from from d.head") == [(2,)]
    assert (fresh.sync(), stale.sync()) == ([ROOT], None)
    world.sql("update d.txn set time = now() - interval '61 minutes'")
    monkeypatch.setattr("durus.postgres_storage._TRIM_AT_MOST", 1)
    for _ in range(4):
        fill(world, record(ROOT))
    assert world.sql("select log_from from d.head") == [(3,)]


# Oids


@pytest.mark.spec("PG-30")
def test_blocks_of_oids_differ_and_last_when_a_turn_is_given_up(world: World) -> None:
    fill(world, record(ROOT))
    one, two = world.open(), world.open()
    given = [one.new_oid() for _ in range(100)] + [two.new_oid() for _ in range(10)]
    two.take_turn()
    given += [two.new_oid() for _ in range(100)]
    two.release()
    given += [one.new_oid() for _ in range(1000)] + [two.new_oid() for _ in range(1000)]
    assert len(set(given)) == 2210
    assert ROOT not in given


@pytest.mark.spec("PG-31", "TXN-24")
def test_two_first_clients_make_one_root(world: World) -> None:
    one, two = world.open(), world.open()
    assert (one.new_oid(), two.new_oid()) == (ROOT, ROOT)
    put(one, record(ROOT, b"", b"of one"))
    with pytest.raises(WriteConflictError):
        put(two, record(ROOT, b"", b"of two"))
    assert two.sync() == [ROOT]
    assert two.load(ROOT) == record(ROOT, b"", b"of one")
    assert two.new_oid() != ROOT
    put(two, record(ROOT, b"", b"of two"))


@pytest.mark.spec("PG-31")
def test_many_first_connections_have_one_root(world: World) -> None:
    world.open()
    connections: list[Connection] = []
    in_threads(5, lambda number: connections.append(world.connect()))
    for number, connection in enumerate(connections):
        connection.abort()
        connection.get_root()[str(number)] = 1
        connection.commit()
    connections[0].abort()
    assert len(connections[0].get_root()) == 5


# Packing


def step_until(packer: Iterator[object], is_there: Callable[[], bool]) -> None:
    while not is_there():
        next(packer)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_BATCH", 1)


@pytest.mark.spec("PG-40")
@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("is_sweeping", [False, True])
def test_a_pack_that_was_interrupted_is_continued_by_another_client(world: World, is_sweeping: bool) -> None:
    numbers = [oid_from_int(n) for n in range(20)]
    fill(world, *(record(oid, numbers[i + 1] if i < 9 else b"") for i, oid in enumerate(numbers)))
    first = world.open()
    packer = first.get_packer()
    if is_sweeping:
        step_until(packer, lambda: world.sql("select count(*) from d.object")[0][0] < 15)
    else:
        step_until(packer, lambda: world.sql("select count(*) from d.mark")[0][0] > 5)
    first.close()
    ((before,),) = world.sql("select from_tid from d.pack")
    second = world.open()
    second_packer = second.get_packer()
    next(second_packer)
    next(second_packer)
    assert world.sql("select from_tid from d.pack") == [(before,)]
    for _ in second_packer:
        pass
    assert sorted(oid for oid, _ in second.gen_oid_record()) == numbers[:10]
    assert world.sql("select (select count(*) from d.mark), (select count(*) from d.pack)") == [(0, 0)]
    assert world.sql("select sweep_tid from d.head") == [(0,)]


@pytest.mark.spec("PG-41", "PG-42")
@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("at", range(0, 30, 2))
def test_what_is_moved_while_a_pack_marks_is_kept(world: World, at: int) -> None:
    one = world.connect()
    root: Any = one.get_root()
    for number in range(5):
        root[number] = PersistentList([PersistentList()])
    root["garbage"] = PersistentList()
    root["last"] = PersistentList([PersistentList([PersistentList([1])])])
    one.commit()
    del root["garbage"]
    one.commit()
    steps_done = 0
    for _ in world.open().get_packer():
        if steps_done == at:
            root[0].append(root["last"].pop())
            root["new"] = PersistentList([PersistentList([2])])
            one.commit()
        steps_done += 1
    one.abort()
    two = world.connect()
    found: Any = two.get_root()
    if steps_done > at:
        assert list(found[0][1][0]) == [1]
        assert list(found["new"][0]) == [2]
    stored = {oid for oid, _ in two.storage.gen_oid_record()}
    reached = {oid for oid, _ in two.storage.gen_oid_record(ROOT)}
    assert reached <= stored
    assert len(stored - reached) <= 1, "only what became garbage meanwhile"


@pytest.mark.spec("PG-24", "PG-42", "PG-43", "TXN-25")
@pytest.mark.usefixtures("small_batches")
def test_what_a_pack_removes_cannot_be_brought_back_while_it_does(world: World) -> None:
    garbage = [oid_from_int(n) for n in range(1, 12)]
    fill(world, record(ROOT), *(record(oid, garbage[i - 1] if i else b"") for i, oid in enumerate(garbage)))
    client = world.open()
    new = client.new_oid()
    packer = world.open().get_packer()
    step_until(packer, lambda: world.sql("select sweep_tid from d.head")[0][0] > 0)
    next(packer)
    last = garbage[-1]
    assert client.has_record(last), "its row is still there"
    for bad in record(ROOT, last), record(last):
        with pytest.raises(WriteConflictError) as caught:
            put(client, bad)
        assert last in caught.value.oids
    put(client, record(ROOT, new), record(new))
    put(client, record(ROOT, new), record(new))
    for _ in packer:
        pass
    assert {oid for oid, _ in world.open().gen_oid_record()} == {ROOT, new}
    told = client.sync()
    assert told is not None
    assert set(garbage) <= {*told, *garbage[:4]}
    assert client.sync() == []


@pytest.mark.spec("PG-44")
def test_a_reference_that_leads_to_nothing_ends_a_pack(world: World) -> None:
    fill(world, record(ROOT, ONE), record(ONE, TWO), record(TWO), record(THREE))
    world.sql("delete from d.object where oid = 2")
    client = world.open()
    for _ in range(2):
        with pytest.raises(FormatError, match="object 1 refers to oid 2, which does not exist"):
            client.pack()
    assert [oid for oid, _ in client.gen_oid_record()] == [ROOT, ONE, THREE]
    put(client, record(ONE))
    client.pack()
    assert [oid for oid, _ in client.gen_oid_record()] == [ROOT, ONE]


@pytest.mark.spec("PG-44")
def test_a_reference_that_leads_to_nothing_is_found_by_the_flip_and_commits_go_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(world, record(ROOT, ONE), record(ONE, TWO), record(TWO))
    world.sql("delete from d.object where oid = 2")
    client = world.open()
    monkeypatch.setattr(packing._Pack, "_mark_all", lambda self: iter(()))
    with pytest.raises(FormatError, match="object 1 refers to oid 2, which does not exist"):
        client.pack()
    assert world.sql("select count(*) from d.pack") == [(0,)]
    put(client, record(ONE))
    client.pack()
    assert [oid for oid, _ in client.gen_oid_record()] == [ROOT, ONE]


@pytest.mark.spec("PG-41")
def test_a_step_ends_after_many_references(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = [oid_from_int(n) for n in range(1, 9)]
    fill(
        world, record(ROOT, b"".join(numbers)), *(record(oid, numbers[-1]) for oid in numbers[:-1]), record(numbers[-1])
    )
    steps_of = []
    for limit in 20_000, 2:
        monkeypatch.setattr(packing, "_BATCH_REFS", limit)
        steps_of.append(len(list(world.open().get_packer())))
    assert steps_of[0] < steps_of[1]
    assert len(list(world.open().gen_oid_record())) == 9


@pytest.mark.spec("PG-44")
@pytest.mark.usefixtures("small_batches")
def test_a_pack_that_the_log_has_outrun_begins_anew(world: World) -> None:
    fill(world, record(ROOT, ONE + TWO), record(ONE), record(TWO), record(THREE))
    packer = world.open().get_packer()
    step_until(packer, lambda: world.sql("select count(*) from d.mark")[0][0] > 1)
    ((before,),) = world.sql("select from_tid from d.pack")
    fill(world, record(ROOT, TWO))
    fill(world, record(TWO))
    world.sql("update d.head set log_from = tid - 1")
    world.sql("delete from d.change where tid <= (select log_from from d.head)")
    step_until(packer, lambda: world.sql("select from_tid from d.pack") != [(before,)])
    for _ in packer:
        pass
    assert [oid for oid, _ in world.open().gen_oid_record()] == [ROOT, TWO]


@pytest.mark.spec("PG-42", "TXN-28")
def test_a_pack_ends_with_a_commit_between_any_two_of_its_steps(world: World) -> None:
    fill(world, record(ROOT), record(ONE))
    writer = world.open()
    for number, _ in enumerate(world.open().get_packer()):
        put(writer, record(ROOT, b"", str(number).encode()))
        assert number < 50
    assert world.sql("select oid from d.object") == [(0,)]


@pytest.mark.spec("PG-42")
@pytest.mark.usefixtures("small_batches")
def test_the_flip_gives_way_to_commits_and_comes_to_its_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(world, record(ROOT), record(ONE), record(TWO))
    writer = world.open()
    packer = world.open().get_packer()
    taken = 0
    follow = packing._Pack._follow

    def commit_before_the_flip(self: packing._Pack, ends: bool = True, state: Any = None) -> int:
        found = follow(self, ends, state)
        if ends and found < packing._BATCH:
            new = [writer.new_oid() for _ in range(8)]
            put(writer, record(ROOT, b"".join(new)), *map(record, new))
            nonlocal taken
            taken += 1
        return found

    monkeypatch.setattr(packing._Pack, "_follow", commit_before_the_flip)
    for _ in packer:
        pass
    assert taken == packing._FLIPS
    left = {oid_to_int(oid) for oid, _ in world.open().gen_oid_record()}
    assert {1, 2} & left == set()
    assert {oid_to_int(oid) for oid, _ in world.open().gen_oid_record(ROOT)} <= left


def test_a_pack_does_not_go_on_in_an_exclusive_transaction(world: World) -> None:
    fill(world, record(ROOT))
    client = world.open()
    packer = client.get_packer()
    next(packer)
    client.take_turn()
    with pytest.raises(TransactionError, match="exclusive"):
        next(packer)
    client.release()
    client.pack()


@pytest.mark.spec("PG-50")
def test_an_empty_database_takes_in_another_one(world: World) -> None:
    client, early = world.open(), world.open()
    pairs = [(oid, record(oid, ONE if oid == ROOT else b"")) for oid in (ROOT, ONE)]
    client.take_records(pairs)
    assert list(world.open().gen_oid_record()) == pairs
    assert early.sync() is None
    assert oid_to_int(client.new_oid()) == 2
    for storage in client, early:
        with pytest.raises(ServerError, match="has objects already"):
            storage.take_records(pairs)
    assert client.sync() == []


# What every storage promises


@pytest.mark.spec("TXN-5", "TXN-10", "TXN-12", "TXN-13", "TXN-14", "TXN-15", "TXN-16", "TXN-36")
@pytest.mark.parametrize(
    "example",
    [each for page in documents() for each in examples(page) if each.kind == "steps"],
    ids=lambda each: each.name,
)
def test_the_examples_of_transactions_are_true_of_an_engine(world: World, example: Any) -> None:
    runner = StepRunner(new_client=lambda: world.open(prefetch=0))
    for line, step in steps(example):
        runner.run(step, f"{example.document}:{line}")
    runner.close()


@pytest.mark.spec("TXN-30")
def test_an_interrupt_at_any_line_of_a_commit_leaves_all_of_it_or_nothing(world: World) -> None:
    one, two = world.connect(application_name="interrupted"), world.connect()
    number, last = 0, None
    outcomes = set()

    def prepare() -> Callable[[], object]:
        nonlocal number
        number += 1
        with one.transaction() as root:
            root["before"] = number
        root["n"] = number
        root["new"] = PersistentList([number])
        return one.commit

    prepare()()  # which finds out about the classes, once
    last = number
    for where in each_line(prepare):
        if "postgres/link.py" in where:  # the engine may be at work on it still
            world.end_sessions("interrupted")
        two.abort()
        found = two.get_root()
        assert found["before"] == number
        n = found.get("n")
        assert n in (number, last), where
        assert list(found.get("new", [None])) == [n], where
        outcomes.add(n == number)
        last = n
        try:
            one.abort()
        except InterruptedTransactionError:
            one.abort()
        assert one.get_root().get("n") == n, where
    assert outcomes == {True, False}
    assert number > 100


@pytest.mark.spec("TXN-30")
def test_an_interrupt_at_any_line_of_a_pack_leaves_what_is_reached(world: World) -> None:
    fill(world, record(ROOT, ONE), record(ONE))
    client, other = world.open(), open_handed(world.open())
    number = 0

    def pack() -> str | None:
        put(other, record(TWO), record(THREE))
        return interrupted_at(number, client.pack)

    while where := pack():
        number += 23
        other.sync()
        assert {ROOT, ONE} <= {oid for oid, _ in other.gen_oid_record()}, where
        client.sync()
        client.pack()  # continues with the other one, which may have begun before the last commit
        client.pack()
        client.sync()
        assert [oid for oid, _ in client.gen_oid_record()] == [ROOT, ONE], where
        other.sync()
    assert number > 500


@pytest.mark.spec("TXN-30")
def test_an_interrupt_while_a_storage_is_opened_leaves_no_connection(world: World) -> None:
    world.open().close()
    number = 0
    opened: list[PostgresStorage] = []

    def open_one() -> None:
        opened.append(storage_at(world.address + "&application_name=opening"))

    while interrupted_at(number, open_one) is not None:
        number += 1
    opened.pop().close()
    assert (len(opened), number > 50) == (0, True)
    gc.collect()
    world.wait_for("select count(*) = 0 from pg_stat_activity where application_name = 'opening'")


@pytest.mark.spec("TXN-32")
def test_a_child_process_is_refused_and_leaves_the_session_to_its_parent(world: World) -> None:
    connection = world.connect()
    process = os.fork()
    if not process:
        status = 1
        try:
            connection.abort()
        except WrongProcessError:
            connection.close()
            del connection
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    connection.get_root()["a"] = 1
    connection.commit()


FORKING = """
import os, sys
import durus

db = durus.open(sys.argv[1])
with db.transaction() as root:
    root["n"] = 1
child = os.fork()
if child:
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with db.transaction() as root:
        root["n"] = 2
    db.close()
"""


@pytest.mark.spec("TXN-32")
def test_a_child_process_that_ends_as_python_does_says_nothing_and_sends_nothing(world: World) -> None:
    done = subprocess.run([sys.executable, "-c", FORKING, world.address], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_closed_storage_says_so_and_a_dropped_one_leaves_no_connection(world: World) -> None:
    storage = world.open()
    storage.close()
    storage.close()
    for call in (storage.sync, storage.begin, storage.new_oid, storage.take_turn, lambda: storage.load(ROOT)):
        with pytest.raises(ClosedError):
            call()
    dropped = storage_at(world.address + "&application_name=dropped")
    dropped.take_turn()
    del dropped
    put(open_handed(world.open()), record(ROOT))
    world.wait_for("select count(*) = 0 from pg_stat_activity where application_name = 'dropped'")


def test_messages_show_no_password(world: World) -> None:
    with pytest.raises(ServerUnreachableError) as caught:
        durus.open("postgresql://me:secret@localhost:1/none?password=secret&connect_timeout=2")
    assert "secret" not in str(caught.value)
    assert "postgresql://me@localhost:1/none" in str(caught.value)
    with pytest.raises(ArgumentError, match="has no option 'sekret'") as refused:
        durus.open("postgresql://me:secret@localhost/none?sekret=1")
    assert "secret" not in str(refused.value)
    storage = PostgresStorage(world.server.conninfo, schema=world.schema)
    assert "dbname" not in repr(storage)
    storage.close()
    world.open()


def test_wrong_arguments_are_refused(world: World) -> None:
    with pytest.raises(ArgumentError, match="must be 'fsync' or 'os'"):
        world.open(durability="no")
    for schema in "Durus", 'a"b', "", "x" * 64:
        with pytest.raises(ArgumentError, match="has a name"):
            PostgresStorage(world.server.conninfo, schema=schema)


def test_commit_ids_are_those_of_the_table(world: World) -> None:
    fill(world, record(ROOT))
    seen = world.open()._seen
    assert world.sql("select tid, commit_id from d.txn where tid = 1") == [(seen.tid, seen.commit_id)]
    assert isinstance(seen.epoch, UUID)

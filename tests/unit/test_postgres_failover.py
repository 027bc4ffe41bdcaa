"""A PostgreSQL server that is lost, silent or cancelled, and the standby that takes its place. spec/sql-engine.md."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

import durus
from durus.error import DisconnectedError, DurusWarning, OutcomeUnknownError, SnapshotEndedError
from durus.postgres_storage import PostgresStorage
from durus.sharing.session import SessionCore
from tests.postgres import Pair, PostgresServer, storage_at
from tests.short_paths import short_folder
from tests.unit.databases import SECONDS

pytest.importorskip("psycopg")


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A primary, and a standby that may lag."""
    with short_folder(for_other_users=os.geteuid() == 0) as folder:
        pair = Pair(folder, is_synchronous=False)
        yield pair
        pair.stop()


def add(root: Any) -> int:
    root["n"] = root.get("n", 0) + 1
    count: int = root["n"]
    return count


def wait_for(server: PostgresServer, condition: str) -> None:
    """Wait until a statement returns true."""
    end = time.monotonic() + SECONDS
    while server.execute(condition) != [(True,)]:
        assert time.monotonic() < end, f"not so after {SECONDS} s: {condition}"


@pytest.mark.spec("PG-13", "PG-17")
def test_a_standby_that_takes_over_without_the_last_commits_is_told_of(pair: Pair) -> None:
    with durus.open(pair.address()) as writer, durus.open(pair.address()) as reader:
        for _ in range(3):
            writer.run(add)
        ((position,),) = pair.primary.execute("select pg_current_wal_flush_lsn()::text")
        wait_for(pair.standby, f"select pg_last_wal_replay_lsn() >= '{position}'")
        pair.standby.stop()  # it is cut off
        for _ in range(2):
            writer.run(add)
        with reader.transaction() as root:
            assert root["n"] == 5
        pair.primary.crash()
        pair.standby.start()
        pair.promote()
        for database in writer, reader:
            told = pytest.warns(DurusWarning, match=r"has lost commits: this client has seen commit 6, .* one is 4")
            with told, database.transaction() as root:
                assert root["n"] == 3, "nothing is shown that is not there any more"
        assert writer.run(add) == 4
        assert reader.run(add) == 5


@pytest.mark.spec("PG-14", "PG-17")
def test_a_standby_that_has_all_commits_takes_over_silently(pair: Pair) -> None:
    with durus.open(pair.address()) as db:
        for _ in range(3):
            db.run(add)
        with db.transaction() as root:
            kept = root
        ((position,),) = pair.primary.execute("select pg_current_wal_flush_lsn()::text")
        wait_for(pair.standby, f"select pg_last_wal_replay_lsn() >= '{position}'")
        pair.primary.crash()
        pair.promote()
        with db.transaction() as root:
            assert root is kept
            assert root["n"] == 3
        assert db.run(add) == 4


@pytest.mark.spec("PG-15")
def test_a_reader_does_not_go_back_in_time_on_a_standby(pair: Pair) -> None:
    with durus.open(pair.address()) as writer:
        writer.run(add)
        ((position,),) = pair.primary.execute("select pg_current_wal_flush_lsn()::text")
        wait_for(pair.standby, f"select pg_last_wal_replay_lsn() >= '{position}'")
        with closing(storage_at(pair.address() + "&readonly=true")) as reader:
            assert reader.sync() == []
            pair.standby.execute("select pg_wal_replay_pause()")
            writer.run(add)
            assert reader.sync() == [bytes(8)]
            ((position,),) = pair.primary.execute("select pg_current_wal_flush_lsn()::text")
            wait_for(pair.standby, f"select pg_last_wal_receive_lsn() >= '{position}'")
            pair.primary.crash()
            for _ in range(2):
                with pytest.raises(DisconnectedError, match="is a standby that lacks commit 3 and has 2"):
                    reader.sync()
                with pytest.raises(DisconnectedError):
                    reader.load(bytes(8))
            pair.standby.execute("select pg_wal_replay_resume()")
            wait_for(pair.standby, f"select pg_last_wal_replay_lsn() >= '{position}'")
            assert reader.sync() == []


@pytest.mark.spec("PG-15", "PG-66")
@pytest.mark.parametrize("is_held", [False, True], ids=["the-first", "beside-one-that-is-held"])
def test_a_snapshot_of_a_server_does_not_go_back_in_time_on_a_standby(pair: Pair, is_held: bool) -> None:
    with durus.open(pair.address()) as writer:
        writer.run(add)
        ((position,),) = pair.primary.execute("select pg_current_wal_flush_lsn()::text")
        wait_for(pair.standby, f"select pg_last_wal_replay_lsn() >= '{position}'")
        with closing(storage_at(pair.address() + "&readonly=true")) as storage:
            core = SessionCore(storage)
            holder, reader = core.connect(), core.connect()
            pair.standby.execute("select pg_wal_replay_pause()")
            writer.run(add)
            core.when_fresh(lambda error: None)
            core.take_news()
            if is_held:
                holder.take_snapshot()
            ((position,),) = pair.primary.execute("select pg_current_wal_flush_lsn()::text")
            wait_for(pair.standby, f"select pg_last_wal_receive_lsn() >= '{position}'")
            pair.primary.crash()
            for _ in range(2):
                with pytest.raises(DisconnectedError, match="is a standby that lacks commit 3 and has 2"):
                    reader.take_snapshot()
            pair.standby.execute("select pg_wal_replay_resume()")
            wait_for(pair.standby, f"select pg_last_wal_replay_lsn() >= '{position}'")
            if is_held:
                with pytest.raises(SnapshotEndedError):
                    holder.load_from_snapshot(bytes(8))
            assert reader.take_snapshot() == [bytes(8)]
            assert b"n" in reader.load_from_snapshot(bytes(8))


# A server that waits for a standby


@pytest.fixture
def waiting() -> Iterator[PostgresServer]:
    """A server with a database, whose commits wait for a standby that is gone."""
    with short_folder(for_other_users=os.geteuid() == 0) as folder:
        pair = Pair(folder, is_synchronous=True)
        with durus.open(pair.primary.address()) as db:
            db.run(add)
        pair.standby.stop(signal.SIGKILL)
        yield pair.primary
        pair.primary.stop(signal.SIGKILL)


_WAITS = "from pg_stat_activity where wait_event = 'SyncRep' and application_name = 'waits'"


@pytest.mark.spec("PG-26")
def test_a_commit_that_did_not_wait_for_the_standbys_is_not_acknowledged_without_them(waiting: PostgresServer) -> None:
    outcomes: list[object] = []

    def work() -> None:
        with durus.open(waiting.address() + "&application_name=waits") as db:
            outcomes.append(db.run(add))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        wait_for(waiting, f"select count(*) = 1 {_WAITS}")
        ((first,),) = waiting.execute(f"select pid {_WAITS}")
        waiting.execute(f"select pg_cancel_backend({first})")
        wait_for(waiting, f"select count(*) = 1 {_WAITS} and pid <> {first}")  # the question what became of it
        assert outcomes == []
    finally:
        waiting.execute("alter system set synchronous_standby_names = ''")
        waiting.stop()
        waiting.start("synchronous_standby_names=")
        thread.join(SECONDS)
    assert outcomes == [2]


@pytest.mark.spec("PG-16", "PG-26")
def test_the_outcome_of_a_commit_is_unknown_if_the_standby_stays_away(
    waiting: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durus.postgres.connecting._LEAST_PATIENCE", 0.3)
    told = pytest.raises(OutcomeUnknownError, match=r"silent for 0\.3 s during a commit")
    with durus.open(waiting.address() + "&timeout=0.3") as db, told:
        db.run(add)


@pytest.mark.spec("PG-16")
def test_a_server_that_is_silent_is_given_up(
    postgres: PostgresServer, postgres_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durus.postgres.connecting._LEAST_PATIENCE", 0.2)
    storage: PostgresStorage = storage_at(postgres_address + "&timeout=0.2&application_name=silent")
    try:
        ((pid,),) = postgres.execute("select pid from pg_stat_activity where application_name = 'silent'")
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(DisconnectedError, match=r"was lost: the server was silent for 0.2 s; call abort\(\)"):
                storage.has_record(bytes(8))
        finally:
            os.kill(pid, signal.SIGCONT)
        assert storage.sync() == []
    finally:
        storage.close()

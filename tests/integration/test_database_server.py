"""Database over a server: restarts, threads, forks, tasks. spec/database.md, DB-14, DB-16, DB-20, DB-40, DB-41."""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import durus
from durus.error import (
    ClosedError,
    ConflictError,
    DisconnectedError,
    OutcomeUnknownError,
    ReadConflictError,
    ReadonlyError,
)
from durus.persistent_dict import PersistentDict
from durus.pool.turn import ProcessTurn
from tests.integration.serving import SECONDS, Server, serving
from tests.unit.databases import Root, in_threads
from tests.unit.test_database import Account, count, in_child, number, set_balances


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    with serving("--file", "f.durus", *getattr(request, "param", ()), folder=tmp_path) as found:
        yield found


ends_turns_soon = pytest.mark.parametrize("server", [("--commit-timeout", "2")], indirect=True, ids=[""])
"""For a test in which others wait until the server ends the turn of an exclusive transaction."""


@pytest.fixture
def db(server: Server) -> Iterator[durus.Database[Root]]:
    with durus.open(f"durus://127.0.0.1:{server.port}") as database:
        database.run(lambda root: root.update(n=0))
        yield database


def transfer(root: Root, source: str, target: str, amount: int) -> None:
    root[source].balance -= amount
    root[target].balance += amount


@pytest.mark.spec("DB-20", "DB-40")
def test_transfers_of_threads_keep_the_sum_while_the_server_is_killed_and_started_again(tmp_path: Path) -> None:
    server = Server("--port", "0", "--file", "f.durus", folder=tmp_path)
    port = server.port
    db = durus.open(f"durus://127.0.0.1:{port}", tries=20)
    try:
        db.run(lambda root: root.update((str(n), Account(100)) for n in range(10)))
        done = threading.Semaphore(0)

        def work(thread: int) -> None:
            if thread == 0:
                restart()
                return
            for n in range(60):
                with contextlib.suppress(OutcomeUnknownError):  # it was made, or not
                    db.run(transfer, str((thread + n) % 10), str((thread + 3 * n + 1) % 10), n)
                done.release()

        def restart() -> None:
            nonlocal server
            for _ in range(2):
                for _ in range(30):
                    assert done.acquire(timeout=SECONDS)
                server.end(signal.SIGKILL)
                server = Server("--port", str(port), "--file", "f.durus", folder=tmp_path, python=("-m", "durus"))

        in_threads(4, work)
        with db.snapshot() as root:
            assert sum(account.balance for account in root.values()) == 1000
        assert db.stats().retries > 0
        db.close()
    finally:
        assert server.end() == 0


@pytest.mark.spec("DB-40")
def test_a_connection_that_was_lost_is_made_again(short_path: Path) -> None:
    where = f"durus+unix:{short_path}/socket"
    arguments = "--address", f"{short_path}/socket", "--file", "f.durus"
    server = Server(*arguments, folder=short_path)
    with durus.open(where) as db:
        db.run(lambda root: root.update(n=1))
        server.end()
        with pytest.raises(DisconnectedError), db.transaction():
            pass
        server = Server(*arguments, folder=short_path)
        with db.transaction() as root:
            assert count(root) == 2
        transaction = db.transaction()
        count(transaction.__enter__())
        server.end()
        server = Server(*arguments, folder=short_path)
        with pytest.raises(DisconnectedError):
            transaction.__exit__(None, None, None)
        assert number(db) == 2
        assert db.run(count) == 3
    assert server.end() == 0


@pytest.mark.spec("DB-40")
def test_a_database_goes_on_with_a_server_that_has_another_file(short_path: Path) -> None:
    where = f"durus+unix:{short_path}/socket"
    server = Server("--address", f"{short_path}/socket", "--file", "f.durus", folder=short_path)
    with durus.open(where) as db:
        with db.connection(), db.connection(), db.connection(), db.snapshot():
            pass
        server.end()
        server = Server("--address", f"{short_path}/socket", "--file", "g.durus", folder=short_path)
        db.run(lambda root: root.update(n=1), tries=2)
        assert number(db) == 1
    assert server.end() == 0


@pytest.mark.spec("DB-40")
def test_a_database_without_its_root_goes_on_whatever_was_read_after_that(short_path: Path) -> None:
    where = f"durus+unix:{short_path}/socket"
    server = Server("--address", f"{short_path}/socket", "--file", "f.durus", folder=short_path)
    with durus.open(where) as db:
        with db.transaction() as root:
            other = root["other"] = PersistentDict(n=1)
        server.end()
        server = Server("--address", f"{short_path}/socket", "--file", "g.durus", folder=short_path)
        transaction = db.transaction()
        root = transaction.__enter__()
        for each in root, other:
            with pytest.raises(ReadConflictError):
                len(each)
        transaction.__exit__(None, None, None)
        with db.transaction() as root:
            root["n"] = 1
        assert number(db) == 1
    assert server.end() == 0


@pytest.mark.spec("DB-14", "DB-21")
def test_threads_of_one_process_do_not_starve(db: durus.Database[Root]) -> None:
    def work(_: int) -> None:
        for _ in range(10):
            db.run(count, tries=2)

    in_threads(8, work)
    assert number(db) == 80


@pytest.mark.spec("DB-14")
def test_an_exclusive_transaction_waits_for_commits_and_they_for_it(db: durus.Database[Root]) -> None:
    has_committed = threading.Event()
    with db.transaction(exclusive=True) as root:

        def commit() -> None:
            db.run(count)
            has_committed.set()

        thread = threading.Thread(target=commit)
        thread.start()
        assert number(db) == 0
        assert not has_committed.wait(0.1)
        root["n"] += 10
    thread.join(SECONDS)
    assert number(db) == 11
    with pytest.raises(ZeroDivisionError):
        fail_exclusively(db)
    assert db.run(count) == 12
    transaction = db.transaction(exclusive=True)
    transaction.__enter__()
    del transaction  # lost without its end
    in_threads(1, lambda _: db.run(count))


def fail_exclusively(db: durus.Database[Root]) -> None:
    with db.transaction(exclusive=True):
        raise ZeroDivisionError


@pytest.mark.spec("DB-14")
@ends_turns_soon
def test_a_commit_of_another_process_can_be_in_conflict_with_an_exclusive_transaction(
    db: durus.Database[Root], server: Server
) -> None:
    with durus.open(f"durus://127.0.0.1:{server.port}") as other, pytest.raises(ConflictError):
        disturb_exclusively(db, other)
    assert number(db) == 1


def disturb_exclusively(db: durus.Database[Root], other: durus.Database[Root]) -> None:
    with db.transaction(exclusive=True) as root:
        root["n"] += 10
        other.run(count)


@pytest.mark.spec("DB-14")
def test_an_interrupt_does_not_keep_the_turn() -> None:
    turn = ProcessTurn()
    first, second = threading.Event(), threading.Event()  # any objects
    turn.take(first)
    turn.take(first)
    turn.release(second)  # which does not have it
    taken = threading.Event()

    def take() -> None:
        turn.take(second)
        taken.set()

    thread = threading.Thread(target=take)
    thread.start()
    del first  # nobody can use it any more
    assert taken.wait(SECONDS)
    thread.join(SECONDS)
    turn.release(second)
    turn.take(turn)


@pytest.mark.spec("DB-16")
def test_a_snapshot_over_a_network_reads_and_refuses_changes(db: durus.Database[Root], server: Server) -> None:
    db.run(lambda root: root.update(x=Account(1), y=Account(1)))
    with durus.open(f"durus://127.0.0.1:{server.port}?prefetch=0&protocol=1") as other, other.snapshot() as root:
        assert root["x"].balance == 1
        with pytest.raises(ReadonlyError):
            root["x"].balance = 2
        db.run(set_balances, 2)
        with pytest.raises(ConflictError):
            _ = root["y"].balance
    with durus.open(f"durus://127.0.0.1:{server.port}?prefetch=0") as other:
        for balance in 2, 3:
            with other.snapshot() as root:
                assert root["x"].balance == balance
                db.run(set_balances, balance + 1)
                db.pack()
                assert root["y"].balance == balance
        db.run(set_balances, 2)
    with db.snapshot() as root:
        assert root["y"].balance == 2
    with durus.open(f"durus://127.0.0.1:{server.port}", readonly=True) as reader:
        assert reader.run(lambda root: root["x"].balance) == 2
        with pytest.raises(ReadonlyError):
            reader.run(count)


@pytest.mark.spec("DB-41")
@ends_turns_soon
def test_a_child_has_sessions_of_its_own(db: durus.Database[Root]) -> None:
    db.run(count)
    held = db.transaction(exclusive=True)
    held.__enter__()

    def work() -> None:
        in_threads(4, lambda _: db.run(count))
        with db.transaction(exclusive=True) as root:
            count(root)
        if in_child(lambda: db.run(count)):
            raise AssertionError
        db.close()

    assert in_child(work) == 0
    held.__exit__(None, None, None)
    assert number(db) == 7
    assert db.run(count) == 8


@pytest.mark.spec("DB-10", "DB-23")
def test_tasks_work_beside_one_another(db: durus.Database[Root]) -> None:
    async def work() -> None:
        await asyncio.gather(*(db.run_async(count) for _ in range(30)))

    asyncio.run(work())
    assert number(db) == 30


@pytest.mark.spec("DB-42", "DB-43")
def test_a_server_is_told_to_pack(db: durus.Database[Root], server: Server) -> None:
    db.run(lambda root: root.update(x=Account(1)))
    db.run(lambda root: root.pop("x") and None)
    db.pack()
    server.log.expect("[Pp]ack")
    db.close()
    with pytest.raises(ClosedError):
        number(db)

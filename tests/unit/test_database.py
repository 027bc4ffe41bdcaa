"""Database: transactions of threads and tasks, snapshots, what is used too late, forks. spec/database.md, DB-10 on."""

import asyncio
import contextlib
import functools
import gc
import itertools
import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, assert_type

import pytest

import durus
from durus.concurrency import lost
from durus.error import (
    ClosedError,
    ConcurrentUseError,
    ConflictError,
    FileError,
    InterruptedTransactionError,
    ReadonlyError,
    TransactionError,
    UnnotedChangeError,
    WrongProcessError,
)
from durus.persistent import Persistent
from durus.progress import Progress
from tests.unit.databases import SECONDS, Root, in_threads


class _Root(Persistent):
    total = 0


class Account(Persistent):
    def __init__(self, balance: int) -> None:
        self.balance = balance


@pytest.fixture(params=["file", "memory"])
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[durus.Database[Root]]:
    where = "memory:" if request.param == "memory" else f"file:{tmp_path}/f.durus?durability=os"
    with durus.open(where) as database:
        database.run(lambda root: root.update(n=0))
        yield database


def count(root: Root) -> int:
    root["n"] += 1
    return int(root["n"])


def change_and(db: durus.Database[Root], then: Callable[[], object], value: object = 5) -> None:
    with db.transaction() as root:
        root["n"] = value
        then()


def raise_error() -> None:
    raise ZeroDivisionError


def number(db: durus.Database[Root]) -> int:
    with db.snapshot() as root:
        return int(root["n"])


def set_balances(root: Root, amount: int) -> None:
    for value in root.values():
        if isinstance(value, Account):
            value.balance = amount


def in_child(work: Callable[[], object]) -> int:
    """Return 0 if the work is done in a fork of this process without an exception."""
    pid = os.fork()
    if not pid:
        status = 1
        with contextlib.suppress(BaseException):
            work()
            status = 0
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# Transactions


@pytest.mark.spec("DB-10")
def test_a_block_commits_at_its_end_and_aborts_if_it_raises(db: durus.Database[Root]) -> None:
    with db.transaction() as root:
        root["n"] = 1
    with pytest.raises(ZeroDivisionError):
        change_and(db, raise_error)
    assert number(db) == 1


@pytest.mark.spec("DB-10")
def test_transactions_of_several_threads_are_apart(db: durus.Database[Root]) -> None:
    began = threading.Barrier(4)

    def work(thread: int) -> None:
        with db.transaction() as root:
            root[str(thread)] = thread
            began.wait(SECONDS)
            assert str(thread ^ 1) not in root
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        in_threads(4, work)
    with pytest.raises(ConflictError):
        change_and(db, lambda: in_threads(1, lambda _: db.run(count)))
    assert number(db) == 1


@pytest.mark.spec("DB-11")
def test_what_a_thread_has_left_open_is_in_nobody_s_way(db: durus.Database[Root]) -> None:
    left = []

    def leave(_: int) -> None:
        transaction = db.transaction()
        transaction.__enter__()
        left.append(transaction)

    in_threads(1, leave)
    for _ in range(20):  # one of them has the number that the first one had
        in_threads(1, lambda _: db.run(count))
    assert number(db) == 20


@pytest.mark.spec("DB-11")
def test_a_thread_has_one_transaction_at_a_time(db: durus.Database[Root]) -> None:
    with db.transaction() as root:
        count(root)
        for block in db.transaction(), db.transaction(exclusive=True), next(iter(db.attempts())):
            with pytest.raises(TransactionError, match="already has an open transaction of the database"):
                block.__enter__()
        with db.snapshot() as before, db.snapshot() as again:
            assert (before["n"], again["n"], root["n"]) == (0, 0, 1)
        with durus.open("memory:") as other, other.transaction() as another:
            another["n"] = 1
    assert db.run(count) == 2


@pytest.mark.spec("DB-10", "DB-11")
def test_each_task_has_a_transaction_of_its_own(db: durus.Database[Root]) -> None:
    async def change(name: str, began: asyncio.Barrier) -> None:
        with db.transaction() as root:
            await began.wait()
            with pytest.raises(TransactionError, match="already has an open transaction"):
                db.run(count)
            root[name] = db.snapshot().__enter__().get(name)

    async def work() -> None:
        began = asyncio.Barrier(2)
        first = asyncio.create_task(change("a", began))
        with contextlib.suppress(ConflictError):
            await change("b", began)
        with contextlib.suppress(ConflictError):
            await first

    asyncio.run(work())
    gc.collect()
    with db.transaction() as root:
        assert len(root) == 2  # one of them was in conflict


@pytest.mark.spec("DB-12")
def test_an_exclusive_transaction_has_no_conflict(db: durus.Database[Root]) -> None:
    committed = threading.Event()

    def other(_: int) -> None:
        db.run(count)
        committed.set()

    with db.transaction(exclusive=True) as root:
        threads = [threading.Thread(target=other, args=(0,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        reading = threading.Thread(target=lambda: number(db))
        reading.start()
        reading.join(SECONDS)  # readers are not delayed
        assert not committed.wait(0.1)
        root["n"] += 10
    for thread in threads:
        thread.join(SECONDS)
    assert number(db) == 13


@pytest.mark.spec("DB-12")
def test_a_commit_that_would_wait_for_the_exclusive_transaction_around_it_is_refused(db: durus.Database[Root]) -> None:
    with db.connection() as connection:
        connection.get_root()["n"] += 1
        connection.commit()
        with db.transaction(exclusive=True) as root:
            root["n"] += 10
            connection.commit()
            connection.get_root()["n"] += 100
            with pytest.raises(TransactionError, match="would wait for its end"):
                connection.commit()
            connection.abort()
        connection.get_root()["n"] += 1000
        connection.commit()
    assert number(db) == 1011


@pytest.mark.spec("DB-12")
def test_a_commit_that_waits_for_long_is_told_in_the_log(
    db: durus.Database[Root], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost, "SECONDS", 0.01)
    waits = threading.Event()
    monkeypatch.setattr(logging.getLogger("durus"), "warning", lambda *told: waits.set())
    with db.transaction(exclusive=True):
        thread = threading.Thread(target=db.run, args=(count,))
        thread.start()
        assert waits.wait(SECONDS)
    thread.join(SECONDS)
    assert number(db) == 1


@pytest.mark.spec("DB-12")
@pytest.mark.parametrize("has_changes", [True, False])
def test_the_turn_is_given_up_however_the_block_ends(db: durus.Database[Root], has_changes: bool) -> None:
    for error in ValueError, ConflictError, KeyboardInterrupt, None:
        with contextlib.suppress(ValueError, ConflictError, KeyboardInterrupt), db.transaction(exclusive=True) as root:
            if has_changes:
                root["n"] += 100
            if error is not None:
                raise error
        in_threads(1, lambda _: db.run(count))
    assert number(db) == 4 + 100 * has_changes


@pytest.mark.spec("DB-12")
def test_the_turn_is_given_up_with_a_block_that_is_lost(db: durus.Database[Root]) -> None:
    transaction = db.transaction(exclusive=True)
    transaction.__enter__()
    del transaction
    in_threads(1, lambda _: db.run(count))
    assert number(db) == 1


@pytest.mark.spec("DB-12")
def test_a_pack_does_not_disturb_an_exclusive_transaction(db: durus.Database[Root]) -> None:
    db.run(lambda root: root.update(x=Account(1), y=Account(2)))
    db.run(lambda root: root.pop("x"))
    with db.transaction(exclusive=True) as root:
        assert root["y"].balance == 2
        db.pack()
        root["y"].balance = 3
    assert db.run(lambda root: root["y"].balance) == 3


@pytest.mark.spec("DB-12")
def test_a_connection_has_exclusive_transactions_too(db: durus.Database[Root]) -> None:
    with db.connection() as connection:
        for _ in range(2):
            with connection.transaction(exclusive=True) as root:
                thread = threading.Thread(target=db.run, args=(count,))
                thread.start()
                root["m"] = 1
            thread.join(SECONDS)
    assert number(db) == 2


@pytest.mark.spec("DB-13")
def test_an_exclusive_block_in_a_task_is_refused(db: durus.Database[Root]) -> None:
    async def work() -> None:
        with pytest.raises(TransactionError, match="run_async"):
            db.transaction(exclusive=True)

    asyncio.run(work())


@pytest.mark.spec("DB-12", "DB-20", "DB-21")
def test_transfers_of_eight_threads_keep_the_sum(tmp_path: Path) -> None:
    with durus.open(tmp_path / "f", durability="os") as db:
        db.run(lambda root: root.update((str(n), Account(100)) for n in range(5)))

        def transfer(root: Root, source: str, target: str, amount: int) -> None:
            root[source].balance -= amount
            root[target].balance += amount

        def work(thread: int) -> None:
            for n in range(25):
                db.run(transfer, str((thread + n) % 5), str((thread + 3 * n + 1) % 5), n)

        in_threads(8, work)
        with db.snapshot() as root:
            assert sum(account.balance for account in root.values()) == 500


@pytest.mark.spec("DB-12", "DB-21")
def test_a_hot_counter_and_a_growing_tree_take_no_more_than_so_many_tries(db: durus.Database[Root]) -> None:
    tree: durus.BTree[int, int] = durus.BTree()
    db.run(lambda root: root.update(tree=tree))
    tries = []

    def append(thread: int) -> None:
        for _ in range(10):
            number = 0
            for attempt in db.attempts(4):
                with attempt as root:
                    number += 1
                    root["tree"][len(root["tree"])] = thread
                    root["n"] += 1
            tries.append(number)

    in_threads(20, append)
    with db.snapshot() as root:
        assert (len(root["tree"]), root["n"]) == (200, 200)
    assert max(tries) <= 4


# Snapshots


@pytest.mark.spec("DB-15")
def test_a_snapshot_reads_one_state(db: durus.Database[Root]) -> None:
    db.run(lambda root: root.update(x=Account(1), y=Account(1)))
    with db.snapshot() as root:
        assert root["x"].balance == 1
        db.run(set_balances, 2)
        db.run(lambda other: other.pop("x") and None)
        db.pack()
        db.run(lambda other: other.update(z=1))
        db.pack()
        assert (root["x"].balance, root["y"].balance, len(root)) == (1, 1, 3)
    with db.snapshot() as root:
        assert (sorted(root), root["y"].balance) == (["n", "y", "z"], 2)


@pytest.mark.spec("DB-15", "DB-32")
def test_a_change_in_a_snapshot_is_refused_at_once(db: durus.Database[Root]) -> None:
    db.run(lambda root: root.update(x=Account(1), items=durus.PersistentList([1])))
    with db.snapshot() as root:
        account, items = root["x"], root["items"]
        with pytest.raises(ReadonlyError, match="the Account with oid 1 is of a snapshot"):
            account.balance = 2
        with pytest.raises(ReadonlyError):
            items.append(2)
        with pytest.raises(ReadonlyError):
            del account.balance
        with pytest.raises(ReadonlyError):
            root._p_connection.commit()  # type: ignore[union-attr]  # a stored object has one
        assert (account.balance, list(items)) == (1, [1])
    with db.snapshot() as root:
        assert (root["x"].balance, list(root["items"])) == (1, [1])
    assert db.stats().connections == 2


@pytest.mark.spec("DB-15")
def test_snapshots_of_many_threads_see_whole_commits(db: durus.Database[Root]) -> None:
    db.run(lambda root: root.update((str(n), Account(0)) for n in range(10)))
    is_over = threading.Event()

    def write(root: Root) -> None:
        set_balances(root, root["3"].balance + 1)

    def work(thread: int) -> None:
        if thread == 0:
            for _ in range(40):
                db.run(write)
            is_over.set()
        while not is_over.is_set():
            with db.snapshot() as root:
                assert len({root[str(n)].balance for n in range(10)}) == 1

    in_threads(4, work)
    with db.snapshot() as root:
        assert root["3"].balance == 40


# What is used too late


@pytest.mark.spec("DB-30", "DB-32")
@pytest.mark.parametrize("kind", ["transaction", "snapshot", "exclusive"])
def test_what_is_used_after_its_transaction_is_refused(db: durus.Database[Root], kind: str) -> None:
    db.run(lambda root: root.update(x=Account(1), y=Account(2)))
    block = db.snapshot() if kind == "snapshot" else db.transaction(exclusive=kind == "exclusive")
    with block as root:
        loaded, ghost = root["x"], root["y"]
        assert loaded.balance == 1
        ghost._p_set_status_ghost()
    connection = root._p_connection
    assert isinstance(connection, durus.Connection)
    uses: list[Callable[[], object]] = [
        lambda: loaded.balance,
        lambda: ghost.balance,
        lambda: setattr(loaded, "balance", 5),
        lambda: setattr(ghost, "balance", 5),
        lambda: delattr(loaded, "balance"),
        lambda: len(root),
        lambda: root.update(x=1),
        loaded._p_note_change,
        ghost._p_load_state,
        connection.commit,
        connection.abort,
        lambda: connection.get_stored_pickle(bytes(8)),
    ]
    for use in uses:
        with pytest.raises(TransactionError, match="belongs to a transaction that has ended"):
            use()
    assert repr(loaded) == "<Account 1 balance=1>"
    assert (type(ghost), ghost._p_oid) == (Account, bytes([0, 0, 0, 0, 0, 0, 0, 2]))
    with db.transaction() as root:
        assert (root["x"].balance, root["y"].balance) == (1, 2)


@pytest.mark.spec("DB-30")
def test_an_object_of_one_transaction_is_not_stored_by_another(db: durus.Database[Root]) -> None:
    db.run(lambda root: root.update(x=Account(1)))
    with db.snapshot() as before, pytest.raises(durus.DurusError, match="connection"), db.transaction() as root:
        root["y"] = before["x"]
    new = Account(7)  # one that is not stored yet belongs to nobody
    with pytest.raises(ZeroDivisionError):
        change_and(db, raise_error, new)
    db.run(lambda root: root.update(new=new))
    with db.snapshot() as root:
        assert root["new"].balance == 7


@pytest.mark.spec("DB-31")
def test_a_load_and_a_commit_by_another_thread_are_refused(db: durus.Database[Root]) -> None:
    db.run(lambda root: root.update(x=Account(1)))
    with db.transaction() as root:
        account = root["x"]
        account._p_set_status_ghost()
        connection = root._p_connection
        assert isinstance(connection, durus.Connection)
        for use in lambda: account.balance, connection.commit, connection.abort:
            with pytest.raises(ConcurrentUseError, match="belongs to a transaction of another thread"):
                in_threads(1, lambda _, use=use: use())  # type: ignore[misc]  # mypy does not infer it
        root["n"] = account.balance
    transaction = db.transaction()
    transaction.__enter__()["n"] = 5
    end = functools.partial(transaction.__exit__, None, None, None)
    with pytest.raises(ConcurrentUseError):
        in_threads(1, lambda _: end())
    assert number(db) == 1
    assert db.run(count) == 2


# Connections


@pytest.mark.spec("DB-40")
def test_connections_are_used_again_with_what_they_have_loaded(db: durus.Database[Root]) -> None:
    with db.transaction() as root:
        first = root
    with db.transaction() as root:
        assert root is first
    with db.connection() as connection:
        assert connection.get_root() is first
        connection.get_root()["n"] = 3
        connection.commit()
        connection.get_root()["n"] = 4
    with db.transaction() as root:
        assert (root is first, root["n"]) == (True, 3)
    in_threads(8, lambda _: db.run(count))
    assert db.stats().idle == db.stats().connections <= 9


@pytest.mark.spec("DB-40")
def test_a_connection_may_go_from_thread_to_thread(db: durus.Database[Root]) -> None:
    with db.connection() as connection:
        in_threads(1, lambda _: connection.get_root().update(n=8))
        connection.commit()
    assert number(db) == 8


@pytest.mark.spec("DB-40")
def test_a_connection_that_was_closed_or_interrupted_is_not_used_again(
    db: durus.Database[Root], monkeypatch: pytest.MonkeyPatch
) -> None:
    with db.connection() as first:
        first.close()
    with db.connection() as second, monkeypatch.context() as patch:
        assert second is not first

        def interrupt(*arguments: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(second.storage, "store", interrupt)
        second.get_root()["n"] = 7
        with pytest.raises(KeyboardInterrupt):
            second.commit()
        patch.undo()
        with pytest.raises(InterruptedTransactionError):
            second.commit()
        second.get_root()["n"] = 8
        patch.setattr(second.storage, "sync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            second.abort()
    assert number(db) == 0
    assert db.run(count) == 1
    with db.connection() as connection:
        connection.get_root()["n"] = 9
        monkeypatch.setattr(connection, "abort", connection.get_root)  # it does nothing
    with db.connection() as other:
        assert other is not connection
    assert number(db) == 1


@pytest.mark.spec("DB-41")
def test_a_child_is_refused_what_its_parent_has(db: durus.Database[Root]) -> None:
    def use_of_parent() -> None:
        for begin in db.transaction, db.snapshot, db.connection:
            with pytest.raises(WrongProcessError, match=rf"in process {os.getppid()}, .* process {os.getpid()}"):
                begin().__enter__()
        with pytest.raises(WrongProcessError):
            db.run(count)
        with pytest.raises(WrongProcessError):
            db.pack()
        db.close()

    assert in_child(use_of_parent) == 0
    transaction = db.transaction()
    root = transaction.__enter__()

    def go_on() -> None:
        count(root)  # which needs nothing that is not loaded
        with pytest.raises(WrongProcessError):
            transaction.__exit__(None, None, None)

    assert in_child(go_on) == 0
    count(root)
    transaction.__exit__(None, None, None)
    assert number(db) == 1


@pytest.mark.spec("DB-41")
def test_a_child_reads_a_file_that_its_parent_reads(tmp_path: Path) -> None:
    with durus.open(tmp_path / "f") as db:
        db.run(lambda root: root.update(n=4))
    with durus.open(tmp_path / "f", readonly=True) as reader:

        def read() -> None:
            assert number(reader) == 4
            reader.close()

        assert in_child(read) == 0
        assert in_child(lambda: in_child(read) and os._exit(1)) == 0
        assert number(reader) == 4


@pytest.mark.spec("DB-42")
def test_a_pack_tells_how_far_it_is_and_others_go_on(db: durus.Database[Root]) -> None:
    db.run(lambda root: root.update((str(n), Account(n)) for n in range(3000)))
    db.run(lambda root: [root.pop(str(n)) for n in range(2999)] and None)
    seen: list[Progress] = []

    def note(progress: Progress) -> None:
        seen.append(progress)
        db.run(count)

    db.pack(progress=note)
    assert len(seen) > 2
    with db.connection() as connection:
        assert len(list(connection.storage.gen_oid_record())) == 2
    assert number(db) == len(seen)


@pytest.mark.spec("DB-42")
def test_a_pack_can_go_on_by_itself(
    db: durus.Database[Root], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def pack() -> Iterator[Progress]:
        begun.set()
        assert may_end.wait(SECONDS)
        yield Progress("mark", 0, None)
        raise FileError(28, "no space", "f")

    monkeypatch.setattr(db._engine, "pack", pack)
    db.pack(wait=False)
    assert begun.wait(SECONDS)
    with pytest.raises(TransactionError, match="a pack is running"):
        db.pack(wait=False)
    may_end.set()
    packing = db._packing
    assert packing is not None
    packing.join(SECONDS)
    assert "failed: f: no space" in caplog.text
    caplog.clear()
    monkeypatch.setattr(db._engine, "pack", lambda: itertools.repeat(Progress("mark", 0, None)))
    db.pack(wait=False)
    db.close()  # which gives it up
    assert caplog.record_tuples == []


@pytest.mark.spec("DB-43")
def test_a_database_that_is_closed_takes_nothing_more(tmp_path: Path) -> None:
    db = durus.open(tmp_path / "f")
    with db.transaction() as root:
        root["n"] = 1
    with pytest.raises(ClosedError):
        change_and(db, db.close)
    for use in db.transaction().__enter__, db.snapshot().__enter__, db.pack, lambda: db.run(count):
        with pytest.raises(ClosedError, match="is closed; open it again"):
            use()
    assert "closed" in repr(db)
    db.close()
    with durus.open(tmp_path / "f") as again:
        assert number(again) == 1
        assert repr(again) == f"<Database {tmp_path / 'f'}>"


@pytest.mark.spec("DB-44")
def test_a_cache_is_bounded_in_bytes() -> None:
    with durus.open("memory:", cache_bytes=20_000) as db:
        # Of each of these objects, the text has 1,000 characters that can't be compressed.
        texts = [os.urandom(500).hex() for _ in range(40)]
        db.run(lambda root: root.update((str(n), durus.PersistentList([text])) for n, text in enumerate(texts)))
        with db.connection() as connection:
            assert 15 < connection.get_cache().get_loaded_count() < 35
        for _ in range(3):
            with db.transaction() as root:
                assert [root[str(n)][0] for n in range(40)] == texts  # within one it may have more
        with db.connection() as connection:
            loaded = connection.get_cache().loaded_objects()
            assert 15 < len(loaded) < 35
            assert sum(len(connection.storage.load(obj._p_oid or b"")) for obj in loaded) <= 20_000
            assert len(list(connection.get_crawler())) == 41
        with db.connection() as connection:
            assert connection.get_cache().get_loaded_count() < 35


def test_a_block_is_begun_once(db: durus.Database[Root]) -> None:
    transaction = db.transaction()
    with pytest.raises(TransactionError, match="has not begun"):
        transaction.__exit__(None, None, None)
    with transaction, pytest.raises(TransactionError, match="has begun already"):
        transaction.__enter__()


def test_what_type_checkers_see() -> None:
    db: durus.Database = durus.open("memory:")
    assert_type(db, durus.Database[durus.PersistentDict[str, Any]])
    assert_type(db.run(lambda root: len(root)), int)
    with durus.open("memory:", root_class=_Root) as other:
        with other.transaction() as root:
            assert_type(root, _Root)
            assert_type(root.total, int)
        with other.snapshot() as root:
            assert_type(root, _Root)
        for attempt in other.attempts():
            with attempt as root:
                assert_type(root, _Root)

        @other.transactional
        def add(root: _Root, amount: int, *, twice: bool = False) -> str:
            root.total += amount * (1 + twice)
            return str(root.total)

        assert_type(add(2, twice=True), str)
    db.close()


@pytest.mark.spec("OBJ-85")
def test_changes_that_nobody_noted_are_looked_for_in_each_transaction(tmp_path: Path) -> None:
    with durus.open(tmp_path / "f", debug=True) as db:
        with db.transaction() as root:
            root["names"] = ["Ann"]
        with pytest.raises(UnnotedChangeError, match=r"oid 0: .*was added"), db.transaction() as root:
            root["names"].append("Ben")
        with db.transaction() as root:
            assert root["names"] == ["Ann"]

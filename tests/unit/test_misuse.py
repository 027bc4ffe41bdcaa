"""Forks, threads, tasks and second connections where they are not allowed: each is reported, and nothing is lost."""

import asyncio
import copy
import gc
import importlib
import os
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from durus import open as open_database
from durus.backup import verify
from durus.client_storage import ClientStorage
from durus.concurrency.uncopied import Uncopied
from durus.connection import Connection
from durus.error import (
    ArgumentError,
    ConcurrentUseError,
    DurusError,
    InterruptedTransactionError,
    TransactionError,
    UnstorableError,
    WrongProcessError,
)
from durus.file_storage import FileStorage
from durus.file_storage2 import FileStorage2
from durus.open_file import inspect_file
from durus.persistent import Persistent
from durus.persistent_list import PersistentList
from durus.shared_storage import SharedStorage
from durus.sqlite_storage import SqliteStorage
from durus.storage import MemoryStorage, Storage
from durus.storage_server import StorageServer
from tests.rooms import modules


def in_child(work: Callable[[], None]) -> str:
    """Do work in a forked process; return what it raised there."""
    reading, writing = os.pipe()
    process = os.fork()
    if not process:
        try:
            work()
            text = "nothing"
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(writing, text.encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(process, 0)
    with open(reading, "rb") as told:
        return told.read().decode()


def counting(connection: Connection) -> Callable[[], None]:
    def count() -> None:
        with connection.transaction() as root:
            root["n"] = root.get("n", 0) + 1

    return count


@pytest.mark.spec("TXN-38")
@pytest.mark.parametrize("take", [Connection, SharedStorage, lambda one: StorageServer(one, port=0)])
def test_what_is_no_storage_is_refused_with_what_is_expected(take: Callable[[Any], object]) -> None:
    shared, connection = SharedStorage(MemoryStorage()), Connection(MemoryStorage())
    for wrong in (connection, open_database("memory:"), None, 7, object()):
        with pytest.raises(ArgumentError, match="is not a storage"):
            take(wrong)
    with pytest.raises(ArgumentError, match="new_client"):
        take(shared)
    assert take(MemoryStorage())


@pytest.mark.spec("TXN-38")
@pytest.mark.parametrize("path", ["", b"", "a\0b", b"a\0b"])
@pytest.mark.parametrize("take", [Connection, FileStorage, SqliteStorage, open_database, inspect_file, verify])
def test_what_is_no_path_is_refused(take: Callable[[Any], object], path: str | bytes) -> None:
    with pytest.raises(ArgumentError, match="is not the path of a file"):
        take(path)


@pytest.mark.spec("TXN-39")
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps], ids=["copy", "deepcopy", "pickle"])
@pytest.mark.parametrize(
    "kind", ["database", "connection", "transaction", "file", "sqlite", "memory", "shared", "server"]
)
def test_what_exists_once_is_neither_copied_nor_pickled(
    kind: str, copied: Callable[[Any], object], tmp_path: Path
) -> None:
    connection = Connection(FileStorage2(tmp_path / "f") if kind == "file" else MemoryStorage())
    with open_database(tmp_path / "db") as db:
        made = {
            "database": db,
            "connection": connection,
            "transaction": db.transaction(),
            "file": connection.storage,
            "sqlite": SqliteStorage(tmp_path / "s"),
            "memory": MemoryStorage(),
            "shared": SharedStorage(MemoryStorage()),
            "server": StorageServer(MemoryStorage(), address=str(tmp_path / "socket")),
        }[kind]
        with pytest.raises(TypeError, match="can't be copied, pickled or stored"):
            copied(made)
        gc.collect()
        count = counting(connection)
        count()
        with db.transaction() as root:
            root["n"] = 1
        db.pack()
    connection.close()


@pytest.mark.spec("TXN-39")
@pytest.mark.spec("OBJ-16")
def test_an_object_with_a_database_inside_is_not_stored_and_leaves_it_usable(tmp_path: Path) -> None:
    with open_database(tmp_path / "db") as db:
        with pytest.raises(UnstorableError, match=r"its part \['app'\]\[0\], <Database .*, can't be pickled"):
            db.run(lambda root: root.update(app=[db]))
        gc.collect()
        assert db.run(lambda root: root.setdefault("n", 1)) == 1


@pytest.mark.spec("TXN-39")
def test_nothing_that_is_closed_when_it_is_dropped_is_copied() -> None:
    owners = {
        cls
        for name in modules()
        if find_spec("psycopg") or not name.startswith("postgres")
        for cls in vars(importlib.import_module(f"durus.{name}")).values()
        if isinstance(cls, type) and cls.__module__.startswith("durus.") and "__del__" in vars(cls)
    }
    assert {"OperatingSystemFile", "SqliteStorage", "Transaction"} <= {cls.__name__ for cls in owners}
    assert [cls for cls in owners if not issubclass(cls, Uncopied)] == []


@pytest.mark.spec("TXN-38")
def test_a_file_without_a_path_is_refused() -> None:
    for wrong in (7, object()):
        with pytest.raises(ArgumentError, match="is not the path of a file"):
            FileStorage(wrong)  # type: ignore[arg-type]  # what a type checker would report


@pytest.mark.spec("TXN-38")
@pytest.mark.parametrize("wrong", [int, "Root", Persistent()])
def test_a_root_class_that_is_none_is_refused(wrong: Any, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="inherits from Persistent"):
        Connection(tmp_path / "new.durus", root_class=wrong)
    assert not (tmp_path / "new.durus").exists()


def test_a_number_that_is_no_oid_leads_to_no_object() -> None:
    connection = Connection(MemoryStorage())
    assert [connection.get(-1), connection.get(1 << 64), connection.get((1 << 64) - 1)] == [None, None, None]


@pytest.mark.spec("TXN-32")
@pytest.mark.parametrize("kind", ["memory", "shared", "server"])
def test_what_was_opened_before_a_fork_is_refused_in_the_child(kind: str, short_path: Path) -> None:
    server = StorageServer(MemoryStorage(), address=short_path / "s")
    server.listen()
    thread = threading.Thread(target=server.serve)
    thread.start()
    storage: Storage = MemoryStorage()
    if kind == "shared":
        storage = SharedStorage(storage).new_client()
    elif kind == "server":
        storage = ClientStorage(address=short_path / "s")
    connection = Connection(storage)
    counting(connection)()
    ghost = Persistent()
    connection.get_root()["ghost"] = ghost
    connection.commit()
    connection.cache.make_ghost(ghost._p_oid or b"")
    expected = f"WrongProcessError: this connection was opened in process {os.getpid()} and is used in process "
    for use in (
        counting(connection),
        connection.commit,
        connection.abort,
        connection.pack,
        lambda: setattr(ghost, "x", 1),
    ):
        assert in_child(use).startswith(expected)
    assert in_child(connection.close) == "nothing"
    counting(connection)()
    assert connection.get_root()["n"] == 2
    connection.close()
    server.stop()
    thread.join()


@pytest.mark.spec("TXN-32")
def test_a_shared_storage_gives_no_client_in_the_child_of_a_fork() -> None:
    shared = SharedStorage(MemoryStorage())
    assert in_child(shared.new_client).startswith("WrongProcessError: this shared storage was opened in process")  # type: ignore[arg-type]  # what it returns does not matter
    assert in_child(shared.close) == "nothing"
    counting(Connection(shared.new_client()))()
    assert issubclass(WrongProcessError, DurusError)


@pytest.mark.spec("TXN-33", "TXN-37")
def test_threads_that_share_a_connection_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    connection = Connection(tmp_path / "f")
    numbers: PersistentList[tuple[int, int]] = PersistentList()
    connection.get_root()["numbers"] = numbers
    connection.commit()
    acknowledged: list[tuple[int, int]] = []
    refused: list[BaseException] = []

    def work(k: int) -> None:
        for i in range(20):
            try:
                numbers.append((k, i))
                connection.commit()
                acknowledged.append((k, i))
            except DurusError as error:
                refused.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    connection.close()
    with Connection(tmp_path / "f") as again:
        stored = again.get_root()["numbers"]
        assert isinstance(stored, PersistentList)
        assert set(acknowledged) <= set(stored)
    assert all(isinstance(error, ConcurrentUseError) for error in refused)


@pytest.mark.spec("TXN-37")
def test_a_change_after_its_state_was_taken_is_one_of_the_next_transaction() -> None:
    connection = Connection(MemoryStorage())
    root = connection.get_root()
    it: Any = Persistent()
    root["it"] = it
    connection.commit()
    store = connection.storage.store

    def change_and_store(oid: bytes, record: bytes) -> None:
        it.late = 1  # as a thread may do
        store(oid, record)

    it.early = 1
    connection.storage.store = change_and_store  # type: ignore[method-assign]  # a thread would be at work here
    connection.commit()
    connection.storage.store = store  # type: ignore[method-assign]  # no more
    assert it._p_is_unsaved()
    connection.commit()
    connection.cache.make_ghost(it._p_oid or b"")
    assert vars(it) == {"early": 1, "late": 1}


@pytest.mark.spec("TXN-34")
def test_a_block_belongs_to_the_task_that_opened_it() -> None:
    connection = Connection(MemoryStorage())
    told: list[str] = []

    async def first(is_open: asyncio.Event, may_end: asyncio.Event) -> None:
        with connection.transaction() as root:
            root["n"] = 1
            is_open.set()
            await may_end.wait()

    async def second() -> None:
        is_open, may_end = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(first(is_open, may_end), name="the first")
        await is_open.wait()
        for call in (connection.commit, connection.abort, lambda: connection.transaction().__enter__()):
            with pytest.raises(ConcurrentUseError, match="task 'the first'"):
                call()
            told.append("refused")
        may_end.set()
        await task
        with connection.transaction() as root:
            root["m"] = 2

    asyncio.run(second())
    assert told == ["refused"] * 3
    assert dict(connection.get_root()) == {"n": 1, "m": 2}


@pytest.mark.spec("TXN-34")
def test_a_block_whose_task_has_ended_holds_up_nobody() -> None:
    connection = Connection(MemoryStorage())

    async def leave_open() -> None:
        connection.transaction().__enter__()

    asyncio.run(leave_open())
    connection.abort()
    counting(connection)()


def in_a_thread(call: Callable[[], object]) -> BaseException | None:
    """Return what a call raises in a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).exception()


@pytest.mark.spec("TXN-34")
def test_no_other_thread_ends_the_transaction_of_an_open_block() -> None:
    connection = Connection(MemoryStorage())
    with connection.transaction() as root:
        root["n"] = 1
        for call in (connection.commit, connection.abort):
            assert "block of another thread" in str(in_a_thread(call))
        assert isinstance(in_a_thread(connection.pack), TransactionError)
        assert isinstance(in_a_thread(connection.transaction().__enter__), TransactionError)
        connection.commit()  # its own thread may
        assert isinstance(in_a_thread(connection.pack), ConcurrentUseError)
        root["m"] = 2
    assert dict(connection.get_root()) == {"n": 1, "m": 2}


@pytest.mark.spec("TXN-34", "TXN-33")
def test_a_block_may_be_closed_by_another_thread_than_its_own() -> None:
    connection = Connection(MemoryStorage())
    block = connection.transaction()
    block.__enter__()["n"] = 1
    assert in_a_thread(lambda: block.__exit__(None, None, None)) is None
    connection.abort()
    assert dict(connection.get_root()) == {"n": 1}


WRONG_CALLS: list[tuple[str, Callable[[Any], object], type[Exception]]] = [
    ("abort", lambda connection: connection.abort(1), TypeError),
    ("shrink_cache", lambda connection: connection.shrink_cache(size=1), TypeError),
    ("restore", lambda connection: connection.restore(), TypeError),
    ("get_stored_pickle", lambda connection: connection.get_stored_pickle(), TypeError),
    ("get_stored_pickle of a number", lambda connection: connection.get_stored_pickle(0), ArgumentError),
    ("get of a list", lambda connection: connection.get([]), ArgumentError),
    ("get of a str", lambda connection: connection["0"], ArgumentError),
    ("a call of the storage", lambda connection: connection.storage.load(), TypeError),
]


@pytest.mark.spec("TXN-30")
@pytest.mark.parametrize(("call", "error"), [each[1:] for each in WRONG_CALLS], ids=[each[0] for each in WRONG_CALLS])
def test_a_call_with_wrong_arguments_loses_no_change(
    call: Callable[[Any], object], error: type[Exception], tmp_path: Path
) -> None:
    with Connection(FileStorage(tmp_path / "f")) as connection:
        connection.get_root()["n"] = 1
        with pytest.raises(error):
            call(connection)
        connection.commit()
        assert connection.get_root()["n"] == 1


@pytest.mark.spec("TXN-30")
def test_a_type_error_inside_of_a_call_is_an_interrupt() -> None:
    connection: Any = Connection(MemoryStorage())
    connection.get_root()["n"] = 1
    connection.storage.load = lambda: None
    with pytest.raises(TypeError):
        connection.get(7)
    del connection.storage.load
    with pytest.raises(InterruptedTransactionError):
        connection.commit()


@pytest.mark.spec("TXN-34")
def test_a_block_whose_thread_has_ended_holds_up_nobody() -> None:
    connection = Connection(MemoryStorage())
    block = connection.transaction()
    assert in_a_thread(block.__enter__) is None
    connection.abort()
    counting(connection)()


@pytest.mark.spec("TXN-34", "TXN-30")
@pytest.mark.parametrize("changes_again", [True, False])
@pytest.mark.parametrize("kind", ["connection", "database"])
def test_a_block_stores_no_part_of_what_a_reset_has_discarded(kind: str, changes_again: bool, tmp_path: Path) -> None:
    database = open_database(tmp_path / "f") if kind == "database" else None
    block = Connection(tmp_path / "f").transaction() if database is None else database.transaction()

    def interrupt(oid: bytes) -> bytes:
        raise KeyboardInterrupt

    def change_and_go_on(root: Any) -> None:
        root["n"] = 1
        connection = root._p_connection
        connection.storage.load = interrupt
        with pytest.raises(KeyboardInterrupt):
            connection.get(7)
        del connection.storage.load
        with pytest.raises(InterruptedTransactionError):
            connection.get(7)
        if changes_again:
            root["m"] = 2

    with pytest.raises(InterruptedTransactionError), block as root:
        change_and_go_on(root)
    connection: Any = root._p_connection
    connection.close()
    with Connection(FileStorage(tmp_path / "f", readonly=True)) as reader:
        assert dict(reader.get_root()) == {}


@pytest.mark.spec("TXN-35")
def test_a_second_connection_on_one_storage_is_refused_while_the_first_is_open() -> None:
    storage = MemoryStorage()
    first = Connection(storage)
    with pytest.raises(TransactionError, match=r"SharedStorage\(storage\)"):
        Connection(storage)
    first.close()
    second = Connection(storage)
    counting(second)()
    del second
    assert Connection(storage).get_root()["n"] == 1, "nobody can use the second any more"


@pytest.mark.spec("TXN-20")
def test_clients_that_nobody_can_use_any_more_leave_no_session() -> None:
    shared = SharedStorage(MemoryStorage())
    kept = Connection(shared.new_client())
    local = threading.local()

    def request() -> None:
        local.connection = Connection(shared.new_client())
        counting(local.connection)()

    for _ in range(1000):
        thread = threading.Thread(target=request)
        thread.start()
        thread.join()
    assert len(shared._core._sessions) < 500
    gc.collect()
    assert len(shared._core._sessions) == 1
    kept.abort()
    assert kept.get_root()["n"] == 1000

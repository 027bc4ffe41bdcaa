"""Connections of one process, each in a thread of its own, over one storage."""

import contextlib
import gc
import threading
from collections.abc import Callable, Collection, Iterator
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from durus.connection import Connection
from durus.error import ClosedError, ConflictError, DurusError, FileError, ProtocolError, TransactionError
from durus.file_storage import FileStorage
from durus.oid import oid_from_int
from durus.persistent_dict import PersistentDict
from durus.pool.turn import ProcessTurn
from durus.progress import Progress
from durus.records.record import pack_record
from durus.shared_storage import SharedStorage, SharedStorageClient
from durus.sharing.session import SessionCore
from durus.sharing.write import Write
from durus.storage import MemoryStorage, StagedCommit, Storage
from tests.unit.databases import in_threads


def add_up(shared: SharedStorage, count: int, rounds: int) -> None:
    def count_up(number: int) -> None:
        connection = Connection(shared.new_client())
        root: Any = connection.get_root()
        for _ in range(rounds):
            while True:
                try:
                    root["count"] = root.get("count", 0) + 1
                    root.setdefault(number, PersistentDict())[len(root)] = 1
                    connection.commit()
                    break
                except ConflictError:
                    connection.abort()
        connection.close()

    in_threads(count, count_up)


@contextlib.contextmanager
def packing(shared: SharedStorage) -> Iterator[None]:
    """Let a separate thread pack repeatedly."""
    stop = threading.Event()

    def pack() -> None:
        packer = Connection(shared.new_client())
        while not stop.is_set():
            packer.pack()

    thread = threading.Thread(target=pack)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.spec("TXN-20", "TXN-21", "TXN-22", "TXN-23", "TXN-24")
def test_counts_of_many_threads_add_up(tmp_path: Path) -> None:
    shared = SharedStorage(FileStorage(tmp_path / "f"))
    add_up(shared, 8, 10)
    shared.close()
    with Connection(tmp_path / "f") as connection:
        assert connection.get_root()["count"] == 80


@pytest.mark.spec("TXN-25")
def test_packs_go_on_beside_commits(tmp_path: Path) -> None:
    shared = SharedStorage(FileStorage(tmp_path / "f", durability="os"))
    with packing(shared):
        add_up(shared, 3, 10)
    assert Connection(shared.new_client()).get_root()["count"] == 30
    shared.close()


class Gate(MemoryStorage):
    """A storage whose writes wait until they are let through, or fail."""

    def __init__(self) -> None:
        super().__init__()
        self.has_begun = threading.Semaphore(0)
        self.may_go_on = threading.Semaphore(0)
        self.is_open = True
        self.error: Exception | None = None
        self.writes = 0

    def stage_commit(self, records: dict[bytes, bytes]) -> StagedCommit:
        def write() -> None:
            self.writes += 1
            if not self.is_open:
                self.has_begun.release()
                self.may_go_on.acquire()
            if self.error is not None:
                raise self.error

        return StagedCommit(write, lambda: self._records.update(records))


def commit(client: Storage, oid: bytes, data: bytes) -> None:
    client.begin()
    client.store(oid, pack_record(oid, data, b""))
    client.end()


@pytest.mark.spec("TXN-28")
def test_a_write_does_not_begin_while_a_step_of_a_pack_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    shared = SharedStorage(FileStorage(tmp_path / "f", durability="os"))
    begin_step, begin_write, gen_pack = SharedStorage._begin_step, SessionCore.begin_write, SessionCore.gen_pack

    def noting_begin_step(shared: SharedStorage, frame: FrameType) -> None:
        begin_step(shared, frame)
        events.append("due")

    def noting_begin_write(core: SessionCore) -> Write:
        events.append("write")
        return begin_write(core)

    def noting_gen_pack(core: SessionCore) -> Iterator[Progress]:
        for progress in gen_pack(core):
            events.append("step")
            yield progress
        events.append("step")  # the last one, which ends the pack

    monkeypatch.setattr(SharedStorage, "_begin_step", noting_begin_step)
    monkeypatch.setattr(SessionCore, "begin_write", noting_begin_write)
    monkeypatch.setattr(SessionCore, "gen_pack", noting_gen_pack)
    with packing(shared):
        add_up(shared, 3, 20)
    due = {(before, after) for before, after in pairwise(events) if before == "due"}
    assert ("due", "step") in due
    assert ("due", "write") not in due


@pytest.mark.spec("TXN-22", "TXN-23")
def test_commits_that_wait_for_the_disk_share_the_next_write_and_nobody_sees_them_before() -> None:
    gate = Gate()
    shared = SharedStorage(gate)
    clients = [shared.new_client() for _ in range(6)]
    oids = [client.new_oid() for client in clients[:5]]
    oids[1:] = [client.new_oid() for client in clients[1:5]]
    gate.is_open = False
    threads = [
        threading.Thread(target=commit, args=(client, oid, b"x")) for client, oid in zip(clients, oids, strict=False)
    ]
    threads[0].start()
    gate.has_begun.acquire()
    for thread in threads[1:]:
        thread.start()
    core = shared._core
    while len(core._commits._queued) < 4:
        threading.Event().wait(0.001)
    reader = clients[5]
    reader.sync()
    loaded: list[bytes] = []
    load = threading.Thread(target=lambda: loaded.append(reader.load(oids[0])))
    load.start()
    assert not loaded
    assert not gate.has_record(oids[0])
    gate.may_go_on.release()
    load.join(10)
    assert loaded
    gate.has_begun.acquire()
    assert not gate.has_record(oids[1])
    gate.may_go_on.release()
    for thread in threads:
        thread.join(10)
    assert gate.writes == 2
    assert all(gate.has_record(oid) for oid in oids)


@pytest.mark.spec("TXN-22")
def test_a_write_that_fails_is_told_to_who_committed_and_leaves_the_oids_theirs() -> None:
    gate = Gate()
    client, other = SharedStorage(gate).new_client(), SharedStorage(gate).new_client()
    oid = client.new_oid()
    gate.error = FileError("no space")
    with pytest.raises(FileError, match="no space"):
        commit(client, oid, b"x")
    gate.error = None
    assert not other.has_record(oid)
    commit(client, oid, b"y")
    assert client.load(oid) == pack_record(oid, b"y", b"")


def test_a_write_that_is_interrupted_stores_nothing_and_lets_others_go_on() -> None:
    gate = Gate()
    shared = SharedStorage(gate)
    client = shared.new_client()
    oid = client.new_oid()
    gate.error = KeyboardInterrupt()  # type: ignore[assignment]  # no Exception, and that is the point
    with pytest.raises(KeyboardInterrupt):
        commit(client, oid, b"x")
    gate.error = None
    commit(client, client.new_oid(), b"y")
    assert shared.new_client().load(oid) == pack_record(oid, b"y", b"")


@pytest.mark.spec("TXN-21")
def test_an_error_in_a_turn_ends_it() -> None:
    shared = SharedStorage(MemoryStorage())
    client, other = shared.new_client(), shared.new_client()
    commit(other, other.new_oid(), b"x")

    def fail(oids: Collection[bytes] | None) -> None:
        raise RuntimeError("what the application does")

    client.begin()
    with pytest.raises(RuntimeError):
        client.end(fail)
    with pytest.raises(ProtocolError, match="oid 77, which this client was not given"):
        commit(client, oid_from_int(77), b"x")
    commit(other, bytes(8), b"y")


def test_calls_that_can_not_be_are_refused() -> None:
    shared = SharedStorage(MemoryStorage())
    client = shared.new_client()
    with pytest.raises(TransactionError):
        client.store(bytes(8), b"")
    with pytest.raises(TransactionError):
        client.end()
    client.close()
    client.close()
    for call in (client.begin, client.sync, client.new_oid, lambda: client.load(bytes(8)), client.pack):
        with pytest.raises(ClosedError):
            call()
    assert issubclass(ClosedError, DurusError)


@pytest.mark.spec("TXN-22")
def test_a_thread_that_is_interrupted_while_another_writes_leaves_nobody_waiting() -> None:
    gate = Gate()
    shared = SharedStorage(gate)
    writer, client, reader = (shared.new_client() for _ in range(3))
    commit(writer, writer.new_oid(), b"the root")
    oids = [writer.new_oid(), client.new_oid()]
    gate.is_open = False
    first = threading.Thread(target=commit, args=(writer, oids[0], b"x"))
    first.start()
    gate.has_begun.acquire()
    wait = shared._wait

    def interrupted() -> None:
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        wait()

    shared._wait = interrupted  # type: ignore[method-assign]  # as Control-C does it
    with pytest.raises(KeyboardInterrupt):
        commit(client, oids[1], b"never stored")
    shared._wait = wait  # type: ignore[method-assign]
    assert client.sync() is None
    gate.is_open = True
    gate.may_go_on.release()
    first.join(10)
    assert not first.is_alive()
    reader.sync()
    assert not reader.has_record(oids[1])
    new = client.new_oid()
    assert new != oids[1]
    commit(client, new, b"stored")
    assert reader.sync() == [new]
    assert reader.load(new) == pack_record(new, b"stored", b"")


def test_closing_waits_for_the_commit_that_is_being_written() -> None:
    gate = Gate()
    shared = SharedStorage(gate)
    client = shared.new_client()
    oid = client.new_oid()
    is_closed = threading.Event()
    gate.close = is_closed.set  # type: ignore[method-assign]  # to see when it is called
    gate.is_open = False
    committing = threading.Thread(target=commit, args=(client, oid, b"x"))
    committing.start()
    gate.has_begun.acquire()
    closing = threading.Thread(target=shared.close)
    closing.start()
    assert not is_closed.is_set()
    gate.may_go_on.release()
    committing.join(10)
    closing.join(10)
    assert is_closed.is_set()
    assert gate.has_record(oid)


@pytest.mark.spec("TXN-24")
def test_client_that_asks_for_the_oid_of_the_root_when_another_has_just_made_it_takes_that_root(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared = SharedStorage(MemoryStorage())
    late = shared.new_client()
    new_oid = late.new_oid

    def too_late() -> bytes:
        with Connection(shared.new_client()) as first:
            first.get_root()["made by"] = "the first"
            first.commit()
        monkeypatch.undo()
        return new_oid()

    monkeypatch.setattr(late, "new_oid", too_late)
    connection = Connection(late)
    assert dict(connection.get_root()) == {"made by": "the first"}
    connection.get_root()["new"] = PersistentDict()
    connection.commit()
    shared.close()


@pytest.mark.spec("DB-12")
@pytest.mark.parametrize("kind", ["shared", "process"])
def test_a_turn_whose_holder_is_lost_in_a_cycle_is_found(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("durus.concurrency.lost.SECONDS", 0)
    shared = SharedStorage(MemoryStorage())
    turn = ProcessTurn()
    connection = Connection(shared.new_client())
    gc.disable()
    try:
        cycle: list[object] = [shared.new_client()]
        cycle.append(cycle)
        assert isinstance(cycle[0], SharedStorageClient)
        if kind == "shared":
            cycle[0].take_turn()
        else:
            turn.take(cycle[0])
        del cycle
        connection.get_root()["a"] = 1
        in_threads(1, lambda _: connection.commit() if kind == "shared" else turn.take(connection))
    finally:
        gc.enable()


@pytest.mark.spec("DB-12")
def test_a_turn_that_was_given_before_the_core_starts_anew_is_asked_for_again() -> None:
    shared = SharedStorage(MemoryStorage())
    client, other = shared.new_client(), shared.new_client()
    other.take_turn()
    steps: list[Callable[[], None]] = [lambda: None, shared._start_anew]

    def start_anew_with_the_turn() -> None:
        other.release()
        assert client._session is not None
        assert client._session.has_turn
        steps.pop()()

    shared._wait = start_anew_with_the_turn  # type: ignore[method-assign]  # a wait in which all that happens
    assert client.take_turn() is None
    client.release()

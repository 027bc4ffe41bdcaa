"""An exception at every line of every call: nothing that was acknowledged is lost, and nothing wrong is stored."""

import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from durus.client_storage import ClientStorage
from durus.concurrency.call_guard import CallGuard, guarded
from durus.concurrency.monitor import Monitor
from durus.connection import Connection
from durus.error import ConcurrentUseError, DisconnectedError, DurusError, InterruptedTransactionError
from durus.file_storage import FileStorage
from durus.persistent import Persistent
from durus.shared_storage import SharedStorage
from durus.storage import MemoryStorage, Storage
from durus.storage_server import StorageServer
from tests.interrupts import Interrupt, each_line
from tests.threaded_server import serving


class Doc(Persistent):
    def __init__(self, text: str) -> None:
        self.text = text


class World:
    """A storage with two clients, in which one is interrupted."""

    def __init__(self, new_client: Callable[[], Storage]) -> None:
        self.new_client = new_client
        self.one, self.two = Connection(new_client()), Connection(new_client())
        with self.one.transaction() as root:
            root.clear()
            root["a"] = Doc("a")
        self.two.abort()

    def texts(self) -> dict[object, str]:
        """Return what a new client finds."""
        with Connection(self.new_client()) as connection:
            return {name: doc.text for name, doc in connection.get_root().items() if isinstance(doc, Doc)}

    def close(self) -> None:
        self.one.close()
        self.two.close()


@pytest.fixture(params=["memory", "server"])
def new_client(request: pytest.FixtureRequest, short_path: Path) -> Iterator[Callable[[], Storage]]:
    if request.param == "memory":
        yield SharedStorage(MemoryStorage()).new_client
        return
    with serving(MemoryStorage(), short_path / "s"):
        yield lambda: ClientStorage(address=short_path / "s", timeout=20)


def refused_at_most_once(call: Callable[[], None]) -> None:
    try:
        call()
    except DurusError:
        call()


@pytest.mark.spec("TXN-30", "TXN-31")
@pytest.mark.parametrize("calls_abort", [True, False])
def test_after_an_interrupt_of_a_commit_each_object_is_in_its_place(
    new_client: Callable[[], Storage], calls_abort: bool
) -> None:
    worlds: list[World] = []

    def prepare() -> Callable[[], object]:
        worlds.append(World(new_client))
        worlds[-1].one.get_root()["b"] = Doc("b")
        return worlds[-1].one.commit

    def go_on() -> None:
        if calls_abort:
            worlds[-1].one.abort()
        worlds[-1].one.get_root()["c"] = Doc("c")
        worlds[-1].one.commit()

    count = 0
    for where in each_line(prepare):
        count += 1
        refused_at_most_once(go_on)
        with worlds[-1].two.transaction() as root:
            root["d"] = Doc("d")
        found = worlds[-1].texts()
        assert {name: name for name in found} == found, where
        assert found.keys() - {"b"} == {"a", "c", "d"}, where
        worlds.pop().close()
    assert count > 100
    worlds.pop().close()


@pytest.mark.spec("TXN-30")
@pytest.mark.parametrize("call", ["abort", "commit"])
def test_after_an_interrupt_of_a_sync_what_others_changed_is_seen(new_client: Callable[[], Storage], call: str) -> None:
    worlds: list[World] = []

    def prepare() -> Callable[[], object]:
        world = World(new_client)
        worlds.append(world)
        assert world.one.get_root()["a"].text == "a"
        world.one.abort()
        with world.two.transaction() as root:
            root["a"].text = "changed"
        return getattr(world.one, call)  # type: ignore[no-any-return]  # one of two methods

    for where in each_line(prepare):
        one = worlds[-1].one
        refused_at_most_once(one.commit)
        doc = one.get_root()["a"]
        assert isinstance(doc, Doc)
        assert doc.text == "changed", where
        doc.text += " again"
        one.commit()
        assert worlds[-1].texts() == {"a": "changed again"}
        worlds.pop().close()
    worlds.pop().close()


@pytest.mark.spec("TXN-30")
def test_after_an_interrupt_of_a_load_changes_are_forgotten_and_it_is_said_once(
    new_client: Callable[[], Storage],
) -> None:
    worlds: list[World] = []

    def prepare() -> Callable[[], object]:
        world = World(new_client)
        worlds.append(world)
        world.one.cache.make_ghost((doc := world.one.get_root()["a"])._p_oid)
        world.one.get_root()["never"] = "stored"
        return lambda: doc.text

    for where in each_line(prepare):
        one = worlds[-1].one
        if one._guard.is_interrupted:
            with pytest.raises(InterruptedTransactionError, match="its changes are lost"):
                one.commit()
            assert "never" not in one.get_root(), where
        else:
            one.abort()
        one.get_root()["n"] = 1
        one.commit()
        worlds.pop().close()
    worlds.pop().close()


@pytest.mark.spec("TXN-17", "TXN-30")
def test_a_block_may_begin_after_the_interrupt_of_another_and_an_abort() -> None:
    connections: list[Connection] = []

    def prepare() -> Callable[[], object]:
        connections.append(Connection(MemoryStorage()))
        return lambda: block("x")

    def block(name: str) -> None:
        with connections[-1].transaction() as root:
            root[name] = 1

    for _ in each_line(prepare):
        connections[-1].abort()
        block("y")
        assert connections.pop().get_root()["y"] == 1


@pytest.mark.spec("TXN-30", "TXN-31")
def test_interrupts_of_a_pack_lose_nothing() -> None:
    worlds: list[World] = []

    def prepare() -> Callable[[], object]:
        worlds.append(World(SharedStorage(MemoryStorage()).new_client))
        with worlds[-1].one.transaction() as root:
            root["b"] = root["a"]
            root["a"] = Doc("a")
        with worlds[-1].one.transaction() as root:
            del root["b"]
        return worlds[-1].one.pack

    for where in each_line(prepare):
        one, two = worlds[-1].one, worlds.pop().two
        with two.transaction() as root:
            assert root["a"].text == "a", where
            root["c"] = Doc("c")
        one.abort()
        one.pack()
        assert {name: doc.text for name, doc in one.get_root().items()} == {"a": "a", "c": "c"}


@pytest.mark.spec("TXN-30")
def test_an_interrupt_of_starting_anew_has_the_next_call_start_anew() -> None:
    connections: list[Connection] = []

    def prepare() -> Callable[[], object]:
        connection = Connection(MemoryStorage())
        connections.append(connection)
        connection.get_root()["a"] = Doc("a")
        connection.commit()
        connection.get_root()["never"] = 1
        connection._guard.note_interrupt()
        return connection.abort

    for where in each_line(prepare):
        connection = connections.pop()
        connection.abort()
        assert connection.get_root().keys() == ["a"], where
        assert not connection._guard.is_interrupted
        connection.get_root()["a"].text = "b"
        connection.commit()


@pytest.mark.spec("TXN-6", "TXN-30")
def test_an_exception_of_a_signal_handler_comes_out_of_a_commit_and_leaves_the_transaction_open() -> None:
    class Limit(Exception):
        pass

    def end_job(*_: object) -> None:
        raise Limit

    before = signal.signal(signal.SIGALRM, end_job)
    try:
        connection = Connection(MemoryStorage())
        root = connection.get_root()
        root["slow"] = Slow()
        with pytest.raises(Limit):
            connection.commit()
        assert connection.changed
        Slow.is_slow = False
        connection.commit()
        assert connection.get_root()["slow"] is root["slow"]
    finally:
        signal.signal(signal.SIGALRM, before)
        Slow.is_slow = True


class Slow(Persistent):
    is_slow = True

    def __getstate__(self) -> dict[str, object]:
        if Slow.is_slow:
            signal.raise_signal(signal.SIGALRM)
        return {}


@pytest.mark.spec("WIRE-30", "TXN-30")
def test_a_client_that_must_not_connect_again_says_that_it_was_interrupted(short_path: Path) -> None:
    server = StorageServer(MemoryStorage(), address=short_path / "s")
    server.listen()
    thread = threading.Thread(target=server.serve)
    thread.start()
    storage = ClientStorage(address=short_path / "s", reconnect=False)
    storage._guard.note_interrupt()
    for _ in range(2):
        with pytest.raises(DisconnectedError, match="an exception interrupted a call"):
            storage.sync()
    storage.close()
    server.stop()
    thread.join()


class Counter:
    """An object with a guarded call, which counts its resets."""

    def __init__(self) -> None:
        self._guard = CallGuard("counter")
        self.starts = 0

    def _start_anew(self) -> None:
        self.starts += 1

    @guarded
    def call(self, work: Callable[[], object]) -> object:
        return work()


@pytest.mark.spec("TXN-30", "TXN-33")
def test_a_guard_tells_interrupted_calls_from_those_that_ended_by_themselves() -> None:
    counter = Counter()
    counter.call(int)
    with pytest.raises(DurusError):
        counter.call(fail_with(DurusError()))
    assert counter.starts == 0
    for error in (Interrupt(), ValueError()):
        with pytest.raises(type(error)):
            counter.call(fail_with(error))
    counter.call(int)
    counter.call(int)
    assert counter.starts == 2
    with pytest.raises(ConcurrentUseError, match="while another call to it was running"):
        counter.call(lambda: counter.call(int))
    counter.call(int)
    assert counter.starts == 2


def fail_with(error: BaseException) -> Callable[[], object]:
    def fail() -> object:
        raise error

    return fail


@pytest.mark.spec("TXN-33")
def test_a_call_that_meets_one_of_another_thread_is_refused() -> None:
    counter = Counter()
    is_inside, may_leave = threading.Event(), threading.Event()

    def stay() -> None:
        is_inside.set()
        may_leave.wait(20)

    thread = threading.Thread(target=counter.call, args=(stay,))
    thread.start()
    is_inside.wait(20)
    with pytest.raises(ConcurrentUseError, match="in use by another thread"):
        counter.call(int)
    may_leave.set()
    thread.join()
    counter.call(int)
    assert counter.starts == 0


@pytest.mark.spec("TXN-31")
def test_a_monitor_lets_others_in_after_an_interrupt_at_any_line() -> None:
    starts: list[int] = []
    monitors: list[Monitor] = []

    def prepare() -> Callable[[], object]:
        monitors.append(Monitor(lambda: starts.append(1)))
        return lambda: use(monitors[-1])

    def use(monitor: Monitor) -> None:
        assert monitor.enter(sys._getframe())
        monitor.notify_all()
        monitor.wait()
        monitor.leave()

    for _ in each_line(prepare):
        thread = threading.Thread(target=use, args=(monitors[-1],))
        thread.start()
        thread.join(20)
        assert not thread.is_alive()
    assert starts


@pytest.mark.spec("TXN-29")
def test_a_monitor_lets_in_first_who_has_waited_for_too_long() -> None:
    arrivals = threading.Semaphore(0)

    class Line(deque[Any]):
        def append(self, sleeper: object) -> None:
            super().append(sleeper)
            arrivals.release()

    monitor = Monitor(lambda: None, patience=0)
    monitor._entering = Line()
    frame = sys._getframe()
    visits: list[int] = []

    def visit(number: int) -> None:
        monitor.enter(sys._getframe())
        visits.append(number)
        monitor.leave()

    monitor.enter(frame)
    threads = [threading.Thread(target=visit, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
        assert arrivals.acquire(timeout=20)
    monitor.leave()
    monitor.enter(frame)
    found = visits.copy()
    monitor.leave()
    for thread in threads:
        thread.join(20)
    assert found == [0, 1, 2]


@pytest.mark.spec("TXN-30")
def test_changes_of_a_block_that_an_interrupt_kept_from_being_closed_come_into_no_other_transaction() -> None:
    connection = Connection(MemoryStorage())
    for go_on in (connection.commit, lambda: connection.transaction().__enter__()):
        block = connection.transaction()
        block.__enter__()["never"] = 1
        del block  # as its `with` statement does it when the interrupt comes before __exit__() has done anything
        if go_on == connection.commit:
            with pytest.raises(InterruptedTransactionError):
                connection.commit()
        else:
            go_on()
        assert "never" not in connection.get_root()
        connection.abort()


@pytest.mark.spec("TXN-31", "SHELF-46")
def test_after_an_interrupt_of_a_write_a_pack_goes_on(tmp_path: Path) -> None:
    storages: list[FileStorage] = []

    def prepare() -> Callable[[], object]:
        path = tmp_path / str(len(storages))
        storages.append(FileStorage(path, durability="os"))
        connection = Connection(SharedStorage(storages[-1]).new_client())
        connection.get_root()["a"] = Doc("a")
        return connection.commit

    for where in each_line(prepare):
        shared = SharedStorage(storages[-1])
        shared.new_client().pack()
        with Connection(shared.new_client()) as connection:
            connection.get_root()["b"] = Doc("b")
            connection.commit()
            assert connection.get_root().keys() in (["b"], ["a", "b"]), where
        storages[-1].close()
    storages[-1].close()


@pytest.mark.spec("TXN-31")
@pytest.mark.parametrize("is_exclusive", [False, True])
def test_a_transaction_after_an_interrupt_of_another_clients_commit_reads_without_a_conflict(
    is_exclusive: bool,
) -> None:
    worlds: list[World] = []

    def prepare() -> Callable[[], object]:
        world = World(SharedStorage(MemoryStorage()).new_client)
        worlds.append(world)
        world.two.get_root()["a"].text = "changed"
        return world.two.commit

    for where in each_line(prepare):
        one = worlds[-1].one
        with one.transaction(exclusive=is_exclusive) as root:
            doc = root["a"]
            assert isinstance(doc, Doc)
            assert doc.text in ("a", "changed"), where
        worlds.pop().close()
    worlds.pop().close()

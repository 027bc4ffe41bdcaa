"""The workloads with a server: each takes a driver, a number and a folder, and returns what it measured.

Server and clients are processes of their own on one machine, so these measure with the clock on the wall.
"""

import contextlib
import itertools
import multiprocessing
import os
import resource
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from database import Database, Driver, StoredItem
from database_files import copy, remove
from player import play
from workloads import GROUP_SIZE, RUN, Measured, filled

_fork = multiprocessing.get_context("fork")


@contextlib.contextmanager
def serving(driver: Any, path: str) -> Iterator[str]:
    """Run a server in a process of its own, and yield its address."""
    with tempfile.TemporaryDirectory() as folder:  # because the path of a socket must be short
        yield from _serving(driver, path, os.path.join(folder, "socket"))


def _serving(driver: Any, path: str, address: str) -> Iterator[str]:
    command = [sys.executable, RUN, "serve", driver.__name__, path, address]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            while not os.path.exists(address):
                if server.poll() is not None:
                    raise RuntimeError(f"the server of {driver.__name__} ended with {server.returncode}")
                time.sleep(0.01)
            time.sleep(0.2)  # the socket exists a moment before the server listens on it
            yield address
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()


def server_load(driver: Driver, count: int, folder: Path) -> Measured:
    """Load records through the server, one by one."""
    with serving(driver, filled(driver, count, folder)) as address:
        db = driver.connect(address, ahead=False)
        start = time.perf_counter()
        for oid in range(1, count):
            db.load(oid)
        taken = time.perf_counter() - start
        db.close()
    return {"per_second": (count - 1) / taken}


def server_traversal(driver: Driver, count: int, folder: Path) -> Measured:
    """Reach and load all items through the server."""
    with serving(driver, filled(driver, count, folder)) as address:
        db = driver.connect(address)
        start = time.perf_counter()
        total = sum(item.number for item in db.traverse())
        taken = time.perf_counter() - start
        db.close()
    if total != count * (count - 1) // 2:
        raise ValueError(f"the numbers of the items add up to {total}")
    return {"per_second": count / taken}


def server_commit_1(driver: Driver, count: int, folder: Path) -> Measured:
    return _commits_by(driver, 1, count, folder)


def server_commit_4(driver: Driver, count: int, folder: Path) -> Measured:
    return _commits_by(driver, 4, count, folder)


def server_commit_16(driver: Driver, count: int, folder: Path) -> Measured:
    return _commits_by(driver, 16, count, folder)


def _commits_by(driver: Any, clients: int, count: int, folder: Path) -> Measured:
    """Commit through a server that syncs; each client commits a small object of its own."""

    def commit(db: Database, item: StoredItem, wait: Callable[[], object]) -> list[float]:
        times = []
        wait()
        for value in range(count):
            start = time.perf_counter()
            item.number = value
            db.commit()
            times.append(time.perf_counter() - start)
        return times

    with _serving_copy(driver, GROUP_SIZE, folder) as address:
        found, seconds = _by_clients(driver, address, clients, commit)
    times = sorted(itertools.chain(*found))
    return {"per_second": len(times) / seconds, **_percentiles(times)}


def _percentiles(times: list[float]) -> Measured:
    return {"p50_ms": 1000 * times[len(times) // 2], "p99_ms": 1000 * times[len(times) * 99 // 100]}


@contextlib.contextmanager
def _serving_copy(driver: Any, count: int, folder: Path) -> Iterator[str]:
    path = str(folder / f"{driver.__name__}-served")
    copy(filled(driver, count, folder), path)
    with serving(driver, path) as address:
        yield address
    remove(path)


def _by_clients(
    driver: Driver,
    address: str,
    clients: int,
    work: Callable[[Database, StoredItem, Callable[[], object]], Any],
) -> tuple[list[Any], float]:
    """Run this with a connection and an item for each process; return the results, and the seconds that all took.

    The third argument waits until all are ready.
    """
    results: Any = _fork.SimpleQueue()
    barrier = _fork.Barrier(clients + 1)

    def run(number: int) -> None:
        try:
            db = driver.connect(address)
            item = item_of(db, number)
            results.put(work(db, item, barrier.wait))
            db.close()
        except BaseException as error:
            results.put(RuntimeError(f"client {number}: {error!r}"))
            barrier.abort()

    processes = [_fork.Process(target=run, args=(number,)) for number in range(clients)]
    for process in processes:
        process.start()
    with contextlib.suppress(threading.BrokenBarrierError):
        barrier.wait()
    start = time.perf_counter()
    found = [results.get() for _ in processes]
    seconds = time.perf_counter() - start
    for process in processes:
        process.join()
    for each in found:
        if isinstance(each, RuntimeError):
            raise each
    return found, seconds


def item_of(db: Database, number: int) -> StoredItem:
    """Return the item with this number, loaded."""
    first = number // GROUP_SIZE * GROUP_SIZE
    item: StoredItem = db.root[f"{first:09}"][number - first]
    item.number  # noqa: B018  # it loads the object
    return item


# Many clients


def contended(driver: Any, count: int, folder: Path) -> Measured:
    """16 clients add one to the same counter, and try again after each conflict."""
    clients = 16
    with _serving_copy(driver, GROUP_SIZE, folder) as address:

        def work(db: Database, item: StoredItem, wait: Callable[[], object]) -> None:
            add_one = driver.counter(address)
            wait()
            for _ in range(count // clients):
                add_one()

        _, seconds = _by_clients(driver, address, clients, work)
        db = driver.connect(address)
        found = db.root["counter"]
        db.close()
    if found != count // clients * clients:
        raise ValueError(f"the counter is {found}")
    return {"per_second": found / seconds}


def fairness(driver: Any, count: int, folder: Path) -> Measured:
    """50 clients commit as fast as they can, until all have made this many commits together."""
    clients = 50
    made: Any = _fork.Value("q")

    def commit(db: Database, item: StoredItem, wait: Callable[[], object]) -> int:
        own = 0
        wait()
        while made.value < count:
            item.number = own = own + 1
            db.commit()
            with made:
                made.value += 1
        return own

    with _serving_copy(driver, GROUP_SIZE, folder) as address:
        found, _ = _by_clients(driver, address, clients, commit)
    return {"times": sum(found) / clients / max(1, min(found))}


def connections(driver: Any, count: int, folder: Path) -> Measured:
    """So many clients, each with an object of its own, commit once a second each, for 5 seconds."""
    _allow_descriptors()
    with _serving_copy(driver, max(count, GROUP_SIZE), folder) as address:
        db = driver.connect(address)
        items: list[Any] = [item_of(db, number) for number in range(count)]
        oids = [item._p_oid for item in items]
        db.close()
        times = play(address, [driver.commit_on_demand(oid) for oid in oids], seconds=5)
    return _percentiles(sorted(times))


def idle(driver: Driver, count: int, folder: Path) -> Measured:
    """Measure the memory of the server for each of this many connections that do nothing."""
    _allow_descriptors()
    with serving(driver, filled(driver, GROUP_SIZE, folder)) as address:
        server = _process_of(address)
        opened = [driver.connect(address) for _ in range(20)]
        before = _resident(server)
        opened += [driver.connect(address) for _ in range(count)]
        after = _resident(server)
        for db in opened:
            db.close()
    return {"bytes": (after - before) / count}


def _allow_descriptors() -> None:
    """Let this process, and those that it starts, open as many descriptors as the system allows."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _process_of(address: str) -> int:
    with socket.socket(socket.AF_UNIX) as connected:
        connected.connect(address)
        found: int = struct.unpack("3i", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    return found


def _resident(process: int) -> int:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def report(driver: Any, count: int, folder: Path) -> Measured:
    """Read all items as of one moment, alone, and beside a writer that commits 20 times a second."""
    with _serving_copy(driver, count, folder) as address:
        alone = driver.seconds_of_report(address)
        stop = _fork.Event()
        writer = _fork.Process(target=_write_on, args=(driver, address, stop))
        writer.start()
        beside = driver.seconds_of_report(address)
        stop.set()
        writer.join()
    return {"alone_s": alone, "beside_s": beside}


def _write_on(driver: Driver, address: str, stop: Any) -> None:
    db = driver.connect(address)
    numbers = itertools.count()
    item = item_of(db, 0)
    while not stop.wait(0.05):
        item.number = next(numbers)
        db.commit()
    db.close()

"""The workloads without a database: limits that no database in Python can beat."""

import os
import pickle
import socket
import threading
import time
import timeit
from pathlib import Path

from workloads import GROUP_SIZE, Measured, cpu, per_statement

COMMIT_SIZE = 330
"""Bytes that a commit of one item appends, seal included."""


class Item:
    def __init__(self, number: int) -> None:
        self.number = number
        self.name = f"item {number}"
        self.tags = ["small", "object"]


def read(count: int, folder: Path) -> Measured:
    """A plain object."""
    return {"ns": per_statement("item.number", count, {"item": Item(1)})}


def write(count: int, folder: Path) -> Measured:
    return {"dirty_ns": per_statement("item.number = 1", 10 * count, {"item": Item(1)})}


def insert(count: int, folder: Path) -> Measured:
    """Append pickles of the same states, and sync after each thousand."""
    path = folder / "limits-inserted"
    start = cpu()
    with open(path, "wb") as file:
        for first in range(0, count, GROUP_SIZE):
            for number in range(first, first + GROUP_SIZE):
                file.write(pickle.dumps(Item(number).__dict__))
            file.flush()
            os.fsync(file.fileno())
    taken = cpu() - start
    size = path.stat().st_size
    path.unlink()
    return {"per_second": count / taken, "bytes": size / count}


def traversal(count: int, folder: Path) -> Measured:
    """pickle.loads of the same states."""
    states = [pickle.dumps(Item(number).__dict__) for number in range(count)]
    start = cpu()
    for state in states:
        pickle.loads(state)
    return {"per_second": count / (cpu() - start)}


def commit_os(count: int, folder: Path) -> Measured:
    return {"per_second": _appends(count, folder, sync=False)}


def commit_fsync(count: int, folder: Path) -> Measured:
    return {"per_second": _appends(count, folder, sync=True)}


def _appends(count: int, folder: Path, sync: bool) -> float:
    path = folder / "limits-committed"
    piece = bytes(COMMIT_SIZE)
    with open(path, "wb", buffering=0) as file:
        clock = time.perf_counter if sync else cpu
        start = clock()
        for _ in range(count):
            file.write(piece)
            if sync:
                os.fsync(file.fileno())
        taken = clock() - start
    path.unlink()
    return count / taken


def server_load(count: int, folder: Path) -> Measured:
    """A bare round trip over a Unix socket."""
    here, there = socket.socketpair()
    child = os.fork()
    if not child:
        here.close()
        while there.recv(4096):
            there.sendall(bytes(200))
        os._exit(0)
    there.close()
    start = time.perf_counter()
    for _ in range(count):
        here.sendall(bytes(9))
        here.recv(4096)
    taken = time.perf_counter() - start
    here.close()
    os.waitpid(child, 0)
    return {"per_second": count / taken}


def server_commit_1(count: int, folder: Path) -> Measured:
    """Two bare round trips and an append with fsync for each commit."""
    return {"per_second": 1 / (2 / server_load(count, folder)["per_second"] + 1 / _appends(count, folder, sync=True))}


def server_commit_16(count: int, folder: Path) -> Measured:
    """The appends of 16 threads, each with an fsync of its own."""
    path = folder / "limits-served"
    piece = bytes(COMMIT_SIZE)
    with open(path, "wb", buffering=0) as file:

        def commit() -> None:
            for _ in range(count):
                file.write(piece)
                os.fsync(file.fileno())

        threads = [threading.Thread(target=commit) for _ in range(16)]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        taken = time.perf_counter() - start
    path.unlink()
    return {"per_second": 16 * count / taken}


def calibration(count: int, folder: Path) -> Measured:
    """Run pure Python work, to measure the present speed of this machine."""
    item = Item(1)

    def work() -> None:
        for _ in range(count):
            pickle.loads(pickle.dumps(item.__dict__))

    return {"ns": min(timeit.repeat(work, number=1, repeat=5, timer=cpu)) / count * 1e9}

"""sqlite3 with one pickle for each object, as a program without an object database would do it."""

import os
import pickle
import sqlite3
import time
from pathlib import Path

from database_files import remove
from workloads import GROUP_SIZE, Measured, cpu, pickled_state


def _open(path: str, synchronous: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path)
    connection.execute("pragma journal_mode=wal")
    connection.execute(f"pragma synchronous={synchronous}")
    connection.execute("create table if not exists objects(id integer primary key, data blob)")
    return connection


def _fill(connection: sqlite3.Connection, count: int) -> None:
    for first in range(0, count, GROUP_SIZE):
        pairs = [(number, pickled_state(number)) for number in range(first, first + GROUP_SIZE)]
        with connection:
            connection.executemany("insert into objects values(?, ?)", pairs)


def insert(count: int, folder: Path) -> Measured:
    path = str(folder / "sqlite-inserted")
    connection = _open(path, "full")
    start = cpu()
    _fill(connection, count)
    taken = cpu() - start
    connection.close()
    size = os.path.getsize(path)
    remove(path)
    return {"per_second": count / taken, "bytes": size / count}


def traversal(count: int, folder: Path) -> Measured:
    path = str(folder / "sqlite-filled")
    remove(path)
    connection = _open(path, "off")
    _fill(connection, count)
    connection.close()
    connection = _open(path, "off")
    start = cpu()
    for number in range(count):
        (data,) = connection.execute("select data from objects where id = ?", (number,)).fetchone()
        pickle.loads(data)
    taken = cpu() - start
    connection.close()
    return {"per_second": count / taken}


def commit_os(count: int, folder: Path) -> Measured:
    return {"per_second": _commits(count, folder, "off")}


def commit_fsync(count: int, folder: Path) -> Measured:
    return {"per_second": _commits(count, folder, "full")}


def _commits(count: int, folder: Path, synchronous: str) -> float:
    path = str(folder / "sqlite-committed")
    connection = _open(path, synchronous)
    _fill(connection, GROUP_SIZE)
    clock = time.perf_counter if synchronous == "full" else cpu
    start = clock()
    for number in range(count):
        with connection:
            connection.execute("update objects set data = ? where id = 0", (pickled_state(number),))
    taken = clock() - start
    connection.close()
    remove(path)
    return count / taken

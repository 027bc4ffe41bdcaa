"""LMDB with one pickle for each object, as a program without an object database would do it."""

import itertools
import os
import pickle
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb

from database_files import remove
from workloads import GROUP_SIZE, Measured, cpu, pickled_state, shuffled_keys

_MAP_SIZE = 1 << 32


@contextmanager
def _opened(path: Path, durable: bool = True) -> Iterator[lmdb.Environment]:
    with lmdb.open(str(path), map_size=_MAP_SIZE, sync=durable, metasync=durable) as environment:
        yield environment


def _key(number: int) -> bytes:
    return number.to_bytes(8, "big")


def _fill(environment: lmdb.Environment, count: int) -> None:
    for first in range(0, count, GROUP_SIZE):
        with environment.begin(write=True) as transaction:
            for number in range(first, min(count, first + GROUP_SIZE)):
                transaction.put(_key(number), pickled_state(number))


def insert(count: int, folder: Path) -> Measured:
    path = folder / "lmdb-inserted"
    with _opened(path) as environment:
        start = cpu()
        _fill(environment, count)
        taken = cpu() - start
    size = os.path.getsize(path / "data.mdb")
    remove(str(path))
    return {"per_second": count / taken, "bytes": size / count}


def traversal(count: int, folder: Path) -> Measured:
    path = folder / "lmdb-filled"
    with _opened(path, durable=False) as environment:
        _fill(environment, count)
    with _opened(path) as environment:
        start = cpu()
        with environment.begin() as transaction:
            for number in range(count):
                pickle.loads(transaction.get(_key(number)))
        taken = cpu() - start
    remove(str(path))
    return {"per_second": count / taken}


def commit_os(count: int, folder: Path) -> Measured:
    return _commits(count, folder, durable=False)


def commit_fsync(count: int, folder: Path) -> Measured:
    return _commits(count, folder, durable=True)


def _commits(count: int, folder: Path, durable: bool) -> Measured:
    path = folder / "lmdb-committed"
    with _opened(path, durable) as environment:
        _fill(environment, GROUP_SIZE)
        clock = time.perf_counter if durable else cpu
        start = clock()
        for number in range(count):
            with environment.begin(write=True) as transaction:
                transaction.put(_key(0), pickled_state(number))
        taken = clock() - start
    remove(str(path))
    return {"per_second": count / taken}


def tree(count: int, folder: Path) -> Measured:
    """LMDB's file is a tree: insert in one transaction, and read in another."""
    path = folder / "lmdb-tree"
    keys = shuffled_keys(count)
    with _opened(path, durable=False) as environment:
        start = cpu()
        with environment.begin(write=True) as transaction:
            for key in keys:
                transaction.put(_key(key), b"value")
        inserted = cpu()
        with environment.begin() as transaction:
            for key in keys:
                transaction.get(_key(key))
            looked_up = cpu()
            for _ in transaction.cursor():
                pass
            iterated = cpu()
            starts = keys[: count // 100]
            cursor = transaction.cursor()
            for key in starts:
                cursor.set_range(_key(key))
                for _ in itertools.islice(cursor, 100):
                    pass
            ranged = cpu()
    cold_keys = keys[: count // 50]
    with _opened(path, durable=False) as environment:
        opened = cpu()
        with environment.begin() as transaction:
            for key in cold_keys:
                transaction.get(_key(key))
        cold = cpu() - opened
    remove(str(path))
    return {
        "insert_ns": (inserted - start) / count * 1e9,
        "lookup_ns": (looked_up - inserted) / count * 1e9,
        "iterate_ns": (iterated - looked_up) / count * 1e9,
        "range_ns": (ranged - iterated) / len(starts) / 100 * 1e9,
        "cold_ns": cold / len(cold_keys) * 1e9,
    }


def tree_commits(count: int, folder: Path) -> Measured:
    path = folder / "lmdb-tree"
    keys = shuffled_keys(count)
    with _opened(path, durable=False) as environment:
        start = cpu()
        for first in range(0, count, GROUP_SIZE):
            with environment.begin(write=True) as transaction:
                for key in keys[first : first + GROUP_SIZE]:
                    transaction.put(_key(key), b"value")
        taken = cpu() - start
    remove(str(path))
    return {"ns": taken / count * 1e9}

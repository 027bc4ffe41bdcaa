"""The workloads in one process: each takes a driver, a number of objects and a folder, and returns what it measured.

Each runs in a process of its own. filled() creates the files that they need, once, in the folder. Workloads that use
the disk only a little measure with cpu(), so that the other load of the machine does not count.
"""

import contextlib
import gc
import os
import pickle
import random
import subprocess
import sys
import time
import timeit
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from database import Database, Driver, StoredItem
from database_files import copy, remove, size_of
from peak import peak_memory

GROUP_SIZE = 1000

_REPEATS = 5
"""How often short workloads are repeated; the fastest run counts."""

Measured = dict[str, float]

cpu = time.process_time

RUN = str(Path(__file__).with_name("run.py"))


def pickled_state(number: int) -> bytes:
    """Return what a program without an object database stores for an item."""
    return pickle.dumps({"number": number, "name": f"item {number}", "tags": ["small", "object"]})


def items_of(db: Any) -> Iterator[Any]:
    """Yield all items, through the attributes that lead to them."""
    for key in sorted(db.root.keys()):
        yield from db.root[key]


def fill(driver: Driver, count: int, path: str, durable: bool = True) -> float:
    """Store items in commits of 1,000; return the CPU seconds that this took."""
    db = driver.open(path, durable)
    start = cpu()
    for first in range(0, count, GROUP_SIZE):
        group = driver.Group([driver.Item(number) for number in range(first, min(count, first + GROUP_SIZE))])
        db.root[f"{first:09}"] = group
        db.commit()
    taken = cpu() - start
    db.close()
    return taken


def filled(driver: Any, count: int, folder: Path) -> str:
    """Return the path of a file with `count` items; another process creates it if it does not exist."""
    return _prepared("prepare", driver, count, folder / f"{driver.__name__}-{count}")


def _half_garbage(driver: Any, count: int, folder: Path) -> str:
    """Return the path of a file in which nothing refers to half of the items any more."""
    return _prepared("prepare_garbage", driver, count, folder / f"{driver.__name__}-{count}-garbage")


def _prepared(workload: str, driver: Any, count: int, path: Path) -> str:
    if not path.exists():
        subprocess.run([sys.executable, RUN, workload, driver.__name__, str(count), str(path.parent)], check=True)
    return str(path)


def prepare(driver: Any, count: int, folder: Path) -> Measured:
    path = folder / f"{driver.__name__}-{count}"
    fill(driver, count, f"{path}.new", durable=False)
    os.rename(f"{path}.new", path)
    return {}


def prepare_garbage(driver: Any, count: int, folder: Path) -> Measured:
    path = folder / f"{driver.__name__}-{count}-garbage"
    copy(filled(driver, count, folder), f"{path}.new")
    db = driver.open(f"{path}.new", durable=False)
    for key in sorted(db.root.keys())[::2]:
        del db.root[key]
    db.commit()
    db.close()
    os.rename(f"{path}.new", path)
    return {}


@contextlib.contextmanager
def _loaded(driver: Driver, count: int, folder: Path) -> Iterator[tuple[Database, list[StoredItem]]]:
    """Yield all items, loaded, in a transaction that has not used any of them."""
    db = driver.open(filled(driver, count, folder), durable=False)
    items = list(items_of(db))
    for item in items:
        item.number  # noqa: B018  # the read is the work
    db.abort()
    yield db, items
    db.close()


# One object


def read(driver: Driver, count: int, folder: Path) -> Measured:
    """Read attributes that were already read in this transaction."""
    with _loaded(driver, GROUP_SIZE, folder) as (_, items):
        return {"ns": per_statement("item.number", count, {"item": items[0]})}


def touch(driver: Driver, count: int, folder: Path) -> Measured:
    """Read each object for the first time in a transaction."""
    times = []
    with _loaded(driver, count, folder) as (db, items):
        for _ in range(_REPEATS):
            db.abort()
            start = cpu()
            for item in items:
                item.number  # noqa: B018  # the read is the work
            times.append(cpu() - start)
    return {"ns": min(times) / count * 1e9}


def write(driver: Driver, count: int, folder: Path) -> Measured:
    """Write to each object for the first time in a transaction, and again to one that is already changed."""
    times = []
    with _loaded(driver, count, folder) as (db, items):
        for _ in range(_REPEATS):
            for item in items:
                item.number  # noqa: B018  # it loads the objects that the abort below turned into ghosts
            db.commit()
            start = cpu()
            for item in items:
                item.number = 1
            times.append(cpu() - start)
            again = per_statement("item.number = 1", 10 * count, {"item": items[0]})
            db.abort()
    return {"first_ns": min(times) / count * 1e9, "dirty_ns": again}


def per_statement(statement: str, count: int, names: dict[str, Any]) -> float:
    """Return the nanoseconds that a statement takes."""
    timer = timeit.Timer("\n".join([statement] * 20), globals=names, timer=cpu)
    loops = count // 20 // _REPEATS
    return min(timer.repeat(_REPEATS, loops)) / (loops * 20) * 1e9


def memory(driver: Driver, count: int, folder: Path) -> Measured:
    """Measure the bytes that Python allocates for each ghost, and for each loaded object."""
    db = driver.open(filled(driver, count, folder), durable=False)
    found = []
    tracemalloc.start()
    before = _traced()
    items = list(items_of(db))
    found.append((_traced() - before) / count)
    for item in items:
        item.number  # noqa: B018  # the read is the work
    db.abort()
    found.append((_traced() - before) / count)
    db.close()
    return {"ghost_bytes": found[0], "loaded_bytes": found[1]}


def _traced() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


# Files


def insert(driver: Any, count: int, folder: Path) -> Measured:
    path = str(folder / f"{driver.__name__}-inserted")
    taken = fill(driver, count, path)
    size = size_of(path)
    remove(path)
    return {"per_second": count / taken, "bytes": size / count}


def traversal(driver: Driver, count: int, folder: Path) -> Measured:
    """Reach and load all items of a file that was just opened."""
    db = driver.open(filled(driver, count, folder), durable=False)
    with peak_memory() as peak:
        start = cpu()
        total = sum(item.number for item in items_of(db))
        taken = cpu() - start
    db.close()
    if total != count * (count - 1) // 2:
        raise ValueError(f"the numbers of the items add up to {total}")
    return {"per_second": count / taken, "memory_bytes": peak.added / count}


def commit_os(driver: Driver, count: int, folder: Path) -> Measured:
    return _commits(driver, count, folder, durable=False)


def commit_fsync(driver: Driver, count: int, folder: Path) -> Measured:
    return _commits(driver, count, folder, durable=True)


def _commits(driver: Any, count: int, folder: Path, durable: bool) -> Measured:
    path = str(folder / f"{driver.__name__}-committed")
    copy(filled(driver, GROUP_SIZE, folder), path)
    before = size_of(path)
    db = driver.open(path, durable)
    item = next(items_of(db))
    item.number = 0
    db.commit()
    clock = time.perf_counter if durable else cpu
    start = clock()
    for number in range(count):
        item.number = number
        db.commit()
    taken = clock() - start
    db.close()
    added = size_of(path) - before
    remove(path)
    return {"per_second": count / taken, "bytes": added / (count + 1)}


def large_record(driver: Any, count: int, folder: Path) -> Measured:
    """Commit one record of this many bytes, which can't be compressed."""
    path = str(folder / f"{driver.__name__}-large")
    db = driver.open(path, durable=False)
    item = db.root["item"] = driver.Item(0)
    db.commit()
    item.data = random.Random(1).randbytes(count)
    with peak_memory() as peak:
        db.commit()
    db.close()
    remove(path)
    return {"times": peak.added / count}


def pack(driver: Any, count: int, folder: Path) -> Measured:
    """Pack a file in which nothing refers to half of the items any more."""
    path = str(folder / f"{driver.__name__}-packed")
    copy(_half_garbage(driver, count, folder), path)
    db = driver.open(path, durable=True)
    with peak_memory() as peak:
        start = cpu()
        db.pack()
        taken = cpu() - start
    db.close()
    remove(path)
    return {"per_second": count / taken, "memory_bytes": peak.added / count}


def make_packed(driver: Driver, count: int, folder: Path) -> Measured:
    """Make the packed files that open_packed opens."""
    for size in (count // 10, count):
        path = folder / f"packed-{size}"
        copy(filled(driver, size, folder), str(path))
        db = driver.open(str(path), durable=False)
        db.pack()
        db.close()
        copy(filled(driver, size, folder), str(folder / f"unpacked-{size}"))
    return {}


def open_unpacked(driver: Driver, count: int, folder: Path) -> Measured:
    with peak_memory() as peak:
        seconds = _seconds_to_open(driver, folder / f"unpacked-{count}")
    return {"ns": seconds / count * 1e9, "memory_bytes": peak.added / count}


def open_packed(driver: Driver, count: int, folder: Path) -> Measured:
    small, large = (_seconds_to_open(driver, folder / f"packed-{size}") for size in (count // 10, count))
    return {"ms": 1000 * large, "times": large / small}


def _seconds_to_open(driver: Driver, path: Path) -> float:
    start = cpu()
    db = driver.open(str(path), durable=False)
    taken = cpu() - start
    db.close()
    return taken


# Trees


def shuffled_keys(count: int) -> list[int]:
    """Return the keys of a tree, in the random order in which all of them are inserted and looked up."""
    keys = list(range(count))
    random.Random(1).shuffle(keys)
    return keys


def tree(driver: Any, count: int, folder: Path) -> Measured:
    path = str(folder / f"{driver.__name__}-tree")
    keys = shuffled_keys(count)
    db = driver.open(path, durable=False)
    tree = db.root["tree"] = driver.Tree()
    db.commit()
    start = cpu()
    for key in keys:
        tree[key] = "value"
    inserted = cpu()
    for key in keys:
        tree[key]
    looked_up = cpu()
    _use_up(tree.iteritems())
    iterated = cpu()
    starts = keys[: count // 100]
    for key in starts:
        _use_up(driver.range_of(tree, key, key + 100))
    ranged = cpu()
    db.commit()
    db.close()
    db = driver.open(path, durable=False)
    tree = db.root["tree"]
    cold_keys = keys[: count // 50]
    opened = cpu()
    for key in cold_keys:
        tree[key]
    cold = cpu() - opened
    db.close()
    remove(path)
    return {
        "insert_ns": (inserted - start) / count * 1e9,
        "lookup_ns": (looked_up - inserted) / count * 1e9,
        "iterate_ns": (iterated - looked_up) / count * 1e9,
        "range_ns": (ranged - iterated) / len(starts) / 100 * 1e9,
        "cold_ns": cold / len(cold_keys) * 1e9,
    }


def tree_commits(driver: Any, count: int, folder: Path) -> Measured:
    """Insert keys in random order, with a commit after each 1,000."""
    path = str(folder / f"{driver.__name__}-tree")
    keys = shuffled_keys(count)
    db = driver.open(path, durable=False)
    tree = db.root["tree"] = driver.Tree()
    db.commit()
    start = cpu()
    for first in range(0, count, GROUP_SIZE):
        for key in keys[first : first + GROUP_SIZE]:
            tree[key] = "value"
        db.commit()
    taken = cpu() - start
    db.close()
    remove(path)
    return {"ns": taken / count * 1e9}


def _use_up(pairs: Iterable[tuple[int, str]]) -> None:
    for _ in pairs:
        pass

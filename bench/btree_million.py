"""A BTree of a million integers in a file: how fast it is, and whether the cache size limits its memory.

    python -m bench.btree_million [--keys N] [--cache-size N ...] [--directory D]

fills a tree in random order, reads it in random order and in ranges, deletes half of it, checks it, packs the file,
opens it again and checks the tree again. It does this once for each cache size, each time in a process of its own. It
prints a table for each, and ends with an error if the contents of the tree are wrong.
"""

import argparse
import random
import resource
import sys
import tempfile
import time
from array import array
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple, cast

from durus.btree import BTree
from durus.connection import Connection

KEYS = 1_000_000
CACHE_SIZES = (1_000, 20_000)
KEYS_IN_A_TRANSACTION = 10_000
KEYS_IN_A_SCAN = 1_000


class Row(NamedTuple):
    """The cost of one phase. A peak is that of the process up to the end of the phase."""

    phase: str
    operations: int
    unit: str
    seconds: float
    loaded: int
    """The highest number of loaded objects at the end of a transaction of the phase, before its eviction."""
    file_size: int
    """The size of the file after the phase, in bytes."""
    peak_memory: int
    """The peak memory of the whole process since its start, in bytes."""


class Run:
    """One tree in a file of its own, and the rows of its phases."""

    def __init__(self, path: Path, key_count: int, cache_size: int) -> None:
        self.path = path
        self.cache_size = cache_size
        self.rows: list[Row] = []
        self.random = random.Random(1)
        self.keys = array("q", range(key_count))
        self.random.shuffle(self.keys)
        self.is_there = bytearray(key_count)
        self.highest_loaded = 0
        self.open()

    def open(self) -> None:
        self.connection = Connection(self.path, self.cache_size)
        root = self.connection.get_root()
        self.tree = cast("BTree[int, int]", root.setdefault("tree", BTree()))

    def phases(self) -> None:
        key_count = len(self.keys)
        with self.phase("insert in random order", key_count, "keys"):
            for batch in self.batches(key_count):
                for key in batch:
                    self.tree[key] = value_of(key)
                    self.is_there[key] = True
                self.end_transaction()
        self.random.shuffle(self.keys)
        lookups = key_count // 4
        with self.phase("look up in random order", lookups, "keys"):
            for batch in self.batches(lookups):
                for key in batch:
                    expect(self.tree[key] == value_of(key), f"the value of the key {key}")
                self.end_transaction()
        scans = max(1, key_count // KEYS_IN_A_SCAN)
        with self.phase("scan ranges", scans * KEYS_IN_A_SCAN, "keys"):
            for number in range(1, scans + 1):
                self.scan(self.random.randrange(max(1, key_count - KEYS_IN_A_SCAN)), KEYS_IN_A_SCAN)
                if number % (KEYS_IN_A_TRANSACTION // KEYS_IN_A_SCAN) == 0 or number == scans:
                    self.end_transaction()
        deleted = key_count // 2
        with self.phase("delete in random order", deleted, "keys"):
            for batch in self.batches(deleted):
                for key in batch:
                    del self.tree[key]
                    self.is_there[key] = False
                self.end_transaction()
        self.check("check")
        with self.phase("pack", self.tree.get_node_count() + 2, "objects"):
            self.connection.pack()
        self.connection.close()
        with self.phase("open again", 1, "file"):
            self.open()
        self.check("check again")
        with self.phase("iterate", sum(self.is_there), "keys"):
            for start in range(0, key_count, KEYS_IN_A_TRANSACTION):
                self.scan(start, KEYS_IN_A_TRANSACTION)
                self.end_transaction()
        self.connection.close()

    def batches(self, count: int) -> Iterator["array[int]"]:
        """Yield the first `count` keys in their present order, in batches of one transaction each."""
        for start in range(0, count, KEYS_IN_A_TRANSACTION):
            yield self.keys[start : min(start + KEYS_IN_A_TRANSACTION, count)]

    def scan(self, start: int, count: int) -> None:
        """Read the items whose keys are in a range, and compare them with the expected ones."""
        expected = (key for key in range(start, min(start + count, len(self.keys))) if self.is_there[key])
        for key, value in self.tree.items_range(start, start + count):
            expect(key == next(expected, None), f"the key {key} in a range")
            expect(value == value_of(key), f"the value of the key {key}")
        expect(next(expected, None) is None, f"the last key of the range from {start} on")

    def check(self, name: str) -> None:
        with self.phase(name, sum(self.is_there), "keys"):
            self.tree.check()
            self.end_transaction()

    def end_transaction(self) -> None:
        self.highest_loaded = max(self.highest_loaded, self.connection.get_cache().get_loaded_count())
        self.connection.commit()

    @contextmanager
    def phase(self, name: str, count: int, unit: str) -> Iterator[None]:
        self.highest_loaded = 0
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        self.rows.append(Row(name, count, unit, seconds, self.highest_loaded, self.path.stat().st_size, peak_memory()))


def value_of(key: int) -> int:
    return -key


def expect(condition: bool, what: str) -> None:
    """End the program if a condition does not hold."""
    if not condition:
        sys.exit(f"not as expected: {what}")


def peak_memory() -> int:
    """Return the peak memory of this process, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def measure(path: Path, key_count: int, cache_size: int) -> list[Row]:
    run = Run(path, key_count, cache_size)
    run.phases()
    return run.rows


def table(rows: list[Row]) -> str:
    """Return the rows as a table in Markdown."""
    lines = [
        "| phase | operations | seconds | operations/s | most objects loaded | MB in the file | MB of memory, peak |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        cells = (
            row.phase,
            f"{row.operations:,} {row.unit}",
            f"{row.seconds:.1f}",
            f"{row.operations / row.seconds:,.0f}",
            f"{row.loaded:,}" if row.loaded else "",
            f"{row.file_size / 1e6:.1f}",
            f"{row.peak_memory / 1e6:.1f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.btree_million", description="Measure a large BTree.")
    parser.add_argument("--keys", type=int, default=KEYS, help="how many keys (default: %(default)s)")
    parser.add_argument("--cache-size", type=int, nargs="+", default=CACHE_SIZES, help="cache sizes, in objects")
    parser.add_argument("--directory", type=Path, help="where to create the files, which are removed at the end")
    options = parser.parse_args(arguments)
    for cache_size in options.cache_size:
        print(f"\n{options.keys:,} keys, cache size {cache_size:,}:\n", flush=True)
        with (
            tempfile.TemporaryDirectory(dir=options.directory) as directory,
            ProcessPoolExecutor(1, get_context("spawn")) as process,  # so that its peak includes no other run
        ):
            path = Path(directory, "btree.durus")
            print(table(process.submit(measure, path, options.keys, cache_size).result()), flush=True)


if __name__ == "__main__":
    main()

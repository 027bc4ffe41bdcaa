"""The parts of the benchmark: what its tables say of figures, and how it plays many clients."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import engines
from bench.plan import DURUS_4, GROWTH, HERE, WORKLOADS, ZODB, label
from bench.report import Results, growth, table, write_before_notes
from database_files import copy, remove, size_of
from peak import peak_memory
from player import Conversation, play
from tests.short_paths import short_folder


def row_of(text: str, title: str) -> str:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {title} |")]
    return line


def test_each_title_is_that_of_one_row() -> None:
    titles = [row.title for workload in WORKLOADS for row in workload.rows]
    assert len(set(titles)) == len(titles)


def test_each_target_is_measured() -> None:
    drivers = {label(workload): workload.drivers for workload in WORKLOADS}
    for workload in WORKLOADS:
        for row in workload.rows:
            for target in row.targets:
                name = target.metric.partition(".")[0] or label(workload)
                assert target.over in drivers[name], f"{row.title} over {target.over}"


def test_a_rate_is_better_if_it_is_larger_and_a_time_if_it_is_smaller() -> None:
    results: Results = {
        ("traversal", "per_second", HERE): [590.0, 600.0, 700.0],
        ("traversal", "per_second", ZODB): [100.0],
        ("touch", "ns", HERE): [10.0],
        ("touch", "ns", DURUS_4): [40.0],
    }
    text = table(results)
    assert "600 ±9 %" in row_of(text, "cold traversal of a file")
    assert "6.00 over ZODB: 6, reached" in row_of(text, "cold traversal of a file")
    assert "4.00 over Durus 4.3: 5, **not reached**" in row_of(text, "first read in a transaction")


def test_a_figure_with_a_bound() -> None:
    results: Results = {("connections", "p50_ms", HERE): [1.0], ("connections", "p99_ms", HERE): [51.0]}
    assert "at most 50: **not reached**" in row_of(
        table(results), "server: 1,000 clients that commit once a second, p99"
    )


def test_the_cost_of_an_object_by_their_number() -> None:
    results: Results = {
        ("pack@1000", "per_second", HERE): [250_000.0],
        ("pack", "per_second", HERE): [100_000.0, 200_000.0, 300_000.0],
        ("pack", "memory_bytes", HERE): [0.0],  # too little to be seen
        ("pack@1000000", "memory_bytes", HERE): [16.0],
        ("touch", "ns", HERE): [10.0],
    }
    assert growth(results) == {("pack", "per_second"): {1000: 4.0, 100_000: 5.0}}
    assert {workload.size for workload in WORKLOADS if workload.name == "pack"} == set(GROWTH)


def test_notes_after_the_table_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    write_before_notes(path, "first\n")
    path.write_text("first\n\n## Notes\n\ntext\n")
    write_before_notes(path, "second\n")
    assert path.read_text() == "second\n\n## Notes\n\ntext\n"


def test_engines_are_compared_with_relstorage() -> None:
    results: engines.Results = {
        ("read one by one", engines.POSTGRES): [300.0],
        ("read one by one", engines.BETWEEN): [299.0],
        ("read one by one", engines.REL): [100.0],
    }
    line = row_of(engines.table(results, "pbfr"), "read one by one")
    assert "PostgreSQL 3.00: 3, reached" in line
    assert "server on it 2.99: 3, **not reached**" in line
    sizes = engines.growth_table({10: results, 100: results}, engines.POSTGRES)
    assert row_of(sizes, "read one by one") == "| read one by one | objects/s | 300 ±0 % | 300 ±0 % |"


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_database_is_one_file_or_a_folder(tmp_path: Path, is_folder: bool) -> None:
    path = tmp_path / "database"
    if is_folder:
        path.mkdir()
    (path / "main" if is_folder else path).write_bytes(bytes(10))
    copy(str(path), f"{path}.copy")
    (tmp_path / "database.copy.lock").touch()
    assert size_of(f"{path}.copy") == 10
    remove(f"{path}.copy")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak memory from a moment on"
)
def test_memory_that_is_free_again_counts() -> None:
    with peak_memory() as peak:
        bytearray(b"x") * (50 << 20)
    assert 45 << 20 < peak.added < 80 << 20


@pytest.fixture
def echo() -> Iterator[str]:
    """A server that sends back what it receives, to any number of clients; yield its address."""
    with short_folder() as folder, socket.socket(socket.AF_UNIX) as listening:
        address = str(folder / "socket")
        listening.bind(address)
        listening.listen()

        def answer(connected: socket.socket) -> None:
            with connected:
                while data := connected.recv(100):
                    connected.sendall(data)

        def accept() -> None:
            for _ in range(3):
                threading.Thread(target=answer, args=(listening.accept()[0],)).start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        yield address
        accepting.join()


def test_each_client_makes_its_transactions(echo: str) -> None:
    made: list[bytes] = []

    def converse(name: bytes) -> Conversation:
        yield name
        assert (yield 1) == name
        while True:
            yield None
            yield name + b"!"
            yield 0
            made.append((yield 1) + (yield 1))

    times = play(echo, [converse(name) for name in (b"a", b"b", b"c")], seconds=2)
    assert sorted(made) == [b"a!", b"a!", b"b!", b"b!", b"c!", b"c!"]
    assert len(times) == 6

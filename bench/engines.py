"""Databases that many clients share: PostgreSQL, servers on it and on a file, and RelStorage on it, in one run.

    python -m bench.engines [--objects N ...] [--commits N] [--rounds N] [--kinds LETTERS] [--write]

starts a PostgreSQL of its own that syncs each commit, a server that is a client of it, and one whose file is on the
same disk. RelStorage gets an environment of its own in .venvs. Each client is a process; in each round the kinds take
turns, and the medians of all rounds are told. Further numbers of objects are measured in PostgreSQL alone, in one
round, to show how cost grows. With --write, the tables are saved in bench/ENGINES.md.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bench import peers
from bench.plan import RELSTORAGE
from bench.report import cell, machine, write_before_notes
from tests.postgres import PostgresServer, new_postgres

CLIENT = Path(__file__).parent / "worker" / "engine_client.py"

POSTGRES, BETWEEN, ON_FILE, REL = "pbfr"
TITLES = {POSTGRES: "PostgreSQL", BETWEEN: "server on it", ON_FILE: "server on a file", REL: "RelStorage"}

Results = dict[tuple[str, str], list[float]]
"""The values of all rounds, by the title of the row and the letter of the kind."""


class Row(NamedTuple):
    """One line of the table."""

    title: str
    unit: str
    target: float | None = None
    """How many times better PostgreSQL must be than RelStorage."""
    more_is_better: bool = True


_FILL = Row("fill", "objects/s")
_COMMITS = {
    clients: Row(f"commits by {clients} {'client' if clients == 1 else 'clients'}", "commits/s", 5)
    for clients in (1, 4, 16)
}
_COLD = Row("read one by one", "objects/s", 3)
_BULK = Row("read many at once", "objects/s", 3)
_PACK = Row("pack, half of it garbage", "objects/s", 5)
_STEP = Row("longest step of the pack", "ms", more_is_better=False)
_MEMORY = Row("memory that a pack adds to its client", "MiB", more_is_better=False)
ROWS = (_FILL, *_COMMITS.values(), _COLD, _BULK, _PACK, _STEP, _MEMORY)

_HEAD = """
# Benchmarks of engines

Written by `python -m bench.engines --write`. Each figure is the median of all rounds, {rounds} here,
with its spread: half the difference between the largest and the smallest value, as a percentage of
the median. PostgreSQL, a server of Durus that is its client, a server of Durus with a file, and
RelStorage 4.3 on the same PostgreSQL take turns. All use Unix sockets and one disk, which each
commit is synced to. A ratio compares the medians of PostgreSQL, and of the server on it, with
RelStorage: more than 1 means faster. The memory is that of the process that asks for the pack. The
steps of a pack are known only where this process makes them. Figures of different runs cannot be
compared.

{machine}
"""


class Kind:
    """What is measured: how its clients are started, and where they find the database."""

    def __init__(self, letter: str, python: str, name: str, address: str) -> None:
        self.letter = letter
        self._command = [python, str(CLIENT), name, address]

    def run(self, work: str, clients: int, count: int) -> dict[str, float]:
        """Have this many clients do the work at the same time; return the largest of each of their figures."""
        processes = []
        for client in range(clients):
            command = [*self._command, work, str(client), str(count)]
            processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        for process in processes:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise SystemExit(f"{TITLES[self.letter]}: a client can't do {work}")
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        found: list[dict[str, float]] = [json.loads(process.communicate()[0]) for process in processes]
        return {name: max(figures[name] for figures in found) for name in found[0]}


@contextlib.contextmanager
def started(folder: Path, letters: str) -> Iterator[list[Kind]]:
    """Run PostgreSQL and the servers of these kinds with new databases."""
    (folder / "pg").mkdir()
    postgres = new_postgres(folder / "pg")
    postgres.stop()
    postgres.start("fsync=on", "full_page_writes=on", "autovacuum=on", "shared_buffers=256MB")
    with contextlib.ExitStack() as stack:
        stack.callback(postgres.stop)
        yield [_started_kind(letter, postgres, folder, stack) for letter in letters]


def _started_kind(letter: str, postgres: PostgresServer, folder: Path, stack: contextlib.ExitStack) -> Kind:
    if letter == POSTGRES:
        return Kind(letter, sys.executable, "durus", postgres.address())
    if letter == REL:
        postgres.execute("create database relstorage")
        address = f"host={postgres.folder} user=durus dbname=relstorage"
        return Kind(letter, peers.python(RELSTORAGE), "zodb", address)
    storage = postgres.address("between") if letter == BETWEEN else str(folder / "f.durus")
    address = str(folder / f"socket-{letter}")
    stack.enter_context(_serving(storage, address))
    return Kind(letter, sys.executable, "durus", address)


@contextlib.contextmanager
def _serving(storage: str, address: str) -> Iterator[None]:
    command = [sys.executable, "-m", "durus", "serve", "--storage", storage, "--address", address]
    server = subprocess.Popen([*command, "--logginglevel", "40"], stdout=subprocess.PIPE)
    assert server.stdout is not None
    server.stdout.readline()
    try:
        yield
    finally:
        server.terminate()
        server.communicate()


def measure(kinds: Sequence[Kind], objects: int, commits: int, rounds: int) -> Results:
    """Run all workloads in turn, this often."""
    results: Results = {}
    for number_of_round in range(rounds):
        for row, workload, clients, count, figures in _workloads(objects, commits):
            for kind in kinds:
                found = kind.run(workload, clients, count)
                results.setdefault((row.title, kind.letter), []).append(clients * count / found["seconds"])
                for other, figure, unit in figures:
                    if figure in found:
                        results.setdefault((other.title, kind.letter), []).append(found[figure] / unit)
            print(f"{objects:,} objects, round {number_of_round + 1} of {rounds}: {row.title}", file=sys.stderr)
    return results


def _workloads(objects: int, commits: int) -> Iterator[tuple[Row, str, int, int, list[tuple[Row, str, float]]]]:
    """Yield rows with their workload, its clients, the count of each, and what else it measures in which unit."""
    yield _FILL, "fill", 1, objects, []
    for clients, row in _COMMITS.items():
        yield row, "commits", clients, max(commits // clients, 10), []
    yield _COLD, "cold", 1, objects, []
    yield _BULK, "bulk", 1, objects, []
    yield _PACK, "pack", 1, objects, [(_STEP, "longest", 0.001), (_MEMORY, "memory", 1 << 20)]


def table(results: Results, letters: str) -> str:
    """Return the results as a table in Markdown."""
    lines = [
        f"| work | unit | {' | '.join(TITLES[letter] for letter in letters)} | over RelStorage: target |",
        "|---" * (len(letters) + 3) + "|",
    ]
    for row in ROWS:
        cells = [cell(results.get((row.title, letter))) for letter in letters]
        verdicts = [_verdict(results, row, letter) for letter in (POSTGRES, BETWEEN)]
        told = "<br>".join(verdict for verdict in verdicts if verdict)
        lines.append(f"| {row.title} | {row.unit} | {' | '.join(cells)} | {told} |")
    return "\n".join(lines) + "\n"


def _verdict(results: Results, row: Row, letter: str) -> str:
    ours, theirs = results.get((row.title, letter)), results.get((row.title, REL))
    if row.target is None or not ours or not theirs:
        return ""
    ratio = statistics.median(ours) / statistics.median(theirs)
    mark = "reached" if ratio >= row.target else "**not reached**"
    return f"{TITLES[letter]} {ratio:.2f}: {row.target:g}, {mark}"


def growth_table(results: dict[int, Results], letter: str) -> str:
    """Return the results of one kind for several numbers of objects as a table in Markdown."""
    sizes = sorted(results)
    lines = [
        f"| {TITLES[letter]} | unit | {' | '.join(f'{size:,} objects' for size in sizes)} |",
        "|---" * (len(sizes) + 2) + "|",
    ]
    for row in ROWS:
        cells = [cell(results[size].get((row.title, letter))) for size in sizes]
        lines.append(f"| {row.title} | {row.unit} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    if REL in options.kinds:
        peers.install([RELSTORAGE])
    size = options.objects[0]
    results: dict[int, Results] = {}
    text = ""
    for objects in options.objects:
        letters, rounds = (options.kinds, options.rounds) if objects == size else (POSTGRES, 1)
        results[objects] = _measured(options, objects, letters, rounds)
        text = f"{size:,} objects:\n\n{table(results[size], options.kinds)}"
        if len(results) > 1:
            text += f"\nGrowth, in one round:\n\n{growth_table(results, POSTGRES)}"
        if options.write:
            head = _HEAD.lstrip().format(rounds=options.rounds, machine=machine())
            write_before_notes(Path(__file__).with_name("ENGINES.md"), f"{head}\n{text}")
    print(text)
    return 0


def _measured(options: argparse.Namespace, objects: int, letters: str, rounds: int) -> Results:
    with tempfile.TemporaryDirectory(prefix="pg-", dir=options.folder) as name:
        Path(name).chmod(0o755)
        with started(Path(name), letters) as kinds:
            return measure(kinds, objects, options.commits, rounds)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--objects", type=int, nargs="+", metavar="N", default=[10_000], help="how many are reached (10,000)")
    add("--commits", type=int, metavar="N", default=400, help="by all clients together, in each round (400)")
    add("--rounds", type=int, metavar="N", default=3, help="how often to do each work (3)")
    add("--kinds", metavar="LETTERS", default="pbfr", help="PostgreSQL, server on it, server on a file, RelStorage")
    add("--folder", metavar="F", default="/var/tmp", help="where to create the databases (/var/tmp)")
    add("--write", action="store_true", help="write bench/ENGINES.md")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

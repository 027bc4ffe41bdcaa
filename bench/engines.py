"""Databases that many clients share: PostgreSQL, servers on it and on a file, and RelStorage on it, in one run.

    python -m bench.engines [--objects N] [--seconds S] [--rounds N] [--kinds LETTERS]

starts a PostgreSQL of its own that syncs each commit, a server that is a client of it, and one whose file is on the
same disk. RelStorage gets an environment of its own in .venvs. Each client is a process; the kinds take turns, and the
best round counts.
"""

import argparse
import contextlib
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path

from bench.peers import VENVS
from tests.postgres import PostgresServer, new_postgres

CLIENT = Path(__file__).parent / "worker" / "engine_client.py"
CLIENTS = (1, 4, 16)
_REQUIREMENTS = ("RelStorage==4.3.0", "psycopg2-binary")


class Kind:
    """What is measured: how its clients are started, and where they find the database."""

    def __init__(self, title: str, python: str, name: str, address: str) -> None:
        self.title = title
        self._command = [python, str(CLIENT), name, address]

    def run(self, work: str, clients: int, count: int) -> float:
        """Have so many clients do the work at the same time; return the seconds that the last one took."""
        processes = []
        for number in range(clients):
            command = [*self._command, work, str(number), str(count)]
            processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        for process in processes:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise SystemExit(f"{self.title}: a client can't do {work}")
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        took = [float(process.communicate()[0]) for process in processes]
        return max(took)


def install() -> str:
    """Return the Python with RelStorage, which is installed the first time."""
    folder = VENVS / "relstorage"
    python = str(folder / "bin" / "python")
    if not (folder / "installed").exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *_REQUIREMENTS], check=True)
        (folder / "installed").touch()
    return python


@contextlib.contextmanager
def started(folder: Path) -> Iterator[tuple[PostgresServer, str, str]]:
    """Run the servers; yield PostgreSQL, and the addresses of the one between and of the one on a file."""
    (folder / "pg").mkdir()
    postgres = new_postgres(folder / "pg")
    postgres.stop()
    postgres.start("fsync=on", "full_page_writes=on", "autovacuum=on", "shared_buffers=256MB")
    between, on_file = str(folder / "between"), str(folder / "socket")
    try:
        with _serving(postgres.address("between"), between), _serving(str(folder / "f.durus"), on_file):
            yield postgres, between, on_file
    finally:
        postgres.stop()


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=10_000)
    parser.add_argument("--commits", type=int, default=400, help="by all clients together, in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", default="pbfr", help="PostgreSQL, a server between, a file server, RelStorage")
    options = parser.parse_args()
    relstorage = install() if "r" in options.kinds else ""
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        with started(Path(name)) as (postgres, between, on_file):
            postgres.execute("create database relstorage")
            kinds = {
                "p": Kind("PostgreSQL", sys.executable, "durus", postgres.address()),
                "b": Kind("server on it", sys.executable, "durus", between),
                "f": Kind("file server", sys.executable, "durus", on_file),
                "r": Kind("RelStorage", relstorage, "zodb", f"host={postgres.folder} user=durus dbname=relstorage"),
            }
            measure([kinds[letter] for letter in options.kinds], options.objects, options.commits, options.rounds)


def measure(kinds: list[Kind], objects: int, commits: int, rounds: int) -> None:
    """Print a line for each work, with a column for each kind."""
    print(f"{'':<28}" + "".join(f"{kind.title:>14}" for kind in kinds))
    fills = [kind.run("fill", 1, objects) for kind in kinds]
    print(f"{'fill, s':<28}" + "".join(f"{seconds:>14.2f}" for seconds in fills))
    for clients in CLIENTS:
        best = [0.0] * len(kinds)
        for _ in range(rounds):
            for index, kind in enumerate(kinds):
                each = max(commits // clients, 10)
                best[index] = max(best[index], clients * each / kind.run("commits", clients, each))
        print(f"{f'commits/s, {clients} clients':<28}" + "".join(f"{rate:>14.0f}" for rate in best), flush=True)
    for work, title in ("cold", "read one by one, objects/s"), ("bulk", "read many at once, objects/s"):
        rates = [max(objects / kind.run(work, 1, objects) for _ in range(rounds)) for kind in kinds]
        print(f"{title:<28}" + "".join(f"{rate:>14.0f}" for rate in rates), flush=True)
    packs = [kind.run("pack", 1, objects) for kind in kinds]
    print(f"{f'pack {objects} of {2 * objects}, s':<28}" + "".join(f"{seconds:>14.2f}" for seconds in packs))


if __name__ == "__main__":
    main()

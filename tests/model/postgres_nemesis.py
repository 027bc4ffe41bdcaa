"""Clients in processes of their own on a PostgreSQL server, and what befalls it: killed sessions, crashes, packs.

    python -m tests.model.postgres_nemesis --seconds N --seed S [--servers N]
    python -m tests.model.postgres_nemesis --bank TRANSFERS
    python -m tests.model.postgres_nemesis --bank TRANSFERS --failover
    python -m tests.model.postgres_nemesis --bank TRANSFERS --servers N
    python -m tests.model.postgres_nemesis --bank TRANSFERS --network

The first one has the clients of the other nemesis. Their history must be serializable, nothing that was acknowledged
lost, no state torn, and no reference may lead to nothing. The second one is a bank: whatever is killed, also clients,
the sum of all accounts stays the same, and each transfer that was acknowledged is there. The third one is that with a
synchronous standby, which takes over from a primary that is killed with all of its processes, again and again. With
--servers the clients use servers of Durus, side by side on the engine, and these are killed, too. With --network a
proxy is between, which cuts connections, stalls, and loses answers to commits; no outcome may stay unknown.
"""

import argparse
import contextlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import durus
from durus.connection import Connection
from durus.error import ConflictError, DurusError, NetworkError, OutcomeUnknownError, ServerError
from durus.files.inspection import record_findings
from durus.persistent import Persistent
from durus.persistent_dict import PersistentDict
from tests.model.history import Transaction, anomalies
from tests.model.nemesis import Figures
from tests.model.proxy import Proxy
from tests.model.workload import fill, from_lines, read_all
from tests.postgres import Pair, PostgresServer, new_postgres, storage_at
from tests.short_paths import short_folder

PROCESSES = 4
CLIENTS = 2
"""In each process."""
ACCOUNTS = 50
_START = 1000


class Nemesis:
    """A server, and its faults."""

    def __init__(self, server: PostgresServer, address: str, chance: random.Random, figures: Figures) -> None:
        self._server = server
        self._address = address
        self._chance = chance
        self._figures = figures

    def run(self, seconds: float, is_over: Callable[[], bool] = lambda: False) -> None:
        """Do one fault after the other, each kind once at least, until the time is over, or the work."""
        often, rare = self.faults()
        faults = [*often, *rare]
        coming = list(faults)
        end = time.monotonic() + seconds
        while (coming or time.monotonic() < end) and not is_over():
            fault = coming.pop() if coming else self._chance.choices([*often, *faults])[0]
            self._work(self._chance.uniform(0.02, 0.3))
            fault()
            self._figures.counts[fault.__name__.replace("_", " ")] += 1

    def faults(self) -> tuple[list[Callable[[], None]], list[Callable[[], None]]]:
        """Return the faults that come often, and those that come rarely."""
        often = [self.kill_sessions, self.kill_commits, self.kill_commits, self.pack]
        return often, [self.interrupt_a_pack, self.restart, self.crash]

    def _work(self, seconds: float) -> None:
        """Let the clients work."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            assert self._server.process is not None
            self._server.process.wait(seconds)

    def kill_sessions(self) -> None:
        self._figures.counts["sessions killed"] += self._server.kill_backends()

    def kill_commits(self) -> None:
        """Kill the sessions that are in the second half of a commit, when there are some."""
        for _ in range(50):
            killed = self._server.kill_backends("COMMIT%") + self._server.kill_backends("INSERT INTO%")
            if killed:
                self._figures.counts["commits killed"] += killed
                return

    def restart(self) -> None:
        self._server.stop()
        self._server.start()

    def crash(self) -> None:
        """Kill all processes of the server, as a crash does; what it has written is with the kernel."""
        self._server.stop(signal.SIGQUIT)
        self._server.start()

    def pack(self) -> None:
        self._pack(None)

    def interrupt_a_pack(self) -> None:
        self._pack(self._chance.randrange(12))

    def _pack(self, steps: int | None) -> None:
        try:
            with contextlib.closing(storage_at(self._address)) as storage:
                for number, _ in enumerate(storage.get_packer()):
                    if number == steps:
                        return
        except DurusError as error:
            self._figures.violations.append(f"a pack failed: {error}")


class FailoverNemesis(Nemesis):
    """A pair of servers, of which the primary is killed, and replaced by the standby, which gets a new one."""

    def __init__(self, pair: Pair, address: str, chance: random.Random, figures: Figures) -> None:
        super().__init__(pair.primary, address, chance, figures)
        self._pair = pair

    def faults(self) -> tuple[list[Callable[[], None]], list[Callable[[], None]]]:
        return [self.kill_sessions, self.kill_commits], [self.fail_over, self.fail_over]

    def fail_over(self) -> None:
        self._pair.primary.crash()
        self._pair.promote()
        self._server = self._pair.primary
        self._pair.standby.follow(self._pair.primary)


class NetworkNemesis(Nemesis):
    """What befalls the network between the clients and the server."""

    def __init__(
        self, server: PostgresServer, address: str, chance: random.Random, figures: Figures, proxy: Proxy
    ) -> None:
        super().__init__(server, address, chance, figures)
        self._proxy = proxy

    def faults(self) -> tuple[list[Callable[[], None]], list[Callable[[], None]]]:
        return [self.cut, self.lose_an_answer, self.deliver_late], [self.stall, self.pack]

    def cut(self) -> None:
        self._proxy.cut_soon()

    def stall(self) -> None:
        self._proxy.flows.clear()
        self._work(self._chance.uniform(0.05, 0.3))
        self._proxy.flows.set()

    def lose_an_answer(self) -> None:
        self._proxy.lose_answer(b"COMMIT\0")

    def deliver_late(self) -> None:
        """Pass a commit on when its client has perhaps found out that it is not stored."""
        self._proxy.lose_answer(b"COMMIT\0", self._chance.uniform(0, 0.2))


class Between:
    """A server of Durus between clients and an engine, at a Unix socket in a folder."""

    def __init__(self, storage: str, folder: Path, number: int) -> None:
        self._storage = storage
        self.path = folder / f"s{number}"
        self._log = folder / f"log{number}"
        self.address = f"durus+unix:{self.path}"
        self.start()

    def start(self) -> None:
        """Start, and return when clients can connect."""
        command = [sys.executable, "-m", "durus", "serve", "--storage", self._storage, "--address", str(self.path)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        assert self._process.stdout is not None
        assert self._process.stdout.readline(), self._log.read_text()

    def kill(self, number: int = signal.SIGKILL) -> int:
        """End the server; return its status."""
        self._process.send_signal(number)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return self._process.wait()


class ServerNemesis(Nemesis):
    """What befalls servers of Durus, and their sessions with the engine."""

    def __init__(
        self, server: PostgresServer, address: str, chance: random.Random, figures: Figures, between: list[Between]
    ) -> None:
        super().__init__(server, address, chance, figures)
        self._between = between

    def faults(self) -> tuple[list[Callable[[], None]], list[Callable[[], None]]]:
        often = [self.kill_sessions, self.kill_commits, self.pack, self.kill_a_server]
        return often, [self.restart, self.crash]

    def kill_a_server(self) -> None:
        victim = self._chance.choice(self._between)
        victim.kill()
        victim.start()


def _nemesis(
    server: PostgresServer | Pair,
    address: str,
    chance: random.Random,
    figures: Figures,
    between: list[Between],
    proxy: Proxy | None = None,
) -> Nemesis:
    if isinstance(server, Pair):
        return FailoverNemesis(server, address, chance, figures)
    if proxy is not None:
        return NetworkNemesis(server, address, chance, figures, proxy)
    if between:
        return ServerNemesis(server, address, chance, figures, between)
    return Nemesis(server, address, chance, figures)


def _ends(between: list[Between]) -> list[str]:
    """Stop the servers; return what is wrong with their ends."""
    return [f"a server ended with {status}" for each in between if (status := each.kill(signal.SIGTERM))]


def check(address: str) -> Iterator[str]:
    """Yield what is wrong with the records of a database."""
    with contextlib.closing(storage_at(address)) as storage:
        oids = {oid for oid, _ in storage.gen_oid_record()}
        offsets = ((oid, None) for oid in sorted(oids))
        for finding in record_findings(offsets, lambda oid, _: storage.load(oid), oids, "the database"):
            if finding.is_fault:
                yield str(finding)


def run(server: PostgresServer, address: str, seconds: float, seed: int, servers: int = 0) -> Figures:
    """Have clients in processes work on a server that is tormented for so long; return what came of it.

    They use this many `servers` of Durus, which are killed, too; 0 for the engine itself.
    """
    figures = Figures()
    with contextlib.closing(storage_at(address)) as storage:
        fill(storage)
    with tempfile.TemporaryDirectory(prefix="durus-nemesis-") as name:
        processes = []
        between = [Between(address, Path(name), number) for number in range(servers)]
        for n in range(PROCESSES):
            where = str(between[n % servers].path) if between else address
            arguments = [where, str(seed), str(CLIENTS), str(1 + n * CLIENTS), str(Path(name, f"history{n}"))]
            command = [sys.executable, "-m", "tests.model.workload", *arguments]
            processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        try:
            _nemesis(server, address, random.Random(seed), figures, between).run(seconds)
        finally:
            for process in processes:
                _, said = process.communicate()
                if said or process.returncode:
                    figures.violations.append(f"a client ended with status {process.returncode}: {said}")
            figures.violations += _ends(between)
        history: list[Transaction] = []
        for n in range(PROCESSES):
            with Path(name, f"history{n}").open() as lines:
                history += from_lines(lines)
    for each in history:
        figures.counts["transactions"] += 1
        figures.counts[each.outcome] += 1
        figures.counts["reads"] += len(each.reads)
        figures.counts["writes"] += len(each.writes)
    began = time.monotonic()
    with Connection(storage_at(address)) as connection:
        found = read_all(connection)
    history.append(Transaction((0, 1), began, began, "committed", list(found.items()), {}))
    figures.violations += [str(anomaly) for anomaly in anomalies(history)]
    figures.violations += check(address)
    return figures


# The bank


class Account(Persistent):
    def __init__(self, balance: int) -> None:
        self.balance = balance


def transfer(root: Any, number: int, one: str, other: str, amount: int) -> None:
    """Move an amount between two accounts, and count that."""
    root["accounts"][one].balance -= amount
    root["accounts"][other].balance += amount
    root["done"][str(number)].balance += 1


def open_at_last(address: str) -> durus.Database[Any]:
    """Open the database when the server runs, and has not just been killed."""
    while True:
        with contextlib.suppress(NetworkError):
            return durus.open(address, tries=1000)


def work(address: str, number: int, count: int) -> None:
    """Make transfers; print a line for each that was acknowledged, or whose outcome is unknown."""
    chance = random.Random(number)
    with open_at_last(address) as db:
        for _ in range(count):
            one, other = (str(each) for each in chance.sample(range(ACCOUNTS), 2))
            while True:
                try:
                    db.run(transfer, number, one, other, chance.randrange(100))
                except OutcomeUnknownError:
                    print("unknown", flush=True)
                except (ConflictError, NetworkError, ServerError) as error:
                    print(type(error).__name__, flush=True)
                    continue
                else:
                    print("done", flush=True)
                break


def bank(
    server: PostgresServer | Pair,
    address: str,
    count: int,
    processes: int,
    seed: int,
    servers: int = 0,
    proxy: Proxy | None = None,
) -> Figures:
    """Have processes make this many transfers together, while the server, and now and then one of them, is killed.

    They use this many `servers` of Durus, which are killed, too; 0 for the engine itself. With a proxy to the engine,
    they use that, and it is what is tormented.
    """
    figures = Figures()
    with durus.open(address) as db, db.transaction() as root:
        root["accounts"] = PersistentDict({str(number): Account(_START) for number in range(ACCOUNTS)})
        root["done"] = PersistentDict({str(number): Account(0) for number in range(processes + 2)})
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="durus-bank-") as name:
        workers: list[subprocess.Popen[bytes]] = []
        between = [Between(address, Path(name), number) for number in range(servers)]

        def start(number: int) -> None:
            command = [sys.executable, "-m", "tests.model.postgres_nemesis", "--work", str(number)]
            where = between[number % servers].address if between else address
            if proxy is not None:  # without prepared statements, it can see what a commit is
                where = f"postgresql://durus@{proxy.address}/postgres?prepare=false"
            command += ["--address", where, "--bank", str(count // processes)]
            with Path(name, str(number)).open("wb") as out:
                workers.append(subprocess.Popen(command, stdout=out))

        for number in range(processes):
            start(number)
        chance = random.Random(seed)
        nemesis = _nemesis(server, address, chance, figures, between, proxy)
        for number in range(processes, processes + 2):  # more workers, which are killed
            start(number)
            nemesis.run(2)
            workers[number].kill()
            workers[number].wait()
        nemesis.run(3600, lambda: all(each.poll() is not None for each in workers))
        figures.counts["seconds"] = round(time.monotonic() - began)
        figures.violations += _ends(between)
        for number, worker in enumerate(workers):
            status = worker.wait()
            if status not in (0, -signal.SIGKILL) or (status and number < processes):
                figures.violations.append(f"a worker ended with status {status}")
        said = [Path(name, str(number)).read_text().split() for number in range(processes + 2)]
    with durus.open(address) as db, db.snapshot() as root:
        total = sum(account.balance for account in root["accounts"].values())
        stored = [root["done"][str(number)].balance for number in range(processes + 2)]
    if total != ACCOUNTS * _START:
        figures.violations.append(f"the sum is {total}, not {ACCOUNTS * _START}")
    for number, lines in enumerate(said):
        done, unknown = lines.count("done"), lines.count("unknown")
        figures.counts["transfers"] += done
        figures.counts["unknown"] += unknown
        figures.counts["given up by run(), and begun again"] += len(lines) - done - unknown
        more = unknown + (number >= processes)  # what one was doing when it was killed
        if not done <= stored[number] <= done + more:
            figures.violations.append(f"{number}: {stored[number]} transfers are stored, of {done} and {more}")
    figures.violations += check(address)
    return figures


def bank_over_network(server: PostgresServer, count: int, processes: int, seed: int) -> Figures:
    """Have processes make transfers over a network that fails; a commit whose outcome stays unknown is wrong, too."""
    with contextlib.closing(Proxy(server.folder / ".s.PGSQL.5432", seed)) as proxy:
        figures = bank(server, server.address(), count, processes, seed, proxy=proxy)
        figures.counts["connections cut"] = proxy.cuts
    if figures.counts["unknown"]:
        figures.violations.append("an outcome stayed unknown")
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bank", type=int, help="make this many transfers")
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--failover", action="store_true", help="with a standby that takes over")
    parser.add_argument("--servers", type=int, default=0, help="with this many servers of Durus between")
    parser.add_argument("--network", action="store_true", help="with a network that fails")
    parser.add_argument("--address", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if (options.failover or options.network) and not options.bank:
        parser.error("--failover and --network go with --bank")
    if options.address:
        work(options.address, options.work, options.bank)
        return 0
    with short_folder(for_other_users=True) as folder:
        server = Pair(folder, is_synchronous=True) if options.failover else new_postgres(folder)
        if options.network and isinstance(server, PostgresServer):
            figures = bank_over_network(server, options.bank, options.processes, options.seed)
        elif options.bank or isinstance(server, Pair):
            figures = bank(server, server.address(), options.bank, options.processes, options.seed, options.servers)
        else:
            figures = run(server, server.address(), options.seconds, options.seed, options.servers)
        server.stop()
    print(figures)
    return 1 if figures.violations else 0


if __name__ == "__main__":
    from tests.model import postgres_nemesis  # whose class is named as that in the database

    sys.exit(postgres_nemesis.main())

"""Clients in their own processes use a real server, which suffers kills, pauses, cuts, full disks and packs.

    python -m tests.model.nemesis --seconds N --seed S

prints the figures of a run. Afterwards the history must be serializable, nothing acknowledged may be lost, no state may
be torn, and the file must be clean.
"""

import argparse
import contextlib
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from durus.client_storage import ClientStorage
from durus.connection import Connection
from durus.error import DurusError, DurusWarning, NetworkError
from durus.file_storage import FileStorage
from durus.files.file import OperatingSystem
from durus.files.shelf.inspection import ShelfInspection
from durus.shared_storage import SharedStorage
from tests.integration.serving import SECONDS, Server
from tests.model.history import Transaction, anomalies
from tests.model.proxy import Proxy
from tests.model.workload import Client, fill, from_lines, read_all, run_clients
from tests.short_paths import short_folder

PROCESSES = 4
CLIENTS = 2
"""In each process."""


@dataclass
class Figures:
    """What a run has done and found."""

    counts: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def sound(self) -> Counter[str]:
        """Return the counts; AssertionError if there was a violation."""
        assert not self.violations, str(self)
        return self.counts

    def __str__(self) -> str:
        lines = [f"{count:>10,} {name}" for name, count in self.counts.items()]
        lines += [f"{len(self.violations):>10,} violations", *self.violations[:20]]
        return "\n".join(lines)


class Nemesis:
    """A server on a file, and its faults."""

    def __init__(self, folder: Path, chance: random.Random, figures: Figures) -> None:
        self._folder = folder
        self._chance = chance
        self._figures = figures
        self.file = folder / "f.durus"
        self.address = folder / "socket"
        self._stop = threading.Event()
        with contextlib.closing(FileStorage(self.file)) as storage:
            fill(storage)
        self._server = self._start()
        self.proxy = Proxy(self.address, chance.randrange(1 << 30))

    def _start(self) -> Server:
        """Start the server. Every Python ignores SIGXFSZ, so a file beyond its limit is an error."""
        arguments = ("--address", str(self.address), "--file", str(self.file), "--repair", "--logginglevel", "40")
        # It does not measure its coverage, which it could not write to a full disk.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
        return Server(*arguments, folder=self._folder, environment=environment)

    def run(self, seconds: float) -> None:
        """Cause one fault after the other, each kind at least once, until the time is over."""
        faults: list[Callable[[], None]] = [self.kill, self.pause, self.cut, self.cut, self.fill_the_disk, self.pack]
        self._chance.shuffle(faults)
        coming = list(faults)
        end = time.monotonic() + seconds
        while coming or time.monotonic() < end:
            self._wait(self._chance.uniform(0.05, 0.6))
            fault = coming.pop() if coming else self._chance.choice(faults)
            fault()
            self._figures.counts[fault.__name__.replace("_", " ")] += 1

    def _wait(self, seconds: float) -> None:
        """Let the clients work."""
        self._stop.wait(seconds)

    def kill(self) -> None:
        self._server.process.kill()
        self._end(-signal.SIGKILL)
        self._server = self._start()

    def _end(self, expected: int) -> None:
        status = self._server.wait()
        self._expect(status == expected, f"the server ended with status {status}: {self._server.log.text}")
        self._expect("Traceback" not in self._server.log.text, self._server.log.text)

    def _expect(self, holds: bool, problem: str) -> None:
        if not holds:
            self._figures.violations.append(problem)

    def pause(self) -> None:
        """Stop the server for a while, sometimes for longer than clients wait."""
        os.kill(self._server.process.pid, signal.SIGSTOP)
        self._wait(self._chance.choice([0.05, 0.2, 0.2, 1.2]))
        os.kill(self._server.process.pid, signal.SIGCONT)

    def cut(self) -> None:
        self.proxy.cut_soon()

    def fill_the_disk(self) -> None:
        """Limit the file to a little more than its present length."""
        limit = self.file.stat().st_size + self._chance.randrange(2000)
        process = self._server.process.pid
        resource.prlimit(process, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        self._wait(self._chance.uniform(0.05, 0.3))
        if self._chance.random() < 0.5:
            resource.prlimit(process, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        else:
            self._server.process.terminate()
            self._end(0)
            self._server = self._start()

    def pack(self) -> None:
        try:
            client = ClientStorage(address=str(self.address), timeout=SECONDS)
        except NetworkError as error:
            self._expect(False, f"the server does not answer: {error}")
            return
        client.pack()
        client.close()

    def close(self) -> None:
        self.proxy.close()
        self._server.process.terminate()
        self._end(0)


def run(seconds: float, seed: int) -> Figures:
    """Let clients in processes use a server that suffers faults for `seconds`; return the outcome."""
    figures = Figures()
    with short_folder() as folder:
        nemesis = Nemesis(folder, random.Random(seed), figures)
        processes = []
        for n in range(PROCESSES):
            address = nemesis.proxy.address if n % 2 else str(nemesis.address)
            arguments = [address, str(seed), str(CLIENTS), str(1 + n * CLIENTS), str(folder / f"log{n}")]
            command = [sys.executable, "-m", "tests.model.workload", *arguments]
            processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        try:
            nemesis.run(seconds)
        finally:
            for process in processes:
                _, said = process.communicate()
                if said or process.returncode:
                    figures.violations.append(f"a client ended with status {process.returncode}: {said}")
            nemesis.close()
        history: list[Transaction] = []
        for n in range(PROCESSES):
            with (folder / f"log{n}").open() as lines:
                history += from_lines(lines)
        judge(history, nemesis.file, figures)
        figures.counts["cuts in mid-message"] = nemesis.proxy.cuts
    return figures


def run_threads(seconds: float, seed: int) -> Figures:
    """Do the same with clients in threads on one SharedStorage that is packed again and again."""
    figures = Figures()
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="durus-threads-") as name:
        file = Path(name, "f.durus")
        storage = FileStorage(file)
        fill(storage)
        shared = SharedStorage(storage)
        history: list[Transaction] = []
        stop = threading.Event()
        clients = [Client(1 + n, seed, shared.new_client, history.append) for n in range(PROCESSES * CLIENTS)]
        threads = run_clients(clients, stop)
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            stop.wait(min(left, chance.uniform(0.01, 0.3)))
            packer = shared.new_client()
            try:
                packer.pack()
            except DurusError as error:
                figures.violations.append(f"a pack failed: {error}")
            packer.close()
            figures.counts["pack"] += 1
        stop.set()
        for thread in threads:
            thread.join(SECONDS)
        if any(thread.is_alive() for thread in threads):
            figures.violations.append(f"a client has not ended {SECONDS} seconds after it was told to")
            return figures
        shared.close()
        judge(history, file, figures)
    return figures


def judge(history: list[Transaction], file: Path, figures: Figures) -> None:
    """Check the history, the final contents of the file, and the file itself."""
    began = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DurusWarning)  # about a tail that was cut off
        with Connection(FileStorage(file, repair=True)) as connection:
            found = read_all(connection)
    history.append(Transaction((0, 1), began, began, "committed", list(found.items()), {}))
    figures.violations += [str(anomaly) for anomaly in anomalies(history)]
    opened = OperatingSystem().open(str(file), "read")
    figures.violations += [str(finding) for finding in ShelfInspection(opened).findings()]
    opened.close()
    for each in history[:-1]:
        figures.counts["transactions"] += 1
        figures.counts[each.outcome] += 1
        figures.counts["reads"] += len(each.reads)
        figures.counts["writes"] += len(each.writes)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", action="store_true", help="clients in threads on one storage, without a server")
    options = parser.parse_args()
    figures = (run_threads if options.threads else run)(options.seconds, options.seed)
    print(figures)
    return 1 if figures.violations else 0


if __name__ == "__main__":
    sys.exit(main())

"""Backups, restored files and replicas beside a writer that commits and packs, whose processes are killed.

    python -m tests.model.deep backup --seconds 600
    python -m tests.model.deep follow --seconds 600

The writer is a process of its own. What a commit stores follows from the seed and the number of the commit, so the
state after each commit is known: each file that a backup, a restore or a replica shows must have exactly one of these
states. The clock of the writer advances by a second with each commit, so the time of a seal tells the number, too.
DURUS_BESIDE_COMMITS is the number of commits with one seed.
"""

import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from durus.backup import back_up, restore, verify
from durus.client_storage import ClientStorage
from durus.connection import Connection
from durus.error import ArgumentError
from durus.file_storage import FileStorage
from durus.persistent_dict import PersistentDict
from durus.storage import Storage

COMMITS = int(os.environ.get("DURUS_BESIDE_COMMITS", "200"))
START = datetime(2026, 1, 1, tzinfo=UTC)
SECONDS = 60
"""How long to wait for anything at most."""
_KEYS = 20
_PACK_EVERY = 40
"""So many commits lie between two packs, on the average."""

State = dict[int, tuple[int, int]]
"""By key: the number of the commit that made its value, and a size."""


def changes(seed: int, number: int) -> State:
    """Return what a commit stores."""
    chance = random.Random(f"{seed} {number}")
    keys = chance.sample(range(_KEYS), chance.choice((1, 1, 3, 10)))
    return {key: (number, chance.choice((0, 10, 3000))) for key in keys}


class Oracle:
    """The state after each commit."""

    def __init__(self, seed: int, commits: int) -> None:
        self.states: list[State] = [{}]
        for number in range(1, commits + 1):
            self.states.append(self.states[-1] | changes(seed, number))

    def check(self, path: Path) -> int:
        """Check that a file has the state after one commit; return the number of that."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a tail that is being written
            storage = FileStorage(path, readonly=True)
        with closing(storage):
            return self.check_state(Connection(storage).get_root())

    def check_state(self, root: Any) -> int:
        number: int = root.get("number", 0)
        found = {key: (each["number"], len(each["text"])) for key, each in root.items() if key != "number"}
        if found != self.states[number]:
            raise AssertionError(f"after commit {number}, {found} is found instead of {self.states[number]}")
        return number


def moment(number: int) -> datetime:
    """Return the time in the seal of a commit."""
    return START + timedelta(seconds=number)


def write(place: str, seed: int, commits: int) -> None:
    """Commit and pack in a file, or through the server with this Unix socket. Say when there is something to copy."""
    number = 0
    chance = random.Random(seed)

    def clock() -> str:
        return moment(number).isoformat(timespec="microseconds")[:26] + "Z"

    storage: Storage
    storage = FileStorage(place, clock=clock) if place.endswith(".durus") else ClientStorage(address=place)
    with closing(storage):
        connection = Connection(storage)
        root: Any = connection.get_root()
        packing: Iterator[object] | None = None
        for number in range(1, commits + 1):
            for key, (_, size) in changes(seed, number).items():
                root[key] = PersistentDict({"number": number, "text": "x" * size})
            root["number"] = number
            connection.commit()
            if number == 1:
                print("begun", flush=True)
            if packing is None and chance.randrange(_PACK_EVERY) == 0:
                if isinstance(storage, ClientStorage):
                    connection.pack()
                else:
                    packing = storage.get_packer()
            elif packing is not None and next(packing, None) is None:
                packing = None
            time.sleep(chance.choice((0, 0, 0.03)))


@contextmanager
def _process(*arguments: object) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def _writing(place: Path, seed: int) -> Iterator["subprocess.Popen[str]"]:
    with _process("tests.model.beside", place, seed, COMMITS) as process:
        _expect(process, "begun")
        yield process
        if process.wait(SECONDS):
            raise AssertionError(f"the writer has ended with {process.returncode}: {_errors(process)}")


def _expect(process: "subprocess.Popen[str]", text: str) -> None:
    assert process.stdout is not None
    line = process.stdout.readline()
    if text not in line:
        raise AssertionError(f"{text!r} is expected, and {line!r} was said: {_errors(process)}")


def _errors(process: "subprocess.Popen[str]") -> str:
    assert process.stderr is not None
    process.kill()
    return process.stderr.read()


def run_backup(seed: int) -> Counter[str]:
    """Back up beside the writer, by processes that are killed, and restore meanwhile and afterwards."""
    figures: Counter[str] = Counter()
    chance = random.Random(seed)
    oracle = Oracle(seed, COMMITS)
    with tempfile.TemporaryDirectory() as name:
        path, target, copy = (Path(name, each) for each in ("f.durus", "backup", "copy"))

        def check_moment(number: int) -> None:
            try:
                done = restore(target, copy, at=moment(number))
            except ArgumentError:  # no backup is so old
                return
            found = oracle.check(copy)
            copy.unlink()
            if done.time != moment(found).isoformat(timespec="microseconds")[:26] + "Z" or found > number:
                raise AssertionError(f"commit {found} of {done.time} is restored for commit {number}")
            figures["moments restored"] += 1

        with _writing(path, seed) as writer:
            back_up(path, target)
            while writer.poll() is None:
                with _process("durus", "backup", path, target, "--follow", "--every", "0.01") as follower:
                    _expect(follower, "backing up to")
                    for _ in range(chance.randrange(3)):
                        check_moment(chance.randrange(COMMITS) + 1)
                    time.sleep(chance.random() * 0.2)
                    if follower.poll() is not None:
                        raise AssertionError(f"the backup has ended by itself: {_errors(follower)}")
                figures["backups killed"] += 1
        figures["generations"] += back_up(path, target).generation
        for generation in verify(target):
            if generation.problems:
                raise AssertionError(f"generation {generation.number}: {generation.problems}")
        for number in (1, COMMITS, *chance.sample(range(1, COMMITS), min(30, COMMITS - 1))):
            check_moment(number)
        restore(target, copy)
        if oracle.check(copy) != COMMITS:
            raise AssertionError("the last commit is not in the backup")
    figures["commits"] += COMMITS
    return figures


def run_follow(seed: int) -> Counter[str]:
    """Follow a file, a backup or a server beside the writer, by processes that are killed, and read the replica."""
    figures: Counter[str] = Counter()
    chance = random.Random(seed)
    oracle = Oracle(seed, COMMITS)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as ends:
        path, target, copy, address = (Path(name, each) for each in ("f.durus", "backup", "copy.durus", "s"))
        kind = ("file", "backup", "server")[seed % 3]
        place, source = path, str(path)
        if kind == "backup":
            source = str(target)
        elif kind == "server":
            place, source = address, f"durus+unix:{address}"
            server = ends.enter_context(_process("durus", "-s", "--address", address, path))
            _expect(server, "listening")
        held = 0
        with _writing(place, seed) as writer:
            if kind == "backup":
                back_up(path, target)
                backup = ends.enter_context(_process("durus", "backup", path, target, "--follow", "--every", "0.01"))
                _expect(backup, "backing up to")
            while writer.poll() is None:
                with _process("durus", "follow", source, copy, "--every", "0.01") as follower:
                    _expect(follower, "following")
                    end = time.monotonic() + chance.random() * 0.3
                    while time.monotonic() < end:
                        if copy.exists():
                            found = oracle.check(copy)
                            if found < held:
                                raise AssertionError(f"the replica went back from commit {held} to {found}")
                            held = found
                            figures[f"states of replicas of a {kind}"] += 1
                    if follower.poll() is not None:
                        raise AssertionError(f"the replica has ended by itself: {_errors(follower)}")
                figures["followers killed"] += 1
        with _process("durus", "follow", source, copy, "--every", "0.01") as follower:
            since = time.monotonic()
            while not copy.exists() or oracle.check(copy) != COMMITS:
                if time.monotonic() - since > SECONDS:
                    raise AssertionError(f"the last commit did not come: {_errors(follower)}")
        if copy.read_bytes() != path.read_bytes():
            raise AssertionError("the replica differs from its source")
    figures["commits"] += COMMITS
    return figures


if __name__ == "__main__":
    write(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))

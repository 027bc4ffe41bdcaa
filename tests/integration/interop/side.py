"""driver.py as a process, under the one Durus or the other."""

import contextlib
import json
import select
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.integration.serving import SECONDS

DRIVER = Path(__file__).parent / "process" / "driver.py"


class Refused(Exception):
    """A request ended in an exception: the name of its type, and what it says."""


class Side:
    """A process that answers requests; `name` tells with which Durus."""

    def __init__(self, name: str, python: Path, folder: Path) -> None:
        self.name = name
        self._unanswered = 0
        self._log = folder / f"{name}.log"
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                [python, "-E", "-X", "faulthandler", DRIVER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=folder,
            )

    def ask(self, request: str, *arguments: Any) -> Any:
        """Return the result of a request; Refused if it raised."""
        self.send(request, *arguments)
        return self.receive()

    def send(self, request: str, *arguments: Any) -> None:
        assert self.process.stdin is not None
        self._unanswered += 1
        with contextlib.suppress(BrokenPipeError):  # receive() will tell
            self.process.stdin.write(json.dumps([request, arguments]) + "\n")
            self.process.stdin.flush()

    def receive(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait(SECONDS)
            raise AssertionError(f"Durus {self.name} has ended with {status}: {self._log.read_text()[-2000:]}")
        self._unanswered -= 1
        kind, *answer = json.loads(line)
        if kind == "error":
            raise Refused(*answer)
        return answer[0]

    def has_answered(self) -> bool:
        """Return whether an answer has arrived, or the process has ended."""
        assert self.process.stdout is not None
        return bool(select.select([self.process.stdout], [], [], 0)[0])

    def close(self) -> None:
        if self._unanswered:  # a test has failed, and does not wait for it
            self.process.kill()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self.process.stdout.close()


@contextlib.contextmanager
def running(name: str, python: Path, folder: Path) -> Iterator[Side]:
    side = Side(name, python, folder)
    try:
        yield side
    finally:
        side.close()


class Sides(NamedTuple):
    """The same driver under this Durus and under 4.3."""

    new: Side
    old: Side

"""The process that is tested: one JSON object on each line of its standard input and output.

Whatever the process does, a call ends: with its answer, or by its deadline with a TesteeError.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from typing import Any, Never

Json = Any
"""What json.loads() returns."""

OPERATIONS = (
    "read_record",
    "read_state",
    "write_record",
    "read_file",
    "write_file",
    "new_oids",
    "repair",
    "check",
    "pack",
    "steps",
    "client",
    "serve",
)
_FORMATS = ("SHELF-1", "DFS20")
MAX_LINE = 2**24
_PIECE = 2**16


class TesteeError(Exception):
    """The testee hung, ended, or answered something that is not an answer."""


class TesteeRefusal(TesteeError):
    """The testee answered with an error."""


class Testee:
    """Runs a command, and starts it again after it has failed.

    Args:
        command: the program and its arguments.
        deadline: how many seconds a call may take.
    """

    is_alone = True
    """Each case has an empty storage of its own."""

    def __init__(self, command: Sequence[str], deadline: float) -> None:
        self._command = list(command)
        self.deadline = deadline
        self._process: subprocess.Popen[bytes] | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the testee)
        self._buffer = b""
        self._number = 0
        self.name = ""
        self.operations: frozenset[str] = frozenset()
        self.needs_peer = False
        self.protocols: frozenset[int] = frozenset((1, 2))
        self.formats: frozenset[str] = frozenset(_FORMATS)

    def start(self) -> None:
        """Start the process and read its greeting. TesteeError if there is none."""
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                start_new_session=True,
            )
        except OSError as error:
            raise TesteeError(f"it can't be started: {error}") from error
        self._buffer = b""
        os.set_blocking(self._descriptors()[0], False)
        greeting = self._read_line()
        name, operations = greeting.get("testee"), greeting.get("operations")
        if not isinstance(name, str) or not isinstance(operations, list):
            self._fail(f"its first line has no name and operations: {_short(greeting)}")
        unknown = [each for each in operations if each not in OPERATIONS]
        if unknown:
            self._fail(f"it announces operations that there are not: {_short(unknown)}")
        self.name, self.operations = name, frozenset(operations)
        self.needs_peer = greeting.get("needs_peer") is True
        protocols = greeting.get("protocols", [1, 2])
        if not isinstance(protocols, list) or not all(each in (1, 2) for each in protocols):
            self._fail(f"it announces protocols that there are not: {_short(protocols)}")
        self.protocols = frozenset(protocols)
        formats = greeting.get("formats", list(_FORMATS))
        if not isinstance(formats, list) or not all(each in _FORMATS for each in formats):
            self._fail(f"it announces formats that there are not: {_short(formats)}")
        self.formats = frozenset(formats)

    def call(self, operation: str, **arguments: Json) -> dict[str, Json]:
        """Return the result of an operation. TesteeError if it does not come in time, or is none."""
        self.send(operation, **arguments)
        return self.receive()

    def send(self, operation: str, **arguments: Json) -> None:
        """Send a request; the next call must be receive()."""
        if self._process is None:
            self.start()
        self._number += 1
        line = json.dumps({"id": self._number, "op": operation, **arguments}).encode() + b"\n"
        descriptor = self._descriptors()[0]
        end = time.monotonic() + self.deadline
        while line:
            if not select.select([], [descriptor], [], max(0, end - time.monotonic()))[1]:
                self._fail("it does not read its requests")
            try:
                line = line[os.write(descriptor, line) :]
            except BrokenPipeError:
                self._fail("it has ended")

    def receive(self) -> dict[str, Json]:
        """Return the result of the request that was sent."""
        answer = self._read_line()
        if answer.get("id") != self._number:
            self._fail(f"it answers another request, or none: {_short(answer)}")
        if "error" in answer:
            raise TesteeRefusal(f"it says: {_short(answer['error'])}")
        if not isinstance(answer.get("result"), dict):
            self._fail(f"its answer has no result: {_short(answer)}")
        result: dict[str, Json] = answer["result"]
        return result

    def is_first(self, other: socket.socket) -> bool:
        """Wait until the testee or a socket has something to read; returns whether it is not the socket."""
        if b"\n" in self._buffer:
            return True
        ready = select.select([self._descriptors()[1], other.fileno()], [], [], self.deadline)[0]
        return other.fileno() not in ready

    def stop(self) -> str:
        """End the process and what it has started; return the last line of what it wrote as errors."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):  # all of them have ended
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - 500))
        lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else ""

    def close(self) -> None:
        """Stop for good."""
        self.stop()
        self._errors.close()

    def _descriptors(self) -> tuple[int, int]:
        """Return where the process reads and where it writes."""
        if self._process is None or self._process.stdin is None or self._process.stdout is None:
            raise TesteeError("it has ended")
        return self._process.stdin.fileno(), self._process.stdout.fileno()

    def _read_line(self) -> dict[str, Json]:
        descriptor = self._descriptors()[1]
        end = time.monotonic() + self.deadline
        pieces, size = [self._buffer], len(self._buffer)
        while b"\n" not in pieces[-1]:
            if size > MAX_LINE:
                self._fail(f"a line of it has more than {MAX_LINE} bytes")
            left = end - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                self._fail(f"it did not answer in {self.deadline:g} s")
            pieces.append(os.read(descriptor, _PIECE))
            size += len(pieces[-1])
            if not pieces[-1]:
                self._fail("it has ended")
        line, _, self._buffer = b"".join(pieces).partition(b"\n")
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            self._fail(f"it wrote a line that is not a JSON object: {line[:80]!r}")
        return answer

    def _fail(self, problem: str) -> Never:
        last = self.stop()
        raise TesteeError(f"{problem}{f' (last error: {last})' if last else ''}")


def _short(value: Json) -> str:
    return str(value)[:200]

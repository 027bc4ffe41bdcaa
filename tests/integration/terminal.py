"""A program in a terminal, as a person has it in a window."""

import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

CONTROL_C = "\x03"
CONTROL_D = "\x04"
SECONDS = 60
"""The maximum time to wait for expected output."""


def without(*modules: str) -> tuple[str, ...]:
    """Return how Python runs `durus` where these modules are not installed."""
    blocked = f"import sys; sys.modules.update(dict.fromkeys({modules!r}))"
    return "-c", f"{blocked}; from durus.cli.main import main; sys.exit(main())"


def _be_interruptible() -> None:
    """Make Control-C in the terminal interrupt this process; in tests that run in the background it would not."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """Runs `durus` with the arguments in a window of its own, as `python` has it, if that is given."""

    def __init__(
        self,
        *arguments: str,
        cwd: Path,
        environment: dict[str, str] | None = None,
        python: tuple[str, ...] = ("-m", "durus"),
    ) -> None:
        self._fd, follower = pty.openpty()
        self.shown = ""
        self._seen = 0
        self.process = subprocess.Popen(
            [sys.executable, *python, *arguments],
            cwd=cwd,
            env={**os.environ, "HOME": str(cwd), "TERM": "dumb", "PYTHONUNBUFFERED": "1", **(environment or {})},
            stdin=follower,
            stdout=follower,
            stderr=follower,
            start_new_session=True,
            preexec_fn=_be_interruptible,
        )
        os.close(follower)

    def expect(self, pattern: str) -> "re.Match[str]":
        """Return the first match of the pattern in what is shown from the last one on, or will be."""
        while True:
            found = re.compile(pattern).search(self.shown, self._seen)
            if found:
                self._seen = found.end()
                return found
            if not self._read():
                raise AssertionError(f"{pattern!r} is not shown: {self.shown!r}")

    def _read(self) -> bool:
        if not select.select([self._fd], [], [], SECONDS)[0]:
            return False
        try:
            piece = os.read(self._fd, 4096)
        except OSError:  # what Linux says when the other side of a terminal is gone
            return False
        self.shown += piece.decode().replace("\r\n", "\n")
        return bool(piece)

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def interrupt(self) -> None:
        """Type Control-C, when the program waits for input.

        Before that, the terminal would drop the part of the prompt that it has not shown, and Python would take note
        of the signal and begin to read. Nothing tells when a program waits but the state of its process: it runs (R),
        or it waits for the disk (D), as for a page of its code, until it waits for input.
        """
        status = Path(f"/proc/{self.process.pid}/stat")
        while status.exists() and status.read_text().rpartition(")")[2].split()[0] in "RD":
            time.sleep(0.001)
        self.type(CONTROL_C)

    def ask(self, line: str, pattern: str) -> None:
        """Type a line at the prompt; what is shown then must match the pattern."""
        self.expect(">>> ")
        self.type(line + "\n")
        self.expect(re.escape(line) + r"\n")
        self.expect(pattern)

    def tell(self, line: str) -> None:
        """Type a line at the prompt, and see that nothing but the next prompt comes of it."""
        self.ask(line, r"(?=>>> )")

    def end(self) -> int:
        """Wait for the end of the program, and return its exit status."""
        while self._read():
            pass
        os.close(self._fd)
        return self.process.wait(SECONDS)

    def kill(self) -> None:
        """End the program, where it has not ended by itself."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

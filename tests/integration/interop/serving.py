"""`durus -s` of this Durus or of 4.3, on a file and a Unix socket."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from durus.sharing.reaching import wait_for_server
from tests.integration.serving import SECONDS
from tests.short_paths import short_folder


class Served(NamedTuple):
    file: Path
    address: str
    is_of_this: bool
    """The server is of this Durus, not of 4.3."""


@contextlib.contextmanager
def served_by(python: Path, file: Path, address: str | None = None) -> Iterator[Served]:
    """A server that has the file open, and is asked to end after the block. It chooses an address if none is given."""
    with short_folder() as folder, open(f"{file}.log", "a") as log:
        address = address or str(folder / "socket")
        process = subprocess.Popen(
            [python, "-E", "-m", "durus", "-s", "--file", file, "--address", address],
            cwd=file.parent,
            stdout=log,
            stderr=log,
        )
        try:
            wait_for_server(address=address, maxtries=20 * SECONDS, sleeptime=0.05)
            yield Served(file, address, str(python) == sys.executable)
            stopping = [str(python), "-E", "-m", "durus", "-s", "--stop", "--address", address]
            subprocess.run(stopping, cwd=file.parent, capture_output=True, check=True, timeout=SECONDS)
            assert process.wait(SECONDS) == 0, Path(f"{file}.log").read_text()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

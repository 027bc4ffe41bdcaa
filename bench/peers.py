"""Run workloads in this Python, or in that of a peer, which has an environment of its own in .venvs."""

import json
import os
import subprocess
import sys
import venv
from collections.abc import Iterable
from pathlib import Path

from bench.plan import DURUS_4, LMDB, RELSTORAGE, ZODB

RUN = Path(__file__).parent / "worker" / "run.py"
VENVS = Path(__file__).with_name(".venvs")

_REQUIREMENTS = {
    DURUS_4: ["Durus==4.3"],
    ZODB: ["ZODB>=6,<7", "ZEO>=6,<7"],
    RELSTORAGE: ["RelStorage==4.3.0", "psycopg2-binary"],
    LMDB: ["lmdb>=1.4,<3"],
}


def install(drivers: Iterable[str]) -> None:
    """Install the peers among these drivers, unless they are already installed."""
    for driver in drivers:
        folder = VENVS / driver
        if driver in _REQUIREMENTS and not (folder / "installed").exists():
            print(f"installing {' and '.join(_REQUIREMENTS[driver])}", file=sys.stderr)
            venv.create(folder, with_pip=True, clear=True)
            subprocess.run([python(driver), "-m", "pip", "install", "--quiet", *_REQUIREMENTS[driver]], check=True)
            (folder / "installed").touch()


def python(driver: str) -> str:
    """Return the path of the Python in which this driver runs."""
    return str(VENVS / driver / "bin" / "python") if driver in _REQUIREMENTS else sys.executable


def start(workload: str, driver: str, count: int, folder: Path) -> dict[str, float]:
    """Run one workload in a process of its own."""
    command = [python(driver), str(RUN), workload, driver, str(count), str(folder)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # each has its own durus
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured

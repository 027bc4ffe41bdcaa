"""The benchmarks run, on this Durus alone and with few objects. What they measure is nothing that a test could hold."""

import os
import subprocess
import sys
from pathlib import Path

from bench.plan import HERE, WORKLOADS, label

ROOT = Path(__file__).parents[2]


def test_every_workload_measures_all_its_rows(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "--rounds", "1", "--scale", "0", "--drivers", HERE]
    done = subprocess.run(
        [*command, "--folder", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    missing = [(label(work), row.title) for work in WORKLOADS for row in work.rows if not _is_told(row.title, lines)]
    assert not missing
    assert not list(tmp_path.iterdir())


def _is_told(title: str, lines: list[str]) -> bool:
    return any(line.startswith(f"| {title} | ") and "±" in line for line in lines)

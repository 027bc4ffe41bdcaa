"""python -m bench.guard: count the instructions of a few workloads, and compare them with bench/baseline.json.

It counts the Python instructions and the calls of C functions in this package, for each object. These do not depend on
the machine or its load, so a slow-down shows in the change that causes it. Instructions inside C functions are not
counted. `--write` makes the counts the new baseline for this version of Python.
"""

import argparse
import gc
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from durus.persistent import implementation

BASELINE = Path(__file__).with_name("baseline.json")
TOLERANCE = 1.05
"""How many times the instructions of the baseline a workload may take."""
WORKLOADS = ("touch", "write", "insert", "traversal", "commit_os", "pack", "open_unpacked", "open_packed", "tree")
COUNT = 400
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.guard", description="Look for slow-downs.")
    parser.add_argument("--write", action="store_true", help=f"write {BASELINE.name}")
    parser.add_argument("--count", action="store_true", help="only print what this process counts")
    options = parser.parse_args(arguments)
    if options.count:
        print(json.dumps(count_all()))
        return 0
    found: dict[str, dict[str, float]] = {}
    for pure in "0", "1":
        command = [sys.executable, "-P", __file__, "--count"]  # so that it imports the installed durus
        environment = {**os.environ, "DURUS_PURE_PYTHON": pure, "PYTHONHASHSEED": "1"}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        found |= json.loads(done.stdout.splitlines()[-1])  # creating the files prints other lines
    baselines: dict[str, dict[str, dict[str, float]]] = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    if options.write:
        BASELINE.write_text(json.dumps(baselines | {PYTHON: found}, indent=2, sort_keys=True) + "\n")
        return 0
    if PYTHON not in baselines:
        print(f"{BASELINE.name} has nothing for Python {PYTHON}: write it with --write")
        return 1
    more = compare(found, baselines[PYTHON])
    print("\n".join(more) or f"no workload takes notably more than in {BASELINE.name}")
    return 1 if more else 0


def compare(found: dict[str, dict[str, float]], baseline: dict[str, dict[str, float]]) -> list[str]:
    """Return a line for each workload that takes notably more than in the baseline, or is missing in one of the two."""
    lines = []
    for made_of in sorted({*found, *baseline}):
        counts, before = found.get(made_of, {}), baseline.get(made_of, {})
        for workload in sorted({*counts, *before}):
            if workload not in counts or workload not in before:
                lines.append(f"{made_of}, {workload}: is not in {'the baseline' if workload in counts else 'this run'}")
            elif counts[workload] > TOLERANCE * before[workload]:
                lines.append(
                    f"{made_of}, {workload}: {counts[workload]:g} instructions an object, {before[workload]:g} before"
                )
    return lines


def count_all() -> dict[str, dict[str, float]]:
    """Return the instructions per object of each workload, under the implementation of the base classes."""
    sys.path.insert(0, str(Path(__file__).with_name("worker")))
    durus5: Any = importlib.import_module("durus5")
    workloads = importlib.import_module("workloads")
    counts = {}
    with tempfile.TemporaryDirectory(prefix="durus-guard-") as folder:
        workloads.make_packed(durus5, COUNT, Path(folder))
        for name in WORKLOADS:
            function: Callable[..., object] = getattr(workloads, name)
            function(durus5, COUNT, Path(folder))  # the first run does one-time work and creates files
            with counting() as counted:
                function(durus5, COUNT, Path(folder))
            counts[name] = round(counted[0] / COUNT, 1)
    return {implementation: counts}


@contextmanager
def counting() -> Iterator[list[int]]:
    """Count the Python instructions that the package runs, and the C functions that it calls."""
    counted = [0]
    package = str(Path(sys.modules["durus"].__file__ or "").parent)

    def trace(frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        if event == "opcode":
            counted[0] += 1
        elif event == "call":
            if not frame.f_code.co_filename.startswith(package):
                return None
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return trace

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event == "c_call" and frame.f_code.co_filename.startswith(package):
            counted[0] += 1

    before = sys.gettrace(), sys.getprofile()
    gc.collect()
    gc.disable()  # otherwise finalizers of earlier garbage would be counted
    sys.settrace(trace)
    sys.setprofile(profile)
    try:
        yield counted
    finally:
        sys.setprofile(before[1])
        gc.enable()
        sys.settrace(before[0])  # for example that of coverage


if __name__ == "__main__":
    sys.exit(main())

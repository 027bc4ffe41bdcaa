"""python -m bench: run the workloads on all drivers in turn. With --write, save the table and the plots in bench/."""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench import peers, report
from bench.plan import HERE, WORKLOADS, Workload, label
from bench.report import Results

_HERE = Path(__file__).parent
_SMALLEST = 200
_NEEDS_FILES = ("open_unpacked", "open_packed")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    wanted = [each for each in WORKLOADS if not options.only or label(each) in options.only]
    drivers = list(dict.fromkeys(name for workload in wanted for name in workload.drivers))
    if options.drivers:
        drivers = [each for each in drivers if each in options.drivers]
    peers.install(drivers)
    results: Results = {}
    with tempfile.TemporaryDirectory(prefix="durus-bench-", dir=options.folder) as folder:
        for number in range(options.rounds):
            for workload in wanted:
                start = time.perf_counter()
                for driver in workload.drivers:
                    if driver in drivers:
                        measured = _run(workload, driver, options.scale, Path(folder))
                        for metric, value in measured.items():
                            results.setdefault((label(workload), metric, driver), []).append(value)
                seconds = time.perf_counter() - start
                print(f"round {number + 1} of {options.rounds}: {label(workload)}, {seconds:.1f} s", file=sys.stderr)
            if options.write:
                _write(results, options.scale)
    print(report.table(results, options.scale))
    return 0


def _write(results: Results, scale: float) -> None:
    from bench import plot  # it needs matplotlib

    report.write(_HERE / "RESULTS.md", report.table(results, scale), results)
    plot.write(_HERE / "RESULTS.svg", results)
    plot.write_growth(_HERE / "GROWTH.svg", results)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure Durus against its peers.")
    add = parser.add_argument
    add("--only", metavar="NAME", action="append", choices=[label(each) for each in WORKLOADS], help="workload to run")
    add("--drivers", metavar="NAME", nargs="*", help="run only these drivers, such as durus5 and zodb_peer")
    add("--scale", metavar="F", type=float, default=1.0, help="multiply the number of objects by this")
    add("--rounds", metavar="N", type=int, default=5, help="how often to run each workload (5)")
    add("--folder", metavar="F", help="where to create the databases: a folder on the disk to measure")
    add("--write", action="store_true", help="write RESULTS.md, RESULTS.svg and GROWTH.svg in bench/")
    return parser.parse_args(arguments)


def _run(workload: Workload, driver: str, scale: float, folder: Path) -> dict[str, float]:
    count = max(_SMALLEST, int(workload.size * scale))
    if workload.name in _NEEDS_FILES and not (folder / f"packed-{count}").exists():
        peers.start("make_packed", HERE, count, folder)
    return peers.start(workload.name, driver, count, folder)


if __name__ == "__main__":
    sys.exit(main())

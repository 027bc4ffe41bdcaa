"""The table of medians and ratios."""

import importlib.metadata
import os
import platform
import statistics
from collections.abc import Iterator
from pathlib import Path

from bench.plan import HERE, TITLES, WORKLOADS, Row, Target, Workload, label
from durus.persistent import implementation

Results = dict[tuple[str, str, str], list[float]]
"""The values of all rounds, by workload, metric and driver."""

_NOTES = """
# Benchmarks

Written by `python -m bench --write`. Each figure is the median of {rounds} rounds.

In each round all run the same workloads one after another, in separate processes, on Unix sockets
where there is a server, with a warm page cache. After each figure comes its spread: half the
difference between the largest and the smallest value, as a percentage of the median. A ratio
compares the medians of this Durus and the other one: more than 1 means that this Durus is faster,
or smaller. *fsync* means that on every side a commit is on the disk before it returns (Durus 4.3 is
made to sync); *none* means that no side waits for the disk. Figures of different runs cannot be
compared. Where the unit says CPU, the figure is the CPU time of the process that counts, without
the time that the disk or the rest of the machine takes. Memory is what the workload adds to the
process at its peak.

[RESULTS.svg](RESULTS.svg) shows the ratios, and [GROWTH.svg](GROWTH.svg) how the cost of an object
grows with their number. RelStorage is on SQLite here; [ENGINES.md](ENGINES.md) has it on
PostgreSQL. sqlite3 and LMDB are used by hand, with a pickle for each object. 1,000 clients are
played by one process that speaks the protocols without objects; a commit's time begins when it was
due. Servers of Durus are those of `durus serve`, with `durus[fast]` unless stated otherwise.

{machine}

"""


def table(results: Results, scale: float = 1.0) -> str:
    """Return the results as a table in Markdown."""
    drivers = [each for each in TITLES if any(driver == each for _, _, driver in results)]
    lines = [
        "| workload | unit | commits wait for | " + " | ".join(TITLES[each] for each in drivers) + " | ratio: target |",
        "|---" * (len(drivers) + 4) + "|",
    ]
    for workload, row in _rows(results):
        cells = [cell(results.get((label(workload), row.metric, driver))) for driver in drivers]
        verdicts = [_verdict(results, workload, row, target) for target in row.targets]
        verdicts.append(_bound(results[label(workload), row.metric, HERE], row.at_most))
        told = "<br>".join(verdict for verdict in verdicts if verdict)
        lines.append(f"| {row.title} | {row.unit} | {workload.durability} | {' | '.join(cells)} | {told} |")
    note = "" if scale == 1 else f"\nAll sizes are multiplied by {scale:g}.\n"
    return "\n".join(lines) + "\n" + note


def write(path: Path, text: str, results: Results) -> None:
    """Write the heading and the table, and keep the notes that follow the table in the file."""
    rounds = max(len(values) for values in results.values())
    write_before_notes(path, _NOTES.lstrip().format(rounds=rounds, machine=machine()) + text)


def write_before_notes(path: Path, text: str) -> None:
    """Replace a file, except for its notes: what begins with its first heading of the second level."""
    before = path.read_text() if path.exists() else ""
    _, found, notes = before.partition("\n## ")
    path.write_text(text + (found + notes if found else ""))


def ratio(results: Results, workload: Workload, row: Row, target: Target) -> float | None:
    """Return how many times better this Durus is; None if one of the two was not measured."""
    name, _, metric = (target.metric or f"{label(workload)}.{row.metric}").rpartition(".")
    here = results.get((label(workload), row.metric, HERE))
    other = results.get((name, metric, target.over))
    if not here or not other:
        return None
    ours, theirs = statistics.median(here), statistics.median(other)
    if not ours or not theirs:  # no new memory was needed
        return None
    return ours / theirs if row.more_is_better else theirs / ours


def growth(results: Results) -> dict[tuple[str, str], dict[int, float]]:
    """Return what an object costs in CPU µs or in bytes: by workload and metric, and then by the number of objects."""
    costs: dict[tuple[str, str], dict[int, float]] = {}
    for workload in sorted(WORKLOADS, key=lambda each: each.size):
        for row in workload.rows:
            values = results.get((label(workload), row.metric, HERE))
            median = statistics.median(values) if values else 0
            if row.metric in ("per_second", "memory_bytes") and median > 0:
                cost = 1e6 / median if row.more_is_better else median
                costs.setdefault((workload.name, row.metric), {})[workload.size] = cost
    return {line: by_size for line, by_size in costs.items() if len(by_size) > 1}


def _rows(results: Results) -> Iterator[tuple[Workload, Row]]:
    for workload in WORKLOADS:
        for row in workload.rows:
            if (label(workload), row.metric, HERE) in results:
                yield workload, row


def cell(values: list[float] | None) -> str:
    """Return the median with its spread; nothing without values."""
    if not values:
        return ""
    median = statistics.median(values)
    spread = 100 * (max(values) - min(values)) / 2 / median if median else 0
    return f"{number(median)} ±{spread:.0f} %"


def number(value: float) -> str:
    """Return a number with three digits, or without a fraction."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _verdict(results: Results, workload: Workload, row: Row, target: Target) -> str:
    found = ratio(results, workload, row, target)
    if found is None:
        return ""
    over = f"{TITLES[target.over]} {target.metric.rpartition('.')[0]}".strip()
    mark = "reached" if found >= target.ratio else "**not reached**"
    return f"{found:.2f} over {over}: {target.ratio:.2g}, {mark}"


def _bound(values: list[float], at_most: float | None) -> str:
    if at_most is None:
        return ""
    return f"at most {number(at_most)}: {'reached' if statistics.median(values) <= at_most else '**not reached**'}"


def machine() -> str:
    """Describe what the figures of this run depend on."""
    python = f"Python {platform.python_version()}, the base classes of Durus in {implementation}, {_loop()}"
    return f"{python}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores."


def _loop() -> str:
    """Tell on which event loop the servers of this Durus run."""
    try:
        return f"its servers on uvloop {importlib.metadata.version('uvloop')}"
    except importlib.metadata.PackageNotFoundError:
        return "its servers on asyncio, because durus[fast] is not installed"

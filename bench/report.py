"""The table of medians and ratios."""

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
the time that the disk or the rest of the machine takes.

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
        cells = [_cell(results.get((label(workload), row.metric, driver))) for driver in drivers]
        verdicts = [_verdict(results, workload, row, target) for target in row.targets]
        verdicts.append(_bound(results[label(workload), row.metric, HERE], row.at_most))
        told = "<br>".join(verdict for verdict in verdicts if verdict)
        lines.append(f"| {row.title} | {row.unit} | {workload.durability} | {' | '.join(cells)} | {told} |")
    note = "" if scale == 1 else f"\nAll sizes are multiplied by {scale:g}.\n"
    return "\n".join(lines) + "\n" + note


def write(path: Path, text: str, results: Results) -> None:
    """Write the heading and the table, and keep the notes that follow the table in the file."""
    before = path.read_text() if path.exists() else ""
    _, found, notes = before.partition("\n## ")
    rounds = max(len(values) for values in results.values())
    head = _NOTES.lstrip().format(rounds=rounds, machine=_machine())
    path.write_text(head + text + (found + notes if found else ""))


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


def _rows(results: Results) -> Iterator[tuple[Workload, Row]]:
    for workload in WORKLOADS:
        for row in workload.rows:
            if (label(workload), row.metric, HERE) in results:
                yield workload, row


def _cell(values: list[float] | None) -> str:
    if not values:
        return ""
    median = statistics.median(values)
    spread = 100 * (max(values) - min(values)) / 2 / median if median else 0
    return f"{_number(median)} ±{spread:.0f} %"


def _number(value: float) -> str:
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
    return f"at most {_number(at_most)}: {'reached' if statistics.median(values) <= at_most else '**not reached**'}"


def _machine() -> str:
    python = f"Python {platform.python_version()}, the base classes of Durus in {implementation}"
    return f"{python}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores."

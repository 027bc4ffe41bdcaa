"""The plots: of the ratios, and of how cost grows with the number of objects."""

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot
from matplotlib.axes import Axes

from bench.plan import DURUS_4, GROWTH, TITLES, WORKLOADS, ZODB, Target
from bench.report import Results, growth, ratio


def write(path: Path, results: Results) -> None:
    """Draw how many times faster, or smaller, this Durus is than each of two peers."""
    titles = []
    ratios: dict[str, list[float]] = {DURUS_4: [], ZODB: []}
    for workload in WORKLOADS:
        for row in workload.rows:
            found = {peer: ratio(results, workload, row, Target(1, peer)) for peer in ratios}
            if any(found.values()):
                titles.append(row.title)
                for peer, value in found.items():
                    ratios[peer].append(value or 1)

    def draw(axes: Axes) -> None:
        for shift, (peer, values) in zip((-0.2, 0.2), ratios.items(), strict=True):
            places = [place + shift for place in range(len(titles))]
            axes.barh(places, [value - 1 for value in values], height=0.38, left=1, label=f"over {TITLES[peer]}")
        axes.set_xscale("log")
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set_yticks(range(len(titles)), titles)
        axes.invert_yaxis()
        axes.set_xlabel("times faster, or smaller, than the peer (logarithmic)")

    _save(path, 0.36 * len(titles) + 1, draw)


def write_growth(path: Path, results: Results) -> None:
    """Draw what an object costs in databases of several sizes."""

    def draw(axes: Axes) -> None:
        for (name, metric), cost in growth(results).items():
            title = f"{name}: {'µs' if metric == 'per_second' else 'bytes of memory'}"
            axes.plot(list(cost), list(cost.values()), marker="o", label=title, linestyle=_STYLES[metric])
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(GROWTH, [f"{count:,}" for count in GROWTH])
        axes.set_xlabel("objects in the database")
        axes.set_ylabel("for each object (logarithmic)")

    _save(path, 5, draw)


_STYLES = {"per_second": "-", "memory_bytes": "--"}
"""Of the lines, by metric."""


def _save(path: Path, height: float, draw: Callable[[Axes], None]) -> None:
    mpl.rcParams["svg.hashsalt"] = "durus"
    mpl.rcParams["svg.fonttype"] = "none"  # text as text, not as outlines
    figure, axes = pyplot.subplots(figsize=(9, height))
    draw(axes)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})

"""The plot of the ratios."""

from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot

from bench.plan import DURUS_4, TITLES, WORKLOADS, ZODB, Target
from bench.report import Results, ratio


def write(path: Path, results: Results) -> None:
    """Draw how many times faster, or smaller, this Durus is than each of two peers."""
    mpl.rcParams["svg.hashsalt"] = "durus"
    mpl.rcParams["svg.fonttype"] = "none"  # text as text, not as outlines
    titles = []
    ratios: dict[str, list[float]] = {DURUS_4: [], ZODB: []}
    for workload in WORKLOADS:
        for row in workload.rows:
            found = {peer: ratio(results, workload, row, Target(1, peer)) for peer in ratios}
            if any(found.values()):
                titles.append(row.title)
                for peer, value in found.items():
                    ratios[peer].append(value or 1)
    figure, axes = pyplot.subplots(figsize=(9, 0.36 * len(titles) + 1))
    for shift, (peer, values) in zip((-0.2, 0.2), ratios.items(), strict=True):
        places = [place + shift for place in range(len(titles))]
        axes.barh(places, [value - 1 for value in values], height=0.38, left=1, label=f"over {TITLES[peer]}")
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(titles)), titles)
    axes.invert_yaxis()
    axes.set_xlabel("times faster, or smaller, than the peer (logarithmic)")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})

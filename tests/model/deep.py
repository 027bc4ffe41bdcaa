"""Runs that last for a given time, with new seeds all the time: `python -m tests.model.deep crash --seconds 600`.

    python -m tests.model.deep crash --seed 17      one seed, to see a violation again
    python -m tests.model.deep all --seconds 1800   all runs, one after the other, each for its share of the time

A run is a function that takes a seed, does what the seed determines, and returns figures; it raises if a promise is
broken. To add one, put it into RUNS.
"""

import argparse
import os
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from tests.fuzz import __main__ as fuzz
from tests.model import beside, crashes, faults, flips, hostile_peers, interruptions, misuse, nemesis, small_scope

Run = Callable[[int], Counter[str]]
"""Takes a seed and returns figures, by name; any exception is a violation."""

RUNS: Mapping[str, Run] = {
    "crash": crashes.run,
    "fault": faults.run,
    "nemesis": lambda seed: nemesis.run(5, seed).sound(),
    "threads": lambda seed: nemesis.run_threads(2, seed).sound(),
    "interrupts": interruptions.run,
    "misuse": misuse.run,
    "interleavings": lambda seed: small_scope.run(seed).sound(),
    "backup": beside.run_backup,
    "follow": beside.run_follow,
    "flips": flips.run,
    "hostile": lambda seed: hostile_peers.run(2000, seed).sound(),
    "fuzz": lambda seed: fuzz.run(2, seed).sound(),
}


def main(arguments: Sequence[str] | None = None, runs: Mapping[str, Run] = RUNS) -> int:
    """Run what the arguments say; return 1 if there was a violation, otherwise 0."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.model.deep", description="Runs that continue for a set time."
    )
    parser.add_argument("run", choices=[*runs, "all"])
    parser.add_argument("--seconds", type=float, help="how long; DURUS_DEEP_SECONDS or 1800 if not given")
    parser.add_argument("--seed", type=int, help="the first seed, and with no --seconds the only one")
    options = parser.parse_args(arguments)
    names = list(runs) if options.run == "all" else [options.run]
    seconds = options.seconds
    if seconds is None and options.seed is None:
        seconds = float(os.environ.get("DURUS_DEEP_SECONDS", "1800"))
    seed = random.SystemRandom().randrange(1 << 30) if options.seed is None else options.seed
    outcomes = [_run(name, runs[name], seed, None if seconds is None else seconds / len(names)) for name in names]
    return 0 if all(outcomes) else 1


def _run(name: str, run: Run, first: int, seconds: float | None) -> bool:
    """Run one seed after the other until the time is over; print figures, and return whether there was no violation."""
    start = time.monotonic()
    figures: Counter[str] = Counter()
    seed = first
    is_sound = True
    while seed == first or (seconds is not None and time.monotonic() - start < seconds):
        try:
            figures += run(seed)
        except Exception:
            traceback.print_exc()
            print(f"to see it again: python -m tests.model.deep {name} --seed {seed}", file=sys.stderr)
            is_sound = False
            break
        seed += 1
    told = ", ".join(f"{number:,} {what}" for what, number in figures.items())
    seeds = f"seeds {first} to {seed - 1}" if is_sound else f"seeds from {first}"
    verdict = "no violation" if is_sound else f"VIOLATION with seed {seed}"
    print(f"{name}: {told}; {seeds} in {time.monotonic() - start:.0f} s: {verdict}", flush=True)
    return is_sound


if __name__ == "__main__":
    sys.exit(main())

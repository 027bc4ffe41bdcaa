"""Feed the readers with mutated bytes for a set time, without any tool beyond the standard library.

    python -m tests.fuzz --seconds N --seed S [TARGET ...]

A violation is kept in tests/corpus/TARGET, and printed.
"""

import argparse
import faulthandler
import hashlib
import random
import resource
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz.mutations import an_input
from tests.fuzz.targets import TARGETS
from tests.model.nemesis import Figures

CORPUS = Path(__file__).parent.parent / "corpus"
SLOWEST = 20
"""Seconds after which an input has no end, and the process is ended with a traceback."""
MAX_MEMORY = 512 << 20
"""Bytes that one input may make the process grow by: none is longer than a few thousand."""


def corpus_of(target: str) -> list[bytes]:
    """Return the inputs that are kept for a target."""
    return [path.read_bytes() for path in sorted((CORPUS / target).glob("*"))]


def run(seconds: float, seed: int, targets: Sequence[str] = tuple(TARGETS)) -> Figures:
    """Try inputs on the targets in turn for so long; return how many there were, and what went wrong."""
    chance = random.Random(seed)
    figures = Figures(Counter())
    corpora = {target: corpus_of(target) for target in targets}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for target in targets:
            for _ in range(20):
                attempt(target, an_input(target, chance, corpora[target]), figures)
    return figures


def attempt(target: str, data: bytes, figures: Figures) -> None:
    figures.counts["inputs fuzzed"] += 1
    figures.counts["bytes fuzzed"] += len(data)
    faulthandler.dump_traceback_later(SLOWEST, exit=True)
    before = _most_memory()
    try:
        TARGETS[target](data)
        if _most_memory() - before > MAX_MEMORY:
            raise MemoryError(f"more than {MAX_MEMORY} bytes were taken")
    except Exception:
        name = hashlib.sha256(data).hexdigest()[:16]
        figures.violations.append(f"{target}/{name}: {data!r}\n{traceback.format_exc()}")
        (CORPUS / target).mkdir(parents=True, exist_ok=True)
        (CORPUS / target / name).write_bytes(data)
    finally:
        faulthandler.cancel_dump_traceback_later()


def _most_memory() -> int:
    """Return the most bytes that this process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", choices=[[], *TARGETS], help="which readers (default: all)")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    figures = run(options.seconds, options.seed, options.targets or tuple(TARGETS))
    print(figures)
    return 1 if figures.violations else 0


if __name__ == "__main__":
    sys.exit(main())

"""Fuzz readers with atheris, which lets the branches that an input takes guide the next.

    python -m tests.fuzz.with_atheris TARGET|all [-max_total_time=N ...]

Options are libFuzzer's, for each target. It begins with the inputs in tests/corpus/TARGET; what fails is kept there.
"""

import importlib.util
import random
import subprocess
import sys
import tempfile
from pathlib import Path

SEEDS = 200
_CHILD = "child"


def main(arguments: list[str]) -> int:
    if importlib.util.find_spec("atheris") is None:
        print("skipped: atheris is not installed, and has no package for this Python or system (see the extra `fuzz`)")
        return 0
    if arguments[0] == _CHILD:
        fuzz(arguments[1], arguments[2:])
        return 0
    from tests.fuzz.targets import TARGETS

    target, *options = arguments
    return max([start(name, options) for name in TARGETS if target in (name, "all")])


def start(target: str, options: list[str]) -> int:
    """Fuzz a target in a process of its own, which libFuzzer ends; return its status."""
    from tests.fuzz.__main__ import CORPUS, SLOWEST, corpus_of
    from tests.fuzz.mutations import SOUND

    print(f"fuzzing {target}", flush=True)
    (CORPUS / target).mkdir(parents=True, exist_ok=True)
    chance = random.Random(1)
    with tempfile.TemporaryDirectory(prefix="durus-fuzz-") as grown:
        for n, data in enumerate([*corpus_of(target), *(SOUND[target](chance) for _ in range(SEEDS))]):
            Path(grown, f"seed{n}").write_bytes(data)
        limits = [f"-artifact_prefix={CORPUS / target}/", f"-timeout={SLOWEST}", "-rss_limit_mb=1024", "-max_len=20000"]
        command = [sys.executable, "-m", "tests.fuzz.with_atheris", _CHILD, target, *limits, *options, grown]
        return subprocess.run(command, check=False).returncode


def fuzz(target: str, arguments: list[str]) -> None:
    import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore]  # it has no types, and may not be there

    with atheris.instrument_imports(include=["durus"]):  # so nothing of it may be imported before
        from tests.fuzz.targets import TARGETS

    atheris.Setup([sys.argv[0], *arguments], TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

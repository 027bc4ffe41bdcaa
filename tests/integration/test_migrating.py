"""The programs in docs/migrating.md run and print what their comments say."""

import pickle
import re
import shelve
import subprocess
import sys
from pathlib import Path

import pytest

TEXT = (Path(__file__).resolve().parent.parent.parent / "docs" / "migrating.md").read_text(encoding="utf-8")
FROM_SHELVE, FROM_PICKLE = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def fill_shelf(folder: Path) -> None:
    with shelve.open(str(folder / "my.shelve")) as shelf:
        for key in ("a", "größe", "c"):
            shelf[key] = [key, {"n": 1}]


def fill_pickle(folder: Path) -> None:
    (folder / "my.pickle").write_bytes(pickle.dumps({"names": ["Ann"], "year": 2026}))


@pytest.mark.parametrize(("fill", "program"), [(fill_shelf, FROM_SHELVE), (fill_pickle, FROM_PICKLE)])
def test_a_program_prints_what_it_says(tmp_path: Path, fill: object, program: str) -> None:
    assert callable(fill)
    fill(tmp_path)
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.stderr == ""
    said = re.search(r"print\(.*\)  # (.*)", program)
    assert said is not None
    assert result.stdout == said[1] + "\n"
    assert (tmp_path / "my.durus").exists()

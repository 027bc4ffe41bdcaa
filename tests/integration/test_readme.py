"""The programs in README.md run, each alone, print what their comments say, and pass mypy --strict."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.serving import serving
from tests.unit.test_type_checkers import mypy_reports

README = Path(__file__).resolve().parent.parent.parent / "README.md"
PROGRAM, MANY_USERS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def run(program: str, folder: Path) -> str:
    """Run a program; return what it prints."""
    (folder / "program.py").write_text(program, encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "program.py"], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.stderr, result.returncode) == ("", 0)
    return result.stdout


def test_the_first_program_prints_what_it_says_each_time(tmp_path: Path) -> None:
    printed = "".join(f"{line}\n" for line in re.findall(r"^# (.*)", PROGRAM, re.MULTILINE))
    assert run(PROGRAM, tmp_path) == run(PROGRAM, tmp_path) == printed == "Ann knows Ben\nBen knows Ann\n"


def test_the_program_for_many_users_counts_on(tmp_path: Path) -> None:
    with serving("--file", "f", folder=tmp_path) as server:
        program = MANY_USERS.replace("durus://localhost", f"durus://127.0.0.1:{server.port}")
        assert program != MANY_USERS
        assert run(program, tmp_path) == "1\n"
        assert run(program, tmp_path) == "2\n"


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed: the extra `dev` has it")
@pytest.mark.parametrize("program", [PROGRAM, MANY_USERS], ids=["program", "many users"])
def test_programs_pass_strict_type_checks(program: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(program, encoding="utf-8")
    assert mypy_reports(tmp_path / "program.py", tmp_path) == set()

"""What mypy and pyright find in programs that use this package. Statements OBJ-90 and OBJ-91."""

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import durus
from tests.unit import typing_accepted

FOLDER = Path(__file__).resolve().parent
ACCEPTED = FOLDER / "typing_accepted.py"
REPORTED = FOLDER / "typing_reported.py"
INSTALLED = Path(durus.__file__).resolve().parent.parent


def run(*command: str, cwd: Path) -> str:
    result = subprocess.run(
        [sys.executable, "-m", *command], cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode in (0, 1), result.stdout + result.stderr
    return result.stdout


def mypy_reports(path: Path, folder: Path) -> set[int]:
    config = folder / "mypy.ini"
    # Where it is not installed, but is in the work tree, mypy does not find it on its own.
    search = "" if INSTALLED.name == "site-packages" else f"mypy_path = {INSTALLED}\n"
    config.write_text(f"[mypy]\nstrict = true\nfollow_imports = silent\ncache_dir = {folder / 'cache'}\n{search}")
    said = run("mypy", "--config-file", str(config), "--no-error-summary", path.name, cwd=path.parent)
    assert all(line.startswith(path.name) for line in said.splitlines()), said
    return {int(found[1]) for found in re.finditer(rf"^{path.name}:(\d+): error:", said, re.MULTILINE)}


def pyright_reports(path: Path, folder: Path) -> set[int]:
    settings = {
        "typeCheckingMode": "strict",
        "reportPrivateUsage": False,  # applications may call _p_note_change()
        "reportUnusedExpression": False,
        "include": [str(path)],
        "extraPaths": [str(INSTALLED)],
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    said = run("basedpyright", "--outputjson", "-p", str(folder), "--pythonpath", sys.executable, cwd=folder)
    report = json.loads(said)
    assert report["summary"]["filesAnalyzed"] == 1
    return {each["range"]["start"]["line"] + 1 for each in report["generalDiagnostics"] if each["severity"] == "error"}


def checker(module: str, reports: Callable[[Path, Path], set[int]]) -> object:
    is_there = importlib.util.find_spec(module) is not None
    reason = f"{module} is not installed: the extra `dev` has it"
    return pytest.param(reports, id=module, marks=pytest.mark.skipif(not is_there, reason=reason))


checkers = pytest.mark.parametrize("reports", [checker("mypy", mypy_reports), checker("basedpyright", pyright_reports)])


@checkers
@pytest.mark.spec("OBJ-90", "OBJ-91")
def test_right_programs_are_not_reported(reports: Callable[[Path, Path], set[int]], tmp_path: Path) -> None:
    assert reports(ACCEPTED, tmp_path) == set()


@checkers
@pytest.mark.spec("OBJ-90", "OBJ-91")
def test_each_wrong_line_is_reported(reports: Callable[[Path, Path], set[int]], tmp_path: Path) -> None:
    lines = REPORTED.read_text(encoding="utf-8").splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    assert reports(REPORTED, tmp_path) == wrong


def test_right_programs_run() -> None:
    typing_accepted.use_attributes()
    typing_accepted.use_collections()


@pytest.mark.spec("OBJ-90")
def test_the_marker_of_typed_packages_is_shipped() -> None:
    assert (Path(durus.__file__).parent / "py.typed").is_file()

"""The programs in README.md run and print what their comments say."""

import re
import subprocess
import sys
from pathlib import Path

from durus.sharing.address import wait_for_server

README = Path(__file__).resolve().parent.parent.parent / "README.md"


TEXT = README.read_text(encoding="utf-8")
ONE_PROCESS, GOES_ON, MANY_PROCESSES, THREADS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def run(program: str, folder: Path) -> str:
    """Run a program; return what it prints."""
    (folder / "program.py").write_text(program, encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "program.py"], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.stderr, result.returncode) == ("", 0)
    return result.stdout


def test_the_program_for_one_process_prints_what_it_says(tmp_path: Path) -> None:
    assert run(ONE_PROCESS, tmp_path) == "Ann\n"
    assert (tmp_path / "people.durus").exists()


def test_the_program_goes_on_with_a_btree(tmp_path: Path) -> None:
    assert run(ONE_PROCESS + GOES_ON, tmp_path) == "Ann\n['Ann']\n['Ann', 'Ben']\n"


def test_the_program_for_many_processes_prints_what_it_says(tmp_path: Path) -> None:
    server = subprocess.Popen(
        [sys.executable, "-m", "durus", "-s", "--address", "socket"], cwd=tmp_path, stderr=subprocess.DEVNULL
    )
    try:
        wait_for_server(address=str(tmp_path / "socket"), maxtries=300, sleeptime=0.1)
        program = MANY_PROCESSES.replace("ClientStorage()", 'ClientStorage(address="socket")')
        assert run(program, tmp_path) == "1\n"
        assert run(program, tmp_path) == "2\n"
    finally:
        server.terminate()
        assert server.wait(60) == 0


def test_the_program_for_threads_runs(tmp_path: Path) -> None:
    assert run(THREADS, tmp_path) == ""

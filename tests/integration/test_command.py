"""The durus command, as a process."""

import subprocess
import sys
from pathlib import Path


def durus(*arguments: str, cwd: Path, typed: str = "") -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "durus", *arguments]
    return subprocess.run(command, cwd=cwd, input=typed, capture_output=True, text=True, timeout=60, check=False)


def test_what_one_client_commits_the_next_one_finds(tmp_path: Path) -> None:
    durus("-c", "--file", "f", cwd=tmp_path, typed="root['x'] = 5\nconnection.commit()\nroot['x'] = 6\n")
    assert durus("-p", "--file", "f", cwd=tmp_path).returncode == 0
    assert "5" in durus("-c", "--file", "f", "--readonly", cwd=tmp_path, typed="root['x']\n").stdout


def test_a_bad_file_ends_the_command_with_one_message(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("this is a text file and no database")
    result = durus("-c", "--file", "f", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("durus: ")
    assert "not a Durus file" in result.stderr

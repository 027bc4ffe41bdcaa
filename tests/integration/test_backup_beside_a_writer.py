"""Backups of a file that another process writes and packs, and the command that follows a file."""

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import durus
from durus.backup import back_up, restore, verify
from durus.connection import Connection
from durus.file_storage import FileStorage

COMMITS = int(os.environ.get("DURUS_BACKUP_COMMITS", "300"))
WRITER = """
import sys
from datetime import UTC, datetime, timedelta

from durus.connection import Connection
from durus.file_storage import FileStorage

number = 0


def clock():
    return (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number)).isoformat(timespec="microseconds")[:26] + "Z"


storage = FileStorage(sys.argv[1], clock=clock)
connection = Connection(storage)
root = connection.get_root()
packer = None
for number in range(1, int(sys.argv[2]) + 1):
    root["number"] = number
    root["text"] = "x" * (number * 7919 % 5000)
    connection.commit()
    if number == 1:
        print("begun", flush=True)
    if number % 50 == 0:
        packer = storage.get_packer()
    if packer is not None and next(packer, None) is None:
        packer = None
storage.close()
"""
"""Its clock advances by a second with each commit, so the time of a state tells its number."""
START = datetime(2026, 1, 1, tzinfo=UTC)
SECONDS = 60


def number_in(path: Path) -> int:
    storage = FileStorage(path, readonly=True)
    root: Any = Connection(storage).get_root()
    number: int = root["number"]
    storage.close()
    return number


@pytest.mark.spec("BACKUP-10", "BACKUP-11", "BACKUP-14", "BACKUP-30")
def test_every_moment_that_was_backed_up_beside_a_writer_is_the_state_of_its_commit(tmp_path: Path) -> None:
    path, target = tmp_path / "f.durus", tmp_path / "backup"
    command = [sys.executable, "-c", WRITER, str(path), str(COMMITS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "begun\n"
        backups = 0
        while writer.poll() is None:
            back_up(path, target)
            backups += 1
    assert writer.returncode == 0
    assert back_up(path, target).generation > 1
    assert backups > 3
    generations = verify(target)
    assert [problem for each in generations for problem in each.problems] == []
    step = max(COMMITS // 60, 1)
    seen = set()
    for number in range(COMMITS, 0, -step):
        restored = tmp_path / f"restored-{number}"
        done = restore(target, restored, at=START + timedelta(seconds=number))
        found = number_in(restored)
        assert found == (datetime.fromisoformat(done.time) - START).total_seconds()
        assert found <= number
        seen.add(found)
        restored.unlink()
    assert number_in_newest(target, tmp_path) == COMMITS
    assert len(seen) > 3


def number_in_newest(target: Path, folder: Path) -> int:
    restore(target, folder / "newest")
    return number_in(folder / "newest")


@pytest.mark.spec("BACKUP-21")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_following_command_backs_up_each_commit_until_it_is_told_to_end(tmp_path: Path, number: int) -> None:
    path, target = tmp_path / "f.durus", tmp_path / "backup"
    with durus.open(str(path)) as db:
        with db.transaction() as root:
            root["number"] = 1
        command = [sys.executable, "-m", "durus", "backup", "--follow", str(path), str(target)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as following:
            assert following.stdout is not None
            assert "backing up to" in following.stdout.readline()
            assert "in generation 1" in following.stdout.readline()
            with db.transaction() as root:
                root["number"] = 2
            assert "added to generation 1" in following.stdout.readline()
            following.send_signal(number)
            assert following.wait(SECONDS) == 0
    assert number_in_newest(target, tmp_path) == 2

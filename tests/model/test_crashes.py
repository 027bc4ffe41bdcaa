"""Crashes and faults of the disk at every operation of short histories, and at some of longer ones.

spec/testing.md says what is promised, and how much of it a run tries. Longer runs: python -m tests.model.deep.
"""

import random
from pathlib import Path

import pytest

from durus.connection import Connection
from durus.error import FormatError
from durus.files.shelf import shelf
from durus.storage import MemoryStorage
from durus.tools.convert import copy_to_file
from tests.model import crashes, faults
from tests.model.histories import (
    BEGINNINGS,
    EMPTY,
    PATH,
    ROOT,
    SCRIPTS,
    Beginning,
    History,
    Item,
    begin,
    read_storage,
    small_steps,
)
from tests.model.simulated_files import OLDEST, Disk, Operation, no_fault, outcomes


@pytest.mark.spec(
    "TXN-5", "SHELF-3", "SHELF-18", "SHELF-22", "SHELF-24", "SHELF-26", "SHELF-28", "SHELF-36", "SHELF-39"
)
@pytest.mark.parametrize("script", SCRIPTS)
def test_crash_at_any_operation_leaves_a_state_between_acknowledged_and_attempted(script: str) -> None:
    figures = crashes.crash_everywhere(script, seed=1, most=6)
    assert figures["crashes"] > 40
    assert figures["repairs"] > 0


@pytest.mark.spec("SHELF-18", "SHELF-20")
def test_crash_or_fault_between_the_pieces_of_a_commit_leaves_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "LARGE_RECORD", 1)
    assert crashes.crash_everywhere("create", seed=1, most=6)["crashes"] > 40
    assert faults.fail_everywhere("create", seed=1, share=0.1)["faults"] > 4


@pytest.mark.spec("TXN-5", "SHELF-18", "SHELF-35", "SHELF-36")
@pytest.mark.parametrize("seed", range(3))
def test_crash_at_some_operations_of_a_longer_history(seed: int) -> None:
    assert crashes.crash_by_chance(seed, length=8)["crashes"] > 20


@pytest.mark.spec("TXN-6", "TXN-9", "SHELF-20", "SHELF-22", "SHELF-36")
@pytest.mark.parametrize("script", SCRIPTS)
def test_fault_at_any_operation_is_reported_and_loses_nothing(script: str) -> None:
    assert faults.fail_everywhere(script, seed=1, share=0.1)["faults"] > 4


@pytest.mark.spec("SHELF-18", "SHELF-22")
@pytest.mark.parametrize("script", SCRIPTS)
def test_killing_the_process_loses_nothing_acknowledged_without_any_sync(script: str) -> None:
    assert faults.kill_everywhere(script, seed=1)["kills"] > 10


@pytest.mark.parametrize("seed", range(2))
def test_one_seed_is_one_run(seed: int) -> None:
    assert crashes.crash_by_chance(seed, length=3) == crashes.crash_by_chance(seed, length=3)


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_state_that_a_history_begins_with_is_what_the_file_shows(beginning: Beginning) -> None:
    disk = Disk()
    state = begin(disk, beginning)
    with small_steps():
        history = History(disk, random.Random(0), state, is_shared=False)
        history.open()
        assert history.storage is not None
        assert read_storage(history.storage) == state
        history.close()


def recover(disk: Disk, *texts: bytes) -> None:
    """Recover a file from a crash that may have left the root with one of these texts."""
    states = [{ROOT: Item(text, ())} if text else EMPTY for text in texts]
    with small_steps():
        crashes.recover(disk, states, True, random.Random(0), 1)


@pytest.fixture
def disk() -> Disk:
    """Return a disk with a database whose root holds `now`."""
    disk = Disk()
    with small_steps():
        history = History(disk, random.Random(0), EMPTY, is_shared=False)
        root = history.opened().get_root()
        root["text"], root["links"] = b"now", []
        history.opened().commit()
        history.close()
    return disk


def test_recovery_takes_each_state_that_is_allowed(disk: Disk) -> None:
    recover(disk.after_kill(), b"before", b"now")
    recover(disk.after_kill(), b"now", b"after")


@pytest.mark.parametrize("texts", [(b"",), (b"before",), (b"later", b"latest")])
def test_recovery_tells_of_another_state(disk: Disk, texts: tuple[bytes, ...]) -> None:
    with pytest.raises(crashes.Violation, match="the state is"):
        recover(disk, *texts)


def test_recovery_tells_of_a_file_that_is_gone(disk: Disk) -> None:
    disk.process().remove(PATH)
    with pytest.raises(crashes.Violation, match="no file"):
        recover(disk, b"now")


def test_recovery_tells_of_what_the_check_finds(disk: Disk) -> None:
    dangling = b"\x80\x02cdurus.persistent\nPersistent\n.\x80\x02}."
    entry = bytes(7) + b"\x09" + len(dangling).to_bytes(4, "big") + dangling + (77).to_bytes(8, "big")
    entry = (8 + 8 + len(entry) - 8).to_bytes(8, "big") + bytes(7) + b"\x09" + entry
    disk.put(PATH, disk.contents()[PATH] + len(entry).to_bytes(8, "big") + entry)
    with pytest.raises(crashes.Violation, match="the check finds"):
        recover(disk, b"now")


def test_noise_in_place_of_a_database_that_was_never_opened_may_be_removed() -> None:
    disk = Disk()
    disk.put(PATH, b"whatever stood on this disk before")
    with small_steps():
        crashes.recover(disk.after_kill(), [EMPTY], False, random.Random(0), 1)
        with pytest.raises(FormatError):
            crashes.recover(disk.after_kill(), [EMPTY], True, random.Random(0), 1)


@pytest.mark.spec("OBJ-44")
def test_copy_of_a_database_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    source = MemoryStorage()
    with Connection(source) as connection:
        connection.get_root()["text"] = random.Random(0).randbytes(3000)
        connection.commit()
    path = str(tmp_path / "copy")
    disk = Disk()
    found: set[bytes] = set()

    def crash(operation: Operation) -> None:
        for after in outcomes(disk, 50, random.Random(operation.number)):
            found.add(after.contents().get(path, b""))

    disk.observer = crash
    with small_steps():
        for _ in copy_to_file(source, path, file_system=disk.process()):
            pass
    disk.observer = no_fault
    assert found == {b"", disk.contents()[path]}
    assert disk.after_crash(OLDEST).contents() == {path: disk.contents()[path]}

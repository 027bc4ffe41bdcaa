"""Backups of real files: what a folder holds, what is refused, what is restored, and the commands. spec/backup.md."""

import errno
import hashlib
import json
import os
import re
import stat
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

import durus
from durus.backup import back_up, follow, restore, verify
from durus.backups.back_up import MERGED_SIZE
from durus.backups.folder import FolderTarget
from durus.backups.manifest import SEGMENT_NAME, Manifest, Segment, pack_manifest, parse_manifest
from durus.cli.main import main
from durus.connection import Connection
from durus.error import (
    AlreadyExistsError,
    ArgumentError,
    BackupError,
    DamageError,
    DurusError,
    FileError,
    FormatError,
    NothingToBackUpError,
)
from durus.file_storage import FileStorage
from durus.file_storage2 import FileStorage2
from durus.files.file import OperatingSystem, ReadableFile
from durus.files.moment import seal_time
from durus.sqlite_storage import SqliteStorage
from durus.storage import Storage
from tests.model.histories import ROOT, UNSEALED_EMPTY_FILE, Item, unsealed_transaction
from tests.mounting import Disk

ONE_OF_4_3 = unsealed_transaction({ROOT: 0}, {ROOT: Item(b"of 4.3", ())})


class Database:
    """A database in a folder, open for writing, and the folder of its backup."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "f.durus"
        self.target = folder / "backup"
        self.time = datetime(2026, 1, 2, tzinfo=UTC)
        self.storage = FileStorage(self.path, clock=lambda: seal_time(self.time))

    def commit(self, value: object) -> str:
        """Commit a value, a minute later; return the time."""
        self.time += timedelta(minutes=1)
        connection = Connection(self.storage)
        root: Any = connection.get_root()
        root["value"] = value
        connection.commit()
        return seal_time(self.time)

    def restored(self, at: str | datetime | None = None) -> object:
        """Return the value in a restored file."""
        path = self.folder / "restored.durus"
        restore(self.target, path, at=at)
        storage = FileStorage(path, readonly=True)
        root: Any = Connection(storage).get_root()
        value: object = root["value"]
        storage.close()
        path.unlink()
        return value

    def segments(self) -> list[str]:
        return sorted(name for name in os.listdir(self.target) if SEGMENT_NAME.fullmatch(name))

    def manifest(self) -> Manifest:
        return parse_manifest((self.target / "manifest").read_bytes(), "manifest")


@pytest.fixture
def database(tmp_path: Path) -> Any:
    database = Database(tmp_path)
    yield database
    database.storage.close()


# The folder


@pytest.mark.spec("BACKUP-1", "BACKUP-2", "BACKUP-3", "BACKUP-4")
def test_segments_one_after_the_other_are_the_file_and_the_manifest_says_what_they_are(database: Database) -> None:
    database.commit("a" * 5000)
    back_up(database.path, database.target)
    time = database.commit("b")
    back_up(database.path, database.target)
    whole = database.path.read_bytes()
    line, digest, end = (database.target / "manifest").read_bytes().split(b"\n")
    assert (hashlib.sha256(line + b"\n").hexdigest(), end) == (digest.decode(), b"")
    values = json.loads(line)
    assert values["format"] == "durus-backup-1"
    (generation,) = values["generations"]
    assert (generation["number"], generation["branched_at"]) == (1, 0)
    first, second = generation["segments"]
    data = [(database.target / each["name"]).read_bytes() for each in (first, second)]
    assert b"".join(data) == whole
    assert [first["start"], second["start"]] == [0, len(data[0])]
    assert [each["size"] for each in (first, second)] == [len(each) for each in data]
    assert [each["sha256"] for each in (first, second)] == [hashlib.sha256(each).hexdigest() for each in data]
    assert second["earliest"] == time
    assert second["seal"] == whole[-132 + 77 : -2].decode()
    head = generation["first_seal"]
    assert whole[int(head[:16], 16) + 77 :].startswith(head.encode())
    name = head.split()[1].replace("-", "").replace(":", "") + "-" + head.split()[2]
    checksum = second["seal"].split()[2]
    assert second["name"] == f"{name}.{len(data[0]):016x}-{len(whole):016x}-{checksum}.segment"
    assert set(os.listdir(database.target)) == {"manifest", "lock", first["name"], second["name"]}


@pytest.mark.spec("BACKUP-20", "BACKUP-33")
def test_only_the_owner_may_read_a_backup_and_what_is_restored(database: Database) -> None:
    database.commit(1)
    old = os.umask(0)
    try:
        back_up(database.path, database.target)
        restore(database.target, database.folder / "restored")
    finally:
        os.umask(old)
    assert stat.S_IMODE(database.target.stat().st_mode) == 0o700
    for path in [*database.target.iterdir(), database.folder / "restored"]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


@pytest.mark.spec("BACKUP-5")
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda values: values.pop("generations"), "'generations' is missing"),
        (lambda values: values.update(generations={}), "'generations' is not a list"),
        (lambda values: values["generations"].append(1), "'segments' is missing"),
        (lambda values: values["generations"].append(values["generations"][0]), r"have the numbers \[1, 1\]"),
        (lambda values: values["generations"][0].update(number=True), "'number' is not a number"),
        (lambda values: values["generations"][0].update(number=-1), "'number' is not a number"),
        (lambda values: values["generations"][0].update(segments=[]), "a generation lacks segments"),
        (lambda values: values["generations"][0].update(branched_at=10**9), "a generation lacks segments"),
        (lambda values: values["generations"][0].update(first_seal="x"), "'first_seal' is 'x', which is not a seal"),
        (lambda values: values["generations"][0]["segments"][0].update(name="../../f"), "a segment has the name"),
        (lambda values: values["generations"][0]["segments"][0].update(name=1), "'name' is not a text"),
        (lambda values: values["generations"][0]["segments"][0].update(start=1), "does not follow"),
        (lambda values: values["generations"][0]["segments"][0].update(size=1), "does not follow"),
    ],
)
def test_manifest_that_does_not_keep_the_rules_is_refused(
    database: Database, change: Callable[[Any], object], problem: str
) -> None:
    database.commit(1)
    back_up(database.path, database.target)
    values = json.loads((database.target / "manifest").read_bytes().split(b"\n")[0])
    change(values)
    line = json.dumps(values).encode() + b"\n"
    (database.target / "manifest").write_bytes(line + hashlib.sha256(line).hexdigest().encode() + b"\n")
    for call in (
        lambda: verify(database.target),
        lambda: back_up(database.path, database.target),
        lambda: restore(database.target, database.folder / "restored"),
    ):
        with pytest.raises(DamageError, match=problem):
            call()


@pytest.mark.spec("BACKUP-5")
def test_manifest_of_another_format_is_refused() -> None:
    line = b'{"format": "durus-backup-2"}\n'
    data = line + hashlib.sha256(line).hexdigest().encode() + b"\n"
    with pytest.raises(FormatError, match="'durus-backup-2'"):
        parse_manifest(data, "manifest")


@pytest.mark.spec("BACKUP-5")
@pytest.mark.parametrize("line", [b"[]\n", b"{\n", b"[" * 100_000 + b"\n"], ids=["list", "cut", "deep"])
def test_manifest_that_is_another_json_is_refused(line: bytes) -> None:
    with pytest.raises(DamageError, match="it is not a manifest"):
        parse_manifest(line + hashlib.sha256(line).hexdigest().encode() + b"\n", "manifest")


def test_manifest_is_read_as_it_was_written() -> None:
    assert parse_manifest(pack_manifest(Manifest()), "manifest") == Manifest()


@pytest.mark.spec("BACKUP-6")
def test_folder_with_other_files_is_refused_and_stays_as_it_is(database: Database) -> None:
    database.commit(1)
    database.target.mkdir()
    (database.target / "letter.txt").write_text("Dear ...")
    with pytest.raises(BackupError, match=r"has other files|has files, such as letter\.txt"):
        back_up(database.path, database.target)
    assert os.listdir(database.target) == ["letter.txt"]


@pytest.mark.spec("BACKUP-6")
@pytest.mark.parametrize("name", ["f.durus", "letter.txt"])
def test_file_is_no_target_and_stays_as_it_is(database: Database, name: str) -> None:
    database.commit(1)
    path = database.path.with_name(name)
    path.touch()
    data = path.read_bytes()
    with pytest.raises(BackupError, match=r": this is a file, and a backup needs a folder; name another place"):
        back_up(database.path, path)
    assert path.read_bytes() == data


@pytest.mark.spec("BACKUP-6")
def test_empty_folder_becomes_a_backup(database: Database) -> None:
    database.commit(1)
    database.target.mkdir()
    back_up(database.path, database.target)
    assert database.restored() == 1


def test_no_folder_is_made_for_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="No such file"):
        back_up(tmp_path / "nothing", tmp_path / "backup")
    assert os.listdir(tmp_path) == []


# What is backed up


@pytest.mark.spec("BACKUP-10")
def test_file_without_a_seal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.durus"
    for data in (b"", b"SHELF-1\n", UNSEALED_EMPTY_FILE, UNSEALED_EMPTY_FILE + ONE_OF_4_3):
        path.write_bytes(data)
        with pytest.raises(NothingToBackUpError, match="has no seal yet"):
            back_up(path, tmp_path / "backup")


@pytest.mark.spec("BACKUP-10")
def test_bytes_after_the_last_seal_are_left_out_and_told(database: Database) -> None:
    database.commit(1)
    database.storage.close()
    with database.path.open("ab") as file:
        file.write(ONE_OF_4_3)
    done = back_up(database.path, database.target)
    assert (done.size, done.unsealed) == (database.path.stat().st_size - len(ONE_OF_4_3), len(ONE_OF_4_3))
    assert database.restored() == 1


@pytest.mark.spec("BACKUP-10")
@pytest.mark.parametrize("storage_class", [FileStorage2, SqliteStorage])
def test_file_of_another_format_is_refused_with_what_helps(tmp_path: Path, storage_class: type[Storage]) -> None:
    path = str(tmp_path / "f")
    storage_class(path).close()  # type: ignore[call-arg]
    with pytest.raises(FormatError, match=f"`durus convert {path} {path}.converted`"):
        back_up(path, tmp_path / "backup")
    assert not (tmp_path / "backup").exists()


@pytest.mark.spec("BACKUP-11")
def test_damaged_file_is_refused_and_the_backup_stays(database: Database) -> None:
    database.commit("a")
    back_up(database.path, database.target)
    before = database.manifest()
    for value in "bcd":
        database.commit(value)
    database.storage.close()
    data = bytearray(database.path.read_bytes())
    data[before.generations[0].size + 20] ^= 1
    database.path.write_bytes(data)
    with pytest.raises(DamageError):
        back_up(database.path, database.target)
    assert database.manifest() == before
    assert database.restored() == "a"


@pytest.mark.spec("BACKUP-11")
def test_commit_that_a_crash_has_left_incomplete_is_left_out_though_its_seal_is_there(database: Database) -> None:
    database.commit("a")
    size = database.path.stat().st_size
    database.commit("b")
    database.storage.close()
    data = bytearray(database.path.read_bytes())
    data[size + 40] ^= 1
    database.path.write_bytes(data)
    done = back_up(database.path, database.target)
    assert (done.size, done.unsealed) == (size, len(data) - size)
    assert database.restored() == "a"


@pytest.mark.spec("BACKUP-14", "BACKUP-19")
def test_older_generations_are_dropped_with_their_segments(database: Database) -> None:
    for number in range(4):
        database.commit(number)
        back_up(database.path, database.target)
        database.storage.pack()
    done = back_up(database.path, database.target, keep=2)
    assert (done.generation, done.dropped) == (5, 3)
    assert [each.number for each in verify(database.target)] == [4, 5]
    assert len(database.segments()) == 2
    assert database.restored() == 3


def test_less_than_one_generation_is_refused(database: Database) -> None:
    with pytest.raises(ArgumentError, match="1 generation or more, not 0"):
        back_up(database.path, database.target, keep=0)


@pytest.mark.spec("BACKUP-18")
def test_many_small_backups_leave_few_segments(database: Database) -> None:
    for number in range(70):
        database.commit(number)
        back_up(database.path, database.target)
        assert len(database.segments()) <= 8
    assert database.restored() == 69
    assert all(each.problems == () for each in verify(database.target))


@pytest.mark.spec("BACKUP-18")
def test_large_segments_stay_as_they_are(database: Database) -> None:
    sizes = []
    for _ in range(3):
        database.commit(os.urandom(MERGED_SIZE // 2 + 10))
        back_up(database.path, database.target)
        sizes = [segment.size for segment in database.manifest().generations[0].segments]
    assert len(sizes) == 3
    assert sum(sizes[:2]) > MERGED_SIZE


@pytest.mark.spec("BACKUP-13", "BACKUP-34")
def test_restored_file_goes_on_in_the_same_backup(database: Database) -> None:
    first = database.commit("first")
    back_up(database.path, database.target)
    second = database.commit("mistake")
    back_up(database.path, database.target)
    database.storage.close()
    database.path.unlink()
    restore(database.target, database.path, at=first)
    assert back_up(database.path, database.target).generation == 2
    database.storage = FileStorage(database.path, clock=lambda: seal_time(database.time))
    third = database.commit("third")
    done = back_up(database.path, database.target)
    assert (done.generation, done.is_new) == (2, False)
    assert [database.restored(at) for at in (first, second, third, None)] == ["first", "mistake", "third", "third"]


@pytest.mark.spec("BACKUP-19", "BACKUP-30")
def test_moment_in_the_shared_beginning_of_a_branch_outlives_the_older_generation(database: Database) -> None:
    first = database.commit("first")
    second = database.commit("second")
    back_up(database.path, database.target)
    mistake = database.commit("mistake")
    back_up(database.path, database.target)
    database.storage.close()
    database.path.unlink()
    restore(database.target, database.path, at=second)
    assert back_up(database.path, database.target, keep=1).dropped == 1
    assert [database.restored(at) for at in (first, second, mistake)] == ["first", "second", "second"]


@pytest.mark.spec("BACKUP-13")
def test_branch_begins_also_if_the_older_generation_is_damaged(database: Database) -> None:
    first = database.commit("first")
    back_up(database.path, database.target)
    database.storage.close()
    kept = database.path.read_bytes()
    database.storage = FileStorage(database.path, clock=lambda: seal_time(database.time))
    database.commit("mistake" * 1000)
    back_up(database.path, database.target)
    database.storage.close()
    database.path.write_bytes(kept)
    (database.target / database.segments()[1]).write_bytes(b"")
    back_up(database.path, database.target)
    assert database.restored() == "first"
    assert database.restored(first) == "first"
    assert [bool(each.problems) for each in verify(database.target)] == [True, False]


# Following


class Waiting(threading.Event):
    """An event that does something each time it is waited for."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        super().__init__()
        self.steps = list(steps)

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout == 1.0
        if not self.steps:
            self.set()
        else:
            self.steps.pop(0)()
        return self.is_set()


@pytest.mark.spec("BACKUP-21")
def test_following_waits_for_the_first_commit_and_tells_what_is_new(database: Database) -> None:
    stop = Waiting(
        lambda: None,
        lambda: database.commit(1),
        lambda: None,
        lambda: database.commit(2),
        database.storage.pack,
    )
    done = [
        (each.generation, each.is_new, each.dropped)
        for each in follow(database.path, database.target, keep=1, stop=stop)
    ]
    assert done == [(1, True, 0), (1, False, 0), (2, True, 1)]
    assert database.restored() == 2


@pytest.mark.spec("BACKUP-21")
def test_following_waits_for_another_backup_of_the_target(database: Database) -> None:
    import fcntl

    database.commit(1)
    back_up(database.path, database.target)
    database.commit(2)
    with (database.target / "lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stop = Waiting(lambda: None, lambda: fcntl.flock(lock, fcntl.LOCK_UN))
        (done,) = follow(database.path, database.target, stop=stop)
    assert done.added > 0


@pytest.mark.spec("BACKUP-21")
def test_following_waits_for_a_file_that_is_away_once_it_has_made_a_backup(database: Database) -> None:
    database.commit(1)
    away = database.folder / "away"
    stop = Waiting(
        lambda: database.path.rename(away),
        lambda: None,
        lambda: away.rename(database.path),
    )
    troubles: list[DurusError] = []
    done = [each.generation for each in follow(database.path, database.target, stop=stop, on_trouble=troubles.append)]
    assert done == [1]
    assert [each.errno for each in troubles if isinstance(each, FileError)] == [errno.ENOENT, errno.ENOENT]
    assert database.restored() == 1
    database.path.rename(away)
    with pytest.raises(FileError):
        next(follow(database.path, database.target))
    away.rename(database.path)


@pytest.mark.spec("BACKUP-22")
@pytest.mark.parametrize("has_folder", [True, False])
@pytest.mark.parametrize("has_commit", [True, False])
def test_following_waits_for_a_target_whose_disk_is_away(
    database: Database, has_folder: bool, has_commit: bool
) -> None:
    disk = Disk(database.target, has_folder)
    if has_commit:
        database.commit(1)
    stop = Waiting(disk.unmount, lambda: database.commit(2), disk.mount)
    troubles: list[DurusError] = []
    done = list(follow(database.path, database.target, stop=stop, on_trouble=troubles.append))
    assert [each.is_new for each in done] == ([True, False] if has_commit else [True])
    gone = [each for each in troubles if isinstance(each, FileError)]
    assert len(gone) == 2
    assert all("the backup that was here is gone" in str(each) for each in gone)
    assert database.restored() == 2


@pytest.mark.spec("BACKUP-17")
def test_a_backup_leaves_a_folder_alone_that_takes_the_place_of_its_target(database: Database) -> None:
    database.commit(1)
    back_up(database.path, database.target)
    target = FolderTarget(database.target, OperatingSystem())
    with target.locked(may_begin=True) as manifest:
        database.target.rename(database.folder / "away")
        database.target.mkdir()
        with pytest.raises(FileError, match="was replaced by another one"):
            target.create_part()
        with pytest.raises(FileError, match="was replaced by another one"):
            target.replace_manifest(manifest)
    assert list(database.target.iterdir()) == []


@pytest.mark.spec("BACKUP-40")
def test_segment_that_may_not_be_read_is_not_damaged_and_one_that_the_disk_loses_is(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.commit(1)
    back_up(database.path, database.target)
    number = errno.EACCES

    def refuse(self: FolderTarget, segment: Segment) -> ReadableFile:
        raise FileError(number, os.strerror(number), segment.name)

    monkeypatch.setattr(FolderTarget, "open_segment", refuse)
    with pytest.raises(FileError, match="Permission denied"):
        verify(database.target)
    number = errno.EIO
    assert "Input/output error" in verify(database.target)[0].problems[0]


# Restoring


@pytest.mark.spec("BACKUP-30")
def test_each_moment_has_the_state_of_the_last_commit_before(database: Database) -> None:
    times = [database.commit(number) for number in range(3)]
    back_up(database.path, database.target)
    database.storage.pack()
    database.time += timedelta(minutes=1)
    times += [database.commit(number) for number in (3, 4)]
    back_up(database.path, database.target)
    assert [database.restored(time) for time in times] == [0, 1, 2, 3, 4]
    assert database.restored(datetime(2026, 1, 2, 1, 2, 30, tzinfo=timezone(timedelta(hours=1)))) == 1
    assert database.restored("2027-01-01") == 4


@pytest.mark.spec("BACKUP-30")
def test_where_the_clock_went_back_the_order_of_commits_decides(database: Database) -> None:
    early = database.commit("early")
    database.time += timedelta(hours=1)
    wrong = database.commit("by a wrong clock")
    database.time -= timedelta(hours=1)
    late = database.commit("late")
    back_up(database.path, database.target)
    assert [database.restored(time) for time in (early, late, wrong)] == ["early", "late", "late"]


@pytest.mark.spec("BACKUP-30")
def test_moment_before_all_commits_is_told(database: Database) -> None:
    time = database.commit(1)
    back_up(database.path, database.target)
    with pytest.raises(ArgumentError, match=re.escape(f"it begins with {time}")):
        database.restored("2026-01-01")


@pytest.mark.parametrize("at", ["yesterday", "2026-13-01", ""])
def test_text_that_is_no_time_is_told(database: Database, at: str) -> None:
    with pytest.raises(ArgumentError, match="is not a time such as"):
        restore(database.target, database.folder / "restored", at=at)


def test_moments_are_those_of_seals() -> None:
    assert seal_time("2026-11-26T13:41:52.5+01:00") == "2026-11-26T12:41:52.500000Z"
    assert seal_time("2026-11-26") == "2026-11-26T00:00:00.000000Z"
    assert seal_time(datetime(2026, 11, 26, 1)) == "2026-11-26T01:00:00.000000Z"
    with pytest.raises(ArgumentError, match="out of range"):
        seal_time("0001-01-01T00:00+10:00")


@pytest.mark.spec("BACKUP-33")
def test_file_that_is_there_is_never_replaced(database: Database) -> None:
    database.commit(1)
    back_up(database.path, database.target)
    before = database.path.read_bytes()
    with pytest.raises(AlreadyExistsError):
        restore(database.target, database.path)
    assert database.path.read_bytes() == before


@pytest.mark.spec("BACKUP-32")
def test_damaged_segment_is_not_restored(database: Database) -> None:
    database.commit("a" * 5000)
    back_up(database.path, database.target)
    first = database.commit("b")
    back_up(database.path, database.target)
    name = database.segments()[1]
    data = bytearray((database.target / name).read_bytes())
    data[40] ^= 1
    (database.target / name).write_bytes(data)
    with pytest.raises(DamageError, match=name):
        database.restored()
    assert not (database.folder / "restored.durus").exists()
    assert not [each for each in os.listdir(database.folder) if each.endswith(".part")]
    assert database.restored("2026-01-02T00:01:00Z") == "a" * 5000
    assert verify(database.target)[0].last == first


@pytest.mark.spec("BACKUP-32", "BACKUP-40")
@pytest.mark.parametrize(
    ("change", "problem"),
    [({"sha256": 64 * "0"}, "its SHA-256 is"), ({"seal": None}, "its last seal is")],
)
def test_segment_that_is_not_the_one_of_the_manifest_is_not_restored(
    database: Database, change: dict[str, Any], problem: str
) -> None:
    database.commit("a")
    back_up(database.path, database.target)
    manifest = database.manifest()
    (generation,) = manifest.generations
    (segment,) = generation.segments
    if "seal" in change:
        change = {"seal": segment.seal._replace(checksum=segment.seal.checksum ^ 1)}
    other = replace(generation, segments=(replace(segment, **change),))
    (database.target / "manifest").write_bytes(pack_manifest(replace(manifest, generations=(other,))))
    with pytest.raises(DamageError, match=problem):
        database.restored()
    assert problem in verify(database.target)[0].problems[0]


@pytest.mark.spec("BACKUP-31")
def test_backup_that_holds_nothing_and_a_folder_without_one_are_told(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="there is no backup here"):
        restore(tmp_path / "nothing", tmp_path / "restored")
    (tmp_path / "manifest").write_bytes(pack_manifest(Manifest()))
    with pytest.raises(BackupError, match="holds nothing yet"):
        restore(tmp_path, tmp_path / "restored")


# The commands


def told(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> str:
    """Run a command; return what it prints, without times and sizes."""
    assert main([str(each) for each in arguments]) == status
    shown = capsys.readouterr()
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", shown.err if status else shown.out)
    return re.sub(r"\d+ bytes", "N bytes", text).strip()


@pytest.mark.spec("CMD-1", "BACKUP-10", "BACKUP-19")
def test_backup_command(
    database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(database.folder)
    database.commit(1)
    assert told(capsys, "backup", "f.durus", "b") == (
        "f.durus: N bytes in generation 1 of b, which is new, up to the commit of TIME"
    )
    assert told(capsys, "backup", "f.durus", "b") == (
        "f.durus: nothing is new since the commit of TIME, which is in generation 1 of b"
    )
    database.commit(2)
    assert (
        told(capsys, "backup", "f.durus", "b")
        == "f.durus: N bytes added to generation 1 of b, up to the commit of TIME"
    )
    database.storage.pack()
    assert told(capsys, "backup", "f.durus", "b", "--keep", "1") == (
        "f.durus: N bytes in generation 2 of b, which is new, up to the commit of TIME; generations dropped: 1"
    )
    database.storage.close()
    with database.path.open("ab") as file:
        file.write(ONE_OF_4_3)
    assert told(capsys, "backup", "f.durus", "b").endswith(
        "; N bytes at the end of the file have no seal yet and are not in it"
    )


@pytest.mark.spec("CMD-1", "CMD-2", "BACKUP-40")
def test_verifying_command(
    database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(database.folder)
    assert told(capsys, "backup", "--verify", "b", status=1).startswith("durus: ")
    database.commit(1)
    back_up(database.path, "b")
    assert told(capsys, "backup", "--verify", "b") == "b: generation 1: sound: N bytes, from TIME to TIME"
    (segment,) = Path("b").glob("*.segment")
    segment.write_bytes(segment.read_bytes()[:-1])
    assert main(["backup", "--verify", "b"]) == 1
    shown = capsys.readouterr().out.splitlines()
    assert f"{segment.name}: at byte 0: it has" in shown[0]
    assert shown[1].startswith("b: generation 1: damaged: ")
    segment.unlink()
    assert main(["backup", "--verify", "b"]) == 1
    assert "this segment is missing" in capsys.readouterr().out
    Path("b/manifest").write_bytes(pack_manifest(Manifest()))
    assert told(capsys, "backup", "--verify", "b") == "b: the backup holds nothing yet"


@pytest.mark.spec("CMD-1", "BACKUP-30", "BACKUP-33")
def test_restoring_command(
    database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(database.folder)
    time = database.commit(1)
    database.commit(2)
    back_up(database.path, "b")
    expected = "N bytes from generation 1 of b, with the state of TIME"
    assert told(capsys, "restore", "b", "new.durus") == f"new.durus: {expected}"
    assert "already exists" in told(capsys, "restore", "b", "new.durus", status=1)
    assert told(capsys, "restore", "b", "old.durus", "--at", time) == f"old.durus: {expected}"
    with durus.open("old.durus") as db, db.snapshot() as root:
        assert root["value"] == 1
    assert "it begins with" in told(capsys, "restore", "b", "older.durus", "--at", "2000-01-01", status=2)


@pytest.mark.spec("CMD-2")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--verify", "f", "b"], "--verify takes a TARGET and nothing else"),
        (["--verify", "b", "--follow"], "--verify takes a TARGET and nothing else"),
        (["--verify", "b", "--every", "2"], "--verify takes a TARGET and nothing else"),
        (["f", "b", "--every", "2"], "--every goes with --follow"),
        (["b"], "a FILE and a TARGET are needed"),
        (["f", "b", "--keep", "0"], "argument --keep: '0' is not a number of at least 1"),
    ],
)
def test_wrong_call_of_backup_is_told(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert main(["backup", *arguments]) == 2
    assert message in capsys.readouterr().err

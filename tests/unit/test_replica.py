"""Replicas of real files: what is copied, what is refused, and the commands. spec/replica.md."""

import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from durus.backup import back_up
from durus.backups.checked_json import pack_checked
from durus.backups.replica import Followed, Replica
from durus.backups.replica_note import FORMAT, Note, pack_note, parse_note
from durus.backups.sources import source_of
from durus.cli.follow import describe, following_beside
from durus.cli.main import main
from durus.cli.troubles import Troubles
from durus.connection import Connection
from durus.error import (
    ArgumentError,
    DamageError,
    DurusError,
    FileError,
    FormatError,
    LockedError,
    NothingToBackUpError,
    ReplicaError,
)
from durus.file_storage import FileStorage
from durus.file_storage2 import FileStorage2
from durus.files.moment import seal_time
from durus.files.shelf.layout import Seal
from durus.progress import Progress
from durus.replica import follow
from tests.model.histories import ROOT, UNSEALED_EMPTY_FILE, Item, unsealed_transaction
from tests.mounting import Disk

OF_4_3 = unsealed_transaction({ROOT: 0}, {ROOT: Item(b"of 4.3", ())})


class Database:
    """A database in a folder, open for writing, and the place of its replica."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "f.durus"
        self.copy = folder / "copy.durus"
        self.time = datetime(2026, 1, 2, tzinfo=UTC)
        self.storage = FileStorage(self.path, clock=lambda: seal_time(self.time))

    def commit(self, value: object) -> None:
        """Commit a value, a minute later."""
        self.time += timedelta(minutes=1)
        connection = Connection(self.storage)
        root: Any = connection.get_root()
        root["value"] = value
        connection.commit()

    def follow(self, source: Path | None = None) -> Followed:
        """Make one round, and release the copy."""
        with closing(Replica(source_of(source or self.path), self.copy)) as replica:
            return replica.finish()


def value_in(path: Path) -> object:
    with closing(FileStorage(path, readonly=True)) as storage:
        root: Any = Connection(storage).get_root()
        value: object = root["value"]
        return value


def put_into(path: Path, value: object) -> None:
    """Open a file for writing, and commit."""
    with closing(FileStorage(path, repair=True)) as storage:
        connection = Connection(storage)
        root: Any = connection.get_root()
        root["value"] = value
        connection.commit()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(tmp_path)
    yield made
    made.storage.close()


@pytest.mark.spec("REPL-1", "REPL-10", "REPL-12")
def test_a_replica_has_the_bytes_of_its_source_and_gets_those_that_are_new(database: Database) -> None:
    database.commit("one")
    first = database.follow()
    assert (first.is_new, first.added, first.size) == (True, first.size, database.path.stat().st_size)
    assert (first.time, first.unsealed) == (seal_time(database.time), 0)
    assert database.copy.read_bytes() == database.path.read_bytes()
    database.commit("two")
    second = database.follow()
    assert (second.is_new, second.added) == (False, second.size - first.size)
    assert database.copy.read_bytes() == database.path.read_bytes()
    assert database.follow() == second._replace(added=0)


@pytest.mark.spec("REPL-13")
def test_after_a_pack_the_replica_is_another_file_and_readers_go_on_with_it(database: Database) -> None:
    database.commit("one")
    database.follow()
    os.chmod(database.copy, 0o640)
    with closing(FileStorage(database.copy, readonly=True)) as reader:
        connection = Connection(reader)
        assert database.follow().is_new is False
        database.storage.pack()
        database.commit("two")
        assert database.follow().is_new
        connection.abort()
        root: Any = connection.get_root()
        assert root["value"] == "two"
    assert stat.S_IMODE(database.copy.stat().st_mode) == 0o640
    assert sorted(os.listdir(database.copy.parent)) == [
        "copy.durus",
        "copy.durus.replica",
        "f.durus",
        "f.durus.prepack",
    ]


@pytest.mark.spec("REPL-2", "REPL-13")
def test_only_the_owner_can_read_a_new_replica_and_its_note(database: Database) -> None:
    database.commit("one")
    database.follow()
    for path in (database.copy, Path(f"{database.copy}.replica")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.spec("REPL-11")
def test_a_replica_of_a_backup_follows_its_newest_generation(database: Database) -> None:
    target = database.copy.parent / "backup"
    database.commit("one")
    back_up(database.path, target)
    assert database.follow(target).is_new
    for number in range(5):
        database.commit(number)
        back_up(database.path, target)
    assert database.follow(target).is_new is False
    assert database.copy.read_bytes() == database.path.read_bytes()
    database.storage.pack()
    database.commit("two")
    assert database.follow(target).added == 0
    back_up(database.path, target)
    assert database.follow(target).is_new
    assert value_in(database.copy) == "two"


@pytest.mark.spec("REPL-11")
def test_a_segment_that_has_changed_is_not_copied(database: Database) -> None:
    target = database.copy.parent / "backup"
    database.commit("one")
    back_up(database.path, target)
    database.follow(target)
    before = database.copy.read_bytes()
    database.commit("two")
    back_up(database.path, target)
    segment = max(target.glob("*.segment"))  # the newest
    data = bytearray(segment.read_bytes())
    data[40] ^= 1
    segment.write_bytes(data)
    with pytest.raises(DamageError):
        database.follow(target)
    assert database.copy.read_bytes() == before


@pytest.mark.spec("REPL-3")
def test_a_file_that_is_no_replica_is_left_alone(database: Database) -> None:
    database.commit("one")
    database.copy.write_bytes(database.path.read_bytes())
    put_into(database.copy, "own")
    before = database.copy.read_bytes()
    with pytest.raises(ReplicaError, match=r"this file is not a replica, because there is no copy\.durus\.replica"):
        database.follow()
    assert database.copy.read_bytes() == before


@pytest.mark.spec("REPL-3")
@pytest.mark.parametrize("is_packed", [False, True])
def test_a_replica_that_was_opened_for_writing_is_left_alone(database: Database, is_packed: bool) -> None:
    database.commit("one")
    database.follow()
    put_into(database.copy, "own")
    before = database.copy.read_bytes()
    database.commit("two")
    if is_packed:
        database.storage.pack()
    with pytest.raises(ReplicaError, match="the replica was opened for writing"):
        database.follow()
    assert database.copy.read_bytes() == before
    assert value_in(database.copy) == "own"


@pytest.mark.spec("REPL-3", "REPL-4")
def test_a_replica_of_another_source_is_left_alone(database: Database, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Database(tmp_path / "other")
    other.commit("other")
    database.commit("one")
    database.follow()
    with pytest.raises(
        ReplicaError, match=r"this is a replica of \S+f\.durus, and its commit of \S+Z is not in \S+other"
    ):
        database.follow(other.path)
    assert value_in(database.copy) == "one"
    os.rename(database.path, tmp_path / "moved.durus")
    assert database.follow(tmp_path / "moved.durus").is_new is False
    other.storage.close()


@pytest.mark.spec("REPL-3")
@pytest.mark.parametrize("make", [os.link, os.symlink])
def test_the_source_itself_is_refused(database: Database, make: Callable[[Path, Path], None]) -> None:
    database.commit("one")
    database.storage.close()
    make(database.path, database.copy)
    with pytest.raises(ArgumentError, match="a replica is another file than its source"):
        database.follow()


SEALS = [Seal(offset, f"2026-01-02T03:04:0{offset // 1000}.000006Z", 7) for offset in (1000, 2000, 3000)]


@pytest.mark.spec("REPL-4")
def test_a_note_explains_what_an_interrupted_copy_can_leave() -> None:
    first, middle, last = SEALS
    note = Note("/f", first, last)
    assert all(note.explains(seal) for seal in SEALS)
    assert not note.explains(middle._replace(time="2026-01-02T03:04:04.000006Z"))
    assert not note.explains(middle._replace(offset=900))
    assert not note.explains(last._replace(checksum=8))
    assert not note.explains(last._replace(offset=3500))
    assert Note("/f", None, last).explains(first)


@pytest.mark.spec("REPL-2", "REPL-3")
def test_a_note_is_read_as_it_was_written_and_refused_when_it_is_damaged() -> None:
    for note in (Note("/f", SEALS[0], SEALS[1]), Note("/g", None, SEALS[1])):
        assert parse_note(pack_note(note), "note") == note
    data = bytearray(pack_note(Note("/f", SEALS[0], SEALS[1])))
    for offset in range(len(data)):
        data[offset] ^= 2
        with pytest.raises(ReplicaError, match="this is not the note of a replica"):
            parse_note(bytes(data), "note")
        data[offset] ^= 2
    good: dict[str, object] = {"format": FORMAT, "source": "/f", "seal": None, "next": str(SEALS[0])}
    malformed: list[object] = [
        [],
        {},
        good | {"format": "other"},
        good | {"next": None},
        good | {"next": "x"},
        good | {"source": 1},
    ]
    for bad in malformed:
        with pytest.raises(ReplicaError):
            parse_note(pack_checked(bad), "note")


@pytest.mark.spec("REPL-5")
def test_two_cannot_follow_into_one_file_and_nobody_can_write_to_it(database: Database) -> None:
    database.commit("one")
    with closing(Replica(source_of(database.path), database.copy)) as replica:
        replica.finish()
        for _ in range(2):
            with pytest.raises(LockedError):
                database.follow()
            with pytest.raises(LockedError):
                FileStorage(database.copy)
            database.storage.pack()
            database.commit("two")
            assert replica.finish().is_new
    FileStorage(database.copy).close()


@pytest.mark.spec("REPL-16")
def test_a_replica_that_was_removed_is_made_anew(database: Database) -> None:
    database.commit("one")
    with closing(Replica(source_of(database.path), database.copy)) as replica:
        replica.finish()
        database.copy.unlink()
        assert replica.finish().is_new
        os.replace(database.copy, f"{database.copy}.moved")
        put_into(database.copy, "own")
        with pytest.raises(ReplicaError):
            replica.finish()
    assert value_in(database.copy) == "own"


@pytest.mark.spec("REPL-16", "REPL-18")
@pytest.mark.parametrize("has_folder", [True, False])
def test_a_replica_whose_disk_is_away_is_waited_for_and_not_made_anew(database: Database, has_folder: bool) -> None:
    place = database.copy.parent / "mounted"
    place.mkdir()
    disk = Disk(place, has_folder)
    steps = [disk.unmount, lambda: database.commit("two"), disk.mount, None]
    troubles: list[DurusError] = []

    def wait(interval: float) -> bool:
        step = steps.pop(0)
        if step is not None:
            step()
        return step is None

    database.commit("one")
    with closing(Replica(source_of(database.path), place / "copy")) as replica:
        assert [each.is_new for each in replica.rounds(1, wait, troubles.append)] == [True, False]
    assert [str(each).partition(": ")[2][:19] for each in troubles] == ["the replica is gone"] * 2
    assert value_in(place / "copy") == "two"


@pytest.mark.spec("REPL-10")
def test_what_no_seal_covers_is_not_copied_and_is_counted(database: Database) -> None:
    database.commit("one")
    database.storage.close()
    sealed = database.path.read_bytes()
    with open(database.path, "ab") as file:
        file.write(OF_4_3)
    done = database.follow()
    assert done.unsealed == len(OF_4_3)
    assert database.copy.read_bytes() == sealed
    assert f"{len(OF_4_3)} bytes at the end of the source have no seal yet" in describe("copy", done)


@pytest.mark.spec("REPL-10", "REPL-18")
def test_a_source_without_a_seal_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(UNSEALED_EMPTY_FILE)
    stop = threading.Event()
    reasons: list[DurusError] = []

    def go_on(error: DurusError) -> None:
        reasons.append(error)
        if len(reasons) == 2:
            put_into(tmp_path / "f", "one")

    (done,) = (follow(tmp_path / "f", tmp_path / "copy", interval=0.001, stop=stop, on_trouble=go_on),)
    assert next(done).is_new
    assert [type(reason) for reason in reasons] == [NothingToBackUpError] * 2
    done.close()


@pytest.mark.spec("REPL-18")
def test_a_source_that_is_missing_is_waited_for_after_the_first_round(database: Database) -> None:
    moved = database.path.with_suffix(".moved")
    with pytest.raises(FileError, match="No such file"):
        next(follow(moved, database.copy))
    database.commit("one")

    def go_on(error: DurusError) -> None:
        assert isinstance(error, FileError)
        os.rename(moved, database.path)

    rounds = follow(database.path, database.copy, interval=0.001, on_trouble=go_on)
    assert next(rounds).is_new
    database.commit("two")
    database.storage.close()
    os.rename(database.path, moved)
    assert next(rounds).is_new is False
    assert value_in(database.copy) == "two"
    rounds.close()
    FileStorage(database.copy).close()


def test_the_loop_ends_when_it_is_told_to(database: Database) -> None:
    database.commit("one")
    stop = threading.Event()
    rounds = follow(database.path, database.copy, interval=60, stop=stop)
    assert next(rounds).is_new
    stop.set()
    assert list(rounds) == []


@pytest.mark.spec("REPL-11")
def test_other_formats_are_refused(tmp_path: Path) -> None:
    with closing(FileStorage2(tmp_path / "f")) as storage:
        connection = Connection(storage)
        connection.get_root()["a"] = 1
        connection.commit()
    with pytest.raises(FormatError, match="durus convert"):
        next(follow(tmp_path / "f", tmp_path / "copy"))
    assert sorted(os.listdir(tmp_path)) == ["f"]


@pytest.mark.spec("REPL-20")
def test_a_replica_takes_the_place_of_the_source(database: Database) -> None:
    database.commit("one")
    database.follow()
    put_into(database.copy, "two")
    assert value_in(database.copy) == "two"
    back = database.copy.with_name("third.durus")
    with closing(Replica(source_of(database.copy), back)) as replica:
        assert replica.finish().is_new
    assert value_in(back) == "two"


@pytest.mark.spec("CMD-65")
def test_what_is_told_of_a_round() -> None:
    time = (datetime.now(UTC) - timedelta(seconds=5)).isoformat(timespec="microseconds")[:26] + "Z"
    told = describe("f", Followed(False, 20, 100, time, 0))
    assert told.startswith(f"f: 20 bytes added, up to the commit of {time}, ")
    assert told.endswith("s ago")
    assert float(told.split()[-3]) >= 5
    assert describe("f", Followed(True, 100, 100, time, 0)).startswith("f: 100 bytes copied, from the beginning, ")


@pytest.mark.spec("CMD-65", "REPL-18")
def test_a_reason_to_wait_is_told_once() -> None:
    said: list[str] = []
    troubles = Troubles(said.append)
    for name in ("a", "a", "b", "b"):
        troubles.note(DurusError(name))
    troubles.end()
    troubles.note(DurusError("b"))
    assert said == ["a", "b", "b"]


@pytest.mark.spec("CMD-66")
def test_a_server_that_stops_in_the_middle_of_a_round_reports_no_trouble(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    database.commit("one")
    has_begun = threading.Event()

    class Endless(Replica):
        """Makes the first round, and never ends the second one."""

        def steps(self) -> Iterator[Progress]:
            if not self.is_open:
                yield from super().steps()
                return
            self._result = None
            has_begun.set()
            while True:
                yield Progress("copy", 0, 1)

    monkeypatch.setattr("durus.cli.follow.Replica", Endless)
    with following_beside(str(database.path), str(database.copy)):
        assert has_begun.wait(60)
    assert caplog.records == []


@pytest.mark.spec("CMD-64", "CMD-66")
@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["follow", "f", "copy", "--every", "0"], 2, "is not a number of seconds above 0"),
        (["follow", "missing", "copy"], 1, "No such file"),
        (["follow", "f", "f"], 2, "a replica is another file than its source"),
        (["follow", "f", "other"], 1, "this file is not a replica"),
        (["serve", "f", "--follow", "g"], 2, "--follow goes with --readonly"),
        (["serve", "--readonly", "--follow", "g"], 2, "--follow goes with --readonly"),
        (["serve", "--readonly", "--follow", "missing", "copy"], 1, "No such file"),
    ],
)
def test_wrong_calls(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    status: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    put_into(Path("f"), 1)
    put_into(Path("other"), 1)
    assert main(arguments) == status
    assert message in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["f", "other"]

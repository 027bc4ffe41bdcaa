"""Backups in a real object store: the server of moto, which speaks the protocol of Amazon S3."""

import os
import re
import signal
import subprocess
import sys
import threading
import uuid
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import S3Store

import durus
from durus.backup import back_up, follow, restore, verify
from durus.backups.manifest import SEGMENT_NAME
from durus.backups.objects import ReplacedError
from durus.backups.obstore_store import open_store
from durus.cli.main import main
from durus.connection import Connection
from durus.error import BackupError, DamageError, LockedError, ObjectStoreError
from durus.file_storage import FileStorage
from tests.s3 import S3Server, s3_server  # noqa: F401, a fixture

SECONDS = 60


class Database:
    """A database in a folder, and the address of its backup."""

    def __init__(self, folder: Path, target: str) -> None:
        self.folder = folder
        self.path = folder / "f.durus"
        self.target = target
        self.storage = FileStorage(self.path)

    def commit(self, value: object) -> None:
        connection = Connection(self.storage)
        root: Any = connection.get_root()
        root["value"] = value
        connection.commit()

    def restored(self, target: str | Path | None = None, at: str | None = None) -> object:
        path = self.folder / "restored.durus"
        restore(target or self.target, path, at=at)
        storage = FileStorage(path, readonly=True)
        root: Any = Connection(storage).get_root()
        value: object = root["value"]
        storage.close()
        path.unlink()
        return value


@pytest.fixture
def bucket(s3_server: S3Server) -> str:  # noqa: F811
    name = f"backups-{uuid.uuid4().hex[:8]}"
    s3_server.make_bucket(name)
    return name


@pytest.fixture
def database(tmp_path: Path, bucket: str) -> Any:
    database = Database(tmp_path, f"s3://{bucket}/shop/main")
    yield database
    database.storage.close()


def objects_of(bucket: str) -> dict[str, bytes]:
    store = S3Store(bucket)
    return {each["path"]: bytes(obstore.get(store, each["path"]).bytes()) for each in obstore.list(store).collect()}


@pytest.mark.spec("BACKUP-50", "BACKUP-51", "BACKUP-19", "BACKUP-40")
def test_backup_grows_is_verified_and_restored(database: Database, bucket: str) -> None:
    database.commit("a" * 100_000)
    done = back_up(database.path, database.target)
    assert (done.generation, done.is_new, done.added) == (1, True, database.path.stat().st_size)
    first = done.time
    database.commit("b")
    assert back_up(database.path, database.target).added > 0
    assert back_up(database.path, database.target).added == 0
    assert [each.problems for each in verify(database.target)] == [()]
    assert database.restored() == "b"
    assert database.restored(at=first) == "a" * 100_000
    database.storage.pack()
    done = back_up(database.path, database.target, keep=1)
    assert (done.generation, done.dropped) == (2, 1)
    objects = objects_of(bucket)
    (segment,) = objects.keys() - {"shop/main/manifest"}
    assert SEGMENT_NAME.fullmatch(segment.removeprefix("shop/main/"))
    assert re.search(r"-[0-9a-f]{8}-[0-9a-f]{16}\.segment$", segment)
    assert objects[segment] == database.path.read_bytes()


@pytest.mark.spec("BACKUP-50")
def test_copy_of_the_objects_in_a_folder_is_a_backup(database: Database, bucket: str, tmp_path: Path) -> None:
    database.commit(1)
    back_up(database.path, database.target)
    folder = tmp_path / "copy"
    folder.mkdir()
    for name, data in objects_of(bucket).items():
        (folder / name.rpartition("/")[2]).write_bytes(data)
    assert database.restored(folder) == 1
    database.commit(2)
    assert not back_up(database.path, folder).is_new
    assert database.restored(folder) == 2


@pytest.mark.spec("BACKUP-50")
def test_segment_of_many_pieces_is_uploaded_and_read_as_a_whole(database: Database) -> None:
    value = os.urandom(20 << 20)
    database.commit(value)
    back_up(database.path, database.target)
    assert verify(database.target)[0].problems == ()
    assert database.restored() == value


@pytest.mark.spec("BACKUP-6", "BACKUP-50")
def test_prefix_with_other_objects_is_refused_and_deeper_ones_are_not_its_own(database: Database, bucket: str) -> None:
    database.commit(1)
    obstore.put(S3Store(bucket), "shop/main/old/letter.txt", b"Dear ...")
    back_up(database.path, database.target)
    with pytest.raises(BackupError, match=r"has files, such as letter\.txt"):
        back_up(database.path, f"s3://{bucket}/shop/main/old")
    obstore.delete(S3Store(bucket), "shop/main/manifest")
    with pytest.raises(BackupError, match="the manifest of this backup is missing"):
        back_up(database.path, database.target)
    assert "shop/main/old/letter.txt" in objects_of(bucket)


@pytest.mark.spec("BACKUP-40")
def test_damage_and_a_missing_segment_are_found(database: Database, bucket: str) -> None:
    database.commit("a")
    back_up(database.path, database.target)
    (segment,) = objects_of(bucket).keys() - {"shop/main/manifest"}
    data = bytearray(objects_of(bucket)[segment])
    data[300] ^= 1
    store = S3Store(bucket)
    obstore.put(store, segment, bytes(data))
    assert segment in verify(database.target)[0].problems[0]
    with pytest.raises(DamageError, match=segment):
        database.restored()
    obstore.put(store, segment, bytes(data[:-1]))
    assert "it has" in verify(database.target)[0].problems[0]
    obstore.delete(store, segment)
    assert "this segment is missing" in verify(database.target)[0].problems[0]


@pytest.mark.spec("BACKUP-52")
def test_manifest_is_replaced_only_in_the_version_that_was_read(bucket: str) -> None:
    store = open_store("s3", bucket, "p")
    first = store.replace("manifest", b"1", None)
    with pytest.raises(ReplacedError):
        store.replace("manifest", b"2", None)
    second = store.replace("manifest", b"2", first)
    with pytest.raises(ReplacedError):
        store.replace("manifest", b"3", first)
    assert store.get("manifest") == (b"2", second)


@pytest.mark.spec("BACKUP-53")
def test_store_without_conditions_is_written_without_them(
    database: Database, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONDITIONAL_PUT", "disabled")
    for value in (1, 2):
        database.commit(value)
        back_up(database.path, database.target)
        assert database.restored() == value


@pytest.mark.spec("BACKUP-52")
def test_of_many_backups_at_the_same_time_each_is_complete_or_overtaken(database: Database) -> None:
    database.commit(0)
    back_up(database.path, database.target)
    errors: list[BaseException] = []
    done: list[int] = []

    def backups() -> None:
        for _ in range(10):
            try:
                back_up(database.path, database.target, keep=1)
                done.append(1)
            except LockedError:
                continue
            except BaseException as error:
                errors.append(error)
                raise

    threads = [threading.Thread(target=backups) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(1, 40):
        database.commit(number)
    for thread in threads:
        thread.join(SECONDS)
    assert errors == []
    assert len(done) > 3
    back_up(database.path, database.target)
    assert [each.problems for each in verify(database.target)] == [()]
    assert database.restored() == 39


@pytest.mark.spec("BACKUP-21", "BACKUP-50")
def test_following_goes_on_until_it_is_stopped(database: Database) -> None:
    database.commit(1)
    stop = threading.Event()
    for number, done in enumerate(follow(database.path, database.target, interval=0.01, stop=stop)):
        assert done.added > 0
        database.commit(number + 2)
        if number == 2:
            stop.set()
    assert database.restored() == 3


@pytest.mark.spec("BACKUP-21", "BACKUP-50")
def test_following_command_ends_with_sigterm(database: Database) -> None:
    database.commit(1)
    command = [sys.executable, "-m", "durus", "backup", "--follow", str(database.path), database.target]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        assert f"backing up to {database.target}" in following.stdout.readline()
        assert "in generation 1" in following.stdout.readline()
        following.send_signal(signal.SIGTERM)
        assert following.wait(SECONDS) == 0
    assert database.restored() == 1


@pytest.mark.spec("BACKUP-50", "CMD-1")
def test_commands_take_the_address(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    database.commit(1)
    assert main(["backup", str(database.path), database.target]) == 0
    assert main(["backup", "--verify", database.target]) == 0
    new = str(database.folder / "new.durus")
    assert main(["restore", database.target, new]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert f"in generation 1 of {database.target}, which is new" in shown[0]
    assert shown[1].startswith(f"{database.target}: generation 1: sound: ")
    assert f"from generation 1 of {database.target}" in shown[2]
    with durus.open(new) as db, db.snapshot() as root:
        assert root["value"] == 1


# What the store refuses


@pytest.mark.spec("BACKUP-54")
def test_bucket_that_does_not_exist_is_told(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    database.commit(1)
    for call in (back_up, lambda path, target: restore(target, path), lambda path, target: verify(target)):
        with pytest.raises(
            ObjectStoreError, match=r"s3://no-such-bucket/x: cannot .*, there is no such bucket: .*; create it"
        ):
            call(database.path, "s3://no-such-bucket/x")
    assert main(["backup", str(database.path), "s3://no-such-bucket/x"]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("durus: s3://no-such-bucket/x: cannot ")
    assert shown.count("\n") == 1


@pytest.mark.spec("BACKUP-54")
def test_place_without_a_backup_is_told(database: Database, bucket: str) -> None:
    with pytest.raises(BackupError, match=f"s3://{bucket}/nothing: there is no backup here"):
        restore(f"s3://{bucket}/nothing", database.folder / "new")


@pytest.mark.spec("BACKUP-54")
def test_refused_credentials_are_told_without_the_secret(database: Database, s3_server: S3Server) -> None:  # noqa: F811
    database.commit(1)
    s3_server.check_credentials(True)
    try:
        with pytest.raises(
            ObjectStoreError, match=r"the store refuses these credentials: .*; set AWS_ACCESS_KEY_ID"
        ) as told:
            back_up(database.path, database.target)
    finally:
        s3_server.check_credentials(False)
    assert "secret of the tests" not in str(told.value)
    back_up(database.path, database.target)

"""Which target a name stands for, and what is said if an object store can't be used. spec/backup.md."""

import errno
import sys
import tempfile
from pathlib import Path

import pytest
from obstore.store import LocalStore, MemoryStore

import durus
from durus.backup import verify
from durus.backups.back_up import BackUp
from durus.backups.folder import FolderTarget
from durus.backups.following import back_up_rounds
from durus.backups.objects import ObjectTarget
from durus.backups.obstore_store import ObstoreStore
from durus.backups.opening import open_target
from durus.backups.verify import Verification
from durus.cli.main import main
from durus.connection import Connection
from durus.error import ArgumentError, BackupError, DurusError, FileError, ObjectStoreError
from durus.file_storage import FileStorage
from tests.model.object_stores import target_in


@pytest.mark.spec("BACKUP-50")
@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("s3://bucket/shop/main/", "s3://bucket/shop/main"),
        ("S3://bucket", "s3://bucket"),
        ("gs://bucket/shop", "gs://bucket/shop"),
        ("az://container/shop", "az://container/shop"),
    ],
)
def test_address_in_an_object_store(name: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "shop")
    target = open_target(name)
    assert isinstance(target, ObjectTarget)
    assert target.path == path


@pytest.mark.parametrize("name", ["s3", "./s3://bucket", b"backups", Path("s3:")])
def test_other_names_are_those_of_folders(name: str | bytes | Path) -> None:
    assert isinstance(open_target(name), FolderTarget)


@pytest.mark.spec("BACKUP-50", "CMD-7")
@pytest.mark.parametrize("name", ["s3://", "s3:///shop", "gs://bucket//shop", "az://bucket/../shop", "s3://bucket/./x"])
def test_address_without_a_bucket_or_with_a_gap_is_told(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ArgumentError, match="is not an address in an object store, such as s3://"):
        open_target(name)
    assert main(["backup", "--verify", name]) == 2
    assert "is not an address in an object store" in capsys.readouterr().err


@pytest.mark.spec("CMD-7")
def test_address_is_not_taken_for_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backup", "s3://bucket/f", "backups"]) == 2
    assert "'s3://bucket/f' is an address" in capsys.readouterr().err
    assert main(["backup", "f", "ftp://host/backups"]) == 2


@pytest.mark.spec("BACKUP-54")
def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delitem(sys.modules, "durus.backups.obstore_store", raising=False)
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(BackupError, match=r"s3://bucket/x: this needs obstore, .*: pip install 'durus\[cloud\]'"):
        open_target("s3://bucket/x")
    assert main(["restore", "s3://bucket/x", "f"]) == 1
    assert "pip install 'durus[cloud]'" in capsys.readouterr().err
    assert isinstance(open_target("folder"), FolderTarget)


@pytest.mark.spec("BACKUP-54")
def test_store_without_an_account_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(
        ObjectStoreError, match=r"az://container: cannot .*no credentials .*; set AZURE_STORAGE_ACCOUNT_NAME"
    ):
        verify("az://container")


@pytest.mark.spec("BACKUP-54")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Generic S3 error: Error performing PUT http://169.254.169.254/latest/api/token in 3ms",
            "there are no credentials",
        ),
        ("Generic GCS error: Error performing token request: error", "set GOOGLE_SERVICE_ACCOUNT"),
        ("Server returned non-2xx status code: 401 Unauthorized: ", "the store refuses these credentials; set"),
        ("x in 5ms - Server returned non-2xx status code: 404 Not Found: ", "there is no such bucket; create it"),
        (
            "Generic S3 error: error sending request\n\nDebug source:\nGeneric {}",
            "x: Generic S3 error: error sending request",
        ),
    ],
)
def test_errors_of_stores_are_told_in_one_line(text: str, expected: str) -> None:
    def raise_error() -> MemoryStore:
        raise ValueError(text)

    with pytest.raises(ObjectStoreError) as told:
        ObstoreStore("gs://bucket/x", raise_error)
    message = str(told.value)
    assert message.startswith("gs://bucket/x: cannot use this address")
    assert expected.removeprefix("x: ") in message
    assert "Debug" not in message
    assert isinstance(told.value, FileError)
    assert told.value.is_permanent == ("error sending request" not in text)


@pytest.mark.spec("BACKUP-53")
def test_store_that_knows_no_conditions_is_written_without(tmp_path: Path) -> None:
    store = ObstoreStore("file://x", lambda: LocalStore(tmp_path))
    first = store.replace("manifest", b"1", None)
    store.replace("manifest", b"2", first)
    assert store.get("manifest") is not None
    store.remove(["manifest", "nothing"])
    assert store.get("manifest") is None
    assert store.size("manifest") is None
    assert store.read_at("manifest", 0, 1) is None


class Away:
    """Lets no operation of a store through while it has an error to raise."""

    def __init__(self) -> None:
        self.error: ObjectStoreError | None = None

    def __call__(self, operation: str) -> None:
        if self.error is not None:
            raise self.error


def error_of_store(is_permanent: bool) -> ObjectStoreError:
    error = ObjectStoreError(errno.EIO, "cannot do this", "s3://x")
    error.is_permanent = is_permanent
    return error


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "f.durus"
    with durus.open(path) as db, db.transaction() as root:
        root["number"] = 1
    return path


@pytest.mark.spec("BACKUP-21")
def test_following_waits_for_a_store_that_is_away_and_not_for_one_that_refuses(database: Path) -> None:
    away = Away()
    objects = MemoryStore()
    troubles: list[DurusError] = []
    errors = [error_of_store(False), None, error_of_store(True)]

    def wait(interval: float) -> bool:
        away.error = errors.pop(0)
        return False

    rounds = back_up_rounds(lambda: BackUp(database, target_in(objects, away)), 1, wait, troubles.append)
    assert next(rounds).generation == 1
    with pytest.raises(ObjectStoreError) as told:
        next(rounds)
    assert told.value.is_permanent
    assert len(troubles) == 1
    assert errors == []


@pytest.mark.spec("BACKUP-40")
def test_store_that_is_away_ends_a_verification_and_is_no_damage(database: Path) -> None:
    def lose(operation: str) -> None:
        if operation == "read_at":
            raise error_of_store(False)

    objects = MemoryStore()
    BackUp(database, target_in(objects)).finish()
    verification = Verification(target_in(objects, lose))
    with pytest.raises(ObjectStoreError):
        verification.finish()
    with pytest.raises(DurusError, match="no result before the last step"):
        _ = verification.result


@pytest.mark.spec("BACKUP-52")
def test_full_disk_for_the_temporary_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f.durus"
    storage = FileStorage(path)
    connection = Connection(storage)
    connection.get_root()
    connection.commit()
    storage.close()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nothing"))
    target = ObjectTarget(ObstoreStore("memory://x", MemoryStore))
    with pytest.raises(FileError, match="nothing: cannot write a temporary file"):
        BackUp(path, target).finish()
    assert target.read_manifest().generations == ()

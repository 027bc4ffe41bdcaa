"""The estimate of garbage, when a server packs by it, and what becomes of the old file. [CMD-60] to [CMD-62]"""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from durus.cli.main import main
from durus.error import FileError
from durus.file_storage import FileStorage
from durus.files.append_only_storage import AppendOnlyStorage
from durus.files.file import OperatingSystem
from durus.oid import ROOT_OID, oid_from_int
from durus.records.record import pack_record
from durus.storage import MemoryStorage, Storage
from durus.storage_server import StorageServer
from tests.threaded_server import serving_with

ONE = oid_from_int(1)
SIZE = 1000


def put(storage: Storage, *oids: bytes) -> None:
    storage.begin()
    for oid in oids:
        storage.store(oid, pack_record(oid, os.urandom(SIZE), ONE if oid == ROOT_OID else b""))
    storage.end()


def garbage(storage: Storage) -> int:
    assert storage.usage is not None
    return storage.usage.garbage


def replaced(path: Path) -> int:
    """Return the bytes of all records in the file that newer ones have replaced."""
    shown = FileStorage(path, readonly=True)
    offsets = [(oid, commit.number, len(record)) for oid in (ROOT_OID, ONE) for commit, record in shown.records_of(oid)]
    shown.close()
    newest = {oid: number for oid, number, _ in offsets}
    return sum(size for oid, number, size in offsets if number != newest[oid])


@pytest.mark.spec("CMD-61")
def test_garbage_is_counted_as_commits_come_and_estimated_when_the_file_is_opened(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path / "f")
    put(storage, ROOT_OID, ONE)
    assert garbage(storage) == 0
    for _ in range(20):
        put(storage, ONE)
    storage.pack()
    assert garbage(storage) == 0
    for _ in range(20):
        put(storage, ROOT_OID)
    assert garbage(storage) == replaced(tmp_path / "f") == 20 * (SIZE + 20)
    storage.close()
    again = FileStorage(tmp_path / "f")
    assert garbage(again) == pytest.approx(20 * SIZE, rel=0.2)
    again.close()


@pytest.mark.spec("CMD-61")
def test_new_objects_are_no_garbage(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path / "f")
    put(storage, ROOT_OID, ONE)
    for number in range(2, 20):
        put(storage, oid_from_int(number))
    assert garbage(storage) == 0
    storage.close()
    again = FileStorage(tmp_path / "f")
    assert garbage(again) == 0
    again.close()


@pytest.mark.spec("CMD-61")
def test_a_commit_that_fails_makes_no_garbage(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path / "f")
    put(storage, ROOT_OID, ONE)
    staged = storage.stage_commit({ONE: pack_record(ONE, bytes(SIZE), b"")})
    staged.write()
    assert garbage(storage) == 0
    staged.accept()
    staged.accept()
    assert garbage(storage) > SIZE
    storage.close()


def test_other_storages_know_no_garbage() -> None:
    assert MemoryStorage().usage is None


@pytest.mark.spec("CMD-60", "CMD-62")
def test_a_server_packs_when_most_of_the_file_is_garbage_and_logs_what_it_freed(
    short_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "durus")
    storage = FileStorage(short_path / "f")
    with serving_with(StorageServer(storage, address=short_path / "s", gcgarbage=20 * SIZE)) as client:
        put(client, *(client.new_oid() for _ in range(2)))
        for _ in range(18):
            put(client, ONE)
        assert "packing" not in caplog.messages
        for _ in range(5):
            put(client, ONE)
        client.pack(wait=True)  # after the one that has begun by itself
    packed = [message for message in caplog.messages if "packed in" in message]
    assert len(packed) == 2
    assert int(packed[0].split(": ")[1].split()[0]) > 20 * SIZE


@pytest.mark.spec("CMD-60")
@pytest.mark.parametrize("gcgarbage", [0, 10 * SIZE])
def test_a_server_does_not_pack_without_the_rule_or_while_half_of_the_file_is_live(
    short_path: Path, caplog: pytest.LogCaptureFixture, gcgarbage: int
) -> None:
    caplog.set_level(logging.INFO, "durus")
    storage = FileStorage(short_path / "f")
    with serving_with(StorageServer(storage, address=short_path / "s", gcgarbage=gcgarbage)) as client:
        put(client, *(client.new_oid() for _ in range(2 if gcgarbage == 0 else 30)))
        for _ in range(24):
            put(client, ONE)
    assert "packing" not in caplog.messages


@pytest.mark.spec("CMD-60")
def test_a_pack_that_fails_is_not_tried_again_with_each_commit(
    short_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Full(OperatingSystem):
        def open(self, path: str, mode: object) -> object:  # type: ignore[override]  # it only refuses
            if mode == "private":
                raise FileError(28, "No space left on device", path)
            return super().open(path, mode)  # type: ignore[arg-type]  # it is a Mode

    caplog.set_level(logging.INFO, "durus")
    storage = FileStorage(short_path / "f", file_system=Full())  # type: ignore[arg-type]  # as above
    with serving_with(StorageServer(storage, address=short_path / "s", gcgarbage=5 * SIZE)) as client:
        put(client, *(client.new_oid() for _ in range(2)))
        for _ in range(13):
            put(client, ONE)
            client.sync()
    assert len([each for each in caplog.messages if "the pack failed" in each]) == 2


@pytest.mark.spec("CMD-62")
def test_the_old_file_is_removed_on_request_when_the_new_one_is_durable(tmp_path: Path) -> None:
    operations: list[str] = []

    class Watched(OperatingSystem):
        def remove(self, path: str) -> None:
            operations.append(f"remove {os.path.basename(path)}")
            super().remove(path)

        def replace(self, source: str, name: str) -> None:
            operations.append(f"replace {os.path.basename(name)}")
            super().replace(source, name)

        def sync_directory(self, path: str) -> None:
            operations.append("sync directory")
            super().sync_directory(path)

    storage = FileStorage(tmp_path / "f", file_system=Watched())
    put(storage, ROOT_OID, ONE)
    storage.pack()
    assert (tmp_path / "f.prepack").exists()
    storage.keep_prepack = False
    operations.clear()
    storage.pack()
    assert operations == ["replace f", "replace f.prepack", "sync directory", "remove f.prepack"]
    assert sorted(os.listdir(tmp_path)) == ["f"]
    storage.close()


@pytest.mark.spec("CMD-62")
@pytest.mark.parametrize(
    ("options", "is_kept"), [([], True), (["--keep-prepack"], True), (["--no-keep-prepack"], False)]
)
def test_the_command_keeps_the_old_file_unless_it_is_told_not_to(
    tmp_path: Path, options: list[str], is_kept: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = FileStorage(tmp_path / "f")
    put(storage, ROOT_OID, ONE)
    storage.close()
    assert main(["pack", str(tmp_path / "f"), *options]) == 0
    assert (tmp_path / "f.prepack").exists() == is_kept
    assert ("the old file is kept as" in capsys.readouterr().out) == is_kept


Served = Callable[..., None]


@pytest.mark.spec("CMD-60", "CMD-62")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], (0, 0, 1 << 26, True)),
        (["--gcbytes", "0"], (0, 0, 0, True)),
        (["--gcinterval", "0"], (0, 0, 0, True)),
        (["--gcbytes", "5"], (5, 0, 0, True)),
        (["--gcinterval", "5"], (0, 5.0, 0, True)),
        (["--no-keep-prepack"], (0, 0, 1 << 26, False)),
    ],
)
def test_the_options_of_serve_choose_the_rule(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    expected: tuple[int, float, int, bool],
) -> None:
    made: list[tuple[object, ...]] = []

    class Server(StorageServer):
        def __init__(self, storage: AppendOnlyStorage, **given: object) -> None:  # type: ignore[type-arg]
            made.append((given["gcbytes"], given["gcinterval"], given["gcgarbage"], storage.keep_prepack))
            raise FileError(1, "that is all", "f")

    monkeypatch.setattr("durus.cli.serve.StorageServer", Server)
    assert main(["serve", str(tmp_path / "f"), *options]) == 1
    assert made == [expected]

"""A disk that is full while a copy is made: the error names the file, and nothing is left that keeps the disk full."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

import durus
from durus.backup import back_up
from durus.backups import folder
from durus.backups.objects import _UploadedPart
from durus.error import FileError
from durus.file_storage import FileStorage
from durus.file_storage2 import FileStorage2
from durus.files.spool import Spool
from durus.open_file import inspect_file
from durus.sqlite_storage import SqliteStorage
from durus.tools.convert import copy_to_file, copy_to_storage
from durus.tools.export import Export
from durus.tools.import_lines import Import


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "f.durus"
    with durus.open(path) as db, db.transaction() as root:
        root["text"] = "x" * 1000
    return path


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each temporary file refuse its first byte, when it is written and again when it is closed."""
    make: Callable[..., IO[bytes]] = tempfile.TemporaryFile

    class Full:
        def __init__(self, **arguments: object) -> None:
            self._file = make(**arguments)

        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def close(self) -> None:
            self._file.close()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "TemporaryFile", Full)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.spec("OBJ-44")
@pytest.mark.usefixtures("full_disk")
def test_copying_to_a_file_tells_which_file_does_not_fit(path: Path) -> None:
    storage = FileStorage(path, readonly=True)
    with pytest.raises(FileError, match=r"new\.durus: cannot write a temporary file beside it: No space left"):
        list(copy_to_file(storage, path.with_name("new.durus")))
    storage.close()
    assert names_in(path.parent) == ["f.durus"]


@pytest.mark.spec("OBJ-44")
@pytest.mark.usefixtures("full_disk")
def test_copying_to_a_storage_tells_which_folder_is_full(path: Path, tmp_path: Path) -> None:
    storage, target = FileStorage(path, readonly=True), SqliteStorage(tmp_path / "new.sqlite")
    with pytest.raises(FileError, match=rf"{tempfile.gettempdir()}: cannot write a temporary file"):
        list(copy_to_storage(storage, target))
    storage.close()
    target.close()


@pytest.mark.parametrize("make", [FileStorage, FileStorage2, Spool, _UploadedPart])
def test_a_system_without_a_folder_for_temporary_files_is_told(
    make: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    arguments = (None,) if make is _UploadedPart else ()
    with pytest.raises(FileError, match=r"missing: cannot .*: No such file or directory"):
        make(*arguments)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "missing")])
    with pytest.raises(FileError, match=r"cannot make a temporary file: No usable temporary directory .*TMPDIR"):
        make(*arguments)


@pytest.mark.spec("EXP-32")
def test_importing_tells_which_file_does_not_fit(path: Path, request: pytest.FixtureRequest) -> None:
    lines = path.with_name("f.jsonl")
    with contextlib.closing(inspect_file(path)) as inspection:
        list(Export(inspection.records, lines).steps())
    request.getfixturevalue("full_disk")
    with pytest.raises(FileError, match=r"new\.durus: cannot write a temporary file beside it: No space left"):
        list(Import(lines, path.with_name("new.durus")).steps())
    assert names_in(path.parent) == ["f.durus", "f.jsonl"]


@pytest.mark.spec("BACKUP-15")
def test_backup_that_does_not_fit_leaves_no_part_of_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object, data: bytes) -> None:
        raise FileError(errno.ENOSPC, os.strerror(errno.ENOSPC), "segment.part")

    monkeypatch.setattr(folder._FolderPart, "append", refuse)
    with pytest.raises(FileError, match="No space left"):
        back_up(path, path.with_name("backup"))
    assert names_in(path.with_name("backup")) == ["lock", "manifest"]

"""The operating system's files: whatever it refuses becomes an error that names the operation and the file."""

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from durus.error import FileError, LockedError
from durus.files.file import File, FileSystem, OperatingSystem


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "f").write_bytes(b"abc")
    (tmp_path / "g").write_bytes(b"g")
    return str(tmp_path / "f")


CALLS: dict[str, tuple[str, Callable[[FileSystem, File, str], object]]] = {
    "open": ("os.open", lambda system, file, path: system.open(path, "write")),
    "open (what it is)": ("os.fstat", lambda system, file, path: system.open(path, "read")),
    "size": ("os.lseek", lambda system, file, path: file.size()),
    "read": ("os.pread", lambda system, file, path: file.read_at(0, 3)),
    "append": ("os.pwrite", lambda system, file, path: file.append(b"x")),
    "append (where)": ("os.lseek", lambda system, file, path: file.append(b"x")),
    "truncate": ("os.ftruncate", lambda system, file, path: file.truncate(1)),
    "sync": ("os.fsync", lambda system, file, path: file.sync()),
    "lock": ("fcntl.flock", lambda system, file, path: file.lock()),
    "has_its_name": ("os.stat", lambda system, file, path: file.has_its_name()),
    "copy_permissions": ("os.fchmod", lambda system, file, path: file.copy_permissions(file)),
    "link": ("os.link", lambda system, file, path: system.link(path, path + ".2")),
    "replace": ("os.replace", lambda system, file, path: system.replace(path, path + ".2")),
    "remove": ("os.unlink", lambda system, file, path: system.remove(path)),
    "sync_directory": ("os.fsync", lambda system, file, path: system.sync_directory(path)),
    "sync_directory (open)": ("os.open", lambda system, file, path: system.sync_directory(path)),
}


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("call", CALLS)
def test_refusal_of_the_operating_system_is_told_with_operation_and_file(
    path: str, call: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = OperatingSystem().open(path, "write")

    def refuse(*arguments: object, **options: object) -> object:
        raise OSError(code, os.strerror(code))

    function, make = CALLS[call]
    module, name = function.split(".")
    monkeypatch.setattr({"os": os, "fcntl": fcntl}[module], name, refuse)
    if function == "os.fsync":
        monkeypatch.delattr(fcntl, "F_FULLFSYNC", raising=False)
    with pytest.raises(FileError) as caught:
        make(OperatingSystem(), file, path)
    monkeypatch.undo()
    assert caught.value.errno == code
    assert caught.value.operation
    assert caught.value.filename in (path, path + ".2", os.path.dirname(path))
    assert os.strerror(code) in str(caught.value)
    file.close()


def test_short_writes_are_gone_on_with(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    written: list[int] = []

    def short(fd: int, data: Any, offset: int) -> int:
        written.append(real(fd, data[:2], offset))
        return written[-1]

    file = OperatingSystem().open(path, "write")
    monkeypatch.setattr(os, "pwrite", short)
    file.append(b"12345")
    assert written == [2, 2, 1]
    assert file.read_at(0, 99) == b"abc12345"
    file.close()


def test_short_reads_are_gone_on_with(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pread
    file = OperatingSystem().open(path, "read")
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: real(fd, min(size, 2), offset))
    assert file.read_at(0, 3) == b"abc"
    assert file.read_at(1, 99) == b"bc"
    file.close()


def test_write_without_room_after_a_short_one_leaves_the_part(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite

    def full(fd: int, data: Any, offset: int) -> int:
        if offset > 3:
            raise OSError(errno.ENOSPC, "no space")
        return real(fd, data[:1], offset)

    file = OperatingSystem().open(path, "write")
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(FileError, match=r"append.*no space"):
        file.append(b"12345")
    assert file.read_at(0, 99) == b"abc1"
    file.close()


@pytest.mark.spec("SHELF-39")
def test_file_that_must_be_new_is_neither_emptied_nor_opened_where_one_is(path: str) -> None:
    with pytest.raises(FileError, match="exists"):
        OperatingSystem().open(path, "new")
    assert Path(path).read_bytes() == b"abc"


def test_two_holders_of_a_lock(path: str) -> None:
    first, second = OperatingSystem().open(path, "write"), OperatingSystem().open(path, "write")
    first.lock()
    with pytest.raises(LockedError):
        second.lock()
    first.close()
    second.lock()
    second.close()

"""What is asked for wrongly gets an error that says what, where and what to do."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from durus.connection import Connection
from durus.error import (
    ArgumentError,
    DurusKeyError,
    FileError,
    LockedError,
    ReadonlyError,
    StateError,
    WriteConflictError,
)
from durus.file_storage import FileStorage
from durus.files.file import OperatingSystem
from durus.oid import oid_from_int
from durus.persistent import ConnectionBase, Persistent, PersistentBase, PersistentObject
from durus.storage import MemoryStorage, Storage


def test_errors_speak_of_oids_as_numbers() -> None:
    assert str(DurusKeyError(oid_from_int(77))) == "no object has the oid 77"
    assert str(DurusKeyError("other", 5)) == "other 5"
    many = WriteConflictError(oid_from_int(n) for n in range(12))
    assert ": oid 0, oid 1, oid 2, oid 3, oid 4, oid 5, oid 6, oid 7, oid 8, oid 9 and 2 more; " in str(many)
    assert WriteConflictError().oids == []


def test_lock_error_names_the_file_and_the_process(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom durus.file_storage import FileStorage\n"
        "storage = FileStorage(sys.argv[1])\nprint('open', flush=True)\nsys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path / "f"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "open\n"
    with pytest.raises(LockedError) as caught:
        FileStorage(tmp_path / "f")
    holder.communicate()
    assert str(tmp_path / "f") in str(caught.value)
    assert str(caught.value).endswith("; close it there, or open it with readonly=True")
    assert isinstance(caught.value, OSError)
    if sys.platform == "linux":
        assert f"process {holder.pid}" in str(caught.value) or "another process" in str(caught.value)


def test_paths_that_are_no_usable_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in ("absent/f", "pipe"):
        with pytest.raises(FileError, match=path):
            FileStorage(tmp_path / path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open every file")
def test_path_without_permission(tmp_path: Path) -> None:
    FileStorage(tmp_path / "f").close()
    (tmp_path / "f").chmod(0)
    with pytest.raises(FileError, match="Permission denied"):
        FileStorage(tmp_path / "f")


def test_operations_on_names_tell_what_failed(tmp_path: Path) -> None:
    system = OperatingSystem()
    absent, other = str(tmp_path / "absent"), str(tmp_path / "other")
    with pytest.raises(FileError, match="rename"):
        system.replace(absent, other)
    with pytest.raises(FileError, match="remove"):
        system.remove(absent)
    with pytest.raises(FileError, match="give the name"):
        system.link(absent, other)
    with pytest.raises(FileError, match="directory"):
        system.sync_directory(str(tmp_path / "absent" / "f"))


def test_packed_file_keeps_its_permissions(tmp_path: Path) -> None:
    with Connection(tmp_path / "f") as connection:
        (tmp_path / "f").chmod(0o640)
        connection.pack()
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o640


def test_file_storage_refuses_options_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="readonly"):
        FileStorage(readonly=True)
    with pytest.raises(ArgumentError, match="repair"):
        FileStorage(tmp_path / "f", readonly=True, repair=True)
    with pytest.raises(ArgumentError, match="durability"):
        FileStorage(tmp_path / "f", durability="none")  # type: ignore[arg-type]  # that it is wrong is the point
    FileStorage(tmp_path / "f").close()
    with pytest.raises(ReadonlyError):
        Connection(FileStorage(tmp_path / "f", readonly=True))


def test_cache_needs_room() -> None:
    connection = Connection(MemoryStorage())
    with pytest.raises(ValueError, match="too small"):
        connection.set_cache_size(0)
    connection.set_cache_size(5)
    assert connection.get_cache_size() == 5
    assert connection.get_cache() is connection.cache
    assert connection.get_storage() is connection.storage
    assert connection.get_load_count() == 0


def test_class_without_init_takes_no_arguments() -> None:
    with pytest.raises(TypeError, match="takes no arguments"):
        Persistent(5)  # type: ignore[call-arg]  # that is the point


def test_base_classes_have_nothing_of_their_own() -> None:
    base, obj = ConnectionBase(), PersistentBase()
    base.transaction_serial = 7
    base.note_access(obj)
    assert obj._p_serial == 7
    base.note_change(obj)  # which has no oid, so nothing can be stored under it
    assert (set(base.accessed), base.changed) == (set(), {})
    base.note_reads([bytes(8)])
    assert set(base.accessed) == {bytes(8)}
    with pytest.raises(NotImplementedError):
        base.load_state(obj)
    storage = Storage()
    for ask in (storage.begin, storage.end, storage.sync, storage.new_oid):
        with pytest.raises(NotImplementedError):
            ask()
    with pytest.raises(NotImplementedError):
        storage.load(bytes(8))
    with pytest.raises(NotImplementedError):
        storage.store(bytes(8), b"")
    storage.pack()
    storage.close()


def test_object_knows_its_statuses_and_its_name() -> None:
    connection = Connection(MemoryStorage())
    obj = PersistentObject()
    assert repr(obj) == f"<PersistentObject @{id(obj):x}>"
    connection.get_root()["x"] = obj
    connection.commit()
    obj._p_set_status_unsaved()
    assert list(connection.changed.values()) == [obj]
    obj._p_set_status_saved()
    obj._p_set_status_ghost()
    obj._p_load_state()
    assert obj._p_is_saved()
    with pytest.raises(StateError):
        connection.load_state(PersistentObject())


def test_storage_without_a_root_but_with_used_oids_is_refused() -> None:
    storage = MemoryStorage()
    storage.new_oid()
    with pytest.raises(StateError, match="no root object"):
        Connection(storage)

"""What becomes of a storage whose file, call or process is not what it was: other programs, interrupts, forks."""

import contextlib
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from durus.connection import Connection
from durus.error import DamageError, DurusError, FileError, WrongProcessError
from durus.file_storage import FileStorage
from durus.file_storage2 import FileStorage2
from durus.files.shelf.layout import pack_entry
from durus.oid import oid_from_int
from durus.open_file import open_file_storage
from durus.records.record import join_refs, pack_record
from durus.sqlite_storage import SqliteStorage
from durus.storage import MemoryStorage, Storage
from durus.tools.convert import copy_to_file
from tests.interrupts import interrupted_at

ROOT = oid_from_int(0)
KINDS: list[Callable[..., FileStorage | FileStorage2]] = [FileStorage, FileStorage2]
ANY_KIND: list[Callable[..., FileStorage | FileStorage2 | SqliteStorage]] = [*KINDS, SqliteStorage]


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest) -> Any:
    return request.param


def put(storage: FileStorage | FileStorage2 | SqliteStorage, **data: bytes) -> None:
    """Commit objects without references."""
    storage.begin()
    for name, each in data.items():
        oid = oid_from_int(int(name[1:]))
        storage.store(oid, pack_record(oid, each, b""))
    storage.end()


def is_removed(path: Path) -> None:
    path.unlink()


def is_renamed(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))


def is_replaced(path: Path) -> None:
    path.with_name("other").write_bytes(path.read_bytes())
    path.with_name("other").rename(path)


def is_emptied(path: Path) -> None:
    os.truncate(path, 0)


def is_cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def is_made_longer(path: Path) -> None:
    os.truncate(path, path.stat().st_size + 1)


MISHAPS = [is_removed, is_renamed, is_replaced, is_emptied, is_cut, is_made_longer]


@pytest.mark.spec("SHELF-47")
@pytest.mark.parametrize("mishap", MISHAPS)
def test_commit_is_refused_when_another_program_changed_the_file(
    make: Any, mishap: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "f"
    storage = make(path)
    put(storage, o0=b"a")
    mishap(path)
    left = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    for _ in range(2):
        with pytest.raises(DurusError):
            put(storage, o0=b"b")
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == left
    storage.close()


@pytest.mark.spec("SHELF-47")
def test_commits_go_on_when_the_file_has_its_name_again(make: Any, tmp_path: Path) -> None:
    storage = make(tmp_path / "f")
    is_renamed(tmp_path / "f")
    with pytest.raises(FileError, match="removed, renamed or replaced"):
        put(storage, o0=b"a")
    (tmp_path / "elsewhere").rename(tmp_path / "f")
    put(storage, o0=b"b")
    storage.close()


@pytest.mark.spec("SHELF-47")
def test_commit_is_refused_when_the_link_by_which_the_file_was_opened_leads_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("f")
    storage = FileStorage(tmp_path / "link")
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("g")
    with pytest.raises(FileError):
        put(storage, o0=b"a")
    storage.close()


@pytest.mark.spec("SHELF-48")
@pytest.mark.parametrize("mishap", MISHAPS)
def test_pack_does_not_put_its_file_over_one_that_is_not_its_own(
    make: Any, mishap: Callable[[Path], None], tmp_path: Path
) -> None:
    number = 0
    while True:
        folder = tmp_path / str(number)
        folder.mkdir()
        storage = make(folder / "f")
        put(storage, o0=b"a", o1=b"garbage")
        steps = storage.get_packer()
        done = sum(1 for _ in zip(range(number), steps, strict=False))
        if done < number:
            break
        mishap(folder / "f")
        left = {each.name: each.read_bytes() for each in folder.iterdir() if not each.name.endswith(".pack")}
        with pytest.raises(DurusError):
            list(steps)
        assert {each.name: each.read_bytes() for each in folder.iterdir()} == left
        storage.close()
        number += 1
    assert number > 1
    storage.close()


@pytest.mark.spec("SHELF-50")
@pytest.mark.parametrize("is_packed", [False, True])
def test_pack_refuses_bytes_that_changed_since_they_were_verified(is_packed: bool, tmp_path: Path) -> None:
    path = tmp_path / "f"
    storage = FileStorage(path)
    put(storage, o0=b"EUR 1000")
    if is_packed:
        storage.pack()
    assert storage.load(ROOT) == pack_record(ROOT, b"EUR 1000", b"")
    before = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(before.index(b"EUR 1000") + 4)
        file.write(b"9")
    changed = path.read_bytes()
    with pytest.raises(DamageError):
        storage.pack()
    assert path.read_bytes() == changed
    storage.close()


@pytest.mark.spec("SHELF-49")
def test_second_pack_leaves_nothing_when_prepack_was_a_name_of_the_file(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path / "f")
    put(storage, o0=b"a")
    os.link(tmp_path / "f", tmp_path / "f.prepack")
    storage.pack()
    storage.close()
    assert {each.name for each in tmp_path.iterdir()} == {"f", "f.prepack"}


@pytest.mark.spec("SHELF-49")
def test_what_is_made_beside_a_private_file_is_private_from_its_first_byte(make: Any, tmp_path: Path) -> None:
    path = tmp_path / "f"
    make(path).close()
    path.chmod(0o600)
    storage = make(path)
    put(storage, o0=b"a")
    for _ in storage.get_packer():
        assert {each.stat().st_mode & 0o777 for each in tmp_path.iterdir()} == {0o600}
    storage.close()
    with path.open("ab") as file:
        file.write(b"torn")
    with pytest.warns(UserWarning, match="cut off"):
        make(path, repair=True).close()
    assert {each.stat().st_mode & 0o777 for each in tmp_path.iterdir()} == {0o600}


def commit(storage: FileStorage | FileStorage2 | SqliteStorage, text: bytes) -> None:
    storage.begin()
    oid = storage.new_oid()
    storage.store(ROOT, pack_record(ROOT, text, join_refs(ROOT, [oid])))
    storage.store(oid, pack_record(oid, text, b""))
    storage.end()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.spec("SHELF-46", "SQL-20")
@pytest.mark.parametrize("call", ["commit", "pack"])
@pytest.mark.parametrize("make", ANY_KIND)
def test_storage_goes_on_after_an_interrupt_at_any_line(make: Any, call: str, tmp_path: Path) -> None:
    number = 0
    is_interrupted = True
    while is_interrupted:
        path = tmp_path / f"f{number}"
        storage = make(path)
        assert storage.new_oid() == ROOT
        commit(storage, b"first")
        commit(storage, b"second")
        work = storage.pack if call == "pack" else functools.partial(commit, storage, b"third")
        is_interrupted = interrupted_at(number, work) is not None
        refused = 0
        while refused < 2:
            try:
                commit(storage, b"after")
                break
            except DurusError:
                refused += 1
        assert refused < 2, number
        storage.pack()
        commit(storage, b"last")
        storage.close()
        with contextlib.closing(make(path)) as again:
            assert again.load(ROOT)[12:16] == b"last"
            assert not list(tmp_path.glob("*.pack")) + list(tmp_path.glob("*.new"))
        number += 11


def in_child(call: Callable[[], object]) -> str:
    """Return what a call in a forked process comes to."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            outcome = repr(call())
        except BaseException as error:
            outcome = type(error).__name__
        os.write(writer, outcome.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as lines:
        outcome = lines.read()
    os.waitpid(child, 0)
    return outcome


@pytest.mark.spec("SHELF-53", "SQL-21")
@pytest.mark.parametrize("make", ANY_KIND)
def test_storage_is_of_no_use_in_a_forked_process(make: Any, tmp_path: Path) -> None:
    storage = make(tmp_path / "f")
    put(storage, o0=b"a")
    storage.load(ROOT)
    for call in (
        lambda: storage.load(ROOT),
        lambda: storage.has_record(ROOT),
        lambda: put(storage, o0=b"b"),
        storage.new_oid,
        storage.sync,
        storage.pack,
        lambda: list(storage.gen_oid_record()),
    ):
        assert in_child(call) == WrongProcessError.__name__
    assert in_child(storage.close) == "None"
    put(storage, o0=b"c")
    with pytest.raises(DurusError, match="in use"):
        make(tmp_path / "f")
    storage.close()


@pytest.mark.spec("SHELF-53")
def test_forked_process_leaves_the_temporary_folder_of_its_parent() -> None:
    storage = FileStorage()
    child = os.fork()
    if not child:
        del storage
        sys.exit = os._exit  # type: ignore[assignment]  # in the child only
        os._exit(0)
    os.waitpid(child, 0)
    put(storage, o0=b"a")
    folder = os.path.dirname(storage.get_filename())
    assert os.path.exists(folder)
    storage.close()
    assert not os.path.exists(folder)


@pytest.mark.spec("SHELF-9", "SHELF-52")
@pytest.mark.parametrize(("map_bytes", "count"), [("0010 0106 00a7 0105", 2), ("10", 1)])
def test_oid_of_an_object_is_not_given_out_for_a_damaged_chain(map_bytes: str, count: int, tmp_path: Path) -> None:
    numbers = [0, 2][:count] if count > 1 else [0]
    entries = b"".join(pack_entry(oid_from_int(n), pack_record(oid_from_int(n), bytes(122), b"")) for n in numbers)
    start = 16 + len(entries)
    words = len(bytes.fromhex(map_bytes))
    size = 2 if count > 1 else 1
    data = b"SHELF-1\n" + len(entries).to_bytes(8, "big") + entries
    data += (16 + words).to_bytes(8, "big") + size.to_bytes(8, "big") + (words // size).to_bytes(8, "big")
    places = {0: 16, 2: 16 + len(entries) // 2}
    if count > 1:
        chain = [places[0], start + 2, places[2], start + 1]  # oid 1 leads to 2, which is an object
        data += b"".join(word.to_bytes(size, "big") for word in chain)
    else:
        data += bytes.fromhex(map_bytes)
    (tmp_path / "f").write_bytes(data)
    storage = FileStorage(tmp_path / "f")
    given = []
    for _ in range(6):
        try:
            given.append(storage.new_oid())
        except DamageError:
            continue
    assert given
    assert not [oid for oid in given if storage.has_record(oid)]
    storage.close()


@pytest.mark.spec("SHELF-51")
def test_pack_refuses_an_oid_that_would_need_too_much_room(tmp_path: Path) -> None:
    high = oid_from_int(1 << 40)
    storage = FileStorage(tmp_path / "f")
    storage.begin()
    storage.store(ROOT, pack_record(ROOT, b"a", high))
    storage.store(high, pack_record(high, b"b", b""))
    storage.end()
    with pytest.raises(DurusError, match="too high for a pack"):
        storage.pack()
    storage.close()


@pytest.mark.spec("SQL-21")
def test_file_of_sqlite_that_the_parent_had_open_is_not_opened_by_its_child(tmp_path: Path) -> None:
    storage = SqliteStorage(tmp_path / "f")
    assert in_child(lambda: SqliteStorage(tmp_path / "f", readonly=True)) == WrongProcessError.__name__
    put(storage, o0=b"a")
    storage.close()
    assert in_child(SqliteStorage(tmp_path / "f").close) == "None"


def most_calls_in_a_step(storage: Storage) -> int:
    """Pack; return how many functions of Python a step has called at most."""
    calls = most = 0

    def count_call(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count_call)
    try:
        for _ in storage.get_packer():
            most, calls = max(most, calls), 0
    finally:
        sys.setprofile(None)
    return max(most, calls)


@pytest.mark.spec("SHELF-50")
@pytest.mark.parametrize("make", [*ANY_KIND, lambda path: MemoryStorage()])
def test_step_of_a_pack_is_as_long_for_many_objects_of_one_level_as_for_few(make: Any, tmp_path: Path) -> None:
    found = []
    for count in (3_000, 12_000):
        storage = make(tmp_path / str(count))
        storage.begin()
        numbers = [oid_from_int(n) for n in range(1, count)]
        storage.store(ROOT, pack_record(ROOT, b"root", join_refs(ROOT, numbers)))
        for oid in numbers:
            storage.store(oid, pack_record(oid, b"one", b""))
        storage.end()
        found.append(most_calls_in_a_step(storage))
        storage.close()
    assert found[1] < 2 * found[0] + 100, found


@pytest.mark.parametrize("make", ANY_KIND)
def test_path_may_be_bytes(make: Any, tmp_path: Path) -> None:
    path = os.fsencode(tmp_path / "f") + b"\xe4"
    with Connection(make(path)) as connection:
        connection.get_root()["a"] = 1
        connection.commit()
        connection.pack()
    with Connection(path) as connection:
        assert connection.get_root()["a"] == 1
    copy = os.fsencode(tmp_path / "copy")
    with contextlib.closing(open_file_storage(path, readonly=True)) as again:
        for _ in copy_to_file(again, copy, permissions_of=path):
            pass
    assert os.path.exists(copy)


@pytest.mark.spec("OBJ-46")
def test_a_copy_removes_what_killed_processes_have_left_and_nothing_else(tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    left = [f"copy.{child}-0.part", f"copy.{child}-7.part-journal", f"copy.{10**30}-0.part"]
    others = [f"copy.{os.getpid()}-0.part", f"copy.{os.getppid()}-0.part", f"copy.{child}.part", f"x.{child}-0.part"]
    for name in left + others:
        (tmp_path / name).write_bytes(b"part")
    with Connection(MemoryStorage()) as connection:
        connection.get_root()["a"] = 1
        connection.commit()
        for _ in copy_to_file(connection.get_storage(), tmp_path / "copy"):
            pass
    assert {each.name for each in tmp_path.iterdir()} == {"copy", *others}


@pytest.mark.spec("OBJ-46")
def test_a_copy_that_fails_names_the_file_that_was_asked_for(tmp_path: Path) -> None:
    copy = tmp_path / "missing" / "copy"
    with Connection(MemoryStorage()) as connection, pytest.raises(FileError, match="No such file") as caught:
        for _ in copy_to_file(connection.get_storage(), copy):
            pass
    assert caught.value.filename == str(copy)


def has_lost_its_log(path: Path) -> None:
    path.with_name(path.name + "-wal").unlink()


def has_lost_its_locks(path: Path) -> None:
    path.with_name(path.name + "-shm").unlink()


@pytest.mark.spec("SQL-22")
@pytest.mark.parametrize(
    "mishap", [is_removed, is_renamed, is_replaced, is_emptied, is_cut, has_lost_its_log, has_lost_its_locks]
)
def test_sqlite_commits_nothing_to_a_file_that_others_do_not_find(
    mishap: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "f"
    storage = SqliteStorage(path)
    put(storage, o0=b"root")
    storage.vacuum()  # so that all of it is in the file
    put(storage, o1=b"one")
    mishap(path)
    for refused in (functools.partial(put, storage, o2=b"two"), storage.vacuum):
        with pytest.raises(DurusError, match=r"another program has|is not a sound SQLite file"):
            refused()
    if mishap is not is_emptied:  # nothing can be read then
        assert not storage.has_record(oid_from_int(2))
    storage.close()


@pytest.mark.spec("SQL-22")
def test_sqlite_commits_again_when_the_file_has_its_name_again(tmp_path: Path) -> None:
    storage = SqliteStorage(tmp_path / "f")
    put(storage, o0=b"root")
    is_renamed(tmp_path / "f")
    with pytest.raises(FileError):
        put(storage, o1=b"one")
    (tmp_path / "elsewhere").rename(tmp_path / "f")
    put(storage, o2=b"two")
    storage.vacuum()
    put(storage, o3=b"three")
    storage.close()
    assert [oid_from_int(n) for n in (0, 2, 3)] == list(SqliteStorage(tmp_path / "f").gen_oids())


@pytest.mark.spec("SQL-22")
def test_a_pack_deletes_no_rows_of_a_sqlite_file_that_others_do_not_find(tmp_path: Path) -> None:
    storage = SqliteStorage(tmp_path / "f")
    put(storage, o0=b"root", o1=b"garbage")
    is_replaced(tmp_path / "f")
    with pytest.raises(FileError, match="another program has"):
        storage.pack()
    storage.close()

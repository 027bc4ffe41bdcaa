"""Files of the older formats are recognised by themselves, by the library and by each command."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from durus.cli.main import main
from durus.connection import Connection
from durus.error import FormatError
from durus.file_storage import FileStorage
from durus.file_storage2 import FileStorage2
from durus.oid import oid_from_int
from durus.open_file import open_file_storage, storage_class_of
from durus.persistent import Persistent, implementation
from durus.records.record import pack_record
from durus.serialize import class_pickle
from durus.sqlite_storage import SqliteStorage
from durus.storage import Storage

FORMATS: list[Callable[..., Storage]] = [FileStorage, FileStorage2, SqliteStorage]
OLDER = pytest.mark.parametrize("make", FORMATS[1:])
ROOT, ONE, TWO = (oid_from_int(n) for n in range(3))


def fill(storage: Storage) -> None:
    """Commit 20 objects, of which the root keeps one."""
    with Connection(storage) as connection:
        root = connection.get_root()
        root["many"] = [Persistent() for _ in range(20)]
        connection.commit()
        root["many"] = Persistent()
        connection.commit()


@pytest.mark.parametrize("make", FORMATS)
def test_file_is_opened_as_what_it_is(make: Callable[..., Storage], tmp_path: Path) -> None:
    path = tmp_path / "f"
    fill(make(path))
    assert storage_class_of(path) is make
    with Connection(path) as connection:
        assert type(connection.get_storage()) is make
        assert list(connection.get_root()) == ["many"]
    with closing(open_file_storage(path, readonly=True)) as reader:
        assert type(reader) is make


def test_file_that_is_not_there_or_of_no_known_kind_is_for_a_file_storage(tmp_path: Path) -> None:
    assert storage_class_of(tmp_path / "new") is FileStorage
    assert storage_class_of(tmp_path) is FileStorage
    (tmp_path / "text").write_text("no database")
    with pytest.raises(FormatError, match="not a Durus file"):
        open_file_storage(tmp_path / "text")


def test_sqlite_file_that_is_open_here_is_recognised_without_reading_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = SqliteStorage(tmp_path / "f")
    with monkeypatch.context() as patch:
        patch.delattr("durus.open_file._start_of")
        assert storage_class_of(tmp_path / "f") is SqliteStorage
    storage.close()
    assert storage_class_of(tmp_path / "f") is SqliteStorage


@OLDER
def test_check_of_a_sound_file_is_clean_and_tells_that_there_are_no_checksums(
    make: Callable[..., Storage], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(make(tmp_path / "f"))
    assert main(["check", str(tmp_path / "f")]) == 0
    told = capsys.readouterr().out
    assert ": clean: " in told
    assert "22 objects" in told
    assert "no checksums" in told


@OLDER
def test_check_names_each_record_that_is_wrong(
    make: Callable[..., Storage], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("files.append_only_storage", "sqlite_storage"):
        monkeypatch.setattr(f"durus.{module}.check_references", lambda records, exists: None)
    storage = make(tmp_path / "f")
    storage.begin()
    empty = class_pickle(Persistent) + b"\x80\x04}."
    storage.store(ROOT, pack_record(ROOT, empty, TWO))
    storage.store(ONE, pack_record(ONE, b"no pickle", b""))
    storage.end()
    storage.close()
    assert main(["check", str(tmp_path / "f")]) == 1
    told = capsys.readouterr().out
    assert "oid 0: the references next to its state differ from those in its state; they have oid 2 in addition" in told
    assert "oid 0: it refers to oid 2, which has no record" in told
    assert "oid 1: its data can't be read" in told
    assert ": 3 faults: " in told


@OLDER
def test_info_tells_format_objects_classes_and_garbage(
    make: Callable[..., Storage], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(make(tmp_path / "f"))
    assert main(["info", str(tmp_path / "f")]) == 0
    told = capsys.readouterr().out
    assert f"format        {'SQLite' if make is SqliteStorage else 'DFS20'}\n" in told
    assert told.startswith("durus         ")
    assert f", its base classes in {implementation}\nfile          {tmp_path / 'f'}\n" in told
    assert "objects       22, 20 of them not reached from the root" in told
    assert "21         " in told
    assert "durus.persistent.Persistent" in told
    assert "sealed        no, the format has no checksums" in told
    garbage = int(told.split("garbage")[1].split("%: ")[1].split()[0])
    assert garbage > 20 * 48


def test_info_of_a_file_storage_2_counts_every_byte_of_its_entries(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = FileStorage2(tmp_path / "f")
    for data in (b"1", b"22"):
        storage.begin()
        storage.store(ROOT, pack_record(ROOT, data, b""))
        storage.store(ONE, pack_record(ONE, data, b""))
        storage.end()
        if data == b"1":
            storage.pack()
    storage.close()
    assert main(["info", str(tmp_path / "f")]) == 0
    # The packed root has 4 + 13 bytes; of the two in the commit, which have 4 + 14, one is not reached.
    assert "18 bytes not reached, 17 bytes superseded" in capsys.readouterr().out


@OLDER
def test_pack_command_packs_the_file(
    make: Callable[..., Storage], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(make(tmp_path / "f"))
    assert main(["-p", "--file", str(tmp_path / "f")]) == 0
    assert "packed into" in capsys.readouterr().out
    with closing(open_file_storage(tmp_path / "f", readonly=True)) as storage:
        assert type(storage) is make
        assert len(list(storage.gen_oid_record())) == 2


@OLDER
def test_convert_command_makes_a_shelf_of_the_file(make: Callable[..., Storage], tmp_path: Path) -> None:
    fill(make(tmp_path / "f"))
    assert main(["convert", str(tmp_path / "f"), str(tmp_path / "new")]) == 0
    with Connection(FileStorage(tmp_path / "new")) as connection:
        assert type(connection.get_root()["many"]) is Persistent


def damaged(tmp_path: Path, place: str) -> Path:
    """Return a FileStorage2 file with 3 packed objects and 2 commits, and what is wrong with it."""
    path = tmp_path / "f"
    with Connection(FileStorage2(path)) as connection:
        connection.pack()
        connection.get_root()["a"] = [Persistent(), Persistent()]
        connection.commit()
        connection.pack()
        connection.get_root()["b"] = Persistent()
        connection.commit()
        size = path.stat().st_size
        connection.get_root()["c"] = Persistent()
        connection.commit()
    data = bytearray(path.read_bytes())
    index = int.from_bytes(data[6:14], "big")
    match place:
        case "packed":
            data[16] ^= 1
        case "index":
            data[index + 12] ^= 0xFF
        case "commit":
            data[size + 2] ^= 1
        case "tail":
            del data[-1]
    path.write_bytes(data)
    return path


@pytest.mark.spec("DFS-10")
@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("packed", "byte 14: in the packed part: "),
        ("index", "this is not an index"),
        ("commit", "an object entry would end at byte"),
        ("tail", "`durus shell --repair "),
    ],
)
def test_check_tells_where_a_file_storage_2_is_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str, told: str
) -> None:
    path = damaged(tmp_path, place)
    before = path.read_bytes()
    assert main(["check", str(path)]) == 1
    assert told in capsys.readouterr().out
    assert path.read_bytes() == before


def test_tail_of_a_file_storage_2_is_told_by_info(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(damaged(tmp_path, "tail"))]) == 0
    assert "tail          incomplete" in capsys.readouterr().out


def test_check_of_a_file_storage_2_without_a_root_or_of_nothing_tells_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = FileStorage2(tmp_path / "f")
    storage.begin()
    storage.store(ONE, pack_record(ONE, class_pickle(Persistent) + b"\x80\x04}.", b""))
    storage.end()
    storage.close()
    assert main(["check", str(tmp_path / "f")]) == 1
    assert "oid 0: there is no root object" in capsys.readouterr().out
    (tmp_path / "f").write_bytes((tmp_path / "f").read_bytes()[:20])
    assert main(["check", str(tmp_path / "f")]) == 1
    assert "nothing was stored yet" in capsys.readouterr().out


def test_check_of_a_broken_sqlite_file_tells_what_sqlite_finds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(SqliteStorage(tmp_path / "f"))
    data = bytearray((tmp_path / "f").read_bytes())
    data[4096 + 8] ^= 0x7F  # where the cells of the table begin
    (tmp_path / "f").write_bytes(data)
    assert main(["check", str(tmp_path / "f")]) == 1
    told = capsys.readouterr()
    assert "SQLite" in told.out + told.err

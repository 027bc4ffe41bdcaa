"""Addresses and options of durus.open(), and what `import durus` gives. spec/database.md, DB-1 to DB-7."""

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import durus
from durus.error import ArgumentError, FileError, LockedError, ServerUnreachableError, StateError
from durus.file_storage2 import FileStorage2
from durus.persistent import Persistent
from durus.pool.options import OptionType, Value
from durus.sqlite_storage import SqliteStorage
from durus.storage import MemoryStorage, Storage


class Shop(Persistent):
    name = "a shop"


def note(where: str | bytes | Path) -> None:
    with durus.open(where) as db, db.transaction() as root:
        root["seen"] = root.get("seen", 0) + 1


@pytest.mark.spec("DB-1")
@pytest.mark.parametrize(
    "where",
    [
        "f.durus",
        b"f.durus",
        Path("f.durus"),
        "file:f.durus",
        "file:{}",
        "file://{}",
        "file://localhost{}",
        "FILE:f%2edurus",
    ],
)
def test_all_these_lead_to_one_file(where: str | bytes | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    note("f.durus")
    note(where.format(tmp_path / "f.durus") if isinstance(where, str) else where)
    with durus.open("f.durus") as db, db.snapshot() as root:
        assert root["seen"] == 2
    assert os.listdir() == ["f.durus"]


@pytest.mark.spec("DB-1")
def test_a_file_may_be_named_like_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ArgumentError, match=r"'a:b' has an unknown scheme; known ones are durus, durus\+tls, durus\+unix, file, memory"
    ):
        durus.open("a:b")
    for where in "./a:b", "a:b", "a?b=c", b"memory:":
        note(where)
    assert sorted(os.listdir()) == ["a:b", "a?b=c", "memory:"]


@pytest.mark.spec("DB-1")
@pytest.mark.parametrize("open_file", [FileStorage2, SqliteStorage])
def test_a_file_of_any_format_is_opened(open_file: Callable[[Path], Storage], tmp_path: Path) -> None:
    open_file(tmp_path / "f").close()
    note(tmp_path / "f")
    note(tmp_path / "f")
    with durus.open(tmp_path / "f") as db, db.snapshot() as root:
        assert root["seen"] == 2


@pytest.mark.spec("DB-1")
@pytest.mark.parametrize(
    "where",
    [
        "",
        "file:",
        "file://elsewhere/f",
        "a\0b",
        "memory:name",
        "durus:host",
        "durus://",
        "durus://host:port",
        "durus://host:99999",
        "durus://me@host",
        "durus://host/path",
        "durus://host#part",
        "durus+unix:",
        "durus+unix:@",
        "durus+unix://host/path",
        3,
        None,
    ],
)
def test_what_is_no_address_is_told_so(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArgumentError, match=r"is not an address|is not the (path|address)"):
        durus.open(where)
    assert os.listdir() == []


@pytest.mark.spec("DB-8")
@pytest.mark.parametrize(
    ("where", "advice"),
    [
        (":memory:", "'memory:' is the address of a database in memory"),
        ("f.durus?readonly=true", r"write 'file:f\.durus\?readonly=true'"),
        ("f.durus?must_exist", r"write 'file:f\.durus\?must_exist'"),
        ("a b?x=1&cache_size=5", r"write 'file:a%20b\?x=1&cache_size=5'"),
    ],
)
def test_a_path_that_is_meant_as_an_address_makes_no_file(
    where: str, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArgumentError, match=advice):
        durus.open(where)
    assert os.listdir() == []
    note(Path(where))
    note(where)
    assert os.listdir() == [where]


@pytest.mark.spec("DB-8")
def test_a_path_that_is_no_text_is_refused_like_others() -> None:
    with pytest.raises(ArgumentError, match="a path has no options"):
        durus.open("\udcff?readonly=true")


@pytest.mark.spec("DB-1")
@pytest.mark.parametrize(
    ("where", "shown"),
    [
        ("durus://127.0.0.1:1", "127.0.0.1:1"),
        ("durus://[::1]:1/", r"\[::1\]:1"),
        ("durus+unix:/nowhere/a%20b", "/nowhere/a b"),
        ("durus+unix:///nowhere/a", "/nowhere/a"),
        ("durus+unix:@nobody?timeout=none", "@nobody"),
    ],
)
def test_the_address_of_a_server_is_understood(where: str, shown: str) -> None:
    with pytest.raises(durus.DurusError, match=f"(no server listens on|cannot connect to) {shown}"):
        durus.open(where)


@pytest.mark.spec("DB-2")
def test_options_are_keywords_or_stand_in_the_query(tmp_path: Path) -> None:
    note(tmp_path / "f")
    for db in (
        durus.open(f"file:{tmp_path}/f?readonly=yes&cache_size=7"),
        durus.open(f"file:{tmp_path}/f?cache_size=7", readonly=True),
        durus.open(tmp_path / "f", cache_size=7, readonly=True),
    ):
        with db, db.connection() as connection:
            assert connection.get_cache_size() == 7
            with pytest.raises(durus.ReadonlyError):
                connection.get_root()["x"] = 1
    durus.open(f"file:{tmp_path}/f?durability=os&readonly=off&must_exist=1", repair=False, tries=3).close()


@pytest.mark.spec("DB-2")
@pytest.mark.parametrize(
    ("where", "keywords", "message"),
    [
        (
            "memory:",
            {"readonly": True},
            "memory: has no option 'readonly'; it has cache_bytes, cache_size, tries",
        ),
        ("memory:?speed=9", {}, "has no option 'speed'"),
        ("durus://127.0.0.1:1", {"durability": "os"}, "has no option .durability.; .* protocol, readonly, timeout"),
        ("memory:?tries=3", {"tries": 3}, "'tries' is given in the address and as a keyword"),
        ("memory:?tries=3&tries=4", {}, "an option occurs twice"),
        ("memory:?tries", {}, "not of the form name=value"),
        ("memory:?tries=few", {}, "'tries' is 'few': it must be a whole number"),
        ("memory:", {"tries": "3"}, "'tries' is '3': it must be a whole number"),
        ("memory:", {"tries": True}, "'tries' is True: it must be a whole number"),
        ("memory:", {"tries": 0}, "the option 'tries' is 0: it must be at least 1"),
        ("memory:?cache_size=0", {}, "the option 'cache_size' is 0: it must be at least 1"),
        ("memory:?cache_bytes=0", {}, "the option 'cache_bytes' is 0: it must be at least 1"),
        ("file:f?readonly=maybe", {}, "'readonly' is 'maybe': it must be true or false"),
        ("file:f?durability=none", {}, "'durability' is 'none'; it must be 'fsync' or 'os'"),
        ("durus://127.0.0.1:1?timeout=soon", {}, "'timeout' is 'soon': it must be a number of seconds, or None"),
        ("durus://127.0.0.1:1", {"timeout": 0}, "timeout=0: it must be a number of seconds above 0, up to 4000000"),
        ("durus://127.0.0.1:1?timeout=nan", {}, "timeout=nan: it must be a number of seconds above 0"),
        ("durus://127.0.0.1:1", {"connect_timeout": float("inf")}, "connect_timeout=inf: it must be a number"),
        ("durus://127.0.0.1:1", {"prefetch": -1}, "prefetch=-1: it must be a number from 0"),
        ("file:%ff", {}, "'file:%ff' is not the address of a local file: .*pass a path that is not text as bytes"),
        ("file:f?readonly=1&repair=1", {}, "readonly=True and repair=True exclude each other"),
    ],
)
def test_wrong_options_are_refused(
    where: str, keywords: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f").touch()
    with pytest.raises(ArgumentError, match=message):
        durus.open(where, **keywords)
    assert (tmp_path / "f").read_bytes() == b""


@pytest.mark.spec("DB-1")
def test_a_password_in_a_wrong_address_is_not_shown() -> None:
    with pytest.raises(ArgumentError, match="'durus://ann@host' is not the address of a server"):
        durus.open("durus://ann:secret@host")


@pytest.mark.spec("DB-2")
def test_sqlite_has_no_durability(tmp_path: Path) -> None:
    SqliteStorage(tmp_path / "f").close()
    with pytest.raises(ArgumentError, match="a SQLite file has no option 'durability'"):
        durus.open(tmp_path / "f", durability="os")


@pytest.mark.spec("DB-3")
def test_a_file_that_must_exist_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="No such file"):
        durus.open(tmp_path / "f", must_exist=True)
    with pytest.raises(FileError, match="No such file"):
        durus.open(tmp_path / "f", readonly=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.spec("DB-4")
def test_a_readonly_database_follows_a_file_that_another_writes(tmp_path: Path) -> None:
    with durus.open(tmp_path / "f") as writer:
        with writer.transaction() as root:
            root["n"] = 1
        with durus.open(tmp_path / "f", readonly=True) as reader:
            with reader.transaction() as root, reader.snapshot() as again:
                writer.run(lambda root: root.update(n=2))
                assert (root["n"], again["n"]) == (1, 1)
            with reader.transaction() as root:
                assert root["n"] == 2
            writer.pack()
            assert reader.run(lambda root: root["n"]) == 2
            with reader.transaction() as root:
                pass
            assert reader.stats().connections == 2  # those of before, which follow the file
            with pytest.raises(durus.ReadonlyError), reader.transaction() as root:
                root["n"] = 3
            with pytest.raises(durus.ReadonlyError, match="readonly=True and can't be packed"):
                reader.pack()
            for attempt in reader.attempts():
                with attempt as root:
                    assert root["n"] == 2


@pytest.mark.spec("DB-5")
def test_the_root_has_the_class_that_was_asked_for(tmp_path: Path) -> None:
    with durus.open(tmp_path / "f", root_class=Shop) as db, db.transaction() as shop:
        shop.name = "b"
    with durus.open(tmp_path / "f", root_class=Shop) as db, db.snapshot() as shop:
        assert shop.name == "b"


@pytest.mark.spec("DB-5", "DB-6")
def test_opening_that_fails_leaves_the_file_unlocked(tmp_path: Path) -> None:
    note(tmp_path / "f")
    for _ in range(2):
        with pytest.raises(StateError, match="the root is a PersistentDict, not a Shop"):
            durus.open(tmp_path / "f", root_class=Shop)
    with durus.open(tmp_path / "f"), pytest.raises(LockedError):
        durus.open(tmp_path / "f")


class Opener:
    """An engine of another package: all that is opened is in one memory."""

    options: Mapping[str, OptionType] = {"speed": int}

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, Value]]] = []

    def __call__(self, address: str, /, **options: Value) -> Callable[[], Storage]:
        self.seen.append((address, options))
        return MemoryStorage


opener = Opener()


@pytest.mark.spec("DB-7")
def test_another_package_can_provide_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = importlib.metadata.EntryPoint("there", f"{__name__}:opener", "durus.storages")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry] if group == entry.group else [])
    db = durus.open("there://somewhere/a?speed=3", cache_size=9)
    assert opener.seen[-1] == ("there://somewhere/a", {"speed": 3})
    with db, db.transaction() as root:
        root["n"] = 1
    with pytest.raises(ArgumentError, match=r"no option 'prefetch'; it has cache_bytes, cache_size, readonly, speed"):
        durus.open("there://somewhere", prefetch=1)


@pytest.mark.spec("DB-2")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache_size": 0}, "must be at least 1|too small"),
        ({"debug": "loud"}, "debug is True, False or 'warn', not 'loud'"),
        ({"root_class": int}, "root_class is <class 'int'>; it must be a class that inherits from Persistent"),
        ({"root_class": "Root"}, "root_class is 'Root'; it must be a class"),
    ],
)
@pytest.mark.parametrize("opened", [durus.open, durus.Connection])
def test_arguments_are_checked_before_a_file_is_made(
    tmp_path: Path, opened: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        opened(tmp_path / "f", **options)
    assert list(tmp_path.iterdir()) == []


def test_names_are_listed_and_there() -> None:
    assert durus.__doc__ is not None
    described = [line.split()[0] for line in durus.__doc__.splitlines() if line.startswith("    ")]
    assert sorted(described) == sorted(durus.__all__)
    for name in durus.__all__:
        assert name in dir(durus)
        found = getattr(durus, name)
        assert (found.__name__ if isinstance(found, ModuleType) else found.__module__).startswith("durus.")
    with pytest.raises(AttributeError, match="module 'durus' has no attribute 'nothing'"):
        _ = durus.nothing


def test_importing_the_package_imports_no_module_of_it() -> None:
    program = (
        "import sys, durus; print([name for name in sys.modules if name.startswith('durus.')]);"
        "from durus import open; print('asyncio' in sys.modules, 'sqlite3' in sys.modules, 'socket' in sys.modules)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "[]\nFalse False False\n"


def test_a_server_that_is_not_there_is_told_so() -> None:
    with pytest.raises(ServerUnreachableError):
        durus.open("durus://127.0.0.1:1")

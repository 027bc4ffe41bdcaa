"""A file with records that leave a mark when they are loaded: no command and no server does that."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from durus.cli import commands
from durus.client_storage import ClientStorage
from durus.connection import Connection
from durus.error import UntrustedClassError
from durus.file_storage import FileStorage
from durus.file_storage2 import FileStorage2
from durus.oid import ROOT_OID, oid_from_int
from durus.records.record import join_refs, pack_record
from durus.serialize import class_pickle
from durus.sqlite_storage import SqliteStorage
from tests.integration.serving import SECONDS, serving
from tests.unit.test_trust import Holder

ONE, TWO, THREE = (oid_from_int(n) for n in range(1, 4))
MODULE = "module_that_strikes"


def called(mark: Path) -> bytes:
    """Return the steps that call a function which makes the folder `mark`."""
    return f"cos\nmkdir\n(V{mark}.called\ntR".encode()


def records_that_strike(mark: Path, with_class_that_calls: bool = True) -> dict[bytes, bytes]:
    """Return records of which each leaves a mark when it is loaded, or when its class is imported."""
    holder = class_pickle(Holder)
    states = {
        ROOT_OID: holder + b"\x80\x04}(\x8c\x01aC\x08" + ONE + f"c{MODULE}\nThing\n".encode() + b"\x86Qu.",
        ONE: f"\x80\x04c{MODULE}\nThing\n.".encode("latin-1") + b"\x80\x04}.",
        TWO: holder + b"\x80\x04}(\x8c\x01a" + called(mark) + b"u.",
        THREE: b"\x80\x04" + called(mark) + b"." + b"\x80\x04}.",
    }
    if not with_class_that_calls:  # which no tool can read
        del states[THREE]
    refs = {ROOT_OID: states.keys() - {ROOT_OID}}
    return {oid: pack_record(oid, data, join_refs(oid, refs.get(oid, set()))) for oid, data in states.items()}


def make_file(path: Path, records: dict[bytes, bytes], kind: type[FileStorage] = FileStorage) -> None:
    storage = kind(str(path))
    storage.begin()
    for oid, record in records.items():
        storage.store(oid, record)
    storage.end()
    storage.close()


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """What the names of the marks begin with; the module that strikes is in the folder."""
    found = tmp_path / "mark"
    text = f"open({str(found) + '.imported'!r}, 'w').close()\nfrom durus.persistent import Persistent\n"
    (tmp_path / f"{MODULE}.py").write_text(text + "class Thing(Persistent): pass\n")
    return found


def durus(folder: Path, *arguments: str) -> str:
    run = [sys.executable, "-m", "durus", *arguments]
    ended = subprocess.run(run, cwd=folder, capture_output=True, text=True, timeout=SECONDS)
    return ended.stdout + ended.stderr


def marks_of(mark: Path) -> list[str]:
    return [path.suffix for path in sorted(mark.parent.glob("mark.*"))]


@pytest.mark.spec("OBJ-106")
def test_a_program_that_trusts_the_file_is_struck(tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    make_file(tmp_path / "f", records_that_strike(mark))
    for oid in (1, 2):
        obj: Any = Connection(FileStorage(tmp_path / "f", readonly=True)).get(oid)
        obj._p_load_state()
    sys.modules.pop(MODULE, None)
    assert marks_of(mark) == [".called", ".imported"]


@pytest.mark.spec("OBJ-100")
@pytest.mark.parametrize("debug", [False, True])
def test_a_program_with_a_list_is_not(tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch, debug: bool) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    make_file(tmp_path / "f", records_that_strike(mark))
    with Connection(tmp_path / "f", classes=[Holder], debug=debug) as connection:
        for _ in connection.get_crawler(ONE):
            pass
        for _ in connection.get_crawler(TWO):
            pass
        with pytest.raises(UntrustedClassError, match=r"os\.mkdir is not in the list"):
            connection.get(THREE)
        root: Any = connection.get_root()
        root.b = 1
        connection.commit()
        connection.pack()
    assert marks_of(mark) == []


COMMANDS = [
    ["check", "f"],
    ["check", "f", "--classes", "--json"],
    ["info", "f"],
    ["info", "f", "--json"],
    ["pack", "f"],
    ["rename", "tests.unit.test_trust.Holder", "elsewhere.Holder", "f"],
    ["rename", MODULE, "elsewhere", "f", "--dry-run"],
    ["convert", "f", "new", "--storage-class", "durus.file_storage2.FileStorage2"],
    ["convert", "f", "new"],
    ["convert", "f", "new", "--from-python2"],
]


@pytest.mark.spec("OBJ-106")
@pytest.mark.parametrize("is_readable", [True, False])
@pytest.mark.parametrize("kind", [FileStorage, FileStorage2, SqliteStorage])
def test_no_command_is(kind: type[FileStorage], is_readable: bool, tmp_path: Path, mark: Path) -> None:
    make_file(tmp_path / "f", records_that_strike(mark, not is_readable), kind)
    for arguments in COMMANDS:
        (tmp_path / "new").unlink(missing_ok=True)
        told = durus(tmp_path, *arguments)
        assert "Traceback" not in told
        assert not (is_readable and told.startswith("durus:")), told
        assert marks_of(mark) == [], arguments


def shell(folder: Path, typed: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    run = [sys.executable, "-m", "durus", "shell", *arguments]
    return subprocess.run(run, cwd=folder, input=typed, capture_output=True, text=True, timeout=SECONDS)


LOOKS = "root.a\npp(root)\nvars(get(1))\nget(2).a\nget(3)\n"


@pytest.mark.spec("CMD-36")
@pytest.mark.parametrize("has_server", [False, True])
def test_a_shell_with_a_list_is_not(tmp_path: Path, mark: Path, has_server: bool) -> None:
    make_file(tmp_path / "f", records_that_strike(mark))
    options = ["--classes", "standard", "--classes", "tests.unit.test_trust.Holder,shop.*"]
    if has_server:
        with serving("--file", "f", folder=tmp_path) as server:
            ended = shell(tmp_path, LOOKS, "--port", str(server.port), *options)
    else:
        ended = shell(tmp_path, LOOKS, "f", *options)
    assert ended.returncode == 0
    assert "<broken module_that_strikes.Thing 1>" in ended.stdout
    assert "os.mkdir is not in the list `classes`" in ended.stderr
    assert marks_of(mark) == []


@pytest.mark.spec("CMD-36")
def test_a_shell_without_a_list_is_struck(tmp_path: Path, mark: Path) -> None:
    make_file(tmp_path / "f", records_that_strike(mark))
    shell(tmp_path, LOOKS, "f")
    assert marks_of(mark) == [".called", ".imported"]


@pytest.mark.spec("CMD-36", "CMD-71")
@pytest.mark.parametrize("names", ["", "shop", "shop.*,", "shop.* standard"])
def test_a_list_for_a_shell_is_checked_before_a_file_is_made(tmp_path: Path, names: str) -> None:
    ended = shell(tmp_path, "", "f", "--classes", names)
    assert ended.returncode == 2
    assert "is not a list of names with commas between them" in ended.stderr
    assert list(tmp_path.iterdir()) == []


OF_A_SHELF = [
    ["info", "f", "--plot", "new.svg"],
    *(["show", "f", str(oid)] for oid in range(3)),
    ["show", "f", "2", "--json"],
    ["refs", "f", "1"],
    ["refs", "f", "2", "--json"],
    ["log", "f"],
    ["log", "f", "--class", "tests.unit.test_trust.Holder", "--json"],
    *(["log", "f", str(oid)] for oid in range(3)),
    *(["export", "f", "--to", f"new.{kind}"] for kind in ("jsonl", "sqlite", "csv")),
    ["import", "new.jsonl", "imported"],
    ["salvage", "f", "salvaged"],
    ["salvage", "f", "newest", "--newest", "--json"],
    ["backup", "f", "backup"],
    ["backup", "--verify", "backup"],
    ["restore", "backup", "restored"],
    ["check", "imported"],
]
"""Commands in their order: some read what others have written."""
UNTIL_A_SIGNAL = [
    (["follow", "f", "replica", "--every", "0.01"], "copied"),
    (["backup", "f", "followed", "--follow"], "generation 1"),
    (["serve", "replica", "--readonly", "--follow", "f", "--port", "0"], "listening on"),
]
"""Commands that go on, and what a line has that says that they have begun."""
CALLED_ELSEWHERE = {
    "browse": "test_no_page_is",
    "serve": "test_no_server_is",
    "shell": "test_a_shell_with_a_list_is_not",
    "status": "test_no_server_is",
}
WITHOUT_RECORDS = {"completion", "init"}


def test_each_command_is_called_here() -> None:
    called = {arguments[0] for arguments in [*COMMANDS, *OF_A_SHELF]} | {each[0][0] for each in UNTIL_A_SIGNAL}
    assert called | CALLED_ELSEWHERE.keys() | WITHOUT_RECORDS == commands.COMMANDS.keys()
    assert all(name in globals() for name in CALLED_ELSEWHERE.values())


@pytest.mark.spec("OBJ-106")
@pytest.mark.parametrize("is_readable", [True, False])
def test_no_command_of_a_shelf_is(is_readable: bool, tmp_path: Path, mark: Path) -> None:
    make_file(tmp_path / "f", records_that_strike(mark, not is_readable))
    for arguments in OF_A_SHELF:
        told = durus(tmp_path, *arguments)
        assert "Traceback" not in told
        assert not (is_readable and told.startswith("durus:")), (arguments, told)
        assert marks_of(mark) == [], arguments


@pytest.mark.spec("OBJ-106")
@pytest.mark.parametrize(("arguments", "line"), UNTIL_A_SIGNAL, ids=lambda each: each[0])
def test_no_command_that_goes_on_is(arguments: list[str], line: str, tmp_path: Path, mark: Path) -> None:
    make_file(tmp_path / "f", records_that_strike(mark))
    process = subprocess.Popen(
        [sys.executable, "-m", "durus", *arguments], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert any(line in told for told in iter(process.stdout.readline, ""))
    process.send_signal(signal.SIGINT)
    assert process.wait(SECONDS) == 0
    process.stdout.close()
    assert marks_of(mark) == []


@pytest.mark.spec("OBJ-106")
@pytest.mark.parametrize("is_readable", [True, False])
def test_no_page_is(is_readable: bool, tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("starlette", reason="needs the extra durus[browse]")
    from tests.browsing import browsing

    monkeypatch.syspath_prepend(tmp_path)
    make_file(tmp_path / "f", records_that_strike(mark, not is_readable))
    with browsing(tmp_path / "f") as pages:
        shown = {path for path, _ in pages.all()}
    assert {"/object/0", "/object/1", "/object/2"} <= shown
    assert marks_of(mark) == []


@pytest.mark.spec("OBJ-106")
@pytest.mark.parametrize("protocol", [1, 2])
def test_no_server_is(tmp_path: Path, mark: Path, protocol: int) -> None:
    make_file(tmp_path / "f", records_that_strike(mark))
    with serving("--file", "f", folder=tmp_path) as server:
        client = ClientStorage(port=server.port, protocol=protocol)
        for oid, record in records_that_strike(mark).items():
            client.load(oid)
            client.begin()
            client.store(oid, record)
            client.end()
        client.pack()
        server.log.expect("packed in")
        client.close()
        assert "listens on" in durus(tmp_path, "status", "--port", str(server.port))
    assert marks_of(mark) == []

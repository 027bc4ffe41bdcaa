"""Messages that name a command as a remedy give all of it, and it works when it is pasted into a shell. [CMD-70]"""

import ast
import os
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from durus.backup import back_up
from durus.cli.main import main
from durus.client_storage import ClientStorage
from durus.connection import Connection
from durus.error import DurusError, DurusWarning, FileError, ServerUnreachableError, UnsoundTailError
from durus.file_storage import FileStorage
from durus.file_storage2 import FileStorage2
from durus.persistent import Persistent
from durus.sqlite_storage import SqliteStorage
from durus.text import command, command_line
from tests.rooms import PACKAGE

NAMES = ["-f", "my file's $HOME.durus", "line\nbreak é\\.durus"]
BASH = shutil.which("bash")
_COMMAND = re.compile(r"`(durus [^`]*)`")


class Thing(Persistent):
    """An object with an attribute."""


def remedies(text: str) -> list[str]:
    return _COMMAND.findall(text)


def paste(remedy: str, text: str = "") -> "subprocess.CompletedProcess[str]":
    """Run a command as a shell does, in the present folder; the answer to it is that it is a right one."""
    assert BASH is not None
    folder = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(PACKAGE.parent)}
    script = f'durus() {{ "{sys.executable}" -m durus "$@"; }}; {remedy}'
    return subprocess.run(
        [BASH, "-c", script], env=environment, input=text, capture_output=True, text=True, errors="replace"
    )


def make(path: str, storage_class: Any = FileStorage, commits: int = 2) -> None:
    connection = Connection(storage_class(path))
    root: Any = connection.get_root()
    for number in range(commits):
        root["text"] = Thing()
        root["text"].value = "x" * 100 * (number + 1)
        connection.commit()
    connection.get_storage().close()


def told_by(call: Callable[[], object], kind: type[DurusError] = DurusError) -> str:
    with pytest.raises(kind) as told:
        call()
    return str(told.value)


@pytest.fixture(params=NAMES, ids=["dash", "quotes", "unprintable"])
def path(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A name of a file in the current folder."""
    if BASH is None:
        pytest.skip("there is no bash")
    monkeypatch.chdir(tmp_path)
    name: str = request.param
    return name


@pytest.mark.spec("CMD-70")
def test_end_that_is_not_whole_is_cut_off_by_the_command_that_is_told(path: str) -> None:
    make(path)
    Path(path).write_bytes(Path(path).read_bytes()[:-5])
    (remedy,) = remedies(told_by(lambda: FileStorage(path), UnsoundTailError))
    assert "--repair" in remedy
    assert paste(remedy, "print('it works')\n").returncode == 0
    FileStorage(path).close()


@pytest.mark.spec("CMD-70")
def test_check_tells_the_commands_that_cut_the_end_off_and_copy_what_is_sound(
    path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make(path)
    Path(path).write_bytes(Path(path).read_bytes()[:-5])
    given = path if not path.startswith("-") else f"./{path}"
    assert main(["check", given]) == 1
    repair, salvage = remedies(capsys.readouterr().out)
    assert paste(salvage).returncode in (0, 1)
    assert main(["check", f"{given}.salvaged"]) == 0
    assert paste(repair).returncode == 0
    assert main(["check", given]) == 0


@pytest.mark.spec("CMD-70")
@pytest.mark.parametrize("readonly", [False, True])
def test_a_backup_in_the_place_of_a_file_becomes_one_by_the_command_that_is_told(path: str, readonly: bool) -> None:
    make("source")
    back_up("source", path)
    told = told_by(lambda: FileStorage(path, readonly=readonly), FileError)
    assert "it is a folder" in told
    (remedy,) = remedies(told)
    assert paste(remedy).returncode == 0
    (new,) = [each for each in os.listdir() if each.endswith(".restored")]
    FileStorage(new).close()


@pytest.mark.spec("CMD-70")
def test_damage_is_checked_and_salvaged_by_the_commands_that_are_told(path: str) -> None:
    make(path, commits=5)
    data = bytearray(Path(path).read_bytes())
    data[len(data) // 2] ^= 1
    Path(path).write_bytes(data)
    (remedy,) = remedies(told_by(lambda: FileStorage(path)))
    checked = paste(remedy)
    assert remedy.startswith("durus check ")
    assert (checked.returncode, "fault" in checked.stdout) == (1, True)
    with pytest.warns(DurusWarning, match="only what is sound"):
        storage = FileStorage(path, readonly=True, damaged=True)
    (remedy,) = remedies(told_by(lambda: list(storage.commits())))
    storage.close()
    salvaged = paste(remedy)
    assert salvaged.returncode in (0, 1), salvaged.stderr
    (new,) = [each for each in os.listdir() if each.endswith(".salvaged")]
    FileStorage(new).close()
    for again in remedies(salvaged.stdout):
        assert paste(again).returncode in (0, 1)


@pytest.mark.spec("CMD-70")
@pytest.mark.parametrize("storage_class", [FileStorage2, SqliteStorage])
def test_file_of_another_format_is_converted_by_the_command_that_is_told(path: str, storage_class: Any) -> None:
    make(path, storage_class)
    Path(f"{os.path.abspath(path)}.converted").write_text("another file")
    (remedy,) = remedies(told_by(lambda: back_up(path, "backup")))
    assert paste(remedy).returncode == 0
    back_up(f"{os.path.abspath(path)}.converted1", "backup")


@pytest.mark.spec("CMD-70")
@pytest.mark.parametrize("storage_class", [FileStorage, FileStorage2, SqliteStorage])
def test_class_that_is_missing_leads_to_its_objects(
    path: str, storage_class: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    given = path if not path.startswith("-") else f"./{path}"
    gone = type("Gone", (Persistent,), {"__module__": "nowhere"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "nowhere", types.SimpleNamespace(Gone=gone))
        connection = Connection(storage_class(path))
        root: Any = connection.get_root()
        root["gone"] = gone()
        connection.commit()
        connection.get_storage().close()
    main(["check", given])
    found = remedies(capsys.readouterr().out)
    assert found
    shown = paste(found[0])
    assert (shown.returncode, "nowhere.Gone" in shown.stdout) == (0, True)


@pytest.mark.spec("CMD-70", "CMD-9")
@pytest.mark.parametrize("arguments", [["shell"], ["rename", "a.B", "a.C"]])
def test_file_in_use_is_opened_by_the_call_that_is_told(
    path: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    make(path)
    given = path if not path.startswith("-") else f"./{path}"
    storage = FileStorage(path)
    try:
        assert main([*arguments, given]) == 1
        (remedy,) = remedies(capsys.readouterr().err)
        assert paste(remedy).returncode == 0
    finally:
        storage.close()


@pytest.mark.spec("CMD-70", "CMD-3")
def test_command_that_was_meant_is_told_with_its_arguments(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    make(path)
    given = path if not path.startswith("-") else f"./{path}"
    assert main(["chekc", given]) == 2
    (remedy,) = remedies(capsys.readouterr().err)
    assert paste(remedy).returncode == 0


@pytest.mark.spec("CMD-70", "CMD-5")
def test_password_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    query = "password=secret&host=/run/pg&sekret=host=secret&schema=a&user=me&port"
    assert main(["chekc", f"postgresql://me:secret@host/shop?{query}"]) == 2
    shown = capsys.readouterr().err
    assert "`durus check 'postgresql://me@host/shop?host=/run/pg&schema=a&user=me&port'`" in shown
    assert "secret" not in shown


@pytest.mark.spec("CMD-70")
def test_server_that_is_not_there_is_started_by_the_command_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = "/nowhere/so ck"
    (remedy,) = remedies(told_by(lambda: ClientStorage(address=str(path)), ServerUnreachableError))
    assert remedy == f"durus serve --address '{path}'"
    (remedy,) = remedies(told_by(lambda: ClientStorage(port=1), ServerUnreachableError))
    assert remedy == "durus serve --host 127.0.0.1 --port 1"


@pytest.mark.spec("CMD-70")
def test_address_in_the_place_of_a_file_is_told_with_commands_that_take_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "durus://localhost:1"]) == 2
    assert remedies(capsys.readouterr().err) == ["durus pack durus://localhost:1", "durus shell durus://localhost:1"]


@pytest.mark.spec("CMD-70")
@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("f.durus", "f.durus"),
        ("-f", "./-f"),
        ("a b", "'a b'"),
        ("it's", "'it'\"'\"'s'"),
        ("a\nb'c\\d", "$'a\\x0ab\\'c\\\\d'"),
        ("\udcff", "$'\\xff'"),
    ],
)
def test_words_are_quoted_for_the_shell(given: str, shown: str) -> None:
    assert command("check", given) == f"`durus check {shown}`"
    assert command_line("check", [given]) == f"`durus check {shown.removeprefix('./')}`"


_TOLD_BY_HAND = {
    ("cli/commands.py", "`durus COMMAND --help` shows the options of a command."),
    ("cli/main.py", "`durus --help` lists all commands"),
    ("cli/main.py", " --help` lists all options"),
}
"""What is not about a file."""
_NAMES_A_COMMAND = re.compile(r"`durus (?!browse` has printed|export` has made)|\bdurus -[a-z]")


@pytest.mark.spec("CMD-70")
def test_no_message_has_a_command_that_was_written_by_hand() -> None:
    found = set()
    for source in PACKAGE.rglob("*.py"):
        tree = ast.parse(source.read_text(encoding="utf-8"))
        comments = {
            id(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        found |= {
            (str(source.relative_to(PACKAGE)), node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
            if id(node) not in comments and _NAMES_A_COMMAND.search(node.value)
        }
    assert {each for each in found if each not in _TOLD_BY_HAND} <= {
        ("text.py", "`durus "),
        ("cli/main.py", "; `durus "),
    }

"""Text from data where it is shown: in one line, without anything that moves the cursor."""

import io
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from durus.cli import serve
from durus.cli.main import main
from durus.cli.python_console import Console
from durus.connection import Connection
from durus.error import DurusError, RecordError
from durus.file_storage import FileStorage
from durus.oid import oid_from_int
from durus.records.record import pack_record
from durus.records.source_names import may_be_there
from durus.text import printable, printable_lines

EVIL = "\x1b]0;owned\x07\x1b[2J\rforged: line\u202e\x9b1m"


@pytest.mark.spec("OBJ-79")
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Caf\u00e9 \u4e2d \\x1b", "Caf\u00e9 \u4e2d \\x1b"),
        ("a\x1b[2J\n\r\t\x7f", r"a\x1b[2J\n\r\t\x7f"),
        ("\u202e\x9b\ud800\u2028", r"\u202e\x9b\ud800\u2028"),
    ],
)
def test_what_is_not_printable_stands_as_an_escape(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable_lines(f"{text}\n{text}") == "\n".join([printable(one) for one in f"{text}\n{text}".split("\n")])


@pytest.mark.spec("OBJ-79")
def test_errors_are_printable_and_in_one_line() -> None:
    for error in (DurusError(EVIL), RecordError(f"oid 1: {EVIL}")):
        assert str(error).isprintable()


def evil_file(tmp_path: Path) -> Path:
    """Return a file whose records name classes, attributes and values that would write to a terminal."""
    path = tmp_path / "f"
    name = EVIL.encode()
    reference = b"U\x01rC\x08" + oid_from_int(1) + b"c" + name.replace(b"\r", b"") + b"\n" + name + b"\n\x86Qs"
    root = b"\x80\x04cdurus.persistent\nPersistent\n.\x80\x04}" + reference
    root += b"U\x01v" + b"c" + name + b"\n" + name + b"\n)R" + b"s."
    evil = b"\x80\x04cm\n" + name + b"\n.\x80\x04}X" + len(name).to_bytes(4, "little") + name + b"K\x01s."
    storage = FileStorage(path)
    storage.begin()
    storage.store(oid_from_int(0), pack_record(oid_from_int(0), root, oid_from_int(1)))
    storage.store(oid_from_int(1), pack_record(oid_from_int(1), evil, b""))
    storage.end()
    storage.close()
    return path


@pytest.mark.spec("OBJ-79")
@pytest.mark.parametrize(
    "arguments",
    [
        ["info", "F"],
        ["info", "--broken", "F"],
        ["check", "F"],
        ["rename", "m", "k", "F", "--dry-run"],
        ["convert", "F", "G", "--from-python2"],
        ["rename", "m", f"k.{EVIL}", "F"],
    ],
)
def test_no_command_shows_a_name_from_a_file_raw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    path = evil_file(tmp_path)
    main([str(path) if each == "F" else str(tmp_path / each) if each == "G" else each for each in arguments])
    out, error = capsys.readouterr()
    assert all(line.isprintable() for line in (out + error).split("\n"))
    assert not any(line.startswith("forged") for line in (out + error).split("\n"))


@pytest.mark.spec("OBJ-79")
def test_objects_and_errors_of_a_file_are_printable(tmp_path: Path) -> None:
    with Connection(evil_file(tmp_path)) as connection:
        root: Any = connection.get_root()
        shown = [repr(root.r), repr(type(root.v)), repr(root.v)]
        for attempt in (lambda: root.r.missing, lambda: root.v.missing, lambda: type(root.r)(), lambda: len(root.r)):
            with pytest.raises(DurusError) as caught:
                attempt()
            shown.append(str(caught.value))
    assert all(text.isprintable() for text in shown)


@pytest.mark.spec("OBJ-79")
def test_the_console_shows_errors_of_others_without_what_moves_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    shell = Console({})
    shell.push("raise ValueError('\\x1b[2Jx')")
    error = capsys.readouterr().err
    assert r"ValueError: \x1b[2Jx" in error
    assert error.startswith("Traceback (most recent call last):\n")


@pytest.mark.spec("OBJ-79")
def test_a_message_stays_in_its_line_of_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    with serve.log_to(None, logging.INFO):
        try:
            raise ValueError(EVIL)
        except ValueError:
            logging.getLogger("durus").exception("client %s", EVIL)
    lines = capsys.readouterr().err.split("\n")
    assert lines[0].endswith(printable(f"client {EVIL}"))
    assert lines[1] == "Traceback (most recent call last):"
    assert all(line.isprintable() for line in lines)


SOURCE = """
'''A module.'''
import abc, os.path as where
from enum import Enum
class Plain: pass
def function(): pass
if True:
    try:
        First = Second = 1
    except NameError as error:
        Third: int = 1
for Fourth in (): pass
with open(__file__) as Fifth: pass
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "a_package_for_check").mkdir()
    folder = tmp_path / "a_package_for_check"
    (folder / "__init__.py").write_text("raise SystemExit")
    (folder / "plain.py").write_text(SOURCE)
    (folder / "dynamic.py").write_text("globals()['X'] = 1")
    (folder / "star.py").write_text("from .plain import *")
    (folder / "unreadable.py").write_text("class")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


@pytest.mark.spec("OBJ-68")
@pytest.mark.parametrize(
    ("module", "name", "is_there"),
    [
        *(
            ("plain", name, True)
            for name in ("Plain", "Plain.Inner", "function", "abc", "where", "Enum", "First", "Second")
        ),
        *(("plain", name, True) for name in ("Third", "Fourth", "Fifth")),
        ("plain", "Missing", False),
        ("plain", "os", False),
        ("missing", "X", False),
        ("dynamic", "Anything", True),
        ("star", "Anything", True),
        ("unreadable", "Anything", True),
        ("plain.missing", "X", False),
    ],
)
def test_names_are_looked_for_in_the_source_and_nothing_is_imported(
    modules: Path, module: str, name: str, is_there: bool
) -> None:
    assert may_be_there(f"a_package_for_check.{module}", name) is is_there
    assert "a_package_for_check" not in sys.modules


@pytest.mark.spec("OBJ-68")
def test_names_in_modules_that_are_there_or_in_the_library_of_python() -> None:
    assert may_be_there("enum", "Whatever")
    assert may_be_there(__name__, "SOURCE")
    assert not may_be_there(__name__, "Missing")
    assert not may_be_there("a b\x1b.c", "x")


@pytest.mark.spec("OBJ-68")
def test_info_and_check_tell_of_a_value_whose_class_is_gone(tmp_path: Path) -> None:
    (tmp_path / "vals.py").write_text("import enum\nclass Status(enum.Enum):\n    OPEN = 1\n")
    (tmp_path / "mod.py").write_text("from durus.persistent import Persistent\nclass Issue(Persistent): pass\n")

    def run(*arguments: str, typed: str = "") -> str:
        result = subprocess.run(
            [sys.executable, "-m", "durus", *arguments],
            cwd=tmp_path,
            env={**os.environ, "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
            input=typed,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert not result.returncode
        return result.stdout

    run(
        "-c",
        "--file",
        "f",
        typed="import mod, vals\ni = root['i'] = mod.Issue()\ni.s = vals.Status.OPEN\nconnection.commit()\n",
    )
    assert "clean" in run("check", "f")
    assert "note" not in run("check", "f")
    assert run("info", "--broken", "f").endswith("0 objects whose class can't be imported\n")
    (tmp_path / "vals.py").write_text("")
    assert "note: byte " in run("check", "f")
    assert "oid 1: it names vals.Status, which this Python does not find" in run("check", "f")
    assert "  vals.Status: oid 1\n" in run("info", "--broken", "f")


def test_the_console_writes_to_stderr_only(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    Console({}).write("a\x1b\nb")
    assert stream.getvalue() == "a\\x1b\nb"

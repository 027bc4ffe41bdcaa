"""`durus shell` in a terminal and without one: leaving it, IPython, and classes that are defined in it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from durus.connection import Connection
from tests.integration.terminal import CONTROL_D, Terminal, without

QUESTION = r"1 changed object is not committed\.\nCommit now\? "
XTERM = {"TERM": "xterm", "IPY_TEST_SIMPLE_PROMPT": "1", "NO_COLOR": "1"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text("from durus.persistent import Persistent\nclass Order(Persistent): pass\n")
    Connection(tmp_path / "f").close()
    return tmp_path


def stored(folder: Path) -> dict[str, object]:
    with Connection(folder / "f") as connection:
        return dict(connection.get_root())


def piped(folder: Path, typed: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "durus", "shell", "f", *arguments]
    return subprocess.run(command, cwd=folder, input=typed, capture_output=True, text=True, timeout=60, check=False)


# Leaving


@pytest.mark.spec("CMD-33")
@pytest.mark.parametrize(
    ("answer", "status", "expected"),
    [("y\n", 0, {"x": 1}), ("n\n", 0, {}), (CONTROL_D, 0, {}), ("?\nyes\n", 0, {"x": 1})],
)
def test_the_end_of_the_shell_asks_for_changes(
    folder: Path, answer: str, status: int, expected: dict[object, object]
) -> None:
    shell = Terminal("shell", "f", cwd=folder)
    shell.tell("root['x'] = 1")
    shell.expect(">>> ")
    shell.type(CONTROL_D)
    shell.expect(QUESTION)
    shell.type(answer)
    assert shell.end() == status
    assert stored(folder) == expected
    assert ("the changes are forgotten" in shell.shown) == (answer == CONTROL_D)


@pytest.mark.spec("CMD-33")
@pytest.mark.parametrize("is_interrupted", [False, True])
def test_the_shell_goes_on_with_the_changes(folder: Path, is_interrupted: bool) -> None:
    shell = Terminal("shell", "f", cwd=folder)
    shell.tell("root['x'] = 1")
    shell.expect(">>> ")
    shell.type("exit()\n")
    shell.expect(QUESTION + r".*\[s\]tay here: $")
    if is_interrupted:
        shell.interrupt()
    else:
        shell.type("s\n")
    shell.tell("connection.commit()")
    shell.expect(">>> ")
    shell.type("raise SystemExit(3)\n")
    assert shell.end() == 3
    assert stored(folder) == {"x": 1}


@pytest.mark.spec("CMD-33")
def test_a_commit_that_fails_goes_back_to_the_shell(folder: Path) -> None:
    shell = Terminal("shell", "f", cwd=folder)
    shell.tell("root['x'] = lambda: 0")
    shell.expect(">>> ")
    shell.type(CONTROL_D)
    shell.expect(QUESTION)
    shell.type("y\n")
    shell.expect("UnstorableError: ")
    shell.tell("connection.abort()")
    shell.expect(">>> ")
    shell.type(CONTROL_D)
    assert shell.end() == 0
    assert "Traceback" not in shell.shown


@pytest.mark.spec("CMD-33")
def test_without_a_terminal_there_is_a_warning(folder: Path) -> None:
    result = piped(folder, "root['x'] = 1\n")
    assert result.returncode == 0
    assert result.stderr.endswith("durus: warning: 1 changed object is not committed, and the changes are forgotten\n")
    assert stored(folder) == {}
    assert "warning" not in piped(folder, "root['x'] = 1\nconnection.commit()\n").stderr
    assert "warning" not in piped(folder, "root['x'] = 2\n", "--readonly").stderr
    assert stored(folder) == {"x": 1}


# What is defined in the shell


@pytest.mark.spec("CMD-35")
@pytest.mark.parametrize(
    ("definition", "value"),
    [
        ("from durus.persistent import Persistent\nclass Offer(Persistent): pass\n\n", "Offer()"),
        ("class Offer: pass\n\n", "[Offer()]"),
        ("class Offer: pass\n\n", "Offer"),
        ("def Offer(): pass\n\n", "{1: Offer}"),
    ],
)
def test_what_is_defined_in_the_shell_is_refused_with_advice(folder: Path, definition: str, value: str) -> None:
    told = piped(folder, f"{definition}root['x'] = {value}\nconnection.commit()\n").stderr
    error = next(line for line in told.splitlines() if line.startswith("UnstorableError: "))
    assert "needs Offer, which is defined in this shell" in error
    assert "type `from shop import Offer`" in error
    assert "Traceback" not in told
    assert stored(folder) == {}


@pytest.mark.spec("CMD-32", "CMD-30")
def test_the_names_of_the_shell(folder: Path) -> None:
    typed = (
        "from durus.persistent_list import PersistentList\nroot['x'] = PersistentList([1])\npp(root)\n"
        "durus.BTree, get(0) is root, str_to_int8(int8_to_str(5)), sys, os\n"
    )
    shown = piped(folder, typed).stdout
    assert "{'x': [1]}" in shown
    assert "BTree'>, True, 5, " in shown


@pytest.mark.spec("CMD-30")
def test_the_shell_tells_if_it_has_made_the_file(tmp_path: Path) -> None:
    first = piped(tmp_path, "")
    assert "Durus on f, a new file: " in first.stdout + first.stderr
    again = piped(tmp_path, "")
    assert "Durus on f: " in again.stdout + again.stderr


@pytest.mark.spec("CMD-35")
def test_what_has_no_name_to_import_is_refused_too(folder: Path) -> None:
    told = piped(folder, "class A:\n    class B: pass\n\nroot['x'] = A.B()\nconnection.commit()\n").stderr
    assert "needs A.B, which is defined in this shell" in told
    assert "type `from shop import A`" in told
    told = piped(folder, "root['x'] = lambda: 0\nconnection.commit()\n").stderr
    assert "needs <lambda>, which is defined in this shell" in told
    assert "folder, import it, and" in told


# IPython


@pytest.mark.spec("CMD-30")
@pytest.mark.parametrize(
    ("arguments", "python", "environment"),
    [
        (("--plain",), ("-m", "durus"), XTERM),
        ((), without("IPython"), XTERM),
        ((), ("-m", "durus"), {"TERM": "dumb"}),
    ],
)
def test_pythons_own_console(
    folder: Path, arguments: tuple[str, ...], python: tuple[str, ...], environment: dict[str, str]
) -> None:
    shell = Terminal("shell", "f", *arguments, cwd=folder, environment=environment, python=python)
    shell.expect(">>> ")
    shell.type(CONTROL_D)
    assert shell.end() == 0
    assert "In [" not in shell.shown


@pytest.mark.spec("CMD-30", "CMD-31", "CMD-33", "CMD-34", "CMD-35")
def test_ipython(folder: Path) -> None:
    pytest.importorskip("IPython")
    shell = Terminal("shell", "f", cwd=folder, environment=XTERM)

    def ask(line: str, pattern: str) -> "re.Match[str]":
        shell.expect(r"In \[\d+\]: ")
        shell.type(line + "\n")
        return shell.expect(pattern)

    shell.expect("Durus on f: connection, root and durus are defined")
    ask("get(0) is root", "True")
    ask("'=' + str(get_ipython().complete('connection.')[1])", r"=\[[^\n]*commit")
    ask("'=' + str('note_access' in str(get_ipython().complete('connection.')[1]))", "=False")
    ask("'=' + str(get_ipython().complete('root._p_')[1])", r"=\[[^\n]*_p_note_change[^\n]*_p_oid[^\n]*\]")
    ask("class Offer: pass", r"")
    ask("root['x'] = Offer()", "")
    ask("connection.commit()", r"UnstorableError: [^\n]*`from shop import Offer`")
    ask("1 / 0", "Traceback")
    ask("import shop; root['x'] = shop.Order()", "")
    ask("exit", QUESTION)
    shell.type("s\n")
    ask("type(sys.last_value)", "ZeroDivisionError")
    ask("exit", QUESTION)
    shell.type("y\n")
    assert shell.end() == 0, shell.shown
    assert re.search(r"Traceback.*UnstorableError", shell.shown, re.DOTALL) is None
    with Connection(folder / "f") as connection:
        assert "Order" in repr(connection.get_root()["x"])

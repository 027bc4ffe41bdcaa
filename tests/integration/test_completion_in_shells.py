"""The completion scripts in the shells that they are for, each as far as it is installed. [CMD-40]"""

import contextlib
import io
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from durus.cli.main import main
from tests.integration.terminal import Terminal

pytest.importorskip("shtab", reason="it makes the scripts, and is in the extra `cli`")

CASES = [
    ("durus che", {"check"}),
    ("durus serve --gc", {"--gcbytes", "--gcinterval"}),
    ("durus rename --dry", {"--dry-run"}),
    ("durus completion z", {"zsh"}),
    ("durus check sh", {"shop.durus"}),
]


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A folder with a file to complete, and the script of the shell that the test is about."""
    shell = request.function.__name__.removeprefix("test_").partition("_")[0]
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "shop.durus").touch()
    with contextlib.redirect_stdout(io.StringIO()) as script:
        assert main(["completion", shell]) == 0
    (tmp_path / "script").write_text(script.getvalue())
    return tmp_path


def output_of(*command: str, cwd: Path) -> set[str]:
    """Run a shell that reads nothing of its user; return the lines that it prints."""
    environment = {**os.environ, "HOME": str(cwd), "XDG_CONFIG_HOME": str(cwd), "TERM": "dumb"}
    run = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)
    assert run.stderr == ""
    return set(run.stdout.split("\n")) - {""}


@pytest.mark.spec("CMD-40")
@pytest.mark.parametrize(("line", "completions"), CASES)
def test_bash_completes(folder: Path, line: str, completions: set[str]) -> None:
    script = """
    source ./script
    function=$(complete -p durus | sed 's/.*-F \\([^ ]*\\).*/\\1/')
    COMP_LINE=$1 COMP_POINT=${#1}
    read -ra COMP_WORDS <<<"$1"
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    "$function" durus "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
    printf '%s\\n' "${COMPREPLY[@]}"
    """
    assert output_of("bash", "--norc", "-c", script, "bash", line, cwd=folder) == completions


@pytest.mark.spec("CMD-40")
@pytest.mark.parametrize(("line", "completions"), CASES)
def test_fish_completes(folder: Path, line: str, completions: set[str]) -> None:
    script = "source ./script; complete --do-complete $argv[1]"
    shown = output_of("fish", "--no-config", "--command", script, line, cwd=folder)
    assert {each.partition("\t")[0] for each in shown} == completions


@pytest.mark.spec("CMD-40")
@pytest.mark.parametrize(("line", "completions"), [case for case in CASES if len(case[1]) == 1])
def test_zsh_completes(folder: Path, line: str, completions: set[str]) -> None:
    start = ("-c", "import os; os.execvp('zsh', ['zsh', '-f', '-i'])")
    terminal = Terminal(cwd=folder, environment={"PS1": "> "}, python=start)
    try:
        terminal.type("autoload -U compinit && compinit -u -D && eval \"$(cat script)\" && print rea''dy\n")
        terminal.expect("ready")
        terminal.type(f"{line}\t\x01print -r -- \x05 && print do''ne\n")
        terminal.expect("\ndone")
        printed = terminal.shown.rpartition("\ndone")[0].splitlines()[-1]
    finally:
        terminal.kill()
    assert {printed.split()[-1]} == completions

"""The examples in docs/commands.md, one after another in one folder, print what the page says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.terminal import CONTROL_D, SECONDS, Terminal

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "commands.md"
FOLDER = "/srv/shop"
"""Where the page has the examples run."""
_VARIES = (
    (r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME"),
    (r"\d+(\.\d+)? s\b", "N s"),
    (r"\d+ bytes|into \d+|with \d+|(?<=size\": )\d+|\d+(?=  durus|  shop|  store)", "N bytes"),
    (r"5\.\d+[.\w]*", "VERSION"),
    (r"base classes in \w+|(?<=\"implementation\": )\"\w+\"", "IMPLEMENTATION"),
    (r"\d+\.\d %", "N %"),
    (r" +", " "),
)
"""What is not the same each time, and what stands for it."""


def examples() -> list[list[tuple[str, str]]]:
    """Return the blocks of the page, each as pairs of what is typed after `$ ` and what is shown then."""
    blocks = re.findall(r"```console\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return [re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE) for block in blocks]


def comparable(text: str) -> str:
    for pattern, word in _VARIES:
        text = re.sub(pattern, word, text)
    return text.strip()


class Shop:
    """A folder in which commands are run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        program = folder / "bin" / "durus"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m durus "$@"\n')
        program.chmod(0o755)
        self._environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "HOME": str(folder)}
        self._server: subprocess.Popen[str] | None = None

    def run(self, command: str, shown: str) -> str:
        """Run a command line as the page has it; return what is shown."""
        if command.endswith(" &"):
            shown = self._serve(command.removesuffix(" &"))
        elif ">>> " in shown:
            shown = self._type(command, re.findall(r"^(?:>>>|\.\.\.) (.*)", shown, re.MULTILINE))
        else:
            result = subprocess.run(
                command,
                shell=True,
                cwd=self.folder,
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=SECONDS,
                check=False,
            )
            shown = result.stdout
        return shown.replace(str(self.folder), FOLDER)

    def _serve(self, command: str) -> str:
        self._server = subprocess.Popen(
            ["/bin/sh", "-c", "exec " + command],
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._server.stdout is not None
        return self._server.stdout.readline()

    def _type(self, command: str, lines: list[str]) -> str:
        window = Terminal(*command.split()[1:], cwd=self.folder)
        try:
            for line in lines:
                window.expect(r">>> |\.\.\. ")
                window.type(line + "\n")
            window.expect(r">>> $")
            window.type(CONTROL_D)
            assert window.end() == 0
        finally:
            window.kill()
        return window.shown.removesuffix("\n").removesuffix(">>> ")

    def close(self) -> int:
        """Wait for the end of the server, which the page has stopped; return its exit status."""
        assert self._server is not None
        try:
            return self._server.wait(SECONDS)
        finally:
            if self._server.poll() is None:
                self._server.kill()
                self._server.wait()
            assert self._server.stdout is not None
            self._server.stdout.close()


def test_the_examples_print_what_the_page_says(short_path: Path) -> None:
    shop = Shop(short_path)
    different = []
    try:
        for block in examples():
            for command, expected in block:
                shown = shop.run(command, expected)
                if comparable(shown) != comparable(expected):
                    different.append((command, shown, expected))
    finally:
        status = shop.close()
    assert different == []
    assert status == 0


@pytest.mark.parametrize("name", ["serve", "shell", "pack", "check", "info", "rename", "convert", "completion"])
def test_each_command_has_a_section_with_an_example(name: str) -> None:
    section = re.search(
        rf"^## durus {name}\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    assert section is not None
    assert f"$ durus {name} " in section[1]

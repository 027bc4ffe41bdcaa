"""The code blocks of a page of docs/, run in order. `python tests/pages.py PAGE` runs one page in the current folder.

All ```python blocks of a page are one program; a ```text block right after one is what it prints. A ```pycon block is
a session of Python's own shell, a ```console block one of a Unix shell: after `$ ` stands a command, and below it what
is printed. In what is printed, `...` is anything, and the folder is called /srv/app. Port 8000 stands for one that is
free. Times, sizes and the like need not be the same (VARIES, AGO). A comment right before a block says otherwise:

    <!-- file: NAME -->           the block is written to this file
    <!-- needs: NAME -->          it is run where this module or command is installed
    <!-- not run: REASON -->      it is never run
"""

import contextlib
import doctest
import importlib.util
import io
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import traceback
import types
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = "/srv/app"
PORT = "8000"
LANGUAGES_RUN = ("python", "pycon", "console")
LANGUAGES_SHOWN = ("text", "mermaid", "ini", "toml", "json", "html", "toctree", "eval-rst", "command-options", "note")
SECONDS = 60

VARIES = (
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.,]\d+Z?", "TIME"),
    (r"process \d+ of user \d+", "CLIENT"),
    (r"\b\d+(\.\d+)? m?s\b|\d+\.\d+s\b", "DURATION"),
    (r"\b\d+ bytes|\binto \d+|\bbyte \d+|\.cut-\d+|\b\d+ past the end|\b\d+ transactions", "NUMBER"),
    (r"\bchecksum is \w+|\bsays \w+", "CHECKSUM"),
    (r"\b5\.\d+\.\d+[.\w]*", "VERSION"),
    (r"base classes in \w+", "IMPLEMENTATION"),
)
"""What a command does not print the same each time, and what stands for it."""

AGO = (r"\b\d+(\.\d+)? s ago\b", "AGO")
"""How long ago another transaction came, which messages tell; so a block in Python does not print the same either."""

_FENCE = re.compile(r"(`{3,})\s*\{?([\w-]*)\}?.*")
_COMMENT = re.compile(r"<!-- (file|needs|not run): (.+?) -->")
_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass
class Block:
    language: str
    line: int
    body: str
    marks: dict[str, str] = field(default_factory=dict)
    follows: bool = False
    """True if nothing but blank lines is between the block before and this one."""


def blocks(text: str) -> list[Block]:
    """Return the fenced blocks of a page; ValueError for one that is never closed."""
    found: list[Block] = []
    marks: dict[str, str] = {}
    follows = False
    lines = iter(enumerate(text.splitlines(), 1))
    for number, line in lines:
        if opening := _FENCE.fullmatch(line):
            body = []
            for _, inside in lines:
                if inside == opening[1]:
                    break
                body.append(inside + "\n")
            else:
                raise ValueError(f"the block in line {number} is never closed")
            found.append(Block(opening[2], number, "".join(body), marks, follows))
            marks, follows = {}, True
        elif comment := _COMMENT.fullmatch(line):
            marks = {**marks, comment[1]: comment[2]}
        elif line.strip():
            marks, follows = {}, False
    return found


def free_port() -> str:
    """Return the number of a port on loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


class Page:
    """One page, while its blocks are run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.faults: list[str] = []
        self._names = types.ModuleType("__main__")
        self._printed: str | None = None
        self._port = free_port()
        self._servers: list[subprocess.Popen[str]] = []

    def run(self) -> list[str]:
        """Run all blocks; return what is wrong."""
        sys.modules["__main__"] = self._names  # where classes of the page are found
        try:
            for block in blocks(self.path.read_text(encoding="utf-8").replace(PORT, self._port)):
                self._run_block(block)
        finally:
            self._end_servers()
        return self.faults

    def _run_block(self, block: Block) -> None:
        printed, self._printed = self._printed, None
        if "not run" in block.marks:
            return
        needed = block.marks.get("needs")
        if needed is not None and importlib.util.find_spec(needed) is None and shutil.which(needed) is None:
            return
        if "file" in block.marks:
            Path(block.marks["file"]).write_text(block.body, encoding="utf-8")
        elif block.language == "python":
            self._run_python(block)
        elif block.language == "pycon":
            self._run_session(block)
        elif block.language == "console":
            self._run_commands(block)
        elif block.language == "text" and block.follows and printed is not None:
            self._compare(block.line, printed, block.body)
        elif block.language not in LANGUAGES_SHOWN:
            self._note(block.line, f"a block of {block.language!r} has no comment that says what to do with it")

    def _run_python(self, block: Block) -> None:
        source = "\n" * block.line + block.body
        output = io.StringIO()
        try:
            with contextlib.redirect_stdout(output):
                exec(compile(source, str(self.path), "exec"), vars(self._names))
        except BaseException:
            self._note(block.line, traceback.format_exc())
        self._printed = output.getvalue()

    def _run_session(self, block: Block) -> None:
        session = doctest.DocTestParser().get_doctest(
            block.body, vars(self._names), self.path.name, str(self.path), block.line
        )
        output = io.StringIO()
        runner = doctest.DocTestRunner(optionflags=_FLAGS, verbose=False)
        runner.run(session, out=output.write, clear_globs=False)
        vars(self._names).update(session.globs)
        if output.getvalue():
            self._note(block.line, output.getvalue())

    def _run_commands(self, block: Block) -> None:
        for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block.body, re.MULTILINE):
            if command.endswith(" &"):
                shown = self._begin(command.removesuffix(" &"), len(expected.splitlines()))
            else:
                result = subprocess.run(
                    command,
                    shell=True,
                    executable="/bin/bash",
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    text=True,
                    timeout=SECONDS,
                    check=False,
                )
                shown = result.stdout
            self._compare(block.line, shown, expected, command)

    def _begin(self, command: str, lines: int) -> str:
        """Start a command that keeps running; return the first lines that it prints."""
        server = subprocess.Popen(
            ["/bin/sh", "-c", "exec " + command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._servers.append(server)
        output = server.stdout
        assert output is not None
        shown = "".join(output.readline() for _ in range(lines))
        threading.Thread(target=output.read, daemon=True).start()
        return shown

    def _end_servers(self) -> None:
        for server in self._servers:
            server.terminate()
            try:
                server.wait(SECONDS)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()

    def _compare(self, line: int, shown: str, expected: str, command: str = "") -> None:
        shown = shown.replace(os.getcwd(), FOLDER).replace(self._port, PORT)
        expected = expected.replace(self._port, PORT)
        for pattern, word in (AGO, *VARIES) if command else (AGO,):
            expected, shown = re.sub(pattern, word, expected), re.sub(pattern, word, shown)
        if not doctest.OutputChecker().check_output(expected, shown, _FLAGS):
            self._note(line, f"{command}\nprints\n{shown}and not\n{expected}")

    def _note(self, line: int, fault: str) -> None:
        self.faults.append(f"{self.path.name}:{line}: {fault}")


if __name__ == "__main__":
    sys.path[0] = os.getcwd()
    faults = Page(Path(sys.argv[1])).run()
    print("\n".join(faults))
    sys.stdout.flush()
    os._exit(1 if faults else 0)  # whatever threads a page has left

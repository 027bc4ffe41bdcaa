"""Every code block of docs/ runs, and prints what the page says; what can't run says why."""

import inspect
import operator
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pages import LANGUAGES_RUN, LANGUAGES_SHOWN, Page, blocks

ROOT = Path(__file__).resolve().parent.parent.parent
DOCS = ROOT / "docs"
ELSEWHERE = {
    "commands.md": "tests/integration/test_commands_page.py",
    "migrating.md": "tests/integration/test_migrating.py",
}
"""The pages that have tests of their own."""
PAGES = sorted(path for path in DOCS.rglob("*.md") if str(path.relative_to(DOCS)) not in ELSEWHERE)
RUNNER = ROOT / "tests" / "pages.py"
MAX_NOT_RUN = 10
"""How many blocks of all pages may say that they are not run."""


def name_of(path: Path) -> str:
    return str(path.relative_to(DOCS))


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with the commands that a page may call, which find modules where the installed ones do."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name, module in (("python", ""), ("durus", "-P -m durus")):
        (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
        (folder / name).chmod(0o755)
    return folder


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_the_blocks_of_a_page_run(path: Path, short_path: Path, programs: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in ("DURUS_DEBUG", "DURUSSTARTUP")}
    environment |= {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(short_path), "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(
        [sys.executable, str(RUNNER), str(path)],
        cwd=short_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert (result.stdout.strip(), result.returncode) == ("", 0)


def test_few_blocks_are_not_run_and_each_says_why() -> None:
    not_run = [
        f"{name_of(path)}:{block.line}: {block.marks['not run']}"
        for path in PAGES
        for block in blocks(path.read_text(encoding="utf-8"))
        if "not run" in block.marks
    ]
    assert len(not_run) <= MAX_NOT_RUN, "\n".join(not_run)


@pytest.mark.parametrize("page", ELSEWHERE)
def test_a_page_that_is_left_out_has_a_test_of_its_own(page: str) -> None:
    assert (ROOT / ELSEWHERE[page]).exists()


def test_languages_are_known() -> None:
    for path in PAGES:
        for block in blocks(path.read_text(encoding="utf-8")):
            known = block.language in LANGUAGES_RUN + LANGUAGES_SHOWN or block.marks
            assert known, f"{name_of(path)}:{block.line}: {block.language!r}"


# The machinery


def faults_of(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(folder)
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    page = folder / "page.md"
    page.write_text(text, encoding="utf-8")
    return Page(page).run()


@pytest.mark.parametrize(
    "text",
    [
        "```python\nprint(1)\n```\n\n```text\n1\n```\n",
        "```python\na = 1\n```\n\nAnd:\n\n```pycon\n>>> a + 1\n2\n```\n",
        "```console\n$ echo a; pwd\na\n/srv/app\n$ echo b\nb\n```\n",
        "<!-- file: a.py -->\n```python\nx = 3\n```\n\n```console\n$ cat a.py\nx = 3\n```\n",
        "<!-- not run: no reason -->\n```sh\nfalse\n```\n",
        "<!-- needs: no_such_module -->\n```python\nimport no_such_module\n```\n",
        "```console\n$ echo 12 apples\n... apples\n```\n",
        "```console\n$ echo 12 bytes, 1.2 ms\n7 bytes, 3 ms\n```\n",
        "```python\nprint('changed 0.004 s ago')\n```\n\n```text\nchanged 0 s ago\n```\n",
        "```text\nnot compared\n```\n",
    ],
    ids=["output", "session", "commands", "file", "not run", "needs", "ellipsis", "varying", "ago", "text"],
)
def test_a_good_page_has_no_fault(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert faults_of(text, tmp_path, monkeypatch) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("```python\nprint(1)\n```\n\n```text\n2\n```\n", "page.md:5: \nprints\n1\nand not\n2"),
        ("```python\n1 / 0\n```\n", "ZeroDivisionError"),
        ("```pycon\n>>> 1 + 1\n3\n```\n", "Got:\n    2"),
        ("```console\n$ echo a\nb\n```\n", "echo a\nprints\na"),
        ("```console\n$ echo 12 apples\n7 apples\n```\n", "12 apples"),
        ("```sh\nfalse\n```\n", "has no comment"),
    ],
    ids=["output", "exception", "session", "command", "number", "language"],
)
def test_a_fault_of_a_page_is_found(text: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = faults_of(text, tmp_path, monkeypatch)
    assert fault in found


def test_a_block_that_is_never_closed_is_found() -> None:
    with pytest.raises(ValueError, match="line 1"):
        blocks("```python\n")


# What must be on the pages


def test_every_error_has_its_cause_and_remedy() -> None:
    from durus import error

    page = (DOCS / "reference" / "errors.md").read_text(encoding="utf-8")
    classes = {
        name
        for name, value in vars(error).items()
        if isinstance(value, type) and issubclass(value, Exception | Warning) and value.__module__ == "durus.error"
    }
    described = set(re.findall(r"^### (\w+)$", page, re.MULTILINE))
    assert described == classes
    for section in page.split("\n### ")[1:]:
        assert "**Cause.**" in section, section
        assert "**Remedy.**" in section, section


def test_signatures_that_the_reference_writes_out_are_those_of_the_code() -> None:
    import durus.web

    text = "\n".join(path.read_text(encoding="utf-8") for path in (DOCS / "reference").glob("*.md"))
    written = re.findall(r"^\.\. auto\w+:: (durus\.[\w.]+)\((.+)\)$", text, re.MULTILINE)
    assert written
    for name, parameters in written:
        found = operator.attrgetter(name.removeprefix("durus."))(durus)
        shown = eval(f"lambda {parameters}: None", dict(vars(durus.web)))
        plain = [each.replace(annotation=each.empty) for each in inspect.signature(found).parameters.values()]
        assert list(inspect.signature(shown).parameters.values()) == plain, name


def test_every_public_name_is_in_the_reference() -> None:
    import durus

    text = "\n".join(path.read_text(encoding="utf-8") for path in (DOCS / "reference").glob("*.md"))
    missing = [name for name in durus.__all__ if f"durus.{name}" not in text and f"### {name}" not in text]
    assert missing == []

"""The Markdown of the project is wrapped at one width, and wrapping keeps what it must."""

from pathlib import Path

import pytest

from tests.markdown import COLUMNS, documents, wrapped

LONG = "word " * 30


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_a_document_is_wrapped(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text == wrapped(text), "run: python -m tests.markdown"


def test_a_paragraph_is_filled() -> None:
    assert wrapped("a\nb\n\nc\n") == "a b\n\nc\n"
    assert max(len(line) for line in wrapped(LONG).splitlines()) <= COLUMNS


def test_an_item_of_a_list_is_indented() -> None:
    first, second = wrapped("- " + LONG + "\n").splitlines()
    assert (first[:6], second[:6]) == ("- word", "  word")
    assert wrapped("1. a\n   b\n2. c\n") == "1. a b\n2. c\n"


def test_a_statement_starts_its_line() -> None:
    assert wrapped("**[REC-1]** A.\n**[REC-2]** B.\n") == "**[REC-1]** A.\n**[REC-2]** B.\n"


@pytest.mark.parametrize(
    "text",
    [
        f"# {LONG}x\n",
        f"| {LONG} |\n|---|\n| b |\n",
        f"```text\n{LONG}\na\nb\n```\n",
        "````text\n```\na\nb\n````\n",
        f"    {LONG}\n    b\n",
        "<!-- a -->\n```sh\nb\n```\n",
        f"`{LONG}x`\n",
        "a lone ` stays\n",
    ],
    ids=["heading", "table", "fence", "longer fence", "indented", "comment", "code span", "backtick"],
)
def test_what_is_not_prose_stays_as_it_is(text: str) -> None:
    assert wrapped(text) == text


def test_no_word_that_would_start_a_block_comes_to_the_front_of_a_line() -> None:
    assert wrapped("x" * (COLUMNS - 1) + " - y\n") == "x" * (COLUMNS - 1) + " -\ny\n"


def test_wrapping_again_changes_nothing() -> None:
    text = wrapped(f"{LONG} `a b` - 1. # {LONG}\n")
    assert wrapped(text) == text

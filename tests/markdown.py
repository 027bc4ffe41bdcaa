"""Markdown wrapped at 100 columns. `python -m tests.markdown` wraps every document of the project again.

Paragraphs and list items are filled. Headings, tables, fenced and indented blocks and HTML comments stay as they are.
A code span is never broken.
"""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = 100
_BROUGHT_ALONG = {".venvs", "node_modules", "corpus"}
"""Folders with files of other projects, or of fuzzers."""

_FENCE = re.compile(r"(`{3,}|~{3,})")
_VERBATIM = re.compile(r"#|\||<!--|    ")
_ITEM = re.compile(r"( *(?:[-*+]|[0-9]+\.) )(.*)")
_WORD = re.compile(r"(?:`[^`]*`|\S)+")
_STARTS_A_BLOCK = re.compile(r"(?:[-*+]|#+|[0-9]+[.)])$|[>|]|\*\*\[")


def documents() -> list[Path]:
    """Return the Markdown files of the project."""
    folders = ("docs", "spec", "bench", "conformance", "examples", "ports", "tests")
    found = [*ROOT.glob("*.md"), *(path for folder in folders for path in (ROOT / folder).rglob("*.md"))]
    return sorted(path for path in found if not _BROUGHT_ALONG.intersection(path.parts))


def wrapped(text: str) -> str:
    """Return the document with its paragraphs and list items filled to COLUMNS."""
    return "\n".join(_lines(text.splitlines())) + "\n"


def _lines(lines: list[str]) -> Iterator[str]:
    paragraph: list[str] = []
    fence = ""
    for line in lines:
        if fence:
            yield line
            if line.strip() == fence:
                fence = ""
            continue
        opening = _FENCE.match(line)
        starts = opening or not line.strip() or _ITEM.match(line) or line.startswith("**[")
        if starts or (_VERBATIM.match(line) and not paragraph):
            yield from _fill(paragraph)
            paragraph = []
        if opening:
            fence = opening[1]
        if opening or not line.strip() or (_VERBATIM.match(line) and not paragraph):
            yield line
        else:
            paragraph.append(line)
    yield from _fill(paragraph)


def _fill(paragraph: list[str]) -> Iterator[str]:
    """Yield the lines of one paragraph or list item."""
    if not paragraph:
        return
    item = _ITEM.match(paragraph[0])
    first, text = item.groups() if item else ("", paragraph[0])
    words = _WORD.findall(" ".join([text, *paragraph[1:]]))
    line = first + words[0]
    for word in words[1:]:
        if len(line) + 1 + len(word) <= COLUMNS or _STARTS_A_BLOCK.match(word):
            line += " " + word
        else:
            yield line
            line = " " * len(first) + word
    yield line


if __name__ == "__main__":
    for path in documents():
        path.write_text(wrapped(path.read_text(encoding="utf-8")), encoding="utf-8")

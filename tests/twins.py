"""What the C extension does in place of Python: finds it when one of the two is changed, and the other one is not.

    python -m tests.twins            which twins have changed since tests/twins.json was written
    python -m tests.twins --write    write it again, which is refused where only one of two was changed
    python -m tests.twins --write --same    the same, where a change of one leaves alone what it does

A comment before a function of C says which Python it stands for: `Stands for BTree.get, _search: ...`, or a part of it.
All functions of C that stand for the same Python are one twin, and it is the other one.
"""

import argparse
import ast
import hashlib
import io
import json
import re
import sys
import tokenize
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAIRS = {
    "durus/_btree.c": ["durus/btree.py"],
    "durus/_cache.c": ["durus/objects/cache.py", "durus/persistent.py"],
    "durus/_collections.c": ["durus/persistent_dict.py", "durus/persistent_list.py", "durus/persistent_set.py"],
    "durus/_encode.c": ["durus/serialize.py"],
    "durus/_entry_index.c": ["durus/files/entry_index.py"],
    "durus/_files.c": ["durus/records/record.py", "durus/files/shelf/layout.py", "durus/files/shelf/scan.py"],
    "durus/_states.c": ["durus/serialize.py", "durus/persistent.py"],
    "durus/_pickle_work.c": ["durus/records/pickle_work.py"],
    "durus/_plain.c": [
        "durus/records/plain.py",
        "durus/records/plain_sharing.py",
        "durus/records/plain_steps.py",
    ],
    "durus/_plain_forms.c": ["durus/records/plain_forms.py"],
    "durus/_plain_writer.c": ["durus/records/plain_writer.py"],
}
"""Where the Python is that a source of C stands for."""
KNOWN = Path(__file__).with_name("twins.json")

_FUNCTION = re.compile(
    r"^/\* Stands for (?:a part of )?(\w[\w.]*\w(?:, \w[\w.]*\w)*)[.:]? .*?\*/\n(.*?^\}$)", re.MULTILINE | re.DOTALL
)
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)

Twins = dict[str, dict[str, str]]
"""By the name of the Python: the digests of both."""


def find_twins(c: str, *modules: str) -> Twins:
    """Return the twins in a source of C and in modules; KeyError if C stands for what is not there."""
    parts: dict[str, list[str]] = {}
    for names, function in _FUNCTION.findall(c):
        for name in names.split(", "):
            parts.setdefault(name, []).append(_COMMENT.sub("", function))
    sources = {name: text for python in modules for name, text in sources_by_name(python).items()}
    return {name: {"c": digest("\n".join(texts)), "python": digest(sources[name])} for name, texts in parts.items()}


def sources_by_name(python: str) -> dict[str, str]:
    """Return the functions and methods of a module by their qualified names, without comments and docstrings."""
    lines = python.splitlines(keepends=True)
    for token in tokenize.generate_tokens(io.StringIO(python).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column] + "\n"
    found = {}

    def visit(body: Sequence[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                visit(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.FunctionDef):
                text = lines[node.lineno - 1 : node.end_lineno]
                if ast.get_docstring(node) is not None:
                    first = node.body[0]
                    text[first.lineno - node.lineno : (first.end_lineno or 0) - node.lineno + 1] = []
                found[prefix + node.name] = "".join(text)  # the last of those that have one name: it is not an overload

    visit(ast.parse(python).body, "")
    return found


def digest(text: str) -> str:
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()[:16]


def twins_of_the_sources() -> Twins:
    found: Twins = {}
    for c, modules in PAIRS.items():
        found |= find_twins(*((ROOT / name).read_text("utf-8") for name in (c, *modules)))
    return found


def known_twins() -> Twins:
    known: Twins = json.loads(KNOWN.read_text("utf-8")) if KNOWN.exists() else {}
    return known


def differences(found: Twins, known: Twins) -> tuple[list[str], list[str]]:
    """Return what tells of twins of which one was changed alone, and of all others that are not as they are known."""
    alone, others = [], []
    for name in sorted({*found, *known}):
        if name not in found or name not in known:
            others.append(f"{name}: {'has a new twin in C' if name in found else 'has no twin in C any more'}")
            continue
        changed = [side for side in ("c", "python") if found[name][side] != known[name][side]]
        if len(changed) == 1:
            which, other = ("its twin in C", "the Python") if changed == ["c"] else ("the Python", "its twin in C")
            alone.append(f"{name}: {which} was changed, and {other} was not")
        elif changed:
            others.append(f"{name}: both were changed")
    return alone, others


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.twins", description="Compare C with the Python it is for.")
    parser.add_argument("--write", action="store_true", help=f"take both as they are now into {KNOWN.name}")
    parser.add_argument("--same", action="store_true", help="also where one was changed alone, and does the same")
    options = parser.parse_args(arguments)
    found = twins_of_the_sources()
    alone, others = differences(found, known_twins())
    if options.write and (options.same or not alone):
        KNOWN.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n", "utf-8")
        return 0
    print("\n".join([*alone, *others]) or "all twins are as they are known")
    return 1 if alone or others else 0


if __name__ == "__main__":
    sys.exit(main())

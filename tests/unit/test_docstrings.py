"""Docstrings are in one style, from which the reference is generated: sections as Google has them."""

import ast
import builtins
import re
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SECTIONS = ["Args", "Returns", "Yields", "Raises"]
"""The sections that a docstring may have, in their order."""
FIELD = re.compile(r"^ *:(param|type|returns?|rtype|raises|yields?)\b", re.MULTILINE)
ENTRY = re.compile(r"    (\w+): \S")

REFERENCE = "\n".join(path.read_text() for path in sorted((ROOT / "docs" / "reference").glob("*.md")))
PUBLIC = {
    *re.findall(r"\.\. auto(?:class|function):: durus\.(?:\w+\.)*(\w+)", REFERENCE),
    *re.findall(r"`(\w+)`", "".join(re.findall(r"^\| `durus\.\w+` \|(.*)", REFERENCE, re.MULTILINE))),
}
"""The classes and functions that the reference lists."""

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class Documented(NamedTuple):
    """A class or function with a docstring."""

    name: str
    parameters: list[str] | None
    docstring: str

    @property
    def sections(self) -> dict[str, list[str]]:
        """The lines of each section; those before the first one are under the empty name."""
        result: dict[str, list[str]] = {"": []}
        lines = result[""]
        for line in self.docstring.splitlines():
            if header := re.fullmatch(r"([A-Z]\w+):", line):
                lines = result.setdefault(header[1], [])
            else:
                lines.append(line)
        return result

    def entries(self, section: str) -> list[str]:
        return [found[1] for line in self.sections.get(section, []) if (found := ENTRY.match(line))]


def parameters_of(node: Definition) -> list[str] | None:
    """Return the names of the parameters of a function, or of the __init__() that a class itself explains, if any."""
    if isinstance(node, ast.ClassDef):
        makers = [each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
        return parameters_of(makers[-1]) if makers and ast.get_docstring(makers[-1]) is None else None
    given = node.args
    more = [[each] if each else [] for each in (given.vararg, given.kwarg)]
    names = [each.arg for each in (*given.posonlyargs, *given.args, *more[0], *given.kwonlyargs, *more[1])]
    return [name for name in names if name not in {"self", "cls"}]


def documented(node: ast.AST, path: str) -> Iterator[Documented]:
    """Yield the classes and functions with a docstring in a node."""
    for each in ast.iter_child_nodes(node):
        if isinstance(each, Definition):
            if docstring := ast.get_docstring(each, clean=False):
                yield Documented(f"{path}:{each.lineno} {each.name}", parameters_of(each), cleandoc(docstring))
            yield from documented(each, path)


def public(path: Path) -> Iterator[Documented]:
    """Yield what the reference lists of a module, with the public methods of classes."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, Definition) and node.name in PUBLIC:
            yield from (each for each in documented(ast.Module([node], []), path.name) if " _" not in each.name)


MODULES = sorted((ROOT / "durus").glob("**/*.py"))
ALL = [each for path in MODULES for each in documented(ast.parse(path.read_text()), str(path.relative_to(ROOT)))]
ERRORS = {each.name.split()[1] for each in ALL} | set(vars(builtins))


def faults_of_style(each: Documented) -> Iterator[str]:
    sections = each.sections
    if FIELD.search(each.docstring):
        yield "has a field of reStructuredText"
    headers = list(sections)[1:]
    if headers != [name for name in SECTIONS if name in headers]:
        yield f"has the sections {headers}, not some of {SECTIONS} in this order"
    for name in ("Returns", "Yields"):
        if ": " in "".join(sections.get(name, [])[:1]):
            yield f"has a colon in the first line of {name}, so that the text before it becomes a type"
    for error in each.entries("Raises"):
        if error not in ERRORS:
            yield f"raises {error}, which does not exist"
    if "Args" in sections and each.parameters is not None and each.entries("Args") != each.parameters:
        yield f"explains {each.entries('Args')}, but its parameters are {each.parameters}"


def test_each_docstring_has_the_style() -> None:
    assert [f"{each.name} {fault}" for each in ALL for fault in faults_of_style(each)] == []


def test_each_parameter_of_the_api_is_explained() -> None:
    """Either in Args, or by its name in the text."""
    assert [
        f"{each.name}: {parameter}"
        for path in MODULES
        if path.parent.name == "durus"
        for each in public(path)
        for parameter in each.parameters or ()
        if parameter not in each.entries("Args") and f"`{parameter}`" not in each.docstring
    ] == []


@pytest.mark.parametrize(
    ("docstring", "fault"),
    [
        ("Do it.\n\n:param a: this.", "field"),
        ("Do it.\n\nRaises:\n    KeyError: never.\n\nArgs:\n    a: this.", "in this order"),
        ("Do it.\n\nParameters:\n    a: this.", "in this order"),
        ("Do it.\n\nArgs:\n    b: this.", r"explains \['b'\]"),
        ("Do it.\n\nReturns:\n    A pair: this and that.", "colon"),
        ("Do it.\n\nRaises:\n    KeyMistake: often.", "KeyMistake"),
    ],
)
def test_faults_are_found(docstring: str, fault: str) -> None:
    assert re.search(fault, "\n".join(faults_of_style(Documented("f", ["a"], docstring))))

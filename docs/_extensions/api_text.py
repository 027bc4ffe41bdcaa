"""Docstrings as Sphinx reads them.

Docstrings here are plain text: `code` in single backticks, indented blocks, ids of statements in brackets. Their
sections (Args, Returns, Yields, Raises) are in Google style, which sphinx.ext.napoleon turns into fields afterwards.
"""

import ast
import inspect
import re
from textwrap import dedent

from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

_CODE = re.compile(r"`([^`]+)`")
_SPECIAL = re.compile(r"([*_|\\])")
_SECTIONS = ("Args:", "Returns:", "Yields:", "Raises:")


def as_rest(lines: list[str]) -> list[str]:
    """Return a docstring in reStructuredText."""
    result: list[str] = []
    for is_block, block in _blocks(lines):
        if is_block and result and result[-1] in _SECTIONS:
            result += [_field(line) for line in block]
        elif is_block:
            text = dedent("\n".join(block)).strip("\n")
            if rows := _table(text):
                result += ["", ".. list-table::", "   :widths: auto", ""]
                result += [line for name, says in rows for line in (f"   * - {name}", f"     - {says}")] + [""]
                continue
            result += ["", f".. code-block:: {_language(text)}", ""]
            result += [f"   {line}" for line in text.splitlines()] + [""]
        else:
            result += [_prose(line) for line in block]
    return result


def _blocks(lines: list[str]) -> list[tuple[bool, list[str]]]:
    """Return the lines in runs, each with whether it is an indented block."""
    runs: list[tuple[bool, list[str]]] = []
    for line in lines:
        is_block = line.startswith("    ") if line.strip() else bool(runs) and runs[-1][0]
        if not runs or runs[-1][0] != is_block:
            runs.append((is_block, []))
        runs[-1][1].append(line)
    return runs


def _table(text: str) -> list[tuple[str, str]]:
    """Return the rows of a block in which each line is a name and what it is; else nothing.

    Between the two are two spaces or more, or a colon.
    """
    lines = re.sub(r"\n +", " ", text).splitlines()
    found = [re.fullmatch(r"(\S.*?) {2,}(\S.*)", line) or re.fullmatch(r"(\w+): (.*)", line) for line in lines]
    return [(_name(row[1]), _prose(row[2])) for row in found if row] if all(found) else []


def _name(text: str) -> str:
    return _prose(text) if "`" in text or " " in text else f"``{text}``"


def _language(text: str) -> str:
    try:
        ast.parse(text)
    except SyntaxError:
        return "text"
    return "python"


def _field(line: str) -> str:
    """Return a line of a section, whose name, if it starts with one, napoleon reads as it is."""
    indent, name, text = re.fullmatch(r"( *)(\w+: )?(.*)", line).groups("")  # type: ignore[union-attr]  # matches all
    return f"{indent}{name}{_prose(text)}"


def _prose(line: str) -> str:
    parts = _CODE.split(line)
    return "".join(f"``{part}``" if index % 2 else _SPECIAL.sub(r"\\\1", part) for index, part in enumerate(parts))


def rewrite(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    lines[:] = as_rest(lines)


def sign(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str | None, returned: str | None
) -> tuple[str, None] | None:
    """Show the arguments of __init__() of a persistent class: its __new__() takes any."""
    if what != "class" or not isinstance(obj, type) or "_p_oid" not in dir(obj):
        return None
    made = vars(obj).get("__init__")
    if made is None:
        return "", None
    signature_of = inspect.signature(made)
    parameters = [each.replace(annotation=each.empty) for each in list(signature_of.parameters.values())[1:]]
    return str(inspect.Signature(parameters)), None


def setup(app: Sphinx) -> ExtensionMetadata:
    app.connect("autodoc-process-signature", sign)
    app.connect("autodoc-process-docstring", rewrite)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

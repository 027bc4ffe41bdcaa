"""What spec/*.md holds, as data: statements, and examples that can be run.

A document is read once, line by line, into prose and fenced blocks; everything here works on that.
Faults of the index are returned as a list of messages, so that one run shows all of them.  A block that
can't be read raises SpecError.  Messages start with `document:line:`.
"""

import ast
import json
import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SPEC = ROOT / "spec"
VECTORS = SPEC / "vectors"

PREFIXES = {
    "backup.md": "BACKUP",
    "commands.md": "CMD",
    "database.md": "DB",
    "export.md": "EXP",
    "file-storage-2.md": "DFS",
    "history.md": "HIST",
    "object-model.md": "OBJ",
    "pickle.md": "PICKLE",
    "record.md": "REC",
    "replica.md": "REPL",
    "salvage.md": "SALV",
    "shelf.md": "SHELF",
    "sql-engine.md": "PG",
    "sqlite.md": "SQL",
    "tls.md": "TLS",
    "transactions.md": "TXN",
    "web.md": "WEB",
    "wire.md": "WIRE",
    "wire-2.md": "WIRE2",
}
KINDS = ("record", "shelf", "dfs20", "write", "pack", "large", "steps", "exchange")
_OF_BYTES = ("record", "shelf", "dfs20", "write", "pack")


class SpecError(ValueError):
    """A document has a block that can't be read."""


@dataclass(frozen=True)
class Document:
    name: str
    text: str


@dataclass(frozen=True)
class Statement:
    id: str
    document: str
    line: int

    @property
    def place(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def prefix(self) -> str:
        return self.id.rpartition("-")[0]

    @property
    def number(self) -> int:
        return int(self.id.rpartition("-")[2])


@dataclass(frozen=True)
class Mark:
    """One id in one `pytest.mark.spec(...)`."""

    id: str
    path: str
    line: int


@dataclass(frozen=True)
class Example:
    """A fenced block that is run. `line` is the line of its opening fence."""

    kind: str
    name: str
    document: str
    line: int
    body: str
    statements: tuple[str, ...] = ()
    """What it shows: those that its info string names, or else the statement before it."""
    level: str = "MUST"


def documents() -> list[Document]:
    return [Document(path.name, path.read_text(encoding="utf-8")) for path in sorted(SPEC.glob("*.md"))]


# Documents


@dataclass(frozen=True)
class _Block:
    info: str
    line: int
    body: str


_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})\s*([^`]*?)\s*$")


def _split(document: Document) -> tuple[list[tuple[int, str]], list[_Block]]:
    """Return the lines of prose with their numbers, and the fenced blocks."""
    prose: list[tuple[int, str]] = []
    blocks: list[_Block] = []
    lines = iter(enumerate(document.text.splitlines(), start=1))
    for number, line in lines:
        opening = _FENCE.match(line)
        if not opening:
            prose.append((number, line))
            continue
        fence, info = opening.groups()
        body = []
        for _, inside in lines:
            closing = _FENCE.match(inside)
            if closing and closing[1].startswith(fence) and not closing[2]:
                break
            body.append(inside)
        else:
            raise SpecError(f"{document.name}:{number}: this fenced block is never closed")
        blocks.append(_Block(info, number, "\n".join(body)))
    return prose, blocks


# Statements and the tests that name them

_STATEMENT = re.compile(r"\*\*\[([A-Z]+[0-9]?-[1-9][0-9]*)\]\*\*")
_ID = re.compile(r"[A-Z]+[0-9]?-[1-9][0-9]*")
_MISPLACED = re.compile(r"\*\*\s*\[")
_CODE = re.compile(r"`[^`]*`")


def statements(document: Document) -> list[Statement]:
    """Return the statements of a document in its order. SpecError for one that is not well formed."""
    found = []
    for number, line in _split(document)[0]:
        statement = _STATEMENT.match(line)
        if statement:
            found.append(Statement(statement[1], document.name, number))
        if _MISPLACED.search(_CODE.sub("", line), statement.end() if statement else 0):
            raise SpecError(f"{document.name}:{number}: a statement starts its line with **[PREFIX-NUMBER]**: {line!r}")
    return found


def numbering_faults(found: Iterable[Statement]) -> list[str]:
    """Return what is wrong with the ids: another document's prefix, used twice, not ascending."""
    faults = []
    seen: dict[str, Statement] = {}
    highest: dict[str, int] = {}
    for statement in found:
        own_prefix = PREFIXES.get(statement.document)
        if statement.id in seen:
            faults.append(f"{statement.place}: {statement.id} is already at {seen[statement.id].place}")
        elif own_prefix is None:
            faults.append(f"{statement.place}: {statement.id} is in a document that has no prefix")
        elif statement.prefix != own_prefix:
            faults.append(f"{statement.place}: {statement.id} has not this document's prefix, {own_prefix}")
        elif statement.number < highest.get(statement.prefix, 0):
            faults.append(f"{statement.place}: {statement.id} comes after a higher number")
        seen.setdefault(statement.id, statement)
        highest[statement.prefix] = max(statement.number, highest.get(statement.prefix, 0))
    return faults


def marks(path: str, source: str) -> list[Mark]:
    """Return every id that a `pytest.mark.spec(...)` in the source names. SpecError if one is not a literal."""
    found = []
    for node in ast.walk(ast.parse(source, path)):
        match node:
            case ast.Call(func=ast.Attribute(attr="spec", value=ast.Attribute(attr="mark"))):
                for argument in node.args:
                    match argument:
                        case ast.Constant(value=str(id)):
                            found.append(Mark(id, path, argument.lineno))
                        case _:
                            raise SpecError(f"{path}:{argument.lineno}: a spec mark takes literal strings")
    return found


def marks_in_tests() -> list[Mark]:
    """Return the marks of all tests, whichever of them run."""
    return [
        mark
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for mark in marks(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"))
    ]


def untested_faults(found: Iterable[Statement], named: Iterable[Mark]) -> list[str]:
    """Return the statements that no test names."""
    tested = {mark.id for mark in named}
    return [f"{each.place}: {each.id} has no test" for each in found if each.id not in tested]


def unknown_faults(found: Iterable[Statement], named: Iterable[Mark]) -> list[str]:
    """Return the marks that name no statement."""
    known = {statement.id for statement in found}
    return [f"{each.path}:{each.line}: there is no {each.id}" for each in named if each.id not in known]


# Examples


def examples(document: Document) -> list[Example]:
    """Return the document's examples: the blocks with an info string of KIND, NAME, perhaps SHOULD, and statements."""
    found = []
    stated = statements(document)
    for block in _split(document)[1]:
        words = block.info.split()
        if len(words) < 2 and block.info not in KINDS:
            continue
        kind, name, *more = [*words, ""]
        should = more[:1] == ["SHOULD"]
        named = more[should:-1]
        if len(words) < 2 or kind not in KINDS or not all(_ID.fullmatch(each) for each in named):
            raise SpecError(
                f"{document.name}:{block.line}: an example is {' or '.join(KINDS)}, a name of one word, "
                f"and perhaps SHOULD and ids of statements, not {block.info!r}"
            )
        before = [each.id for each in stated if each.line < block.line][-1:]
        level = "SHOULD" if should else "MUST"
        found.append(Example(kind, name, document.name, block.line, block.body, tuple(named or before), level))
    return found


def all_examples() -> list[Example]:
    return [example for document in documents() for example in examples(document)]


def duplicate_faults(found: Iterable[Example]) -> list[str]:
    """Return the examples whose name another one has already, in whatever document."""
    faults = []
    seen: dict[str, Example] = {}
    for example in found:
        first = seen.setdefault(example.name, example)
        if first is not example:
            faults.append(
                f"{example.document}:{example.line}: example {example.name} is already at {first.document}:{first.line}"
            )
    return faults


def bytes_and_expected(example: Example) -> tuple[bytes, Any]:
    """Return the two halves of an example of bytes: the bytes, and what a reader finds in them or a writer does."""
    place = f"{example.document}:{example.line}"
    lines = example.body.splitlines()
    if "---" not in lines:
        raise SpecError(f"{place}: example {example.name} has no line --- between its bytes and its JSON")
    divider = lines.index("---")
    data = parse_hex("\n".join(lines[:divider]), example.document, example.line + 1)
    try:
        return data, json.loads("\n".join(lines[divider + 1 :]), object_hook=_repeated)
    except json.JSONDecodeError as error:
        line = example.line + 1 + divider + error.lineno
        raise SpecError(f"{example.document}:{line}: not JSON: {error.msg}") from error


def recipe(example: Example) -> dict[str, int]:
    """Return the JSON of a `large` example."""
    try:
        found: dict[str, int] = json.loads(example.body)
    except json.JSONDecodeError as error:
        raise SpecError(f"{example.document}:{example.line + error.lineno}: not JSON: {error.msg}") from error
    return found


def _repeated(value: dict[str, Any]) -> Any:
    """Return the text for `{"repeat": text, "times": number}`, other objects as they are."""
    return value["repeat"] * value["times"] if value.keys() == {"repeat", "times"} else value


_TOKEN = re.compile(
    r"""  \s+ | \#.*
        | "(?P<text>[ !\x23-\x7e]*)"
        | (?P<count>[0-9]+) \s* \* \s* (?P<byte>[0-9A-Fa-f]{2}) (?![^\s\#])
        | (?P<hex>(?:[0-9A-Fa-f]{2})+) (?![^\s\#])
    """,
    re.VERBOSE,
)


def parse_hex(text: str, document: str, first_line: int) -> bytes:
    """Return the bytes that `text` writes; `document` and `first_line` are for messages.

    Hex digits in pairs, `"text"` for ASCII, `N * XX` for a byte N times; `#` starts a comment.
    """
    data = bytearray()
    for number, line in enumerate(text.splitlines(), start=first_line):
        position = 0
        while position < len(line):
            token = _TOKEN.match(line, position)
            if not token:
                raise SpecError(f"{document}:{number}: not bytes in hex: {line[position:]!r}")
            if token["hex"]:
                data += bytes.fromhex(token["hex"])
            elif token["count"]:
                data += int(token["count"]) * bytes.fromhex(token["byte"])
            elif token["text"]:
                data += token["text"].encode("ascii")
            position = token.end()
    return bytes(data)


def steps(example: Example) -> Iterator[tuple[int, str]]:
    """Yield (line number, step) for each line of a `steps` example that is not empty or a comment."""
    for number, line in enumerate(example.body.splitlines(), start=example.line + 1):
        step = re.sub(r"(^|\s)#.*", "", line).strip()
        if step:
            yield number, step


_TARGET = r"(?P<object>\w+)\.(?P<key>\w+)"
_STEPS = {
    "new": r"(?P<object>\w+) is new",
    "status": r"(?P<object>\w+) is (?P<sees>a ghost|saved|unsaved)",
    "read": rf"read {_TARGET} -> (?P<sees>.+)",
    "delete": rf"delete {_TARGET}",
    "set": rf"{_TARGET} = (?P<value>\w+)",
    "commit": r"commit(?: -> write conflict on (?P<sees>.+))?",
    "abort": r"abort",
    "pack": r"pack",
    "drop": r"drop the states",
}
_WORDS = ("nothing", "read conflict")


def parse_step(text: str) -> dict[str, Any]:
    """Return a step as the JSON of spec/vectors has it. SpecError if it is none."""
    prefixed = re.fullmatch(r"([A-Z]): (.+)", text)
    client, rest = prefixed.groups() if prefixed else ("A", text)
    matches = ((step, re.fullmatch(pattern, rest)) for step, pattern in _STEPS.items())
    step, parts = next(((step, match.groupdict()) for step, match in matches if match), ("", {}))
    if not step:
        raise SpecError(f"no step reads {text!r}")
    found: dict[str, Any] = {"client": client, "step": step, **parts}
    if step == "commit":
        found["sees"] = sorted(found["sees"].split(", ")) if found["sees"] else "stored"
    for key in ("value", "sees"):
        if key in found and step in ("set", "read") and found[key] not in _WORDS:
            found[key] = int(found[key]) if found[key].isdigit() else {"object": found[key]}
    return found


@dataclass(frozen=True)
class ExchangeLine:
    """What one client sends (>) or gets (<), or that the server has closed its connection (closed)."""

    client: str
    event: str
    data: bytes
    place: str


_EXCHANGE_LINE = re.compile(r"(?:(?P<client>[A-Z])(?= closed|[<>]) ?)?(?P<event>[<>]|closed)(?P<hex>.*)")


def exchange(example: Example) -> list[ExchangeLine]:
    """Return the lines of an `exchange` example; a line that begins with a space continues the one before."""
    found: list[ExchangeLine] = []
    for number, line in enumerate(example.body.splitlines(), start=example.line + 1):
        place = f"{example.document}:{number}"
        begun = _EXCHANGE_LINE.fullmatch(line)
        if begun:
            data = parse_hex(begun["hex"], example.document, number)
            found.append(ExchangeLine(begun["client"] or "A", begun["event"], data, place))
        elif line.startswith(" ") and found:
            last = found.pop()
            data = parse_hex(line, example.document, number)
            found.append(ExchangeLine(last.client, last.event, last.data + data, last.place))
        else:
            raise SpecError(f"{place}: not a line of an exchange: {line!r}")
    return found


# Vectors


def vectors(document: Document) -> str | None:
    """Return the JSON text of a document's vectors, None if it has no example."""
    entries = []
    for example in examples(document):
        entry: dict[str, Any] = {"name": example.name, "kind": example.kind, "level": example.level}
        entry["statements"] = list(example.statements)
        if example.kind in _OF_BYTES:
            data, expected = bytes_and_expected(example)
            entry |= {"hex": data.hex(), "expected": expected}
        elif example.kind == "large":
            entry["recipe"] = recipe(example)
        elif example.kind == "exchange":
            entry["lines"] = [[line.client, line.event, line.data.hex()] for line in exchange(example)]
        else:
            entry["steps"] = [parse_step(step) for _, step in steps(example)]
        entries.append(entry)
    return json.dumps(entries, indent=2) + "\n" if entries else None


def all_statements() -> list[Statement]:
    return [statement for document in documents() for statement in statements(document)]


def levels(document: Document) -> dict[str, str]:
    """Return the level of each statement: MUST, SHOULD or MAY.

    MUST comes before SHOULD. MAY is the level of a statement without other sentences: a plain one says what MUST be.
    """
    texts: dict[str, str] = {}
    id = ""
    for _, line in _split(document)[0]:
        statement = _STATEMENT.match(line)
        if statement:
            id = statement[1]
        elif line.startswith("#"):
            id = ""
        if id:
            texts[id] = f"{texts.get(id, '')} {line}"
    return {id: _level(text) for id, text in texts.items()}


def _level(text: str) -> str:
    if re.search(r"\bMUST\b", text):
        return "MUST"
    if re.search(r"\bSHOULD\b", text):
        return "SHOULD"
    return "MAY" if all(re.search(r"\bMAY\b", sentence) for sentence in text.split(". ")) else "MUST"


def without_vectors() -> dict[str, str]:
    """Return the reasons why no example shows a statement, or any of a document, by their ids and names."""
    reasons = tomllib.loads((SPEC / "without_vectors.toml").read_text(encoding="utf-8"))["reasons"]
    return {name: each["why"] for each in reasons for name in [*each.get("documents", []), *each.get("statements", [])]}


def unshown_faults(
    found: Iterable[Statement], levels: dict[str, str], shown: Iterable[Example], reasons: dict[str, str]
) -> list[str]:
    """Return the statements with MUST that have no example and no reason, and the reasons that are not needed."""
    with_example = {id for example in shown for id in example.statements}
    missing = [each for each in found if levels[each.id] == "MUST" and each.id not in with_example]
    faults = [
        f"{each.place}: {each.id} has no example, and no reason in spec/without_vectors.toml"
        for each in missing
        if each.id not in reasons and each.document not in reasons
    ]
    needed = {each.id for each in missing} | {each.document for each in missing}
    return faults + [f"spec/without_vectors.toml: {name} needs no reason" for name in reasons if name not in needed]


def all_vectors() -> dict[str, str]:
    """Return file name -> text of every file that belongs in spec/vectors."""
    texts = {document.name.removesuffix(".md") + ".json": vectors(document) for document in documents()}
    stated = [
        {"id": each.id, "document": document.name.removesuffix(".md"), "level": levels(document)[each.id]}
        for document in documents()
        for each in statements(document)
    ]
    texts["statements.json"] = json.dumps(stated, indent=2) + "\n"
    return {name: text for name, text in texts.items() if text is not None}

"""Mutation testing: small changes of the program, each of which a test must notice.

python -m tests.model.mutation                       every module of TESTS
python -m tests.model.mutation durus/record.py ...   these modules

A mutator of our own, because a run must take minutes: each mutant is a fork of a process that has pytest and
Hypothesis imported already, and runs only the tests that are meant for its module, up to the first that fails.
Messages (f-strings, and texts of several words) are left as they are. A survivor that no test can notice stands
with its reason in mutation_survivors.toml.
"""

import ast
import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import math
import os
import resource
import signal
import sys
import tempfile
import time
import tomllib
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import NamedTuple

import hypothesis.stateful  # noqa: F401 (once for all mutants)
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SURVIVORS = Path(__file__).with_name("mutation_survivors.toml")
MOST_MEMORY = 4 << 30
OPTIONS = ["-x", "-q", "--tb=short", "-p", "no:cacheprovider", "-p", "no:xdist"]
OPTIONS += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # Hypothesis is there before pytest begins

_SHELF = ["shelf", "shelf_damage", "shelf_interrupted_4_3", "crash_regressions", "check"]
_CORE = ["session", "connection"]
TESTS = {
    "durus/record.py": ["record", "bad_input"],
    "durus/shelf/layout.py": _SHELF,
    "durus/shelf/scan.py": _SHELF,
    "durus/shelf/offset_map.py": _SHELF,
    "durus/shelf/recover.py": _SHELF,
    "durus/shelf/shelf.py": _SHELF,
    "durus/shelf/new_shelf.py": _SHELF,
    "durus/shelf/pack.py": _SHELF,
    "durus/shelf/as_of_now.py": ["check", "shelf"],
    "durus/shelf/check.py": ["check", "shelf_damage"],
    "durus/protocol.py": ["protocol", "spec_examples"],
    "durus/session.py": ["session", "spec_examples", "connection", "shared_storage"],
    "durus/connection.py": ["connection", "spec_examples", "api", "record"],
}
"""Module -> the files of tests/unit that are meant for it, quick ones first."""

_OTHER_OPERATOR: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_HAS_AN_OPPOSITE = (ast.Eq, ast.NotEq, ast.Is, ast.IsNot, ast.In, ast.NotIn)
_DELETED = (ast.Expr, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Delete, ast.Raise, ast.Continue, ast.Break)
_LEFT_ALONE = {"annotation", "returns", "decorator_list", "bases", "format_spec", "type_params"}


class Name(NamedTuple):
    """What tells one mutant of a module from the others, wherever its line stands."""

    where: str
    statement: str
    change: str
    number: int
    """Which one of those that the other three do not tell from one another."""


class Mutant(NamedTuple):
    name: Name
    line: int
    put: Callable[[ast.AST], None]
    """Puts a node in the place of the one that is changed."""
    old: ast.AST
    new: ast.AST


def mutants(tree: ast.Module) -> Iterator[Mutant]:
    """Yield all mutants of a module. The tree is as it was while none of them is put into it."""
    seen: Counter[tuple[str, str, str]] = Counter()
    for where, statement, field, old, put in _places(tree, "", None):
        for new in _instead_of(old, field, is_inside=bool(where)):
            put(new)
            after = _shown(statement if statement is not old else new)
            put(old)
            before = _shown(statement)
            change = f"{_shown(old)} -> {_shown(new)}" if isinstance(old, ast.expr) else f"-> {after}"
            seen[where, before, change] += 1
            name = Name(where, before, change, seen[where, before, change])
            yield Mutant(name, statement.lineno, put, old, new)


def _places(
    node: ast.AST, where: str, statement: ast.stmt | None
) -> Iterator[tuple[str, ast.stmt, str, ast.AST, Callable[[ast.AST], None]]]:
    """Yield (function, statement, field, node, what puts another node there) for all that is in `node`."""
    if isinstance(node, ast.FunctionDef):
        where = f"{where}.{node.name}" if where else node.name
    for field, value in ast.iter_fields(node):
        if field in _LEFT_ALONE or isinstance(node, ast.JoinedStr):
            continue
        for i, child in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(child, ast.AST) or (isinstance(child, ast.Expr) and _is_text(child.value)):
                continue

            def put(new: ast.AST, i: int = i, value: object = value, field: str = field) -> None:
                if isinstance(value, list):
                    value[i] = new
                else:
                    setattr(node, field, new)

            holder = child if isinstance(child, ast.stmt) else statement
            if holder is not None:
                yield where, holder, field, child, put
            inner = where
            if isinstance(child, ast.ClassDef):
                inner = f"{where}.{child.name}" if where else child.name
            yield from _places(child, inner, holder)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str | type(...))


def _instead_of(node: ast.AST, field: str, is_inside: bool) -> Iterator[ast.AST]:
    if (other := _OTHER_OPERATOR.get(type(node))) is not None:
        yield other()
    if isinstance(node, ast.Constant):
        value = node.value
        if isinstance(value, bool):
            yield ast.Constant(not value)
        elif isinstance(value, int):
            yield ast.Constant(value + 1)
        elif isinstance(value, bytes):
            yield ast.Constant(b"" if value else b"X")
        elif isinstance(value, str) and " " not in value:
            yield ast.Constant("" if value else "X")
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand
    elif isinstance(node, ast.expr) and field in ("test", "ifs") and not _is_mutated_by_its_operator(node):
        yield ast.UnaryOp(ast.Not(), node)
    if isinstance(node, ast.Return) and not (node.value is None or _is_none(node.value)):
        yield ast.Return(ast.Constant(None))
    elif isinstance(node, ast.Return) or (isinstance(node, _DELETED) and is_inside and not _is_bare(node)):
        yield ast.Pass()


def _is_mutated_by_its_operator(node: ast.expr) -> bool:
    return isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], _HAS_AN_OPPOSITE)


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_bare(node: ast.AST) -> bool:
    """Tell if it is an annotation of a name without a value."""
    return isinstance(node, ast.AnnAssign) and node.value is None


def _shown(node: ast.AST) -> str:
    """Return the source of a node, of a compound statement only what stands before its body."""
    if not hasattr(node, "body") or isinstance(node, ast.expr):
        return ast.unparse(node)
    return ast.unparse(node).split("\n", 1)[0]


# Running


class _Loader(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives the mutant to who imports its module."""

    def __init__(self, path: str, code: CodeType) -> None:
        self._path = ROOT / path
        self._name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        self._code = code

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        return importlib.util.spec_from_file_location(fullname, self._path, loader=self)

    def exec_module(self, module: ModuleType) -> None:
        exec(self._code, module.__dict__)


def start(path: str, code: CodeType, limit: int, folder: str) -> int:
    """Begin to run the tests of a module on a mutant of it, and return the id of the process."""
    process = os.fork()
    if process:
        return process
    code_of_exit = 99
    try:
        signal.alarm(limit)
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
        output = os.open(os.path.join(folder, "output"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.meta_path.insert(0, _Loader(path, code))
        files = [f"tests/unit/test_{name}.py" for name in TESTS[path]]
        code_of_exit = int(pytest.main([*OPTIONS, f"--basetemp={folder}/tests", *files]))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code_of_exit)


class Outcome(NamedTuple):
    mutants: int
    survivors: list[Mutant]
    timeouts: int


def run_module(path: str, jobs: int) -> Outcome:
    """Run the tests of a module on all its mutants; RuntimeError if they fail without one."""
    tree = ast.parse((ROOT / path).read_bytes())
    with tempfile.TemporaryDirectory(prefix="durus-mutation-") as top:
        began = time.monotonic()
        _, status = os.waitpid(start(path, compile(tree, path, "exec"), 0, top), 0)
        if status:
            raise RuntimeError(f"{path}: its tests fail without a mutant:\n{(Path(top) / 'output').read_text()}")
        limit = math.ceil(10 + 5 * (time.monotonic() - began))
        running: dict[int, tuple[Mutant, tempfile.TemporaryDirectory[str]]] = {}
        count = timeouts = 0
        survivors = []

        def wait() -> None:
            nonlocal timeouts
            process, status = os.wait()
            mutant, folder = running.pop(process)
            timeouts += os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM
            if status == 0:
                survivors.append(mutant)
            with contextlib.suppress(OSError):
                folder.cleanup()

        for mutant in mutants(tree):
            mutant.put(mutant.new)
            code = compile(ast.fix_missing_locations(tree), path, "exec")
            mutant.put(mutant.old)
            folder = tempfile.TemporaryDirectory(dir=top)
            running[start(path, code, limit, folder.name)] = mutant, folder
            count += 1
            if len(running) == jobs:
                wait()
        while running:
            wait()
    return Outcome(count, survivors, timeouts)


def explained() -> dict[str, dict[Name, str]]:
    """Return module -> mutant -> why no test can notice it."""
    with SURVIVORS.open("rb") as file:
        modules = tomllib.load(file)
    return {
        path: {
            Name(each["where"], each["statement"], each["change"], each.get("number", 1)): each["reason"]
            for each in entries
        }
        for path, entries in modules.items()
    }


def _as_toml(path: str, name: Name) -> str:
    number = f"number = {name.number}\n" if name.number > 1 else ""
    texts = "".join(f"{key} = '''{getattr(name, key)}'''\n" for key in ("where", "statement", "change"))
    return f'[["{path}"]]\n{texts}{number}reason = ""\n'


def main(paths: list[str]) -> int:
    os.chdir(ROOT)
    os.environ.setdefault("HYPOTHESIS_PROFILE", "first")
    reasons = explained()
    unexplained = 0
    for path in paths or TESTS:
        began = time.monotonic()
        outcome = run_module(path, os.cpu_count() or 1)
        new = [mutant for mutant in outcome.survivors if mutant.name not in reasons.get(path, {})]
        for mutant in new:
            print(f"# {path}:{mutant.line}\n{_as_toml(path, mutant.name)}")
        killed = outcome.mutants - len(outcome.survivors)
        print(
            f"{path}: {killed} of {outcome.mutants} mutants killed ({100 * killed / outcome.mutants:.1f} %), "
            f"{outcome.timeouts} of them by the time limit; {len(outcome.survivors) - len(new)} survivors explained, "
            f"{len(new)} not; {time.monotonic() - began:.0f} s",
            flush=True,
        )
        unexplained += len(new)
    return min(unexplained, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

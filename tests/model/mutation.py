"""Mutation testing: small changes of the program, each of which a test must detect.

python -m tests.model.mutation                       every module of TESTS
python -m tests.model.mutation durus/records/record.py ...   these modules

This is a mutator of our own, because a run must take minutes. A mutant of a function is a fork of a process that has
collected the tests of its module, with the code of the function replaced. It begins with the tests that caught the
mutants before it, and ends with the first test that fails. A mutant of code outside functions is imported. Messages
(f-strings, and texts of several words) are left as they are. A survivor that no test can detect is listed with its
reason in mutation_survivors.toml.
"""

import ast
import gc
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import tomllib
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import NamedTuple

import hypothesis.stateful  # noqa: F401 (once for all mutants)
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SURVIVORS = Path(__file__).with_name("mutation_survivors.toml")
MAX_MEMORY = 4 << 30
MAX_SECONDS = 300
"""For one test; those of processor time are taken from the slowest without a mutant."""
OPTIONS = ["-x", "-q", "--tb=short", "-p", "no:cacheprovider", "-p", "no:xdist", "-s"]
OPTIONS += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # Hypothesis is imported before pytest begins

_SHELF = ["shelf_parts", "read_ahead", "shelf"]
_SESSIONS = ["session", "group_sessions", "turns", "change_log", "versions", "readonly_server", "spec_examples"]
_SESSIONS += ["connection", "shared_storage"]
TESTS = {
    "durus/records/record.py": ["record", "bad_input"],
    "durus/files/read_ahead.py": ["read_ahead"],
    "durus/files/forward_reader.py": _SHELF,
    "durus/files/shelf/layout.py": _SHELF,
    "durus/files/shelf/scan.py": _SHELF,
    "durus/files/shelf/offset_map.py": _SHELF,
    "durus/files/shelf/block_table.py": ["block_table"],
    "durus/files/shelf/block_checked.py": ["block_table"],
    "durus/files/shelf/recover.py": _SHELF,
    "durus/files/shelf/shelf.py": [*_SHELF, "block_table", "follow"],
    "durus/files/shelf/new_shelf.py": [*_SHELF, "block_table"],
    "durus/files/shelf/pack.py": ["shelf_packer", "shelf", "all_storages", "crash_regressions"],
    "durus/files/snapshot.py": ["shelf_parts", "follow"],
    "durus/files/follower.py": ["follow"],
    "durus/files/shelf/inspection.py": ["check_findings", "block_table", "check"],
    "durus/files/shelf/sealed.py": ["sealed", "backup", "looking_back"],
    "durus/files/shelf/part.py": ["followed_server"],
    "durus/files/shelf/history.py": ["looking_back"],
    "durus/files/shelf/salvage.py": ["salvage"],
    "durus/files/shelf/damaged.py": ["salvage"],
    "durus/files/shelf/flipped_bit.py": ["salvage"],
    "durus/sharing/protocol.py": ["protocol", "spec_examples"],
    "durus/sharing/oid_grants.py": ["oid_grants"],
    "durus/sharing/versions.py": ["versions"],
    "durus/sharing/change_log.py": ["change_log", "session"],
    "durus/sharing/session.py": _SESSIONS,
    "durus/sharing/commit_queue.py": _SESSIONS,
    "durus/sharing/write.py": _SESSIONS,
    "durus/sharing/held_snapshots.py": ["versions", "readonly_server", "protocol2", "shared_storage"],
    "durus/transactions/open_connections.py": ["connection", "misuse"],
    "durus/transactions/invalidations.py": ["connection"],
    "durus/transactions/pending_commit.py": [
        "connection",
        "odd_objects",
        "spec_examples",
        "unnoted_changes",
        "interrupts",
    ],
    "durus/transactions/blocks.py": ["savepoints", "connection", "misuse", "interrupts"],
    "durus/connection.py": ["connection", "spec_examples", "computed_attribute", "api", "record", "btree"],
}
"""Module -> its test files in tests/unit, quick ones first."""

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
    """The identity of a mutant within its module, independent of line numbers."""

    where: str
    statement: str
    change: str
    number: int
    """The index among mutants that are equal in the other three fields."""


class Mutant(NamedTuple):
    name: Name
    line: int
    is_in_function: bool
    put: Callable[[ast.AST], None]
    """Replaces the node that is changed."""
    old: ast.AST
    new: ast.AST


class _Place(NamedTuple):
    where: str
    is_in_function: bool
    statement: ast.stmt | None


def mutants(tree: ast.Module) -> Iterator[Mutant]:
    """Yield all mutants of a module. The tree is unchanged while no mutant is put into it."""
    seen: Counter[tuple[str, str, str]] = Counter()
    for place, field, old, put in _places(tree, _Place("", False, None)):
        if (statement := place.statement) is None:
            continue
        for new in _instead_of(old, field, place.is_in_function):
            put(new)
            after = _shown(statement if statement is not old else new)
            put(old)
            before = _shown(statement)
            change = f"{_shown(old)} -> {_shown(new)}" if isinstance(old, ast.expr) else f"-> {after}"
            seen[place.where, before, change] += 1
            name = Name(place.where, before, change, seen[place.where, before, change])
            yield Mutant(name, statement.lineno, place.is_in_function, put, old, new)


def _places(node: ast.AST, place: _Place) -> Iterator[tuple[_Place, str, ast.AST, Callable[[ast.AST], None]]]:
    """Yield (its place, its field, node, what puts another node there) for all that is in `node`."""
    for field, value in ast.iter_fields(node):
        if field in _LEFT_ALONE or isinstance(node, ast.JoinedStr):
            continue
        inside = place
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and field == "body":  # not the defaults of arguments
            where = f"{place.where}.{node.name}" if place.where else node.name
            is_in_function = place.is_in_function or isinstance(node, ast.FunctionDef)
            inside = _Place(where, is_in_function, place.statement)
        for i, child in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(child, ast.AST) or (isinstance(child, ast.Expr) and _is_text(child.value)):
                continue

            def put(new: ast.AST, i: int = i, value: object = value, field: str = field) -> None:
                if isinstance(value, list):
                    value[i] = new
                else:
                    setattr(node, field, new)

            here = inside._replace(statement=child) if isinstance(child, ast.stmt) else inside
            yield here, field, child, put
            yield from _places(child, here)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str | type(...))


def _instead_of(node: ast.AST, field: str, is_in_function: bool) -> Iterator[ast.AST]:
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
    elif isinstance(node, ast.Return) or (isinstance(node, _DELETED) and is_in_function and not _is_bare(node)):
        yield ast.Pass()


def _is_mutated_by_its_operator(node: ast.expr) -> bool:
    return isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], _HAS_AN_OPPOSITE)


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_bare(node: ast.AST) -> bool:
    """Return whether it is an annotation of a name without a value."""
    return isinstance(node, ast.AnnAssign) and node.value is None


def _shown(node: ast.AST) -> str:
    """Return the source of a node; for a compound statement, only the part before its body."""
    if isinstance(node, ast.expr) or not (hasattr(node, "body") or isinstance(node, ast.Match)):
        return ast.unparse(node)
    return ast.unparse(node).split("\n", 1)[0]


# Running


class _Loader(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives the mutant to everyone who imports its module."""

    def __init__(self, path: str, code: CodeType) -> None:
        self._path = ROOT / path
        self._name = _module_name(path)
        self._code = code

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        return importlib.util.spec_from_file_location(fullname, self._path, loader=self)

    def exec_module(self, module: ModuleType) -> None:
        exec(self._code, module.__dict__)


class _Run:
    """One run of the tests on a mutant, in its own process. As a plugin, it limits the tests and records results."""

    def __init__(self, folder: str, most_cpu_seconds: float) -> None:
        self._folder = Path(folder)
        self._most_cpu_seconds = most_cpu_seconds
        self._began = self._slowest = 0.0

    def begin(self) -> None:
        """Turn this process into the one that runs the tests."""
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
        output = os.open(self._folder / "output", os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(self._folder)
        self.pytest_runtest_setup()

    def pytest_runtest_setup(self) -> None:
        signal.setitimer(signal.ITIMER_PROF, self._most_cpu_seconds)
        signal.setitimer(signal.ITIMER_REAL, MAX_SECONDS)
        self._began = time.process_time()

    def pytest_runtest_teardown(self) -> None:
        self._slowest = max(self._slowest, time.process_time() - self._began)

    def pytest_sessionfinish(self) -> None:
        (self._folder / "slowest").write_text(str(self._slowest))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            (self._folder / "killer").write_text(report.nodeid)


class Outcome(NamedTuple):
    survived: bool
    in_time: bool
    killer: str
    output: str
    slowest: str


class _Forks:
    """Forks of this process, several at a time, each with its own folder."""

    def __init__(self, jobs: int, note: Callable[[Mutant, Outcome], None], most_cpu_seconds: float = 120) -> None:
        self._jobs = jobs
        self.most_cpu_seconds = most_cpu_seconds
        self._note = note
        self._running: dict[int, tuple[Mutant, str]] = {}

    def fork(self, mutant: Mutant) -> _Run | None:
        """Return the run to the new process, None to this one."""
        if len(self._running) == self._jobs:
            self._wait()
        folder = tempfile.mkdtemp(prefix="durus-mutation-")
        process = os.fork()
        if process:
            self._running[process] = mutant, folder
            return None
        run = _Run(folder, self.most_cpu_seconds)
        run.begin()
        return run

    def wait_for_all(self) -> None:
        while self._running:
            self._wait()

    def _wait(self) -> None:
        process, status = os.wait()
        mutant, folder = self._running.pop(process)
        in_time = not os.WIFSIGNALED(status) or os.WTERMSIG(status) not in (signal.SIGALRM, signal.SIGPROF)
        files = [Path(folder, name) for name in ("killer", "output", "slowest")]
        texts = [path.read_text() if path.exists() else "" for path in files]
        shutil.rmtree(folder, ignore_errors=True)
        self._note(mutant, Outcome(status == 0, in_time, *texts))


def _exit_with_tests(path: str, plugins: list[object]) -> None:
    """Run the tests of a module in this process, and end it."""
    code = 99
    try:
        code = int(pytest.main([*OPTIONS, *(f"tests/unit/test_{name}.py" for name in TESTS[path])], plugins))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class _InPlace:
    """A plugin that collects the tests once, and runs them for each mutant of a function, with its code replaced."""

    def __init__(self, path: str, compiled: Callable[[Mutant], CodeType], found: list[Mutant], forks: _Forks) -> None:
        self._module = _module_name(path)
        self._compiled = compiled
        self._mutants = found
        self._forks = forks
        self._kills: Counter[tuple[str, str]] = Counter()
        self._run: _Run | None = None

    def note(self, mutant: Mutant, outcome: Outcome) -> None:
        self._kills[mutant.name.where, outcome.killer] += 1
        self._kills["", outcome.killer] += 1

    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        functions = {
            _place_of(function.__code__): function
            for function in gc.get_objects()
            if isinstance(function, FunctionType) and function.__module__ == self._module
        }
        for mutant in self._mutants:
            changed = [code for code in _functions_in(self._compiled(mutant)) if _place_of(code) in functions]
            self._run = self._forks.fork(mutant)
            if self._run is not None:
                for code in changed:
                    functions[_place_of(code)].__code__ = code
                session.items.sort(key=lambda item: self._order(mutant.name.where, item.nodeid))
                return None  # so the tests run
        self._forks.wait_for_all()
        return True

    def _order(self, where: str, test: str) -> tuple[int, int]:
        return -self._kills[where, test], -self._kills["", test]

    def pytest_runtest_setup(self) -> None:
        if self._run is not None:
            self._run.pytest_runtest_setup()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if self._run is not None:
            self._run.pytest_runtest_logreport(report)


def _place_of(code: CodeType) -> tuple[str, int]:
    return code.co_qualname, code.co_firstlineno


def _functions_in(code: CodeType) -> Iterator[CodeType]:
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield inner
            yield from _functions_in(inner)


def _module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def run_module(path: str, jobs: int) -> dict[Mutant, Outcome]:
    """Run the tests of a module on all its mutants; RuntimeError if they fail without one."""
    tree = ast.parse((ROOT / path).read_bytes())
    outcomes: dict[Mutant, Outcome] = {}

    def compiled(mutant: Mutant) -> CodeType:
        mutant.put(mutant.new)
        try:
            return compile(ast.fix_missing_locations(tree), str(ROOT / path), "exec")
        finally:
            mutant.put(mutant.old)

    found = list(mutants(tree))
    none = found[0]._replace(new=found[0].old)
    whole = {_place_of(code): code.co_freevars for code in _functions_in(compiled(none))}

    def is_in_place(mutant: Mutant) -> bool:
        codes = _functions_in(compiled(mutant))  # code with other free variables can't replace that of a function
        return mutant.is_in_function and all(whole[_place_of(code)] == code.co_freevars for code in codes)

    in_place = [mutant for mutant in found if is_in_place(mutant)]
    forks = _Forks(jobs, outcomes.__setitem__)
    for mutant in [none, *(mutant for mutant in found if mutant not in in_place)]:
        run = forks.fork(mutant)
        if run is not None:
            sys.meta_path.insert(0, _Loader(path, compiled(mutant)))
            _exit_with_tests(path, [run])
        if mutant is none:
            forks.wait_for_all()
            if not (sound := outcomes.pop(none)).survived:
                raise RuntimeError(f"{path}: its tests fail without a mutant:\n{sound.output}")
            forks.most_cpu_seconds = 2 + 3 * float(sound.slowest)
    forks.wait_for_all()
    outcomes.update(_outcomes_in_place(path, compiled, in_place, jobs, forks.most_cpu_seconds))
    return outcomes


def _outcomes_in_place(
    path: str, compiled: Callable[[Mutant], CodeType], found: list[Mutant], jobs: int, most_cpu_seconds: float
) -> dict[Mutant, Outcome]:
    """Run the tests for the mutants of functions, in a process that has the module and its tests imported."""
    with tempfile.TemporaryDirectory(prefix="durus-mutation-") as folder:
        results = Path(folder) / "results"
        process = os.fork()
        if not process:
            with results.open("a") as file:

                def note(mutant: Mutant, outcome: Outcome) -> None:
                    plugin.note(mutant, outcome)
                    print(json.dumps([found.index(mutant), *outcome]), file=file, flush=True)

                output = os.open(Path(folder) / "output", os.O_WRONLY | os.O_CREAT)
                os.dup2(output, 1)
                os.dup2(output, 2)
                plugin = _InPlace(path, compiled, found, _Forks(jobs, note, most_cpu_seconds))
                _exit_with_tests(path, [plugin])
        os.waitpid(process, 0)
        lines = [json.loads(line) for line in results.read_text().splitlines()]
        if len(lines) != len(found):
            raise RuntimeError(
                f"{path}: only {len(lines)} of its mutants ran:\n{(Path(folder) / 'output').read_text()}"
            )
    return {found[number]: Outcome(*outcome) for number, *outcome in lines}


def explained() -> dict[str, dict[Name, str]]:
    """Return module -> mutant -> why no test can detect it."""
    with SURVIVORS.open("rb") as file:
        modules = tomllib.load(file)
    return {
        path: {
            Name(each["where"], each["statement"], each["change"], each.get("number", 1)): each["reason"]
            for each in entries
        }
        for path, entries in modules.items()
    }


def _toml_text(text: str) -> str:
    return json.dumps(text) if text.endswith("'") else f"'''{text}'''"


def _as_toml(path: str, name: Name) -> str:
    number = f"number = {name.number}\n" if name.number > 1 else ""
    texts = "".join(f"{key} = {_toml_text(getattr(name, key))}\n" for key in ("where", "statement", "change"))
    return f'[["{path}"]]\n{texts}{number}reason = ""\n'


def main(paths: list[str]) -> int:
    os.chdir(ROOT)
    os.environ.setdefault("HYPOTHESIS_PROFILE", "first")
    os.environ.setdefault("DURUS_PURE_PYTHON", "1")  # where C does the same, no test notices a mutant of the Python
    reasons = explained()
    unexplained = 0
    for path in paths or TESTS:
        began = time.monotonic()
        outcomes = run_module(path, os.cpu_count() or 1)
        survivors = [mutant for mutant, outcome in outcomes.items() if outcome.survived]
        new = [mutant for mutant in survivors if mutant.name not in reasons.get(path, {})]
        for mutant in new:
            print(f"# {path}:{mutant.line}\n{_as_toml(path, mutant.name)}")
        killed = len(outcomes) - len(survivors)
        print(
            f"{path}: {killed} of {len(outcomes)} mutants killed ({100 * killed / len(outcomes):.1f} %), "
            f"{sum(not outcome.in_time for outcome in outcomes.values())} of them by the time limit; "
            f"{len(survivors) - len(new)} survivors explained, {len(new)} not; {time.monotonic() - began:.0f} s",
            flush=True,
        )
        unexplained += len(new)
    return min(unexplained, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

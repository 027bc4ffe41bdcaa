"""Python's standard library as persistent objects: build them, ask them, change them, pack, check.

    python examples/stdlib_graph.py [--limit N] [FILE]

reads the source of every module with `ast` and stores modules, classes and functions, and who imports
whom.  A second process then opens the file and works on it.  Exits with 1 if anything is not as expected.
"""

import argparse
import ast
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from stdlib_model import Class, Definition, Function, Module

from durus.connection import Connection, gen_every_instance
from durus.persistent_dict import PersistentDict
from durus.storage import get_census

MODULES_IN_A_COMMIT = 50
SKIPPED = {"site-packages", "__pycache__"}


def expect(condition: bool, what: str) -> None:
    """End the program if something is not as it must be."""
    if not condition:
        sys.exit(f"not as expected: {what}")


# Building


def source_files() -> Iterator[tuple[str, Path]]:
    """Yield (module name, path) for the modules of the standard library, in order of name."""
    top = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(top.rglob("*.py")):
        parts = path.relative_to(top).with_suffix("").parts
        if not SKIPPED.intersection(parts) and all(part.isidentifier() for part in parts):
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def add_definitions(outer: Module | Definition, body: list[ast.stmt]) -> None:
    """Make objects of the functions and classes in `body`, and of those inside of them."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            function = Function(node.name, node.lineno, outer, length)
            outer.functions.append(function)
            add_definitions(function, node.body)
        elif isinstance(node, ast.ClassDef):
            made = Class(node.name, node.lineno, outer)
            made.bases = tuple(ast.unparse(base) for base in node.bases)
            outer.classes.append(made)
            add_definitions(made, node.body)


def imported_names(tree: ast.Module, module: str) -> set[str]:
    """Return the names of modules that may be imported anywhere in a tree."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = ".".join(module.split(".")[: -node.level]) if node.level else ""
            base = ".".join(part for part in (package, node.module or "") if part)
            names.add(base)
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return names


def build(path: str, limit: int) -> None:
    connection = Connection(path)
    started = time.perf_counter()
    modules: PersistentDict[str, Module] = PersistentDict()
    connection.get_root()["modules"] = modules
    imports: dict[str, set[str]] = {}
    unreadable = 0
    for number, (name, source) in enumerate(list(source_files())[:limit], start=1):
        try:
            with tokenize.open(source) as file:
                text = file.read()
            tree = ast.parse(text)
        except (SyntaxError, UnicodeDecodeError):
            unreadable += 1
            continue
        module = modules[name] = Module(name)
        module.length = text.count("\n")
        add_definitions(module, tree.body)
        imports[name] = imported_names(tree, name)
        if number % MODULES_IN_A_COMMIT == 0:
            connection.commit()
    for name, names in imports.items():
        module = modules[name]
        for other in sorted(names & imports.keys() - {name}):
            module.imports[other] = modules[other]
            modules[other].imported_by.append(module)
    connection.commit()
    seconds = time.perf_counter() - started
    count = sum(get_census(connection.get_storage()).values())
    print(f"stored {len(modules)} modules as {count} objects in {seconds:.1f} s ({unreadable} could not be parsed)")
    connection.close()


# Working on it, in another process


def modules_of(connection: Connection) -> PersistentDict[str, Module]:
    modules = connection.get_root()["modules"]
    if not isinstance(modules, PersistentDict):
        sys.exit("this file was not made by this program")
    return modules


def functions_in(outer: Module | Definition) -> Iterator[Function]:
    for function in outer.functions:
        yield function
        yield from functions_in(function)
    for inner in outer.classes:
        yield from functions_in(inner)


def path_to(definition: Module | Definition) -> str:
    if isinstance(definition, Module):
        return definition.name
    return f"{path_to(definition.outer)}.{definition.name}"


def shortest_cycle(start: Module) -> list[str]:
    """Return the names on a shortest way by imports from a module back to it, [] if there is none."""
    ways = [[start]]
    seen = set()
    for way in ways:
        for following in way[-1].imports.values():
            if following is start:
                return [module.name for module in [*way, start]]
            if following.name not in seen:
                seen.add(following.name)
                ways.append([*way, following])
    return []


def ask(connection: Connection) -> None:
    modules = modules_of(connection)
    popular = sorted(modules.values(), key=lambda module: (-len(module.imported_by), module.name))[:3]
    print("most imported:", ", ".join(f"{module.name} ({len(module.imported_by)})" for module in popular))
    longest = max((f for module in modules.values() for f in functions_in(module)), key=lambda f: f.length)
    print(f"longest function: {path_to(longest)}, {longest.length} lines")
    largest = max(gen_every_instance(connection, Class), key=lambda each: len(each.functions))
    print(f"class with most methods: {path_to(largest)}, {len(largest.functions)}")
    cycle = next((found for module in modules.values() if (found := shortest_cycle(module))), [])
    print("an import cycle:", " -> ".join(cycle) or "none")
    names = Counter(function.name for module in modules.values() for function in functions_in(module))
    print("most common names:", ", ".join(f"{name} ({count})" for name, count in names.most_common(3)))


def change(connection: Connection) -> None:
    modules = modules_of(connection)
    for function in functions_in(modules["ast"]):
        function.name = function.name.upper()
    connection.abort()
    unchanged = all(f.name != "LITERAL_EVAL" for f in functions_in(modules["ast"]))
    expect(unchanged, "abort brings the names back")

    with connection.transaction():
        for function in functions_in(modules["ast"]):
            function.name = function.name.upper()
    expect(any(f.name == "LITERAL_EVAL" for f in functions_in(modules["ast"])), "the commit keeps the names")

    removed = [name for name in modules if name.split(".")[0] in ("asyncio", "email", "argparse")]
    with connection.transaction():
        for name in removed:
            gone = modules.pop(name)
            for other in gone.imports.values():
                other.imported_by.remove(gone)
            for other in gone.imported_by:
                del other.imports[name]
    print(f"changed the functions of ast twice, of which abort took back one, and removed {len(removed)} modules")


def pack(connection: Connection, path: str) -> None:
    before, objects = os.path.getsize(path), sum(get_census(connection.get_storage()).values())
    connection.pack()
    left = sum(get_census(connection.get_storage()).values())
    expect(left < objects, "a pack removes objects")
    print(f"packed {objects} objects in {before} bytes into {left} in {os.path.getsize(path)}")


def work(path: str) -> None:
    with Connection(path) as connection:
        ask(connection)
        change(connection)
        pack(connection, path)
    subprocess.run([sys.executable, "-m", "durus", "check", path], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", nargs="?", help="the file to make (default: a temporary one)")
    parser.add_argument("--limit", type=int, default=sys.maxsize, metavar="N", help="the first N modules only")
    parser.add_argument("--work", action="store_true", help="work on the file that is there")
    options = parser.parse_args()
    if options.work:
        work(options.file)
        return
    with tempfile.TemporaryDirectory() as directory:
        path = options.file or os.path.join(directory, "stdlib.durus")
        expect(not os.path.exists(path), f"{path} is not there yet")
        build(path, options.limit)
        sys.stdout.flush()
        subprocess.run([sys.executable, __file__, "--work", path], check=True)


if __name__ == "__main__":
    main()

"""Finds out whether a class or a function exists without importing its module, for checks. [OBJ-68]"""

import ast
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.machinery import ModuleSpec


def may_be_there(module: str, qualname: str) -> bool:
    """Return whether a module exists and, by its source, has a name; if the source can't tell, it may have it."""
    if module.partition(".")[0] in sys.stdlib_module_names:
        return True
    if module in sys.modules:
        return hasattr(sys.modules[module], qualname.partition(".")[0])
    names = _names_in(module)
    return names is not None and not names.isdisjoint((*_ANY, qualname.partition(".")[0]))


_ANY = frozenset({"*", "__getattr__"})
"""A module that binds one of these may have any name."""
_BINDERS = frozenset({"eval", "exec", "globals", "locals", "setattr", "vars"})


@lru_cache(maxsize=1000)
def _names_in(module: str) -> frozenset[str] | None:
    """Return the names that the source of a module binds, `*` if they are unknown, None if there is no module."""
    spec = _find(module)
    if spec is None:
        return None
    try:
        source = spec.loader.get_source(module)  # type: ignore[union-attr]  # what has no such method can't tell
        return frozenset(_bound(ast.parse(source).body))
    except (AttributeError, ImportError, OSError, SyntaxError, TypeError, ValueError, RecursionError):
        return _ANY


def _find(module: str) -> ModuleSpec | None:
    spec: ModuleSpec | None = None
    path: Sequence[str] | None = None
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        name = ".".join(parts[:end])
        specs = (finder.find_spec(name, path) for finder in sys.meta_path)
        try:
            spec = next((each for each in specs if each is not None), None)
        except (AttributeError, ImportError, ValueError):  # it is not a module name, or a finder is of an old kind
            return None
        if spec is None:
            return None
        path = spec.submodule_search_locations or ()
    return spec


def _bound(statements: Sequence[ast.stmt]) -> Iterator[str]:
    """Yield the names that statements bind, `*` for unknown ones, without those of inner scopes."""
    for statement in statements:
        match statement:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                yield from ((alias.asname or alias.name).partition(".")[0] for alias in names)
            case _:
                used = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}
                yield from used if used.isdisjoint(_BINDERS) else ("*",)
                for block in ("body", "orelse", "finalbody"):
                    yield from _bound(getattr(statement, block, []))
                for part in [*getattr(statement, "handlers", []), *getattr(statement, "cases", [])]:
                    yield from _bound(part.body)

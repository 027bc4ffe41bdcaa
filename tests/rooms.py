"""The rooms of the library, which of them imports which, and the diagram of that in docs/architecture.md.

A room is a folder of durus/, or a group of modules at its top. An import that only type checkers follow counts, too:
whoever reads a module has to know what it names.
"""

import ast
import functools
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "durus"

TOP = {
    "ground": {"error", "implementation", "logger", "oid", "oid_array", "progress", "text", "trust", "utils"},
    "model": {"btree", "object_repr", "pairs", "persistent", "persistent_dict", "persistent_list", "persistent_set"},
    "storage": {"storage"},
    "storages": {
        "client_storage",
        "file_storage",
        "file_storage2",
        "open_file",
        "postgres_group",
        "postgres_storage",
        "shared_storage",
        "sqlite_inspection",
        "sqlite_storage",
        "storage_inspection",
        "storage_server",
    },
    "connection": {"connection", "serialize"},
    "database": {"database", "opening", "web"},
    "backups": {"backup", "replica"},
    "commands": {"__main__"},
}
"""The modules at the top, by the room they make up; `durus` itself is the version number."""
FOLDERS = {"cli": "commands", "transactions": "connection"}
"""Folders that are part of a room of another name."""


@functools.cache
def modules() -> dict[str, Path]:
    """Return the files of all modules by their dotted names without `durus.`; the package itself has none."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            found[name] = path
    return found


def room_of(module: str) -> str:
    """Return the room of a module; ValueError for one at the top that belongs to none."""
    head, _, rest = module.partition(".")
    if rest or (PACKAGE / head).is_dir():
        return FOLDERS.get(head, head)
    for room, members in TOP.items():
        if head in members:
            return room
    raise ValueError(f"durus/{head}.py belongs to no room: add it to tests/rooms.py, or move it into a folder")


def imports_of(path: Path) -> Iterator[str]:
    """Yield the modules of durus that a file imports, in whatever way."""
    known = modules()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "durus":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}".removeprefix("durus.")
                if whole in known:
                    yield whole
                elif (name := node.module.removeprefix("durus.")) in known:
                    yield name
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("durus."):
                    yield alias.name.removeprefix("durus.")


def module_graph() -> dict[str, set[str]]:
    """Return what each module imports while it is imported itself or later."""
    return {name: set(imports_of(path)) - {name} for name, path in modules().items()}


def room_graph() -> dict[str, set[str]]:
    """Return which rooms each room imports something of."""
    graph: dict[str, set[str]] = {}
    for module, imported in module_graph().items():
        room = room_of(module)
        graph.setdefault(room, set()).update(room_of(each) for each in imported)
        graph[room].discard(room)
    return graph


def floors(graph: dict[str, set[str]]) -> int:
    """Return how many levels of modules or rooms there are; CycleError if they have a cycle."""
    height: dict[str, int] = {}
    for each in TopologicalSorter(graph).static_order():
        height[each] = 1 + max((height[below] for below in graph.get(each, ())), default=0)
    return max(height.values())


def diagram() -> str:
    """Return the rooms as a Mermaid diagram, without the arrows that others already imply."""
    graph = room_graph()
    below = {room: _all_below(room, graph) for room in graph}
    lines = ["graph TD"]
    for room in sorted(graph):
        implied = set().union(*(below[each] for each in graph[room]))
        lines += [f"    {room} --> {each}" for each in sorted(graph[room] - implied)]
    return "\n".join(lines)


def _all_below(room: str, graph: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    pending = list(graph[room])
    while pending:
        each = pending.pop()
        if each not in found:
            found.add(each)
            pending.extend(graph[each])
    return found


if __name__ == "__main__":
    graph = room_graph()
    print(f"{len(graph)} rooms, {sum(map(len, graph.values()))} arrows, {floors(graph)} floors")
    print(diagram())

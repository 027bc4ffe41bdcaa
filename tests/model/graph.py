"""The oracle of the machines: what a connection and its storage must hold, as plain dicts.

A node is a number; 0 is the root. Its contents are a dict from names (in a list: positions) to values, and
a reference is a value that names a node. Nothing of durus is imported here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

ROOT = 0


@dataclass(frozen=True)
class Ref:
    """A reference to a node."""

    node: int


class Unstorable:
    """Stands for a value that can't be pickled."""


UNSTORABLE = Unstorable()

Kind = Literal["persistent", "slots", "dict", "list"]
Value = int | str | Ref | tuple[Ref, ...] | Unstorable
Contents = dict[str | int, Value]
Outcome = Literal["stored", "unstorable", "conflict"]


def refs(contents: Contents) -> list[int]:
    """Return the nodes to which some contents refer."""
    found: list[int] = []
    for value in contents.values():
        if isinstance(value, Ref):
            found.append(value.node)
        elif isinstance(value, tuple):
            found.extend(ref.node for ref in value)
    return found


def reached(states: Mapping[int, Contents], starts: Iterable[int], outside: Iterable[int] = ()) -> set[int]:
    """Return the nodes that can be reached from `starts` without a step through those `outside`."""
    closed = set(outside)
    pending = [node for node in starts if node not in closed]
    found: set[int] = set()
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending.extend(ref for ref in refs(states[node]) if ref not in closed)
    return found


@dataclass
class Pack:
    """A pack in progress: what was garbage when it began, and which garbage commits have made reachable since."""

    garbage: set[int]
    states: dict[int, Contents]
    kept: set[int]


class Graph:
    """The nodes of one database as its one client sees them, and as they are stored."""

    def __init__(self) -> None:
        self.kinds: dict[int, Kind] = {ROOT: "dict"}
        self.stored: dict[int, Contents] = {ROOT: {}}
        self.working: dict[int, Contents] = {ROOT: {}}
        self.changed: set[int] = set()
        """Nodes that have, or had, a record, and that this transaction changed."""
        self.removed: set[int] = set()
        """Nodes whose record a pack removed, and that the client may still hold."""
        self.packing: Pack | None = None

    def create(self, kind: Kind) -> int:
        node = len(self.kinds)
        self.kinds[node] = kind
        self.working[node] = {}
        return node

    def write(self, node: int, key: str | int, value: Value) -> None:
        self._note_change(node)
        self.working[node][key] = value

    def delete(self, node: int, key: str | int) -> None:
        self._note_change(node)
        del self.working[node][key]

    def to_store(self) -> set[int]:
        """Return what a commit stores: the changed nodes and the new ones that these reach."""
        old = (self.stored.keys() | self.removed) - self.changed
        return reached(self.working, self.changed, outside=old)

    def outcome(self) -> Outcome:
        """Return the outcome that a commit must have."""
        nodes = self.to_store()
        if any(value is UNSTORABLE for node in nodes for value in self.working[node].values()):
            return "unstorable"
        exist = self.stored.keys() | nodes
        return "stored" if all(ref in exist for node in nodes for ref in refs(self.working[node])) else "conflict"

    def commit(self) -> None:
        nodes = self.to_store()
        for node in nodes:
            self.stored[node] = dict(self.working[node])
        self.removed -= nodes
        self.changed.clear()
        if self.packing is not None:
            self._revive(self.packing, nodes)

    def abort(self) -> None:
        for node in self.changed & self.stored.keys():
            self.working[node] = dict(self.stored[node])
        self.changed.clear()

    def reopen(self, stored: dict[int, Contents]) -> None:
        """Drop everything that is only in memory; the file holds `stored`."""
        self.stored = {node: dict(contents) for node, contents in stored.items()}
        self.working = {node: dict(contents) for node, contents in stored.items()}
        self.changed.clear()
        self.removed.clear()
        self.packing = None

    def begin_pack(self) -> None:
        garbage = self.stored.keys() - reached(self.stored, [ROOT])
        self.packing = Pack(garbage, {node: dict(self.stored[node]) for node in garbage}, set())

    def end_pack(self) -> None:
        if self.packing is not None:
            for node in self.packing.garbage - self.packing.kept:
                del self.stored[node]
                self.removed.add(node)
        self.packing = None

    def _note_change(self, node: int) -> None:
        if node in self.stored or node in self.removed:
            self.changed.add(node)

    def _revive(self, pack: Pack, nodes: set[int]) -> None:
        pack.kept |= nodes & pack.garbage
        again = {ref for node in nodes for ref in refs(self.stored[node])} & pack.garbage
        states = {node: contents for node, contents in pack.states.items() if node not in pack.kept}
        outside = {ref for contents in states.values() for ref in refs(contents)} - states.keys()
        pack.kept |= reached(states, again - pack.kept, outside=outside)

"""Is a history of transactions strictly serializable? Pure: logs of clients go in, anomalies come out.

Every write makes a version that is named after its transaction, and says which version it replaced. So the versions of
a key form a chain. The chains and the reads determine which transaction depends on which: a writer comes after the
writer whose version it replaced, and after the one whose version it read; a reader comes before the transaction that
replaced what it read; and a transaction that began when another had been acknowledged comes after that one. A history
is serializable, in an order that clients can't distinguish from the true one, if this graph has no cycle.

A transaction that was aborted or refused has written nothing, but must have read one state. A transaction whose outcome
is unknown has written if anybody has seen a version of it, and otherwise it has not.

Apart from sorting, this takes time in proportion to the number of reads and writes.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

Key = str
Id = tuple[int, int]
"""A transaction, and each version that it made: the number of a client, and of the transaction there."""

INITIAL: Id = (0, 0)
"""The version at the start; no transaction has this id."""

Outcome = Literal["committed", "aborted", "unknown"]

_CYCLES_TOLD = 20
"""Each takes another walk through the graph."""


class Transaction(NamedTuple):
    id: Id
    began: float
    """When the client asked for the sync at its start, by a clock that all clients share."""
    ended: float
    """When the client knew the outcome."""
    outcome: Outcome
    reads: Sequence[tuple[Key, Id]]
    """The versions by other transactions that it saw."""
    writes: dict[Key, Id]
    """The version that each write has replaced."""


class Anomaly(NamedTuple):
    kind: str
    transactions: list[Id]
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}"


def anomalies(history: Sequence[Transaction]) -> list[Anomaly]:
    """Return everything that no serial order of these transactions explains."""
    return list(_History(history).anomalies())


class _History:
    def __init__(self, history: Sequence[Transaction]) -> None:
        self.by_id = {each.id: each for each in history}
        if len(self.by_id) != len(history) or INITIAL in self.by_id:
            raise ValueError("the ids of transactions are not unique")
        seen = {version for each in history for version in _seen_by(each)}
        self.stored = {
            each.id
            for each in history
            if each.outcome == "committed" or (each.outcome == "unknown" and each.id in seen)
        }
        self.next: dict[tuple[Key, Id], Id] = {}
        """Who replaced a version of a key."""
        self.forks: list[Anomaly] = []
        for id in self.stored:
            for key, before in self.by_id[id].writes.items():
                other = self.next.setdefault((key, before), id)
                if other != id:
                    what = f"{_name(other)} and {_name(id)} both replaced {key} of {_name(before)}"
                    self.forks.append(Anomaly("lost update", [other, id], what))

    def anomalies(self) -> Iterator[Anomaly]:
        yield from self.forks
        acknowledged = self._acknowledged_later()
        for each in self.by_id.values():
            yield from self._bad_reads(each)
            for key, version in [*each.reads, *each.writes.items()]:
                if acknowledged.get((key, version), each.began) < each.began:
                    newer = self.next[key, version]
                    what = (
                        f"{_name(each.id)} saw {key} of {_name(version)}, which {_name(newer)} had replaced, "
                        "and that was acknowledged before"
                    )
                    yield Anomaly("stale read", [each.id, newer], what)
        yield from self._cycles()

    def _bad_reads(self, each: Transaction) -> Iterator[Anomaly]:
        first: dict[Key, Id] = {}
        for key, version in [*each.reads, *each.writes.items()]:
            if first.setdefault(key, version) != version:
                what = f"{_name(each.id)} saw {key} of {_name(first[key])} and of {_name(version)}"
                yield Anomaly("unrepeatable read", [each.id], what)
            if version == INITIAL:
                continue
            writer = self.by_id.get(version)
            if writer is None or key not in writer.writes:
                what = f"{_name(each.id)} saw {key} of {_name(version)}, which never wrote it"
                yield Anomaly("dirty read", [each.id], what)
            elif writer.outcome == "aborted":
                what = f"{_name(each.id)} saw {key} of {_name(version)}, which was aborted"
                yield Anomaly("aborted read", [each.id, version], what)

    def _acknowledged_later(self) -> dict[tuple[Key, Id], float]:
        """Return, for each version, when the first of the later versions was acknowledged."""
        found: dict[tuple[Key, Id], float] = {}
        for key, first in self.next:
            if first != INITIAL and first in self.stored and key in self.by_id[first].writes:
                continue  # it is not the start of a chain
            chain: list[Id] = []
            version: Id | None = first
            while version is not None:
                chain.append(version)
                version = self.next.get((key, version))
            earliest = float("inf")
            for before, after in zip(chain[-2::-1], chain[:0:-1], strict=True):
                writer = self.by_id[after]
                if writer.outcome == "committed":
                    earliest = min(earliest, writer.ended)
                found[key, before] = earliest
        return found

    # The graph

    def _cycles(self) -> Iterator[Anomaly]:
        graph = self._graph()
        rest = _on_cycles(graph, set(graph))
        for _ in range(_CYCLES_TOLD):
            if not rest:
                return
            cycle = _shortest_cycle(graph, rest)
            members = [node for node in cycle if isinstance(node, tuple)]
            what = ", ".join(
                f"{_name(node)} {self._why(node, after)} {_name(after)}"
                for node, after in zip(members, [*members[1:], members[0]], strict=True)
            )
            yield Anomaly("cycle", members, what)
            rest = _on_cycles(graph, rest - set(cycle))

    def _graph(self) -> "dict[_Node, list[_Node]]":
        graph: dict[_Node, list[_Node]] = {id: [] for id in self.by_id}
        for each in self.by_id.values():
            if each.id in self.stored:
                for before in each.writes.values():
                    if before in self.stored:
                        graph[before].append(each.id)
            for key, version in [*each.reads, *each.writes.items()]:
                if version in self.stored:
                    graph[version].append(each.id)
                newer = self.next.get((key, version), each.id)
                if newer != each.id:
                    graph[each.id].append(newer)
        self._add_time(graph)
        return graph

    def _add_time(self, graph: "dict[_Node, list[_Node]]") -> None:
        """Put acknowledged transactions before those that began later: through moments, each before the next."""
        events = [(each.ended, 1, each.id) for each in self.by_id.values() if each.outcome == "committed"]
        events += [(each.began, 0, each.id) for each in self.by_id.values()]
        moment = 0
        graph[moment] = []
        for _, is_end, id in sorted(events):
            if is_end:
                graph[moment + 1] = []
                graph[moment].append(moment + 1)
                moment += 1
                graph[id].append(moment)
            else:
                graph[moment].append(id)

    def _why(self, one: Id, other: Id) -> str:
        """Tell why one transaction comes before another."""
        earlier, later = self.by_id[one], self.by_id[other]
        for key, before in later.writes.items():
            if before == one and other in self.stored:
                return f"[{key}] was replaced by"
        for key, version in later.reads:
            if version == one:
                return f"[{key}] was read by"
        for key, version in [*earlier.reads, *earlier.writes.items()]:
            if self.next.get((key, version)) == other:
                return f"read [{key}] before"
        return "was acknowledged before"


_Node = Id | int
"""A transaction, or a moment."""


def _seen_by(each: Transaction) -> Iterator[Id]:
    for _, version in each.reads:
        yield version
    yield from each.writes.values()


def _on_cycles(graph: dict[_Node, list[_Node]], nodes: set[_Node]) -> set[_Node]:
    """Return the nodes without those that no cycle leads to, and without those that lead to no cycle."""
    left = _without_sources(graph, nodes)
    reverse: dict[_Node, list[_Node]] = {node: [] for node in left}
    for node in left:
        for after in graph[node]:
            if after in left:
                reverse[after].append(node)
    return _without_sources(reverse, left)


def _without_sources(graph: dict[_Node, list[_Node]], nodes: set[_Node]) -> set[_Node]:
    count = dict.fromkeys(nodes, 0)
    for node in nodes:
        for after in graph[node]:
            if after in count:
                count[after] += 1
    pending = [node for node, number in count.items() if not number]
    while pending:
        node = pending.pop()
        del count[node]
        for after in graph[node]:
            if after in count:
                count[after] -= 1
                if not count[after]:
                    pending.append(after)
    return set(count)


def _shortest_cycle(graph: dict[_Node, list[_Node]], nodes: set[_Node]) -> list[_Node]:
    """Return the shortest of the cycles through the first transaction that is on one."""
    for start in sorted(node for node in nodes if isinstance(node, tuple)):
        came_from: dict[_Node, _Node] = {}
        pending: deque[_Node] = deque([start])
        while pending:
            node = pending.popleft()
            for after in graph[node]:
                if after == start:
                    path = [node]
                    while path[-1] != start:
                        path.append(came_from[path[-1]])
                    return path[::-1]
                if after in nodes and after not in came_from:
                    came_from[after] = node
                    pending.append(after)
    raise AssertionError("there is no cycle")


def _name(id: Id) -> str:
    return "the initial version" if id == INITIAL else f"{id[0]}.{id[1]}"

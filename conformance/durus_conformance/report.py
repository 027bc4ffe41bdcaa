"""What came of the cases: lists of failures that go stale, a table for people, JSON for machines."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from durus_conformance.cases import Case, Statement

Outcome = Literal["held", "broken", "not tried"]


@dataclass(frozen=True)
class Result:
    """What came of one case; `came` is None if it was not tried."""

    case: Case
    outcome: Outcome
    came: Any
    problem: str = ""
    """What the testee did if it gave no result."""


class ListError(Exception):
    """The list of known failures can't be read."""


def read_known_failures(path: Path) -> list[str]:
    """Return the ids of cases in a list: one on each line, `#` starts a comment."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ListError(f"{path}: the list of known failures can't be read: {error}") from error
    return [id for line in lines if (id := line.partition("#")[0].strip())]


@dataclass(frozen=True)
class Report:
    """All results, and what follows from them."""

    testee: str
    statements: list[Statement]
    results: list[Result]
    known: list[str]

    @property
    def failures(self) -> list[Result]:
        """The broken cases of MUST statements that are not in the list."""
        return [each for each in self._broken() if each.case.level == "MUST" and each.case.id not in self.known]

    @property
    def warnings(self) -> list[Result]:
        """The broken cases of SHOULD statements that are not in the list."""
        return [each for each in self._broken() if each.case.level != "MUST" and each.case.id not in self.known]

    @property
    def stale(self) -> list[str]:
        """The entries of the list whose case holds, or does not exist."""
        outcomes = {each.case.id: each.outcome for each in self.results}
        return [id for id in dict.fromkeys(self.known) if outcomes.get(id, "held") == "held"]

    @property
    def is_good(self) -> bool:
        return not self.failures and not self.stale

    def _broken(self) -> Iterator[Result]:
        return (each for each in self.results if each.outcome == "broken")

    def of_statements(self) -> dict[str, Outcome]:
        """Return the outcome of each statement: broken if one of its cases is, not tried if none of them was."""
        found: dict[str, Outcome] = {each.id: "not tried" for each in self.statements}
        for result in self.results:
            for id in result.case.statements:
                if result.outcome == "broken" or (result.outcome == "held" and found[id] == "not tried"):
                    found[id] = result.outcome
        return found

    def lines(self, with_untried: bool = False) -> Iterator[str]:
        """Yield the report for people; of documents of which nothing was tried it lists the statements if asked to."""
        for result in (*self.failures, *self.warnings):
            yield f"BROKEN {result.case.id} ({result.case.level}: {', '.join(result.case.statements)})"
            yield f"  input:    {_shown(result.case.input)}"
            yield f"  expected: {_shown(result.case.expected)}"
            yield f"  came:     {result.problem or _shown(result.came)}"
        for id in self.stale:
            yield f"STALE {id}: it is in the list of known failures, and holds or does not exist"
        yield from self._table(with_untried)
        counts = {name: sum(each.outcome == name for each in self.results) for name in ("held", "broken", "not tried")}
        listed = sum(each.case.id in self.known for each in self._broken())
        yield (
            f"{self.testee}: {counts['held']} cases held, {counts['broken']} broken, {counts['not tried']} not tried; "
            f"{listed} of the broken ones are known, {len(self.stale)} known ones are stale"
        )

    def _table(self, with_untried: bool) -> Iterator[str]:
        outcomes = self.of_statements()
        width = max(len(each.document) for each in self.statements)
        yield f"{'document':{width}}  {'held':>5} {'broken':>7} {'not tried':>10}"
        for document in dict.fromkeys(each.document for each in self.statements):
            mine = [each for each in self.statements if each.document == document]
            counts = [sum(outcomes[each.id] == name for each in mine) for name in ("held", "broken", "not tried")]
            yield f"{document:{width}}  {counts[0]:5} {counts[1]:7} {counts[2]:10}"
            for name in ("broken", "held"):
                ids = [f"{each.id} ({each.level})" for each in mine if outcomes[each.id] == name]
                if ids:
                    yield f"  {name}: {', '.join(ids)}"
            untried = [each.id for each in mine if outcomes[each.id] == "not tried"]
            if untried and (with_untried or len(untried) < len(mine)):
                yield f"  not tried: {', '.join(untried)}"

    def as_json(self) -> dict[str, Any]:
        outcomes = self.of_statements()
        return {
            "testee": self.testee,
            "good": self.is_good,
            "cases": [_as_json(each) for each in self.results],
            "known": self.known,
            "stale": self.stale,
            "statements": [
                {"id": each.id, "document": each.document, "level": each.level, "outcome": outcomes[each.id]}
                for each in self.statements
            ],
        }


def _as_json(result: Result) -> dict[str, Any]:
    case = result.case
    return {
        "id": case.id,
        "level": case.level,
        "statements": list(case.statements),
        "outcome": result.outcome,
        "input": case.input,
        "expected": case.expected,
        "came": result.came,
        "problem": result.problem,
    }


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= 600 else f"{text[:300]} ... {text[-300:]}"

"""The mutator, and the list of the mutants that no test can detect."""

import ast
from pathlib import Path

import pytest

from tests.model.mutation import ROOT, TESTS, explained, mutants

SOURCE = '''
LIMIT: int = 5

def least(values: list[int] | None = None) -> int:
    """Not changed."""
    if values is None or not values:
        raise ValueError("is not changed either")
    found: int
    found = min(values) + LIMIT
    return found
'''


def test_mutator_changes_operators_constants_and_statements() -> None:
    tree = ast.parse(SOURCE)
    assert [mutant.name.change for mutant in mutants(tree)] == [
        "5 -> 6",
        "values is None or not values -> not (values is None or not values)",
        "-> if values is None and (not values):",
        "-> if values is not None or not values:",
        "not values -> values",
        "-> pass",
        "-> pass",
        "-> found = min(values) - LIMIT",
        "-> return None",
    ]
    assert ast.unparse(tree) == ast.unparse(ast.parse(SOURCE))


def test_every_module_of_the_shelf_is_mutated() -> None:
    shelf = {path.relative_to(ROOT).as_posix() for path in (ROOT / "durus/files/shelf").glob("[a-z]*.py")}
    assert shelf <= set(TESTS)


@pytest.mark.parametrize("path", TESTS)
def test_tests_of_a_module_are_there(path: str) -> None:
    assert all(Path(ROOT, f"tests/unit/test_{name}.py").exists() for name in TESTS[path])


def test_every_explained_survivor_is_still_a_mutant_and_has_its_reason() -> None:
    for path, reasons in explained().items():
        made = {mutant.name for mutant in mutants(ast.parse((ROOT / path).read_bytes()))}
        assert set(reasons) <= made, "these are no mutants any more; tests/model/mutation.py prints those that survive"
        assert all(reasons.values())

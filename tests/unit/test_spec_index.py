"""Every statement in spec/ has a test, every id that a test names exists, and ids are in order."""

import re

from tests.spec import (
    ROOT,
    all_examples,
    all_statements,
    documents,
    levels,
    marks_in_tests,
    numbering_faults,
    unknown_faults,
    unshown_faults,
    untested_faults,
    without_vectors,
)


def test_statement_ids_are_unique_ascending_and_of_their_document() -> None:
    assert numbering_faults(all_statements()) == []


def test_every_statement_has_a_test() -> None:
    assert untested_faults(all_statements(), marks_in_tests()) == []


def test_every_id_that_a_test_names_exists() -> None:
    assert unknown_faults(all_statements(), marks_in_tests()) == []


def test_every_example_shows_a_statement_that_exists() -> None:
    known = {statement.id for statement in all_statements()}
    shown = {example.name: example.statements for example in all_examples()}
    assert {name: ids for name, ids in shown.items() if not ids or not known.issuperset(ids)} == {}


def test_every_statement_has_a_level() -> None:
    found = {id: level for document in documents() for id, level in levels(document).items()}
    assert found.keys() == {statement.id for statement in all_statements()}
    assert (found["REC-5"], found["SHELF-40"], found["WIRE-30"], found["TXN-5"]) == ("MUST", "SHOULD", "MUST", "MUST")


def test_every_must_has_an_example_or_a_reason() -> None:
    found = {id: level for document in documents() for id, level in levels(document).items()}
    assert unshown_faults(all_statements(), found, all_examples(), without_vectors()) == []


def test_every_id_that_the_code_or_a_document_refers_to_exists() -> None:
    known = {statement.id for statement in all_statements()}
    texts = [*(ROOT / "durus").rglob("*.py"), *(ROOT / "spec").glob("[!R]*.md")]
    found = {
        (path.name, id)
        for path in texts
        for id in re.findall(r"\b(?:DB|OBJ|PICKLE|REC|SHELF|DFS|SQL|PG|TXN|WIRE)-\d+", path.read_text())
    }
    assert {(name, id) for name, id in found if id not in known} == set()

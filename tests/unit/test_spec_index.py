"""Every statement in spec/ has a test, every id that a test names exists, and ids are in order."""

from tests.spec import (
    Statement,
    documents,
    marks_in_tests,
    numbering_faults,
    statements,
    unknown_faults,
    untested_faults,
)


def all_statements() -> list[Statement]:
    return [statement for document in documents() for statement in statements(document)]


def test_statement_ids_are_unique_ascending_and_of_their_document() -> None:
    assert numbering_faults(all_statements()) == []


def test_every_statement_has_a_test() -> None:
    assert untested_faults(all_statements(), marks_in_tests()) == []


def test_every_id_that_a_test_names_exists() -> None:
    assert unknown_faults(all_statements(), marks_in_tests()) == []

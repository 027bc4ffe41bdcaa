"""Every example in spec/ does what its document says, and spec/vectors/ holds the same examples."""

import pytest

from tests.spec import VECTORS, Example, all_examples, all_vectors, duplicate_faults
from tests.spec_runners import RUNNERS


@pytest.mark.parametrize("example", all_examples(), ids=lambda example: f"{example.document}-{example.name}")
def test_example(example: Example) -> None:
    assert example.kind in RUNNERS, f"no runner for the kind {example.kind}"
    RUNNERS[example.kind](example)


def test_example_names_are_unique() -> None:
    assert duplicate_faults(all_examples()) == []


def test_vectors_are_current() -> None:
    stored = {path.name: path.read_text(encoding="utf-8") for path in VECTORS.glob("*")}
    assert stored == all_vectors(), "run: python -m spec.make_vectors"

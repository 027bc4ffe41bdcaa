"""Every interleaving of two clients of a few operations each does what the rules say."""

import os
from collections.abc import Callable

import pytest

from durus.storage import Storage
from tests.model.small_scope import OPERATIONS, Rules, explore, file_storage, memory_storage, run, run_history

IS_DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"


@pytest.mark.spec("TXN-2", "TXN-7", "TXN-10", "TXN-12", "TXN-13", "TXN-14", "TXN-15", "TXN-16", "TXN-25")
@pytest.mark.parametrize(
    ("storage", "operations"), [(memory_storage, 4 if IS_DEEP else 3), (file_storage, 4 if IS_DEEP else 2)]
)
def test_every_interleaving(storage: Callable[[], Storage], operations: int) -> None:
    figures = explore(operations, storage)
    assert figures.violations == []
    ways = {1: 2, 2: 6, 3: 20, 4: 70}[operations]
    assert figures.counts["interleavings covered"] == ways * len(OPERATIONS) ** (2 * operations)


def test_a_step_that_does_something_else_than_the_rules_say_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_history([(0, "read x")], memory_storage)[0] is None
    monkeypatch.setattr(Rules, "use", lambda self, client, name: self.stored["y"])
    problem, _ = run_history([(0, "read x")], memory_storage)
    assert problem is not None


def test_longer_interleavings_at_random() -> None:
    for seed in range(100 if IS_DEEP else 2):
        assert run(seed).violations == []

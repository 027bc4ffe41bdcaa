"""Every interleaving of two clients of a few operations each does what the rules say."""

import os
from collections.abc import Callable
from math import comb

import pytest

from durus.storage import Storage
from tests.model.small_scope import (
    CLIENT_OPERATIONS,
    SNAPSHOT_OPERATIONS,
    Rules,
    explore,
    file_storage,
    memory_storage,
    run,
    run_history,
)

IS_DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"


@pytest.mark.spec("TXN-2", "TXN-7", "TXN-10", "TXN-12", "TXN-13", "TXN-14", "TXN-15", "TXN-16", "TXN-25")
@pytest.mark.parametrize("storage", [memory_storage, file_storage] if IS_DEEP else [file_storage])
def test_every_interleaving(storage: Callable[[], Storage]) -> None:
    check_all(storage, CLIENT_OPERATIONS)


@pytest.mark.spec("TXN-16", "TXN-60", "TXN-61", "TXN-62", "TXN-63", "TXN-65")
@pytest.mark.parametrize("storage", [memory_storage, file_storage] if IS_DEEP else [memory_storage])
def test_every_interleaving_with_snapshots(storage: Callable[[], Storage]) -> None:
    check_all(storage, SNAPSHOT_OPERATIONS)


def check_all(storage: Callable[[], Storage], alphabet: tuple[str, ...]) -> None:
    operations = 4 if IS_DEEP else 3
    figures = explore(operations, storage, alphabet)
    assert figures.violations == []
    ways = comb(2 * operations, operations)
    assert figures.counts["interleavings covered"] == ways * len(alphabet) ** (2 * operations)


def test_a_step_that_does_something_else_than_the_rules_say_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_history([(0, "read x")], memory_storage)[0] is None
    monkeypatch.setattr(Rules, "use", lambda self, client, name: self.stored["y"])
    problem, _ = run_history([(0, "read x")], memory_storage)
    assert problem is not None


def test_longer_interleavings_at_random() -> None:
    for seed in range(100 if IS_DEEP else 2):
        assert run(seed).violations == []

"""Short runs of the nemesis; `python -m tests.model.nemesis` makes long ones."""

import os

import pytest

from tests.model.nemesis import run, run_threads

IS_DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"


@pytest.mark.spec("TXN-5", "TXN-9", "TXN-13", "TXN-14", "TXN-20", "TXN-22", "TXN-27", "SHELF-18", "WIRE-25")
def test_clients_of_a_tormented_server_have_a_serializable_history() -> None:
    figures = run(60 if IS_DEEP else 5, seed=1)
    assert figures.violations == []
    assert figures.counts["committed"] > 0
    assert figures.counts.keys() >= {"kill", "pause", "cut", "fill the disk", "pack"}


@pytest.mark.spec("TXN-5", "TXN-13", "TXN-14", "TXN-20", "TXN-22", "TXN-25")
def test_clients_in_threads_have_a_serializable_history() -> None:
    figures = run_threads(30 if IS_DEEP else 3, seed=1)
    assert figures.violations == []
    assert figures.counts["unknown"] == 0
    assert figures.counts["committed"] > 0

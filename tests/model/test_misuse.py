"""A short run of tests/model/misuse.py."""

import pytest

from tests.model import misuse


@pytest.mark.spec("TXN-33")
@pytest.mark.parametrize("seed", range(6))
def test_threads_that_share_a_connection_are_refused_and_lose_nothing(seed: int) -> None:
    counts = misuse.run(seed)
    assert counts["commits"]
    assert counts["ConcurrentUseError"]

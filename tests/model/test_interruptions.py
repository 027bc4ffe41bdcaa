"""A few of the histories with interrupts and forks; `python -m tests.model.deep interrupts` runs more of them."""

import pytest

from tests.model import interruptions


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of interrupts while a generator ends
@pytest.mark.spec("TXN-30", "TXN-31", "TXN-32", "SHELF-46")
@pytest.mark.parametrize("seed", range(12))
def test_interrupts_and_forks_lose_nothing_and_store_nothing_wrong(seed: int) -> None:
    counts = interruptions.run(seed)
    assert counts["interrupts"] > 0

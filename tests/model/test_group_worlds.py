"""Short runs of session cores over one engine; `python -m tests.model.group_worlds` makes long ones."""

import pytest

from durus.sharing.session import Session, SessionCore
from tests.model.group_worlds import explore
from tests.model.test_nemesis import IS_DEEP


@pytest.mark.spec("PG-60", "PG-61", "PG-62", "PG-63", "PG-65", "PG-66", "TXN-12", "TXN-13", "TXN-14", "TXN-23")
def test_cores_over_one_engine_are_serializable_and_refuse_only_conflicts() -> None:
    counts = explore(worlds=50_000 if IS_DEEP else 400, steps=200, seed=1).sound()
    assert min(counts[kind] for kind in ("readers", "snapshots", "commits", "conflicts")) > 400


@pytest.mark.parametrize("fault", ["serial", "news"])
def test_the_worlds_find_a_core_that_shows_what_was_never_there(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if fault == "serial":
        monkeypatch.setattr(SessionCore, "_log_again", lambda core, commit: None)
    else:
        monkeypatch.setattr(Session, "_with_news", lambda session, invalid: invalid)
    (violation,) = explore(worlds=1000, steps=200, seed=1000).violations
    assert "was never there together" in violation

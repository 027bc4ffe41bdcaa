"""The command that has runs continue for a set time."""

from collections import Counter

import pytest

from tests.model import deep


def counts(seed: int) -> Counter[str]:
    return Counter({"things": 2})


class Fails:
    """Breaks a promise with one seed, and notes all."""

    def __init__(self, bad: int) -> None:
        self.seeds: list[int] = []
        self._bad = bad

    def __call__(self, seed: int) -> Counter[str]:
        self.seeds.append(seed)
        if seed == self._bad:
            raise AssertionError("a promise was broken")
        return Counter({"things": 1})


def test_figures_of_all_runs_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert deep.main(["all", "--seed", "5"], {"one": counts, "two": counts}) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" in ")[0] for line in lines] == [
        "one: 2 things; seeds 5 to 5",
        "two: 2 things; seeds 5 to 5",
    ]
    assert all(line.endswith("no violation") for line in lines)


def test_violation_ends_a_run_and_is_told_with_what_shows_it_again(capsys: pytest.CaptureFixture[str]) -> None:
    fails = Fails(bad=7)
    assert deep.main(["bad", "--seed", "5", "--seconds", "60"], {"bad": fails}) == 1
    assert fails.seeds == [5, 6, 7]
    out, err = capsys.readouterr()
    assert "a promise was broken" in err
    assert "python -m tests.model.deep bad --seed 7" in err
    assert "2 things" in out
    assert "VIOLATION with seed 7" in out


def test_a_run_whose_time_is_over_ends(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DURUS_DEEP_SECONDS", "0")
    assert deep.main(["one"], {"one": counts}) == 0
    assert "no violation" in capsys.readouterr().out


@pytest.mark.parametrize("name", deep.RUNS)
def test_each_run_gives_figures(name: str) -> None:
    assert sum(deep.RUNS[name](0).values()) > 0

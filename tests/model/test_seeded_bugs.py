"""Tests of the tests: each known-bad change of the program is caught by the test named for it."""

from pathlib import Path

import pytest

from tests.model.seeded_bugs import BUGS, Bug, Change, apply, output_with


@pytest.mark.parametrize("name", BUGS)
def test_bug_is_caught(name: str) -> None:
    code, output = output_with(name)
    assert code == pytest.ExitCode.TESTS_FAILED, output
    assert "1 failed" in output


def test_change_whose_source_is_gone_is_no_bug(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("a\na\n")
    with pytest.raises(ValueError, match="2 times"):
        apply(Bug((Change("module.py", "a", "b"),), "a test"), tmp_path)
    with pytest.raises(ValueError, match="0 times"):
        apply(Bug((Change("module.py", "c", "b"),), "a test"), tmp_path)

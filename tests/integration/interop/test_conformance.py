"""Durus 4.3 under the kit for ports: it does what it shares with this implementation, apart from a list of failures."""

from pathlib import Path

import pytest

from durus_conformance.__main__ import main
from tests.spec import ROOT

TESTEES = ROOT / "conformance" / "testees"


def test_durus_4_3_does_what_the_specification_says_apart_from_a_list(
    python_4_3: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    testee = f"{python_4_3} -E {TESTEES / 'durus43_testee.py'}"
    status = main([testee, "--known-failures", str(TESTEES / "durus43_known_failures.txt")])
    shown = capsys.readouterr().out
    assert status == 0, shown
    assert "0 known ones are stale" in shown

"""For any bytes, the readers give a result or a DurusError; and so for each input that once was a fault."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.__main__ import CORPUS, attempt, run
from tests.fuzz.mutations import SOUND, an_input
from tests.fuzz.targets import TARGETS
from tests.model.nemesis import Figures

KEPT = sorted(path for path in CORPUS.glob("*/*") if path.is_file())


@pytest.mark.parametrize("path", KEPT, ids=[f"{path.parent.name}-{path.name}" for path in KEPT])
def test_inputs_that_are_kept(path: Path) -> None:
    figures = Figures()
    attempt(path.parent.name, path.read_bytes(), figures)
    assert figures.violations == []


def test_each_target_has_inputs_that_are_kept() -> None:
    assert {path.parent.name for path in KEPT} == TARGETS.keys() == SOUND.keys()


@pytest.mark.spec("REC-5", "REC-17", "SHELF-23", "SHELF-24", "WIRE-20", "WIRE-23")
@pytest.mark.parametrize("target", TARGETS)
def test_any_bytes(target: str) -> None:
    @given(st.binary(max_size=300))
    def is_read(data: bytes) -> None:
        TARGETS[target](data)

    is_read()


@pytest.mark.spec("REC-5", "REC-17", "SHELF-23", "SHELF-24", "WIRE-20", "WIRE-23")
@pytest.mark.parametrize("target", TARGETS)
def test_bytes_that_are_sound_in_part(target: str) -> None:
    @given(st.integers(0, 1 << 64))
    def is_read(seed: int) -> None:
        TARGETS[target](an_input(target, random.Random(seed)))

    is_read()


def test_a_run_tells_what_it_has_done(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tests.fuzz.__main__.CORPUS", tmp_path)
    monkeypatch.setitem(TARGETS, "requests", lambda data: [][1])
    figures = run(0.01, 1, ["record", "requests"])
    assert figures.counts["inputs fuzzed"] >= 40
    assert all("IndexError" in violation for violation in figures.violations)
    assert len(list((tmp_path / "requests").iterdir())) > 0
    assert not (tmp_path / "record").exists()

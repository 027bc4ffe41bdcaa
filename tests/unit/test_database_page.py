"""The programs in docs/database.md run, one after the other."""

import re
from pathlib import Path
from typing import cast

import pytest

from durus import web

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "database.md"


def test_the_programs_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    programs = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    for program in programs:
        exec(compile(program, str(PAGE), "exec"), names)
        if "durus.web" in program:
            application = cast(web.WSGIApp, names["application"])
            (page,) = application({}, lambda *arguments: list)
            assert re.fullmatch(rb"\d+ apples", page)
    assert len(programs) == 7
    assert "copy 2" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shop.durus", "shop.durus.prepack"]

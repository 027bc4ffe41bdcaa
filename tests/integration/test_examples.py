"""The example programs run to their end and do what they say."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from durus.connection import Connection
from durus.file_storage import FileStorage

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"


def run_example(name: str, *arguments: str, cwd: Path) -> str:
    result = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(cwd)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_graph_of_the_standard_library(tmp_path: Path) -> None:
    output = run_example("stdlib_graph.py", "--limit", "120", "f", cwd=tmp_path)
    assert "removed" in output
    assert "f: clean: " in output


@pytest.mark.spec("EXP-42", "EXP-44")
def test_sql_finds_the_module_that_most_others_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_example("stdlib_graph.py", "--limit", "120", "f", cwd=tmp_path)
    command = [sys.executable, "-m", "durus", "export", "f", "--to", "f.sqlite"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
    with closing(sqlite3.connect(tmp_path / "f.sqlite")) as tables:
        found = tables.execute(
            'select module.name, count(*) from "stdlib_model.Module" module '
            "join items on container = imported_by group by oid order by 2 desc, 1 limit 1"
        ).fetchone()
        assert tables.execute("pragma foreign_key_check").fetchall() == []
    monkeypatch.syspath_prepend(str(EXAMPLES))
    with Connection(FileStorage(tmp_path / "f", readonly=True)) as connection:
        modules: Any = connection.get_root()["modules"]
        numbers = {module.name: len(module.imported_by) for module in modules.values()}
    assert found == min(numbers.items(), key=lambda item: (-item[1], item[0]))


@pytest.mark.parametrize(
    ("script", "names", "stays"),
    [
        ("rename_class.py", ["shop.Order", "store.Order"], b"shop\nItem"),
        ("rename_module.py", ["shop", "store"], b"store\nItem"),
    ],
)
def test_scripts_rename_a_class_and_a_module(tmp_path: Path, script: str, names: list[str], stays: bytes) -> None:
    source = "from durus.persistent import Persistent\nclass Order(Persistent): pass\nclass Item(Persistent): pass\n"
    (tmp_path / "shop.py").write_text(source)
    (tmp_path / "fill.py").write_text(
        "import shop\nfrom durus.connection import Connection\nconnection = Connection('f')\n"
        "order = connection.get_root()['order'] = shop.Order()\norder.items = [shop.Item()]\nconnection.commit()\n"
    )
    subprocess.run([sys.executable, "fill.py"], cwd=tmp_path, check=True, timeout=60)
    (tmp_path / "store.py").write_text(source)
    assert "objects are stored again" in run_example(script, "f", *names, cwd=tmp_path)
    stored = (tmp_path / "f").read_bytes()
    assert b"store\nOrder" in stored
    assert b"shop\nOrder" not in stored
    assert stays in stored

"""The example programs run to their end and do what they say."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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

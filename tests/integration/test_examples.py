"""The example programs run to their end and find what they expect."""

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"


def test_graph_of_the_standard_library(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, EXAMPLES / "stdlib_graph.py", "--limit", "120", "f"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "removed" in result.stdout
    assert "f: clean: " in result.stdout

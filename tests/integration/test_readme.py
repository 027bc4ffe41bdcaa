"""The program in README.md runs and prints what its comments say."""

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).resolve().parent.parent.parent / "README.md"


def test_program_in_the_readme_prints_what_it_says(tmp_path: Path) -> None:
    program = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert program is not None
    (tmp_path / "program.py").write_text(program[1], encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.stdout, result.stderr, result.returncode) == ("Ann\n", "", 0)
    assert (tmp_path / "people.durus").exists()

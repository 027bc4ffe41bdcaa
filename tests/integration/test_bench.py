"""The programs of bench/ run to their end, on little data, and find what they expect."""

from pathlib import Path

import pytest

from bench import btree_million


def test_a_btree_that_is_larger_than_its_cache(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    btree_million.main(["--keys", "5000", "--cache-size", "20", "200", "--directory", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "5,000 keys, cache size 20:" in printed
    assert "5,000 keys, cache size 200:" in printed
    assert printed.count("| check again | 2,500 keys |") == 2
    assert list(tmp_path.iterdir()) == []

"""The worked example of spec/reading-order.md has the bytes that the program writes."""

from pathlib import Path

from durus.connection import Connection
from durus.file_storage import FileStorage
from durus.persistent import Persistent
from tests.spec import all_examples, bytes_and_expected

TIME = "2026-01-02T03:04:05.000006Z"


def test_the_program_writes_the_worked_example(tmp_path: Path) -> None:
    (example,) = [each for each in all_examples() if each.name == "a-whole-small-database"]
    connection = Connection(FileStorage(tmp_path / "small.durus", clock=lambda: TIME))
    person = Persistent()
    person.name = "Ann"  # type: ignore[attr-defined]
    connection.get_root()["ann"] = person
    connection.commit()
    connection.close()
    assert (tmp_path / "small.durus").read_bytes() == bytes_and_expected(example)[0]

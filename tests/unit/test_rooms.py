"""The plan of the house: docs/architecture.md draws what the imports are, and no import runs upwards."""

import re
from pathlib import Path

import pytest

from tests import rooms

ARCHITECTURE = rooms.ROOT / "docs" / "architecture.md"


def test_no_two_modules_import_each_other() -> None:
    assert rooms.floors(rooms.module_graph()) > 1


def test_no_two_rooms_import_each_other() -> None:
    assert rooms.floors(rooms.room_graph()) > 1


def test_diagram_of_the_architecture_is_that_of_the_imports() -> None:
    text = ARCHITECTURE.read_text(encoding="utf-8")
    assert f"```mermaid\n{rooms.diagram()}\n```" in text, "run `python -m tests.rooms` and put its diagram there"


@pytest.mark.parametrize("room", sorted({*rooms.TOP, *(rooms.room_of(name) for name in rooms.modules())}))
def test_architecture_tells_of_each_room(room: str) -> None:
    assert f"**{room}**" in ARCHITECTURE.read_text(encoding="utf-8")


def test_architecture_names_each_module() -> None:
    """A package is told of as a folder, and a subcommand by its name."""
    named = set(re.findall(r"`(?:\w+[./])*(\w+)`", ARCHITECTURE.read_text(encoding="utf-8")))
    modules = [name for name in rooms.modules() if rooms.room_of(name) != "commands"]
    assert [name for name in modules if name.rpartition(".")[2] not in named] == []


def test_imports_inside_of_functions_and_of_whole_modules_are_seen(tmp_path: Path) -> None:
    source = tmp_path / "module.py"
    source.write_text(
        "from durus import oid\nimport durus.text\ndef f():\n    from durus.files.shelf import scan\n"
        "    from durus.records.record import split_oids\n"
    )
    assert set(rooms.imports_of(source)) == {"oid", "text", "files.shelf.scan", "records.record"}


def test_cycle_is_an_error() -> None:
    with pytest.raises(ValueError, match="cycle"):
        rooms.floors({"a": {"b"}, "b": {"a"}})

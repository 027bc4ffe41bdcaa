"""`durus show` and `durus refs`: one object, and who refers to it, without its class. spec/commands.md."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from durus.cli.main import main
from durus.connection import Connection
from durus.file_storage import FileStorage
from durus.file_storage2 import FileStorage2
from durus.oid import oid_from_int
from durus.persistent_list import PersistentList
from durus.records.record import pack_record
from durus.sqlite_storage import SqliteStorage
from durus.storage import Storage

ROOT = b"\x80\x04cdurus.persistent_dict\nPersistentDict\n."


@pytest.fixture(params=[FileStorage, FileStorage2, SqliteStorage])
def file(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    storage_class: Callable[[str], Storage] = request.param
    monkeypatch.chdir(tmp_path)
    connection = Connection(storage_class("f"))
    root: Any = connection.get_root()
    inner: PersistentList[Any] = PersistentList(["\x1b[2J", 1])
    root["list"], root["again"] = inner, [inner]
    inner.append(inner)
    root["long"] = "x" * 1000
    connection.commit()
    connection.storage.close()
    return "f"


def told(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    assert main(list(arguments)) == status
    shown = capsys.readouterr()
    return shown.err if status else shown.out


@pytest.mark.spec("CMD-15")
def test_an_object_is_shown(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    first, *rest = told(capsys, "show", file, "1").splitlines()
    assert first.startswith("oid 1: durus.persistent_list.PersistentList, ")
    assert rest == [
        '  data = ["\\u001b[2J", 1, {"$ref": 1, "class": "durus.persistent_list:PersistentList"}]',
        "  refers to oid 1 (durus.persistent_list.PersistentList): .data[2]",
    ]
    shown = told(capsys, "show", file, "0")
    assert "... (" in shown
    assert shown.splitlines()[-2:] == [
        "  refers to oid 1 (durus.persistent_list.PersistentList): .data['list']",
        "  refers to oid 1 (durus.persistent_list.PersistentList): .data['again'][0]",
    ]


@pytest.mark.spec("CMD-15")
def test_an_object_is_shown_as_json(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = json.loads(told(capsys, "show", file, "0", "--json"))
    assert list(shown) == ["durus", "file", "format", "oid", "class", "size", "state", "problem", "refs"]
    assert (shown["oid"], shown["class"], shown["problem"]) == (0, "durus.persistent_dict.PersistentDict", None)
    assert shown["state"]["data"]["long"] == "x" * 1000
    name = "durus.persistent_list.PersistentList"
    assert shown["refs"] == [
        {"path": ".data['list']", "oid": 1, "class": name},
        {"path": ".data['again'][0]", "oid": 1, "class": name},
    ]


@pytest.mark.spec("CMD-16")
def test_referrers_are_listed(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    name = "durus.persistent_list.PersistentList"
    shown = told(capsys, "refs", file, "1").splitlines()
    assert sorted(shown) == sorted(
        [
            "oid 0 (durus.persistent_dict.PersistentDict): .data['list'], .data['again'][0]",
            f"oid 1 ({name}): .data[2]",
            f"f: 2 objects refer to oid 1, {name}",
        ]
    )
    found = json.loads(told(capsys, "refs", file, "1", "--json"))
    assert list(found) == ["durus", "file", "format", "oid", "class", "referrers"]
    assert (found["oid"], found["class"]) == (1, name)
    assert sorted(found["referrers"], key=lambda each: int(each["oid"])) == [
        {"oid": 0, "class": "durus.persistent_dict.PersistentDict", "paths": [".data['list']", ".data['again'][0]"]},
        {"oid": 1, "class": name, "paths": [".data[2]"]},
    ]
    assert told(capsys, "refs", file, "7") == "f: 0 objects refer to oid 7, which does not exist\n"
    assert told(capsys, "refs", file, "0").endswith("PersistentDict\n")


@pytest.mark.spec("CMD-2", "CMD-15", "CMD-16")
def test_what_is_no_object_is_told(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "show", file, "7", status=1) == f"durus: {file}: no object has the oid 7\n"
    for command in ("show", "refs"):
        assert "a number from 0 to 18446744073709551615" in told(capsys, command, file, "-1", status=2)
        assert "usage: durus" in told(capsys, command, file, "x", status=2)


@pytest.mark.spec("CMD-15", "CMD-16")
def test_a_state_without_a_form_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "f.durus")
    storage = FileStorage(path)
    storage.begin()
    storage.store(bytes(8), pack_record(bytes(8), ROOT + b"\x80\x04(", oid_from_int(1)))
    storage.store(oid_from_int(1), pack_record(oid_from_int(1), ROOT + b"\x80\x04N.", b""))
    storage.end()
    storage.close()
    shown = told(capsys, "show", path, "0").splitlines()
    assert shown[1].startswith("  its state has no readable form: its data can't be read")
    assert shown[2:] == ["  refers to oid 1"]
    found = json.loads(told(capsys, "show", path, "0", "--json"))
    assert (found["state"], found["refs"]) == (None, [{"path": None, "oid": 1, "class": None}])
    assert "(durus.persistent_dict.PersistentDict): its state can't be read\n" in told(capsys, "refs", path, "1")

"""What the commands take, print and end with, in one process. spec/commands.md."""

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from durus.btree import BTree
from durus.cli import pack, progress
from durus.cli.api_names import is_for_applications
from durus.cli.commands import make_parser
from durus.cli.main import main
from durus.cli.pretty import pp
from durus.cli.python_console import ApiCompleter, Console
from durus.connection import Connection
from durus.error import DurusError, WriteConflictError
from durus.file_storage import FileStorage
from durus.file_storage2 import FileStorage2
from durus.oid import oid_from_int
from durus.persistent import Persistent
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.persistent_set import PersistentSet
from durus.progress import Progress
from durus.sharing.address import SocketAddress
from durus.sqlite_storage import SqliteStorage
from durus.storage import MemoryStorage, Storage
from durus.tools.server_pack import gen_server_pack
from tests.in_memory_server import InMemoryServer
from tests.threaded_server import serving

OPTIONS_OF_4_3 = {
    "-s": "--file --host --port --address --owner --group --umask --gcbytes --storage-class --logfile --logginglevel "
    "--repair --readonly --stop",
    "-c": "--file --host --port --address --cache_size --repair --readonly --startup --storage-class",
    "-p": "--file --host --port",
}


@pytest.mark.spec("CMD-1")
@pytest.mark.parametrize(("command", "name"), [("-s", "serve"), ("-c", "shell"), ("-p", "pack")])
def test_the_names_of_4_3_and_their_options(capsys: pytest.CaptureFixture[str], command: str, name: str) -> None:
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert main([name, "--help"]) == 0
    assert capsys.readouterr().out == shown
    for option in OPTIONS_OF_4_3[command].split():
        assert option in shown


def usage_error(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """Run a wrong call, and return what it says on stderr, the last line of which is the error."""
    assert main(arguments) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines()[-1].startswith(f"durus {arguments[0]}: error: ")
    return told.err


@pytest.mark.spec("CMD-2")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check"], "required: FILE"),
        (["info", "f", "--nonsense"], "unrecognized arguments: --nonsense"),
        (["serve", "--owner", "0"], "--owner, --group and --umask are for a Unix socket"),
        (["shell", "--readonly"], "are for a file"),
        (["convert", "a", "b", "--encoding", "ascii"], "give --from-python2 too"),
        (["pack", "--timeout", "5"], "goes with --wait"),
        (["serve", "--port", "\x1b[2J"], r"'\x1b[2J'"),
        (["serve", "--address", "@"], "the name of the socket is missing"),
        (["serve", "--address", "127.0.0.1:1"], "give --host 127.0.0.1 --port 1"),
        (["serve", "--address", "s", "--port", "1"], "leave out --port"),
        (["shell", "f", "--port", "1"], "--port is for a server, and f is named too"),
        (["pack", "--file", "f", "--address", "s"], "--address is for a server, and f is named too"),
        (["shell", "durus://localhost", "--port", "1"], "--port is for a server"),
        (["pack", "durus+unix:"], "is not the address of a Unix socket"),
        (["serve", "f", "--readonly", "--repair"], "can't repair"),
        (["restore", "backup", "file", "--at", "yesterday"], "'yesterday' is not a time"),
    ],
)
def test_a_wrong_call_is_the_usage_and_one_line(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    told = usage_error(capsys, arguments)
    assert told.startswith(f"usage: durus {arguments[0]} ")
    assert message in told.splitlines()[-1]


@pytest.mark.spec("CMD-6", "CMD-7", "CMD-8")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pack", "f", "--wait", "--timeout", "0"], "'0' is not a number of seconds above 0, and up to 4000000"),
        (["pack", "--wait", "--timeout", "inf"], "'inf' is not a number of seconds"),
        (["serve", "f", "--port", "-1"], "'-1' is not a number from 0 to 65535"),
        (["serve", "f", "--port", "99999999"], "from 0 to 65535"),
        (["shell", "--port", "nan"], "'nan' is not a whole number"),
        (["serve", "f", "--gcbytes", "-1"], "'-1' is not a number of at least 0"),
        (["serve", "f", "--gcbytes", "9" * 5000], "is not a whole number"),
        (["serve", "f", "--gcinterval", "-1"], "'-1' is not a number of seconds from 0"),
        (["serve", "f", "--gcinterval", "1e400"], "'1e400' is not a number of seconds from 0"),
        (["serve", "f", "--commit-timeout", "inf"], "'inf' is not a number of seconds above 0"),
        (["serve", "f", "--commit-timeout", "1e9"], "'1e9' is not a number of seconds above 0"),
        (["serve", "f", "--commit-timeout", "soon"], "'soon' is not a number of seconds above 0"),
        (["serve", "f", "--stall-timeout", "nan"], "'nan' is not a number of seconds above 0"),
        (["serve", "f", "--logginglevel", "debug"], "'debug' is not a whole number"),
        (["serve", "f", "--address", "s", "--umask", "0999"], "'0999' is not a umask"),
        (["serve", "f", "--address", "s", "--umask", "-1"], "'-1' is not a umask"),
        (["serve", "f", "--address", "s", "--owner", "no one"], "there is no 'no one' on this machine"),
        (["serve", "f", "--address", "s", "--group", "no one"], "there is no 'no one' on this machine"),
        (["serve", "f", "--address", "s", "--owner", "4294967295"], "from 0 to 4294967294"),
        (["shell", "f", "--cache_size", "0"], "'0' is not a number of at least 1"),
        (["log", "f", "18446744073709551616"], "from 0 to 18446744073709551615"),
        (["log", "f", "--last", "0"], "'0' is not a number of at least 1"),
        (["backup", "f", "b", "--keep", "0"], "'0' is not a number of at least 1"),
        (["serve", ""], "the name is empty"),
        (["shell", "--file", ""], "the name is empty"),
        (["pack", ""], "the name is empty"),
        (["salvage", "f", ""], "the name is empty"),
        (["shell", "-"], "a file with the name '-' is './-'"),
        (["shell", "file:f"], "give its path alone, f"),
        (["serve", "FILE:///srv/f"], "give its path alone, /srv/f"),
        (["shell", "memory:"], "'memory:' is an address: give the path of a file"),
        (["shell", "file:f?readonly=true"], "give its path alone, f"),
        (["shell", ":memory:"], "`durus serve` serves a temporary file"),
        (["serve", "f?readonly=true"], "give its path alone, f, and the options of the command, such as --readonly"),
        (["serve", "durus://localhost"], "take servers"),
        (["check", "durus+unix:/s"], "this command takes a file"),
        (["convert", "f", "durus:g"], "'durus:g' is an address"),
        (["log", "postgresql://ann:secret@host/f?password=secret"], "'postgresql://ann@host/f' is an address"),
        (["backup", "f", "https://example.org/"], "this command takes a file only"),
        (["restore", "postgresql://host/f", "g"], "this command takes a file only"),
        (["rename", "a.B", "a.C", "durus://localhost"], "is an address"),
        (["shell", "f", "--cache", "5"], "unrecognized arguments: --cache 5; `durus shell --help` lists all options"),
        (["pack", "f", "--wai"], "unrecognized arguments: --wai"),
    ],
)
def test_a_value_is_checked_before_anything_is_made(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    last = usage_error(capsys, arguments).splitlines()[-1]
    assert message in last
    assert "secret" not in last
    assert list(tmp_path.iterdir()) == []


@pytest.mark.spec("CMD-7")
@pytest.mark.parametrize("name", ["-", "file:f", "memory:", "durus:f"])
def test_a_file_that_exists_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    Connection(tmp_path / name).close()
    assert main(["check", name]) == 0


@pytest.mark.spec("CMD-9")
@pytest.mark.parametrize("kind", [FileStorage, SqliteStorage])
@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (
            ["serve", "FILE", "--port", "0"],
            "close it there, or give --readonly: `durus serve FILE --port 0 --readonly`",
        ),
        (
            ["shell", "FILE"],
            "give the address of its server instead of the file, or --readonly: `durus shell FILE --readonly`",
        ),
        (["pack", "FILE"], "give the address of the server instead of the file"),
        (["rename", "a.B", "a.C", "FILE"], "close it there, or give --dry-run: `durus rename a.B a.C FILE --dry-run`"),
    ],
)
def test_a_file_in_use_gets_advice_for_the_command(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    kind: type[FileStorage] | type[SqliteStorage],
    arguments: list[str],
    advice: str,
) -> None:
    path = str(tmp_path / "f")
    with Connection(kind(path)):
        assert main([path if each == "FILE" else each for each in arguments]) == 1
    told = capsys.readouterr()
    last = told.err.splitlines()[-1]
    assert "the file is in use by " in last
    assert last.endswith(advice.replace("FILE", path))
    assert "readonly=True" not in last


@pytest.mark.spec("CMD-2", "SHELF-3")
@pytest.mark.parametrize("content", [b"", b"SHELF-1\n", b"DFS20\0\0"])
def test_info_tells_that_a_file_is_not_a_database_yet(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "f").write_bytes(content)
    assert main(["info", str(tmp_path / "f")]) == 1
    assert "nothing was stored yet; opening it for writing makes it a database" in capsys.readouterr().err


@pytest.mark.spec("CMD-2")
def test_a_current_folder_that_is_gone_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    assert main(["log", "f"]) == 1
    assert capsys.readouterr().err == "durus: the current folder: No such file or directory\n"


@pytest.mark.spec("CMD-2")
def test_no_command_is_a_wrong_call_and_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "serve a file to clients" in capsys.readouterr().err
    assert main(["--version"]) == 0


@pytest.mark.spec("CMD-2")
def test_an_error_of_the_operating_system_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Connection(tmp_path / "f").close()

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error", "f")

    monkeypatch.setattr("durus.cli.pack.open_file_storage", fail)
    assert main(["pack", str(tmp_path / "f")]) == 1
    assert capsys.readouterr().err == "durus: f: Input/output error\n"


@pytest.mark.spec("CMD-3")
@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("chek", "did you mean `durus check`?"),
        ("help", "did you mean `durus --help`?"),
        ("Server", "`durus serve`"),
        ("xyzzy", "`durus --help` lists all"),
    ],
)
def test_a_command_that_does_not_exist(capsys: pytest.CaptureFixture[str], given: str, hint: str) -> None:
    assert main([given]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"there is no command {given!r}" in last
    assert hint in last


@pytest.mark.spec("CMD-4")
def test_a_file_is_an_argument_or_an_option(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = str(tmp_path / "f")
    assert main(["pack", file]) == 1
    assert "there is no such file" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    Connection(file).close()
    assert main(["pack", file]) == 0
    assert main(["pack", "--file", file]) == 0
    assert main(["pack", file, "--file", file]) == 2
    assert "not allowed with" in capsys.readouterr().err


# JSON

SHARED = {"durus", "file", "format", "sealed", "transactions", "objects"}
OF_CHECK = SHARED | {"clean", "faults", "findings", "needs", "needed_methods"}
OF_INFO = SHARED | {
    "implementation",
    "size",
    "packed_size",
    "unsealed_transactions",
    "first_seal",
    "last_seal",
    "tail",
    "unreached_objects",
    "unreached_size",
    "superseded_size",
    "classes",
    "broken",
    "missing_values",
}


def read_json(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> dict[str, Any]:
    assert main(list(arguments)) == status
    printed = capsys.readouterr().out
    assert printed.isascii()
    values = json.loads(printed)
    assert isinstance(values, dict)
    return values


@pytest.mark.spec("CMD-10", "CMD-11", "CMD-12", "CMD-13")
@pytest.mark.parametrize(
    ("format_name", "storage_class", "sealed"),
    [("SHELF-1", FileStorage, "all"), ("DFS20", FileStorage2, None), ("SQLite", SqliteStorage, None)],
)
def test_each_format_has_all_keys(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    format_name: str,
    storage_class: Callable[[Path], Storage],
    sealed: str | None,
) -> None:
    file = tmp_path / "größe"
    with Connection(storage_class(file)) as connection:
        connection.get_root()["x"] = PersistentList()
        connection.commit()
        connection.get_root()["x"] = None
        connection.commit()
    checked = read_json(capsys, "check", "--json", str(file))
    assert checked.keys() == OF_CHECK
    assert (checked["clean"], checked["faults"], checked["objects"]) == (True, 0, 2)
    info = read_json(capsys, "info", "--json", str(file))
    assert info.keys() == OF_INFO
    for values in (checked, info):
        assert (values["file"], values["format"], values["sealed"]) == (str(file), format_name, sealed)
    assert (info["objects"], info["unreached_objects"], info["broken"]) == (2, 1, None)
    assert info["unreached_size"] > 0
    assert info["size"] == file.stat().st_size
    assert [each["name"] for each in info["classes"]] == [
        "durus.persistent_dict.PersistentDict",
        "durus.persistent_list.PersistentList",
    ]
    if format_name == "SHELF-1":
        assert (checked["transactions"], info["transactions"], info["unsealed_transactions"]) == (3, 3, 0)
        assert info["first_seal"] <= info["last_seal"]
        assert info["superseded_size"] > 0


@pytest.mark.spec("CMD-12")
def test_faults_in_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "f"
    with Connection(file) as connection:
        connection.get_root()["x"] = "y" * 100
        connection.commit()
    data = file.read_bytes()
    file.write_bytes(data.replace(b"y" * 100, b"y" * 99 + b"z"))
    values = read_json(capsys, "check", "--json", str(file), status=1)
    assert values["clean"] is False
    assert values["faults"] == sum(each["fault"] for each in values["findings"]) > 0
    assert values["findings"][0].keys() == {"offset", "oid", "problem", "fault"}
    assert isinstance(values["findings"][0]["offset"], int)


@pytest.mark.spec("CMD-10")
def test_an_error_leaves_stdout_empty(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "f").write_text("this is a text file and no database")
    for command in ("check", "info"):
        assert main([command, "--json", str(tmp_path / "f")]) == 1
        told = capsys.readouterr()
        assert told.out == ""
        assert told.err.startswith("durus: ")


@pytest.mark.spec("CMD-13")
def test_broken_objects_in_json(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("gone_soon.py").write_text("from durus.persistent import Persistent\nclass Order(Persistent): pass\n")
    with Connection("f") as connection:
        connection.get_root()["x"] = __import__("gone_soon").Order()
        connection.commit()
    Path("gone_soon.py").unlink()
    del sys.modules["gone_soon"]
    values = read_json(capsys, "info", "--json", "--broken", "f")
    assert values["broken"] == {"gone_soon.Order": [1]}
    assert values["missing_values"] == {}


# Packing on a server


def committed(server: InMemoryServer) -> None:
    with Connection(server.new_client()) as connection:
        connection.get_root()["x"] = PersistentList()
        connection.commit()


def finish_pack(server: InMemoryServer) -> None:
    while server.packing is not None:
        server.pack_a_step()


@pytest.mark.spec("CMD-20")
def test_waiting_ends_with_the_pack() -> None:
    server = InMemoryServer(MemoryStorage(), packs_at_once=False, protocol=1)
    committed(server)
    waiting = gen_server_pack(server.new_client())
    next(waiting)
    assert server.packing is not None
    next(waiting)
    finish_pack(server)
    assert list(waiting) == []
    assert server.packing is None
    assert len(list(server.storage.gen_oid_record())) == 2


@pytest.mark.spec("CMD-20")
def test_a_pack_that_was_under_way_is_not_the_one_that_is_waited_for() -> None:
    server = InMemoryServer(MemoryStorage(), packs_at_once=False, protocol=1)
    committed(server)
    server.new_client().pack()
    server.pack_a_step()
    waiting = gen_server_pack(server.new_client())
    next(waiting)
    finish_pack(server)
    seconds = 0.0
    while server.packing is None:
        seconds += next(waiting)
        assert seconds < 5, "it does not ask again"
    finish_pack(server)
    assert list(waiting) == []


@pytest.mark.spec("CMD-20")
def test_a_storage_without_a_root_has_nothing_to_pack() -> None:
    server = InMemoryServer(MemoryStorage(), packs_at_once=False, protocol=1)
    assert list(gen_server_pack(server.new_client())) == []
    assert not server.storage.has_record(oid_from_int(0))


@pytest.mark.spec("CMD-20")
def test_waiting_has_a_limit() -> None:
    server = InMemoryServer(MemoryStorage(), packs_at_once=False, protocol=1)
    committed(server)
    address = SocketAddress.new(("127.0.0.1", 2972))
    steps = pack._gen_waiting(server.new_client(), address, time.monotonic() - 10, timeout=5)
    with pytest.raises(DurusError, match=r"has not packed in 5 s: its log says .* a longer --timeout"):
        next(steps)


# Progress


@pytest.mark.spec("CMD-21")
def test_a_log_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 1000, 4))
    monkeypatch.setattr("durus.cli.progress.time.monotonic", lambda: next(now))
    progress.show_progress([Progress("copy", done, 8) for done in range(9)])
    assert capsys.readouterr().err == "durus: copy: 2 of 8\ndurus: copy: 5 of 8\ndurus: copy: 8 of 8\n"


# The shell


@pytest.mark.spec("CMD-31")
def test_an_expected_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    shell = Console({"error": WriteConflictError([oid_from_int(7)])})
    shell.push("raise error")
    told = capsys.readouterr().err
    assert told.startswith("WriteConflictError: changed by another client, or removed by a pack: oid 7;")
    assert told.count("\n") == 1
    assert isinstance(sys.last_value, WriteConflictError)
    assert sys.last_value.__traceback__ is not None
    shell.push("1 / 0")
    assert "Traceback" in capsys.readouterr().err


class Thing(Persistent):
    data = "its own"


def printed(value: object, **options: Any) -> str:
    stream = io.StringIO()
    pp(value, stream=stream, **options)
    return stream.getvalue()


@pytest.mark.spec("CMD-32")
def test_pp_shows_what_persistent_containers_hold() -> None:
    tree: BTree[str, object] = BTree()
    tree["b"], tree["a"] = PersistentList([1, "x"]), (PersistentDict(k=2),)
    value = PersistentDict(tree=tree, members=PersistentSet([3]), plain=[PersistentList([4])])
    assert printed(value) == "{'tree': {'a': ({'k': 2},), 'b': [1, 'x']}, 'members': {3}, 'plain': [[4]]}\n"


@pytest.mark.spec("CMD-32")
def test_pp_has_limits() -> None:
    assert printed(PersistentList(range(1000)), items=3) == "[0, 1, 2, ...]\n"
    assert printed(PersistentDict(a=1, b=2, c=3), items=2) == "{'a': 1, 'b': 2, ...: ...}\n"
    assert printed(PersistentList([PersistentList([PersistentList()])]), depth=2) == "[[...]]\n"
    loop: PersistentList[object] = PersistentList()
    loop.append(loop)
    assert " again>]" in printed(loop)


@pytest.mark.spec("CMD-32")
def test_pp_loads_no_other_objects(tmp_path: Path) -> None:
    with Connection(tmp_path / "f") as connection:
        connection.get_root()["thing"] = Thing()
        connection.commit()
    with Connection(tmp_path / "f") as connection:
        assert "<Thing " in printed(connection.get_root())
        thing = connection.get_root()["thing"]
        assert isinstance(thing, Thing)
        assert thing._p_is_ghost()
        assert "ghost" in repr(thing)
        assert printed(thing) == "<Thing 1>\n"


@pytest.mark.spec("CMD-34")
def test_completion_offers_what_applications_use(tmp_path: Path) -> None:
    with Connection(tmp_path / "f") as connection:
        root = connection.get_root()
        names = {"connection": connection, "root": root, "thing": Thing()}

        def completed(text: str) -> set[str]:
            return {match.rstrip("()") for match in ApiCompleter(names).attr_matches(text)}

        offered = completed("connection.")
        assert {"connection.commit", "connection.abort", "connection.get_root", "connection.pack"} <= offered
        for hidden in ("load_state", "note_access", "accessed", "changed", "invalid_oids", "begin_steps", "watch"):
            assert f"connection.{hidden}" not in offered
        assert "root.setdefault" in completed("root.")
        assert "root.data" not in completed("root.")
        assert "thing.data" in completed("thing.")
        assert completed("thing._p_") == {"thing._p_note_change", "thing._p_oid"}
        assert completed("nothing.") == set()


def test_what_is_not_of_durus_is_all_offered() -> None:
    assert is_for_applications([], "append")
    assert is_for_applications([], "_p_anything")
    assert not is_for_applications(BTree(), "root")


# Files


@pytest.mark.spec("CMD-71")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serve", "f", "--address", "/nowhere/s"], "cannot listen on /nowhere/s"),
        (["serve", "f", "--host", "192.0.2.1", "--port", "1"], "cannot listen on 192.0.2.1:1"),
        (["serve", "f", "--port", "0", "--metrics", "192.0.2.1:1"], "cannot listen on 192.0.2.1:1"),
        (["serve", "f", "--port", "0", "--logfile", "/nowhere/log"], "/nowhere/log"),
        (["serve", "f", "--port", "0", "--tls-cert", "nothing"], "nothing"),
        (["serve", "f", "--port", "0", "--storage-class", "no.such"], "no.such can't be imported"),
        (["serve", "f", "--port", "70000"], "'70000' is not a number from 0 to 65535"),
        (["shell", "f", "--startup", "nothing"], "the startup file nothing can't be read"),
        (["shell", "f", "--no-such-option"], "unrecognized arguments: --no-such-option"),
    ],
)
def test_command_that_fails_at_its_beginning_leaves_no_file(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "--metrics" in arguments:
        pytest.importorskip("prometheus_client")
    monkeypatch.chdir(tmp_path)
    assert main(arguments) in (1, 2)
    assert message in capsys.readouterr().err
    assert os.listdir() == []


@pytest.mark.spec("CMD-71")
def test_wrong_debug_mode_of_a_shell_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DURUS_DEBUG", "yes")
    assert main(["shell", "f"]) == 2
    assert "DURUS_DEBUG is 'yes'" in capsys.readouterr().err
    assert os.listdir() == []


@pytest.mark.spec("CMD-71")
def test_server_of_a_new_file_that_can_not_be_made_leaves_no_socket(short_path: Path) -> None:
    assert main(["serve", str(short_path / "no" / "f"), "--address", str(short_path / "s")]) == 1
    assert os.listdir(short_path) == []


# Completion


@pytest.mark.spec("CMD-40")
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("serve", "rename", "dry-run", "gcinterval"):
        assert word in script


@pytest.mark.spec("CMD-40")
def test_completion_without_shtab(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 1
    assert capsys.readouterr().err == (
        "durus: completion needs shtab, which is not installed: pip install 'durus[cli]'\n"
    )
    assert main(["completion", "csh"]) == 2


def test_only_files_are_completed_as_files() -> None:
    from durus.cli.completion import _arguments

    found = {action.dest for action, names_a_file in _arguments(make_parser()) if names_a_file}
    assert found == {"file", "old", "new", "target", "lines", "logfile", "startup", "address"}


# Starting


def test_a_command_imports_what_it_needs_and_no_other_command() -> None:
    program = "import sys; from durus.cli.main import main; main(['check', '--help']); print(*sorted(sys.modules))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = result.stdout.split()
    assert "durus.cli.check" in loaded
    assert not {"durus.cli.serve", "durus.cli.console", "durus.storage_server", "asyncio"} & set(loaded)


@pytest.mark.spec("CMD-4")
def test_a_server_may_be_named_in_the_place_of_a_file(
    capsys: pytest.CaptureFixture[str], short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(FileStorage(short_path / "f"), short_path / "s"):
        assert main(["pack", f"durus+unix:{short_path / 's'}"]) == 0
        assert f"the server on {short_path / 's'} has begun to pack" in capsys.readouterr().out
        monkeypatch.setattr("sys.stdin", io.StringIO("print(sorted(root), 'of', connection.get_storage())\n"))
        assert main(["shell", "--plain", f"durus+unix:{short_path / 's'}"]) == 0
        assert "[] of ClientStorage" in capsys.readouterr().out
    assert main(["pack", "durus+unix:/nowhere/s"]) == 1

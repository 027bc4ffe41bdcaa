"""The durus command, as a process."""

import os
import pty
import select
import subprocess
import sys
from pathlib import Path

import pytest

import durus as package
from durus.cli.main import main
from durus.connection import Connection
from durus.file_storage import FileStorage
from durus.oid import oid_from_int
from durus.records.record import pack_record


def durus(*arguments: str, cwd: Path, typed: str = "") -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "durus", *arguments]
    environment = {**os.environ, "HOME": str(cwd)}
    return subprocess.run(
        command, cwd=cwd, env=environment, input=typed, capture_output=True, text=True, timeout=60, check=False
    )


def test_what_one_client_commits_the_next_one_finds(tmp_path: Path) -> None:
    durus("-c", "--file", "f", cwd=tmp_path, typed="root['x'] = 5\nconnection.commit()\nroot['x'] = 6\n")
    packed = durus("-p", "--file", "f", cwd=tmp_path)
    assert packed.returncode == 0
    assert "packed into" in packed.stdout
    result = durus("-c", "--file", "f", "--readonly", cwd=tmp_path, typed="root['x']\nget(0) is root\nsys, os, pp\n")
    assert "5" in result.stdout
    assert "True" in result.stdout
    assert "Error" not in result.stderr
    assert durus("check", "f", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["-s", "--file", "f"],
        ["-c", "--file", "f"],
        ["-p", "--file", "f"],
        ["check", "f"],
        ["info", "f"],
        ["rename", "a.B", "a.C", "f"],
        ["convert", "f", "g"],
    ],
)
def test_a_bad_file_ends_each_command_with_one_message(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "f").write_text("this is a text file and no database")
    result = durus(*arguments, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("durus: ")
    assert "not a Durus file" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.spec("CMD-1")
def test_the_installed_command_helps_with_all_and_with_each(tmp_path: Path) -> None:
    all_help = durus("-h", cwd=tmp_path).stdout.replace("\n", " \n")
    for name in ("serve", "shell", "pack", "check", "info", "rename", "init", "convert", "completion"):
        assert f"    {name} " in all_help
    assert durus("pack", "--help", cwd=tmp_path).stdout.startswith("usage: durus pack ")
    assert durus("-p", "--help", cwd=tmp_path).stdout == durus("pack", "--help", cwd=tmp_path).stdout


@pytest.mark.spec("CMD-2")
def test_full_disk_under_the_output_is_one_line(tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    Connection(tmp_path / "f").close()
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "durus", "info", "f"]
        result = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, timeout=60, check=False)
    assert (result.returncode, result.stderr) == (1, b"durus: the output: No space left on device\n")


@pytest.mark.spec("CMD-2")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_command_needs_no_standard_streams(tmp_path: Path, closed: str) -> None:
    code = (
        "import os, sys; from durus.cli.main import main; "
        "status = main(['shell', 'f']); [os.fstat(fd) for fd in range(3)]; sys.exit(status)"
    )
    command = ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, code]
    result = subprocess.run(
        command, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0
    assert "Traceback" not in result.stderr
    assert durus("check", "f", cwd=tmp_path).returncode == 0


def test_main_returns_the_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--help"]) == 0
    assert main(["check"]) == 2
    assert main(["check", "no such file"]) == 1
    assert "durus: " in capsys.readouterr().err


def test_pack_of_a_file_that_is_not_there_makes_none(tmp_path: Path) -> None:
    result = durus("-p", "--file", "typo", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr == "durus: typo: there is no such file\n"
    assert list(tmp_path.iterdir()) == []


def test_pack_through_a_link_tells_where_the_old_file_is(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    Connection(tmp_path / "data" / "f").close()
    (tmp_path / "link").symlink_to("data/f")
    assert f"kept as {tmp_path / 'data' / 'f.prepack'}" in durus("-p", "--file", "link", cwd=tmp_path).stdout


def test_output_that_nobody_reads_to_its_end_is_no_error_message(tmp_path: Path) -> None:
    Connection(tmp_path / "f").close()
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "durus", "info", "f"]
    result = subprocess.run(command, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(writer)
    assert (result.returncode, result.stderr) == (1, b"")


def test_interrupt_ends_quietly_with_130(tmp_path: Path) -> None:
    (tmp_path / "start.py").write_text("raise KeyboardInterrupt\n")
    result = durus("-c", "--file", "f", "--startup", "start.py", cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


def test_warnings_of_others_in_the_console_are_not_shown_as_of_durus(tmp_path: Path) -> None:
    typed = "import warnings\nwarnings.warn('of the application')\n"
    told = durus("-c", "--file", "f", cwd=tmp_path, typed=typed).stderr
    assert "UserWarning: of the application" in told
    assert "durus: warning" not in told


def test_startup_file_that_fails_is_shown_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "start.py").write_text("root['x'] = 1\n1 / 0\n")
    result = durus("-c", "--file", "f", "--startup", "start.py", cwd=tmp_path)
    assert result.returncode == 1
    assert 'File "start.py", line 2' in result.stderr
    assert "cli/console.py" not in result.stderr
    assert "durus: the startup file start.py failed" in result.stderr


def test_startup_file_is_named_by_the_environment_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "start.py").write_text("print('it', 'ran')\n")
    monkeypatch.setenv("DURUSSTARTUP", "start.py")
    assert "it ran" in durus("-c", "--file", "f", cwd=tmp_path).stdout


def test_command_started_by_the_path_of_its_file(tmp_path: Path) -> None:
    path = Path(package.__file__).parent / "__main__.py"
    result = subprocess.run(
        [sys.executable, path, "-c", "--file", "f"],
        cwd=tmp_path,
        input="",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0
    assert (tmp_path / "f").exists()


@pytest.mark.spec("CMD-2")
def test_startup_file_and_storage_class(tmp_path: Path) -> None:
    (tmp_path / "start.py").write_text("root['y'] = 7\nconnection.commit()\n")
    options = ["--file", "f", "--startup", "start.py", "--storage-class", "durus.file_storage.FileStorage"]
    assert durus("-c", *options, cwd=tmp_path).returncode == 0
    with Connection(tmp_path / "f") as connection:
        assert connection.get_root()["y"] == 7
    (tmp_path / "wrong.py").write_text("1 +\n")
    for option, value, status in (
        ("--startup", "absent.py", 1),
        ("--startup", "wrong.py", 1),
        ("--storage-class", "os.path", 2),
        ("--storage-class", "no.such.Thing", 2),
    ):
        result = durus("-c", "--file", "new", option, value, cwd=tmp_path)
        assert result.returncode == status
        assert value in result.stderr.splitlines()[-1]
        assert not (tmp_path / "new").exists()


def test_unsound_tail_is_told_and_repaired(tmp_path: Path) -> None:
    FileStorage(tmp_path / "f").close()
    Connection(tmp_path / "f").close()
    with open(tmp_path / "f", "ab") as file:
        file.write(b"torn")
    refused = durus("-c", "--file", "f", cwd=tmp_path)
    assert refused.returncode == 1
    assert "--repair" in refused.stderr
    assert "--repair" in durus("check", "f", cwd=tmp_path).stdout
    assert "incomplete" in durus("info", "f", cwd=tmp_path).stdout
    repaired = durus("-c", "--file", "f", "--repair", cwd=tmp_path)
    assert repaired.returncode == 0
    assert "durus: warning: " in repaired.stderr
    assert durus("check", "f", cwd=tmp_path).returncode == 0


def read_until(fd: int, wanted: bytes | None) -> bytes:
    """Return what a terminal shows up to `wanted`, or to its end."""
    shown = b""
    while wanted is None or wanted not in shown:
        assert select.select([fd], [], [], 30)[0], f"nothing more is shown after {shown!r}"
        try:
            piece = os.read(fd, 4096)
        except OSError:  # what Linux says when the other side of a terminal is gone
            break
        if not piece:
            break
        shown += piece
    return shown


def test_console_in_a_terminal_completes_names_and_keeps_a_history(tmp_path: Path) -> None:
    pytest.importorskip("readline", reason="this Python has no readline")
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "durus", "-c", "--file", "f", "--plain"],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "TERM": "xterm"},
        stdin=follower,
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    shown = b""
    for typed in (b"root['made'] = 1\n", b"conne\t.commit()\n", b"\x04"):
        shown += read_until(leader, b">>> ")
        os.write(leader, typed)
    shown += read_until(leader, None)
    os.close(leader)
    assert process.wait(60) == 0, shown
    with Connection(tmp_path / "f") as connection:
        assert connection.get_root()["made"] == 1, shown
    assert "root['made'] = 1" in (tmp_path / ".durushistory").read_text()


def test_installed_command_finds_classes_in_the_current_folder(tmp_path: Path) -> None:
    script = Path(sys.executable).parent / "durus"
    if not script.exists():
        pytest.skip("durus is not installed with its command in this environment")
    (tmp_path / "own.py").write_text("from durus.persistent import Persistent\nclass Own(Persistent): pass\n")
    typed = "import own\nroot['x'] = own.Own()\nconnection.commit()\nroot['x']\n"
    result = subprocess.run(
        [script, "-c", "--file", "f"],
        cwd=tmp_path,
        input=typed,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "<Own 1>" in result.stdout
    checked = subprocess.run(
        [script, "check", "f"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert checked.stdout.startswith("f: clean: ")


def test_info_lists_the_objects_whose_class_is_gone(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("from durus.persistent import Persistent\nclass Order(Persistent): pass\n")
    program = "import shop\nroot['a'], root['b'] = shop.Order(), shop.Order()\nconnection.commit()\n"
    durus("-c", "--file", "f", cwd=tmp_path, typed=program)
    assert "broken        0 objects" in durus("info", "--broken", "f", cwd=tmp_path).stdout
    (tmp_path / "shop.py").write_text("import a_module_that_is_not_there")
    result = durus("info", "--broken", "f", cwd=tmp_path).stdout
    assert result.endswith("broken        2 objects whose class can't be imported\n  shop.Order: oid 1, 2\n")


def test_info_finds_classes_missing_whose_module_ends_the_program(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("raise SystemExit(3)")
    with Connection(tmp_path / "f") as connection:
        connection.storage.begin()
        data = b"\x80\x04cscript\nOrder\n.\x80\x04}."
        connection.storage.store(oid_from_int(1), pack_record(oid_from_int(1), data, b""))
        connection.storage.end()
    result = durus("info", "--broken", "f", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.endswith("broken        1 objects whose class can't be imported\n  script.Order: oid 1\n")


def test_info_does_not_say_of_unreadable_records_that_their_class_is_gone(tmp_path: Path) -> None:
    with Connection(tmp_path / "f") as connection:
        connection.storage.begin()
        connection.storage.store(oid_from_int(1), pack_record(oid_from_int(1), b"no pickle", b""))
        connection.storage.end()
    result = durus("info", "--broken", "f", cwd=tmp_path).stdout
    assert "  (unreadable)\n" in result
    assert result.endswith("broken        0 objects whose class can't be imported\n")


@pytest.mark.spec("OBJ-43")
def test_rename_tells_what_it_would_do_and_does_it(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("from durus.persistent import Persistent\nclass Order(Persistent): pass\n")
    (tmp_path / "store.py").write_text("from durus.persistent import Persistent\nclass Offer(Persistent): pass\n")
    durus("-c", "--file", "f", cwd=tmp_path, typed="import shop\nroot['a'] = shop.Order()\nconnection.commit()\n")
    before = (tmp_path / "f").read_bytes()
    told = durus("rename", "shop.Order", "store.Offer", "f", "--dry-run", cwd=tmp_path).stdout
    assert told == (
        "f: objects of shop.Order that would be of store.Offer: 1\n"
        "f: other records that name them, and would be changed: 1\n"
    )
    assert (tmp_path / "f").read_bytes() == before
    assert "that are now of store.Offer: 1" in durus("rename", "shop.Order", "store.Offer", "f", cwd=tmp_path).stdout
    assert "nothing in it has the path shop" in durus("rename", "shop", "store", "f", cwd=tmp_path).stdout
    assert "<Offer 1 ghost>" in durus("-c", "--file", "f", cwd=tmp_path, typed="root['a']\n").stdout
    assert durus("check", "f", cwd=tmp_path).returncode == 0
    result = durus("rename", "shop", "store", "typo", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (1, "durus: typo: there is no such file\n")
    assert not (tmp_path / "typo").exists()


def test_convert_copies_a_file_and_replaces_none(tmp_path: Path) -> None:
    durus("-c", "--file", "f", cwd=tmp_path, typed="root['a'] = 5\nconnection.commit()\nconnection.commit()\n")
    assert "bytes copied to g" in durus("convert", "f", "g", cwd=tmp_path).stdout
    assert durus("check", "g", cwd=tmp_path).returncode == 0
    assert "5" in durus("-c", "--file", "g", cwd=tmp_path, typed="root['a']\n").stdout
    result = durus("convert", "f", "g", cwd=tmp_path)
    assert result.returncode == 1
    assert "the file already exists" in result.stderr

"""What a server logs: at which level, in which form, and its summaries."""

import ast
import json
import logging
import re
import tempfile
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

import durus
from durus import storage_server
from durus.cli.main import main
from durus.cli.serve import log_to
from durus.client_storage import ClientStorage
from durus.connection import Connection
from durus.error import ConflictError
from durus.file_storage import FileStorage
from durus.oid import oid_from_int
from durus.serving.counts import Counts, Traffic
from durus.serving.summary import Summaries
from tests.threaded_server import serving

ROOT = Path(__file__).resolve().parent.parent.parent
EVIL = "\x1b[2J\n{}\x07"


class Entries(logging.Handler):
    """Keeps what is logged, and lets a test wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[logging.LogRecord] = []
        self._has_grown = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self._has_grown:
            self.entries.append(record)
            self._has_grown.notify_all()

    def wait_for(self, text: str) -> logging.LogRecord:
        with self._has_grown:
            found = self._has_grown.wait_for(lambda: [each for each in self.entries if text in each.getMessage()], 60)
        assert found, [each.getMessage() for each in self.entries]
        return found[0]


@pytest.fixture
def entries() -> Iterator[Entries]:
    logger = logging.getLogger("durus")
    handler = Entries()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.mark.spec("CMD-25")
def test_commits_are_details_and_a_summary_tells_of_them(entries: Entries) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        with serving(FileStorage(Path(folder, "f.durus")), Path(folder, "s")) as address:
            one, other = (Connection(ClientStorage(address=address)) for _ in range(2))
            other.get_root()["x"] = 1
            one.get_root()["x"] = 2
            one.commit()
            with pytest.raises(ConflictError):
                other.commit()
            one.close()
            other.close()
        summary = entries.wait_for(" commits of ")
    levels = {
        "committed 1 objects": logging.DEBUG,
        "its commit is refused": logging.DEBUG,
        "connected": logging.INFO,
        "listening on": logging.INFO,
        "stopped": logging.INFO,
        " commits of ": logging.INFO,
    }
    assert {text: entries.wait_for(text).levelno for text in levels} == levels
    assert ": 2 commits of 2 objects, " in summary.getMessage()
    assert ", 1 conflicts, " in summary.getMessage()
    assert not [each for each in entries.entries if each.levelno > logging.INFO]


@pytest.mark.spec("CMD-25")
def test_there_is_a_summary_from_time_to_time(entries: Entries, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_server, "_SECONDS_BETWEEN_SUMMARIES", 0.01)
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as folder,
        serving(FileStorage(Path(folder, "f.durus")), Path(folder, "s")) as address,
        Connection(ClientStorage(address=address)),
    ):
        entries.wait_for(" commits of ")


@pytest.mark.spec("CMD-25")
def test_a_summary_tells_what_is_new_and_nothing_if_nothing_is() -> None:
    counts = Counts(100)
    summaries = Summaries(100)
    assert summaries.next(160, counts, Traffic(0, 50, 60)) is None, "a ping is nothing to tell"
    counts.note_commit(3, 1000, 0.004)
    counts.given_up += 1
    first = summaries.next(220, counts, Traffic(5, 150, 260))
    assert first is not None
    assert first.text(2) == (
        "in 60 s: 1 commits of 3 objects, 1000 bytes (half in 4 ms, 99 % in 4 ms), 1 conflicts, 5 loads, 100 bytes in, "
        "200 bytes out; 2 clients now"
    )
    assert first.numbers() == {
        "seconds": 60,
        "commits": 1,
        "objects": 3,
        "bytes": 1000,
        "conflicts": 1,
        "failed_writes": 0,
        "traffic": {"loads": 5, "received": 100, "sent": 200},
        "commit_seconds": {"count": 1, "p50": 0.004, "p90": 0.004, "p99": 0.004, "max": 0.004},
    }
    assert summaries.next(280, counts, Traffic(5, 150, 260)) is None
    counts.failed_writes += 1
    counts.note_conflict([oid_from_int(1)])
    last = summaries.next(340, counts, Traffic(6, 150, 260))
    assert last is not None
    assert last.text(0) == (
        "in 60 s: 0 commits of 0 objects, 0 bytes, 1 conflicts, 1 failed writes, 1 loads, 0 bytes in, 0 bytes out; "
        "0 clients now"
    )


@pytest.mark.spec("CMD-25")
def test_each_entry_is_a_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    began = datetime.now(UTC)
    logger = logging.getLogger("durus")
    with log_to(None, logging.INFO, "json"):
        logger.info("client %s", EVIL)
        logger.info("summary", extra={"numbers": {"commits": 3}})
        try:
            raise ValueError(EVIL)
        except ValueError:
            logger.exception("client %s", EVIL)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.isascii() and line.isprintable() for line in lines)
    plain, summary, error = map(json.loads, lines)
    assert plain == {"time": plain["time"], "level": "INFO", "message": f"client {EVIL}"}
    assert began.replace(microsecond=0) <= datetime.fromisoformat(plain["time"]) <= datetime.now(UTC)
    assert summary["numbers"] == {"commits": 3}
    assert error["level"] == "ERROR"
    assert error["traceback"].startswith("Traceback")
    assert EVIL in error["traceback"]


@pytest.mark.spec("CMD-25", "CMD-2")
def test_another_format_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "f", "--log-format", "xml"]) == 2
    assert "invalid choice: 'xml'" in capsys.readouterr().err


def messages_of_the_log() -> set[str]:
    """Return the texts of all entries that the package writes, with their places for values."""
    found = set()
    for path in Path(durus.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Attribute(
                        value=ast.Name(id="logger" | "_logger") | ast.Attribute(attr="_complaints"),
                        attr="debug" | "info" | "warning" | "error" | "note",
                    ),
                    args=[ast.Constant(value=str(text)), *_],
                ):
                    found.add(text)
    return found


def test_each_entry_is_explained_on_the_page_about_running_a_server() -> None:
    messages = messages_of_the_log()
    assert {"client %s is refused: %s", "no connection can be accepted"} <= messages
    page = (ROOT / "docs" / "howto" / "server.md").read_text(encoding="utf-8")
    clauses = {text: re.split(r"[,;:] ", text)[0] for text in messages}  # what follows says more of the case
    parts = {text: max(re.split(r"%[\d.]*\w", clause), key=len).strip() for text, clause in clauses.items()}
    assert [text for text, part in parts.items() if part not in page] == []

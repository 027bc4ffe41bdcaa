"""durus.web under gunicorn and uvicorn, and the tracker of examples/, over real HTTP."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import durus
from tests.integration.serving import SECONDS, serving

pytest.importorskip("flask", reason="the extra `test` has Flask")
pytest.importorskip("gunicorn", reason="the extra `test` has gunicorn")
pytest.importorskip("starlette", reason="the extra `test` has Starlette")
pytest.importorskip("uvicorn", reason="the extra `test` has uvicorn")

TRACKER = Path(__file__).resolve().parent.parent.parent / "examples" / "tracker"
REQUESTS = int(os.environ.get("DURUS_WEB_REQUESTS", "240"))
CLIENTS = 16

FLASK_APP = """
import os
import durus
import durus.web
from flask import Flask

app = Flask(__name__)
db = durus.open(os.environ["DB"])
app.wsgi_app = durus.web.WSGIMiddleware(app.wsgi_app, db)


@app.get("/")
def read():
    return str(durus.web.root()["count"])


@app.post("/")
def count():
    root = durus.web.root()
    root["count"] += 1
    return str(root["count"])
"""

STARLETTE_APP = """
import os
import durus
import durus.web
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

db = durus.open(os.environ["DB"])


async def read(request):
    return PlainTextResponse(str(durus.web.root()["count"]))


def count(request):
    root = durus.web.root()
    root["count"] += 1
    return PlainTextResponse(str(root["count"]))


app = Starlette(
    routes=[Route("/", read, methods=["GET"]), Route("/", count, methods=["POST"])],
    middleware=[Middleware(durus.web.ASGIMiddleware, db=db)],
)
"""


@contextlib.contextmanager
def web_server(arguments: list[str], folder: Path, **environment: str) -> Iterator[str]:
    """Run a web server on a socket of ours; yield its address when it answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        fd = listening.fileno()
        port = listening.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, "-m", *(argument.replace("FD", str(fd)) for argument in arguments)],
            cwd=folder,
            env={**os.environ, **environment},
            pass_fds=[fd],
            stderr=subprocess.PIPE,
        )
        log: list[bytes] = []
        assert process.stderr is not None
        reader = threading.Thread(target=lambda stream: log.extend(stream), args=[process.stderr])
        reader.start()
        try:
            yield f"http://127.0.0.1:{port}"  # whoever connects waits until the server accepts
        finally:
            process.terminate()
            process.wait(SECONDS)
            reader.join(SECONDS)
            process.stderr.close()
            print(b"".join(log).decode())


def ask(address: str, **form: str) -> str:
    """Return the body of a response; a form is posted. HTTPError for a status of 400 and above."""
    data = urllib.parse.urlencode(form).encode() if form else None
    with urllib.request.urlopen(address, data, timeout=SECONDS) as response:
        body: bytes = response.read()
    return body.decode()


def count_by_many(address: str) -> int:
    """Send requests of which 30 % write; return how many wrote."""

    def one(number: int) -> bool:
        is_write = number % 10 < 3
        assert int(ask(address, **({"x": "y"} if is_write else {}))) >= 0
        return is_write

    with ThreadPoolExecutor(CLIENTS) as clients:
        return sum(clients.map(one, range(REQUESTS)))


GUNICORN = ["gunicorn", "--bind", "fd://FD", "--preload", "--workers", "3", "--threads", "8", "app:app"]
UVICORN = ["uvicorn", "--fd", "FD", "--log-level", "warning", "app:app"]


@pytest.mark.spec("WEB-1", "WEB-3", "WEB-6", "DB-41")
@pytest.mark.parametrize(
    ("program", "command"), [(FLASK_APP, GUNICORN), (STARLETTE_APP, UVICORN)], ids=["gunicorn", "uvicorn"]
)
def test_no_request_fails_and_no_update_is_lost(program: str, command: list[str], tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(program)
    with durus.open(tmp_path / "f") as db, db.transaction() as root:
        root["count"] = 0
    with serving("--file", "f", folder=tmp_path) as server:
        where = f"durus://127.0.0.1:{server.port}"
        with web_server(command, tmp_path, DB=where) as address:
            written = count_by_many(address)
        with durus.open(where) as db, db.transaction() as root:
            assert root["count"] == written > 0


def test_the_tracker_tracks(tmp_path: Path) -> None:
    check_tracker(str(tmp_path / "t"), tmp_path)


def test_the_tracker_tracks_in_an_engine_when_only_its_address_changes(postgres_address: str, tmp_path: Path) -> None:
    check_tracker(postgres_address, tmp_path, "--workers", "2", "--preload")


def check_tracker(where: str, tmp_path: Path, *options: str) -> None:
    """Use the tracker, with its database in that place, as people do."""
    command = ["gunicorn", "--bind", "fd://FD", "--chdir", str(TRACKER), "--threads", "4", *options, "app:app"]
    with web_server(command, tmp_path, TRACKER_DB=where, PYTHONDONTWRITEBYTECODE="1") as address:
        assert "None." in ask(address)
        assert "by Ann" in ask(address, title="The <door> is stuck", author="Ann")
        with ThreadPoolExecutor(8) as clients:
            for page in clients.map(lambda n: ask(address, title=f"Issue {n}", author="Ben"), range(20)):
                assert "by Ben" in page
        page = ask(f"{address}/1", author="Ben", text="I have oiled it.", state="closed")
        assert "Closed" in page
        assert "I have oiled it." in page
        assert "The &lt;door&gt; is stuck" in ask(f"{address}/?state=closed")
        assert [f">Issue {n}<" in ask(address) for n in range(20)] == [True] * 20
        for wrong, form in (("/99", {}), ("/", {"title": "no author"})):
            with pytest.raises(urllib.error.HTTPError) as error:
                ask(address + wrong, **form)
            error.value.close()
            assert error.value.code == (404 if wrong == "/99" else 400)
    with durus.open(where, readonly=True) as db, db.transaction() as root:
        assert sorted(vars(root)) == ["issues"]

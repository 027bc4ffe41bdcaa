"""durus.web when the server goes away in a request, and the application makes an error page of that."""

import asyncio
import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import durus
from durus import web
from durus.error import DisconnectedError
from tests.integration.serving import serving

NUMBERS = range(400)
"""More objects than come with the root, so that the last of them have to be asked for."""


def wsgi(handle: Callable[[], int], db: durus.Database[Any]) -> int:
    def app(environ: web.Environ, start: web.StartResponse) -> Iterable[bytes]:
        start(f"{handle()} whatever", [])
        return [b""]

    statuses: list[str] = []

    def start(status: str, headers: web.Headers, exc_info: web.ExcInfo | None = None, /) -> web.Write:
        statuses.append(status)
        return lambda data: None

    web.WSGIMiddleware(app, db)({"wsgi.input": io.BytesIO()}, start)
    return int(statuses[0].split()[0])


def asgi(handle: Callable[[], int], db: durus.Database[Any]) -> int:
    async def app(scope: web.Scope, receive: web.Receive, send: web.Send) -> None:
        await send({"type": "http.response.start", "status": handle(), "headers": []})
        await send({"type": "http.response.body"})

    async def receive() -> web.Message:
        return {"type": "http.request"}

    statuses: list[int] = []

    async def send(message: web.Message) -> None:
        statuses.append(message.get("status", 0))

    asyncio.run(web.ASGIMiddleware(app, db)({"type": "http"}, receive, send))
    return statuses[0]


@pytest.fixture
def servers() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.spec("WEB-3")
@pytest.mark.parametrize("ask", [wsgi, asgi])
def test_an_error_page_that_a_lost_connection_has_caused_is_tried_again(
    ask: Callable[[Callable[[], int], durus.Database[Any]], int], servers: ExitStack, tmp_path: Path
) -> None:
    with durus.open(tmp_path / "f") as file, file.transaction() as root:
        for number in NUMBERS:
            root[str(number)] = durus.PersistentDict(value=0)
    first = ExitStack()
    port = first.enter_context(serving("--file", "f", folder=tmp_path)).port
    errors: list[DisconnectedError] = []

    def handle() -> int:
        root = web.root()
        if not errors:
            first.close()
            servers.enter_context(serving("--file", "f", "--port", str(port), folder=tmp_path))
        try:
            for number in NUMBERS:
                root[str(number)]["value"] += 1
        except DisconnectedError as error:
            errors.append(error)
            return 500
        return 200

    with first, durus.open(f"durus://127.0.0.1:{port}") as db:
        assert ask(handle, db) == 200
        assert len(errors) == db.stats().retries == 1
        with db.transaction() as root:
            assert [root[str(number)]["value"] for number in NUMBERS] == [1] * len(NUMBERS)

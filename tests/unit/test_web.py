"""The middleware of durus.web, called as a server calls it."""

import asyncio
import io
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import durus
from durus import web
from durus.database import Database
from durus.error import ArgumentError, ConflictError, DurusError, TransactionError

Db = Database[Any]


@pytest.fixture(params=["memory:", "file"])
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Db]:
    where = tmp_path / "f" if request.param == "file" else request.param
    with durus.open(where) as opened:
        with opened.transaction() as root:
            root["n"] = durus.PersistentDict(value=0)
        yield opened


def value(db: Db) -> int:
    with db.transaction() as root:
        found: int = root["n"]["value"]
    return found


def elsewhere(db: Db) -> None:
    """Change the value in another thread's transaction."""

    def change() -> None:
        with db.transaction() as root:
            root["n"]["value"] += 100

    thread = threading.Thread(target=change)
    thread.start()
    thread.join()


class Served:
    """What a server does with a WSGI or an ASGI application, for one request."""

    def __init__(self, db: Db, kind: str, **options: Any) -> None:
        self.db = db
        self.kind = kind
        self.options = options
        self.calls = 0

    def request(self, handle: Callable[[bytes], int], body: bytes = b"") -> int:
        """Return the status of a request whose handler returns one."""
        served = self.wsgi if self.kind == "wsgi" else self.asgi
        return served(handle, body)

    def wsgi(self, handle: Callable[[bytes], int], body: bytes) -> int:
        def app(environ: web.Environ, start: web.StartResponse) -> Iterable[bytes]:
            self.calls += 1
            assert environ[web.ROOT_KEY] is web.root()
            start(f"{handle(environ['wsgi.input'].read())} whatever", [("X", "y")])
            return iter([b"some", b"thing"])

        answers: list[str] = []

        def start(status: str, headers: web.Headers, exc_info: web.ExcInfo | None = None, /) -> web.Write:
            answers.append(status)
            return lambda data: None

        environ = {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
        middleware = web.WSGIMiddleware(app, self.db, **self.options)
        pieces = middleware(environ, start)
        assert b"".join(pieces) == b"something"
        (status,) = answers
        return int(status.split()[0])

    def asgi(self, handle: Callable[[bytes], int], body: bytes) -> int:
        async def app(scope: web.Scope, receive: web.Receive, send: web.Send) -> None:
            self.calls += 1
            assert scope[web.ROOT_KEY] is web.root()
            found, more = b"", True
            while more:
                message = await receive()
                found += message.get("body", b"")
                more = message.get("more_body", False)
            status = await asyncio.to_thread(handle, found) if self.calls % 2 else handle(found)
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": b"something"})

        pieces = [body[start : start + 3] for start in range(0, len(body), 3)] or [b""]
        messages = iter(
            {"type": "http.request", "body": piece, "more_body": number < len(pieces)}
            for number, piece in enumerate(pieces, 1)
        )
        sent: list[web.Message] = []

        async def receive() -> web.Message:
            return next(messages)

        async def send(message: web.Message) -> None:
            sent.append(message)

        middleware = web.ASGIMiddleware(app, self.db, **self.options)
        asyncio.run(middleware({"type": "http"}, receive, send))
        assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
        status: int = sent[0]["status"]
        return status


@pytest.fixture(params=["wsgi", "asgi"])
def serve(request: pytest.FixtureRequest, db: Db) -> Callable[..., Served]:
    return lambda **options: Served(db, request.param, **options)


def add(_: bytes) -> int:
    web.root()["n"]["value"] += 1
    return 200


@pytest.mark.spec("WEB-1", "WEB-5", "WEB-7")
def test_a_request_is_a_transaction(serve: Callable[..., Served], db: Db) -> None:
    served = serve()
    assert served.request(add) == served.request(add) == 200
    assert value(db) == 2
    assert db.stats().connections <= 2


@pytest.mark.spec("WEB-2")
@pytest.mark.parametrize("status", [400, 404, 500])
def test_an_error_response_stores_nothing(serve: Callable[..., Served], db: Db, status: int) -> None:
    served = serve()
    assert served.request(lambda body: add(body) and status) == status
    assert served.calls == 1
    assert value(db) == 0


@pytest.mark.spec("WEB-2")
def test_a_setting_says_what_commits(serve: Callable[..., Served], db: Db) -> None:
    assert serve(commits=lambda status: status == 404).request(lambda body: add(body) and 404) == 404
    assert value(db) == 1


@pytest.mark.spec("WEB-2")
def test_an_exception_stores_nothing_and_comes_out(serve: Callable[..., Served], db: Db) -> None:
    def fail(body: bytes) -> int:
        add(body)
        raise LookupError("no such page")

    with pytest.raises(LookupError, match="no such page"):
        serve().request(fail)
    assert value(db) == 0


@pytest.mark.spec("WEB-3")
def test_a_request_is_called_again_after_a_conflict(serve: Callable[..., Served], db: Db) -> None:
    bodies: list[bytes] = []

    def handle(body: bytes) -> int:
        bodies.append(body)
        web.root()["n"]["value"] += 1
        if len(bodies) < 3:
            elsewhere(db)
        return 200

    assert serve().request(handle, b"a body of some length") == 200
    assert bodies == [b"a body of some length"] * 3
    assert value(db) == 201


@pytest.mark.spec("WEB-3")
@pytest.mark.parametrize("kind", ["wsgi", "asgi"])
def test_an_error_response_that_a_conflict_has_caused_is_tried_again(kind: str, tmp_path: Path) -> None:
    with durus.open(tmp_path / "f") as db, db.transaction() as root:
        root["n"], root["m"] = durus.PersistentDict(value=0), durus.PersistentDict(value=0)

    def change(root: Any) -> None:
        root["n"]["value"] = root["m"]["value"] = 100

    def handle(body: bytes) -> int:
        root = web.root()
        root["n"]["value"] += 1
        if served.calls == 1:
            other = threading.Thread(target=lambda: db.run(change))
            other.start()
            other.join()
        try:
            root["m"]["value"] += 1
        except ConflictError:
            return 500  # as frameworks do
        return 200

    with durus.open(tmp_path / "f") as db:  # with nothing in memory
        served = Served(db, kind)
        assert served.request(handle) == 200
        assert served.calls == 2
        assert value(db) == 101


@pytest.mark.spec("WEB-4")
def test_a_long_body_is_read_once(serve: Callable[..., Served], db: Db) -> None:
    bodies: list[bytes] = []

    def handle(body: bytes) -> int:
        bodies.append(body)
        web.root()["n"]["value"] += 1
        elsewhere(db)
        return 200

    with pytest.raises(ConflictError):
        serve(max_body=10).request(handle, b"a body that is too long")
    assert bodies == [b"a body that is too long"]
    assert value(db) == 100


@pytest.mark.spec("WEB-3")
def test_the_last_try_has_no_conflict(serve: Callable[..., Served], db: Db) -> None:
    calls = 0
    others: list[threading.Thread] = []

    def handle(body: bytes) -> int:
        nonlocal calls
        calls += 1
        web.root()["n"]["value"] += 1
        if calls < 3:
            elsewhere(db)
        else:  # which has to wait for its turn
            others.append(threading.Thread(target=lambda: db.run(lambda root: root["n"].update(value=-1))))
            others[-1].start()
        return 200

    assert serve(tries=3).request(handle) == 200
    others[0].join()
    assert calls == 3
    assert value(db) == -1


@pytest.mark.parametrize("kind", [web.WSGIMiddleware, web.ASGIMiddleware])
@pytest.mark.parametrize("wrong", ["path", "app", "order", "tries"])
def test_wrong_arguments_are_refused_before_a_request(
    kind: Callable[..., object], wrong: str, tmp_path: Path, db: Db
) -> None:
    def app(*_: object) -> list[bytes]:
        raise AssertionError("nobody calls it")

    app_and_db = {"path": (app, tmp_path / "f"), "app": ("app", db), "order": (db, app), "tries": (app, db)}[wrong]
    with pytest.raises(ArgumentError, match="tries is 0" if wrong == "tries" else "takes the application"):
        kind(*app_and_db, tries=0)


@pytest.mark.parametrize("kind", [web.WSGIMiddleware, web.ASGIMiddleware])
@pytest.mark.parametrize("options", [{"max_body": "1M"}, {"max_body": True}, {"commits": None}, {"commits": True}])
def test_wrong_options_are_refused_before_a_request(
    kind: Callable[..., object], options: dict[str, object], db: Db
) -> None:
    with pytest.raises(ArgumentError, match="max_body is a number of bytes, and commits a function"):
        kind(print, db, **options)


def test_a_commit_of_a_connection_in_a_request_does_not_wait_for_the_request(tmp_path: Path) -> None:
    def app(environ: web.Environ, start: web.StartResponse) -> list[bytes]:
        web.root()["n"] += 1
        with database.connection() as connection:
            connection.get_root()["n"] += 1
            connection.commit()
        start("200 OK", [])
        return []

    with durus.open(tmp_path / "f") as database:
        database.run(lambda root: root.update(n=0))
        with pytest.raises(TransactionError, match="inside of an exclusive transaction"):
            web.WSGIMiddleware(app, database)({"wsgi.input": io.BytesIO()}, lambda *_: lambda _: None)


@pytest.mark.spec("WEB-5")
def test_there_is_no_root_outside_of_a_request() -> None:
    with pytest.raises(TransactionError, match="there is no request"):
        web.root()


@pytest.mark.spec("WEB-7")
def test_a_cancelled_request_leaves_nothing(db: Db) -> None:
    async def app(scope: web.Scope, receive: web.Receive, send: web.Send) -> None:
        web.root()["n"]["value"] += 1
        begun.set()
        await asyncio.Event().wait()

    begun = asyncio.Event()

    async def receive() -> web.Message:
        return {"type": "http.request"}

    async def send(message: web.Message) -> None:
        raise AssertionError(message)

    async def main() -> None:
        request: Awaitable[None] = web.ASGIMiddleware(app, db)({"type": "http"}, receive, send)
        task = asyncio.ensure_future(request)
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert value(db) == 0
    with db.transaction(exclusive=True) as root:
        root["n"]["value"] = 7


@pytest.mark.spec("WEB-6")
def test_many_requests_at_once_in_one_loop_lose_nothing(db: Db) -> None:
    async def app(scope: web.Scope, receive: web.Receive, send: web.Send) -> None:
        root = web.root()
        await asyncio.sleep(0)
        root["n"]["value"] += 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    async def receive() -> web.Message:
        return {"type": "http.request"}

    async def send(message: web.Message) -> None:
        pass

    async def main() -> None:
        middleware = web.ASGIMiddleware(app, db)
        await asyncio.gather(*(middleware({"type": "http"}, receive, send) for _ in range(60)))

    asyncio.run(main())
    assert value(db) == 60


def test_other_scopes_are_the_application_s(db: Db) -> None:
    seen: list[str] = []

    async def app(scope: web.Scope, receive: web.Receive, send: web.Send) -> None:
        seen.append(scope["type"])

    async def nothing(*arguments: Any) -> Any:
        raise AssertionError(arguments)

    asyncio.run(web.ASGIMiddleware(app, db)({"type": "lifespan"}, nothing, nothing))
    assert seen == ["lifespan"]


@pytest.mark.spec("WEB-3")
def test_another_try_counts_as_a_retry(serve: Callable[..., Served], db: Db) -> None:
    def handle(body: bytes) -> int:
        web.root()["n"]["value"] += 1
        if served.calls < 3:
            elsewhere(db)
        return 200

    served = serve()
    assert served.request(handle) == 200
    assert (served.calls, db.stats().retries) == (3, 2)


@pytest.mark.spec("WEB-3")
@pytest.mark.parametrize("kind", ["wsgi", "asgi"])
def test_the_error_response_of_the_last_try_is_sent_though_there_was_a_conflict(kind: str, tmp_path: Path) -> None:
    with durus.open(tmp_path / "f") as db, db.transaction() as root:
        root["n"], root["m"] = durus.PersistentDict(value=0), durus.PersistentDict(value=0)
    conflicts = 0

    def change(root: Any) -> None:
        root["n"]["value"] = root["m"]["value"] = 100

    def handle(body: bytes) -> int:
        nonlocal conflicts
        web.root()["n"]["value"] += 1
        other = threading.Thread(target=lambda: db.run(change))
        other.start()
        other.join()
        try:
            web.root()["m"]["value"] += 1
        except ConflictError:
            conflicts += 1
        return 409

    with durus.open(tmp_path / "f") as db:
        assert Served(db, kind, tries=1).request(handle) == 409
        assert conflicts == 1


@pytest.mark.spec("WEB-8")
@pytest.mark.parametrize("tries", [1, 2])
def test_a_transaction_inside_of_the_request_s_is_refused(serve: Callable[..., Served], db: Db, tries: int) -> None:
    def handle(body: bytes) -> int:
        web.root()["n"]["value"] += 1
        if served.calls < tries:
            elsewhere(db)  # so that the next try is exclusive
        with pytest.raises(TransactionError, match="request already has an open transaction of the database"):
            db.run(lambda root: root.clear())
        with db.snapshot() as seen:
            assert "n" in seen
        return 200

    served = serve(tries=tries)
    assert served.request(handle) == 200
    assert served.calls == tries


@pytest.mark.spec("WEB-8")
def test_in_a_request_other_databases_and_after_it_the_same_one_may_be_changed(db: Db) -> None:
    async def later(is_over: asyncio.Event) -> None:
        await is_over.wait()
        await db.run_async(lambda root: root["n"].update(value=5))

    async def app(scope: web.Scope, receive: web.Receive, send: web.Send) -> None:
        with durus.open("memory:") as other, other.transaction() as root:
            root["x"] = 1
        tasks.append(asyncio.ensure_future(later(is_over)))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    async def receive() -> web.Message:
        return {"type": "http.request"}

    async def send(message: web.Message) -> None:
        pass

    async def main() -> None:
        await web.ASGIMiddleware(app, db)({"type": "http"}, receive, send)
        is_over.set()
        await tasks[0]

    is_over = asyncio.Event()
    tasks: list[asyncio.Future[None]] = []
    asyncio.run(main())
    assert value(db) == 5


@pytest.mark.spec("WEB-9")
def test_clients_that_are_slow_to_send_keep_nobody_waiting(db: Db, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_MAX_REQUESTS", 2)

    async def app(scope: web.Scope, receive: web.Receive, send: web.Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    async def receive() -> web.Message:
        return {"type": "http.request"}

    async def send(message: web.Message) -> None:
        pass

    async def main() -> None:
        begun = asyncio.Semaphore(0)

        async def stall() -> web.Message:
            begun.release()
            return await asyncio.Event().wait() and {}

        middleware = web.ASGIMiddleware(app, db)
        stalled = [asyncio.ensure_future(middleware({"type": "http"}, stall, send)) for _ in range(2)]
        for _ in stalled:
            await begun.acquire()
        await asyncio.wait_for(middleware({"type": "http"}, receive, send), 60)
        for task in stalled:
            task.cancel()
        await asyncio.gather(*stalled, return_exceptions=True)

    asyncio.run(main())


def wsgi_answer(app: web.WSGIApp, db: Db) -> tuple[list[str], bytes]:
    statuses: list[str] = []

    def start(status: str, headers: web.Headers, exc_info: web.ExcInfo | None = None, /) -> web.Write:
        statuses.append(status)
        return lambda data: None

    pieces = web.WSGIMiddleware(app, db)({"wsgi.input": io.BytesIO()}, start)
    return statuses, b"".join(pieces)


@pytest.mark.spec("WEB-10")
def test_an_error_page_replaces_what_was_begun(db: Db) -> None:
    def app(environ: web.Environ, start: web.StartResponse) -> Iterable[bytes]:
        start("200 OK", [])(b"half a pa")
        yield b"ge"
        try:
            raise LookupError
        except LookupError:
            start("500 Oops", [], sys.exc_info())
        yield b"sorry"

    assert wsgi_answer(app, db) == (["500 Oops"], b"sorry")


@pytest.mark.spec("WEB-10")
@pytest.mark.parametrize(("calls", "message"), [(0, "without calling start_response"), (2, "start_response twice")])
def test_a_response_starts_once(db: Db, calls: int, message: str) -> None:
    def app(environ: web.Environ, start: web.StartResponse) -> Iterable[bytes]:
        web.root()["n"]["value"] += 1
        for _ in range(calls):
            start("200 OK", [])
        return [b"page"]

    with pytest.raises(DurusError, match=message):
        wsgi_answer(app, db)
    assert value(db) == 0

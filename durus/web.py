"""One transaction for each request, for web applications that use WSGI or ASGI. spec/web.md.

    app.wsgi_app = WSGIMiddleware(app.wsgi_app, db)      Flask
    app.add_middleware(ASGIMiddleware, db=db)            Starlette, FastAPI
    application = WSGIMiddleware(application, db)        Django, and any other

The application calls root() where it needs the root. A response is collected completely before it is sent, because its
transaction commits first, and after a conflict the application handles the request again.
"""

import asyncio
import io
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from functools import cached_property, partial
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from durus.database import Database, Transaction, surrounding
from durus.error import ArgumentError, DurusError, TransactionError
from durus.persistent import PersistentObject
from durus.pool.attempts import pause_seconds

MAX_BODY = 1 << 20
"""How many bytes a request's body may have if the request is to be tried again after a conflict. [WEB-4]"""
_MAX_THREADS = 256
_MAX_REQUESTS = 200
"""One thread for each request at most, so that a request that ends never waits for one that waits for its end."""

ROOT_KEY = "durus.root"

ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]
Headers = list[tuple[str, str]]
Environ = dict[str, Any]
Write = Callable[[bytes], object]


class StartResponse(Protocol):
    def __call__(self, status: str, headers: Headers, exc_info: ExcInfo | None = None, /) -> Write: ...


WSGIApp = Callable[[Environ, StartResponse], Iterable[bytes]]

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

App = TypeVar("App")

_root: ContextVar[PersistentObject] = ContextVar("durus.web.root")


def root() -> Any:
    """Return the root of the request's transaction; TransactionError outside of a request. [WEB-5]"""
    try:
        return _root.get()
    except LookupError:
        raise TransactionError(
            "there is no request; durus.web.root() works inside of a request, use db.transaction() elsewhere"
        ) from None


def below_400(status: int) -> bool:
    """Return whether a response commits the changes of its request: if its status is below 400. [WEB-2]

    Args:
        status: the HTTP status of the response.
    """
    return status < 400


class _Veto(Exception):
    """Ends a transaction whose response reports a failure."""

    def __init__(self, cause: DurusError | None) -> None:
        self.cause = cause
        """The possible reason, which justifies another try. [WEB-3]"""


class _Attempts:
    """The tries of one request: a block each, whose error is swallowed if another try follows."""

    def __init__(self, db: Database[Any], limit: int | None) -> None:
        self._db = db
        self.tries = db.new_tries(limit)
        self.pause = 0.0
        """The seconds before the next try."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        return error is not None and self.go_on(error)

    def go_on(self, error: BaseException | None) -> bool:
        """Return whether another try follows, after an error or the possible reason of an error response."""
        if error is None or not self._db.tries_again(self.tries, error):
            return False
        self.pause = pause_seconds(error, self.tries.number)
        return True


class _Middleware(Generic[App]):
    """The common part of both kinds."""

    def __init__(
        self,
        app: App,
        db: Database[Any],
        *,
        tries: int | None = None,
        max_body: int = MAX_BODY,
        commits: Callable[[int], bool] = below_400,
    ) -> None:
        if not callable(app) or not isinstance(db, Database):
            raise ArgumentError(
                f"{type(self).__name__}({app!r}, {db!r}): it takes the application, which is callable, and then the "
                "Database, which durus.open() returns"
            )
        if type(max_body) is not int or not callable(commits):
            raise ArgumentError(
                f"{type(self).__name__}(max_body={max_body!r}, commits={commits!r}): max_body is a number of bytes, "
                "and commits a function that takes a status"
            )
        db.new_tries(tries)  # checks the number now, not with the first request
        self._app = app
        self._db = db
        self._tries = tries
        self._max_body = max_body
        self._commits = commits


class WSGIMiddleware(_Middleware[WSGIApp]):
    """A WSGI application that handles each request in one transaction of a database.

    Args:
        app: the application; it may be called several times for a request.
        db: what durus.open() returns.
        tries: how often a request is tried, at most; None takes the option `tries` of the database.
        max_body: how many bytes of a body are kept for another try; a request with a longer one is tried once.
        commits: takes the status of a response, and returns whether it commits; the default is below_400.
    """

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        body = self._read_body(environ)
        attempts = _Attempts(self._db, 1 if body is None else self._tries)
        while True:
            own = dict(environ) if body is None else {**environ, "wsgi.input": io.BytesIO(body)}
            with attempts:
                response, cause = self._try(self._db.new_try(attempts.tries), own)
                if not attempts.go_on(cause):
                    break
            time.sleep(attempts.pause)
        start_response(response.status, response.headers, response.exc_info)
        return [bytes(response.body)]

    def _read_body(self, environ: Environ) -> bytes | None:
        """Return the body, None if it is too long to keep, or of unknown length."""
        length = environ.get("CONTENT_LENGTH") or "0"
        if not length.isdecimal() or int(length) > self._max_body or "HTTP_TRANSFER_ENCODING" in environ:
            return None
        body: bytes = environ["wsgi.input"].read(int(length)) if int(length) else b""
        return body

    def _try(self, transaction: Transaction[Any], environ: Environ) -> "tuple[_Response, DurusError | None]":
        """Return the response, and for an error response its possible reason."""
        response = _Response()
        found = transaction.__enter__()
        token = _root.set(found)
        try:
            environ[ROOT_KEY] = found
            response.collect(self._app(environ, response.start))
            if not self._commits(response.code):
                raise _Veto(transaction.trouble)
        except BaseException as error:
            transaction.__exit__(type(error), error, error.__traceback__)
            if not isinstance(error, _Veto):
                raise
            return response, error.cause
        else:
            transaction.__exit__(None, None, None)
        finally:
            _root.reset(token)
        return response, None


class _Response:
    """The answer of a WSGI application."""

    def __init__(self) -> None:
        self.status = ""
        self.headers: Headers = []
        self.exc_info: ExcInfo | None = None
        self.body = bytearray()

    @property
    def code(self) -> int:
        return int(self.status.split(None, 1)[0])

    def start(self, status: str, headers: Headers, exc_info: ExcInfo | None = None, /) -> Write:
        if exc_info is not None:
            self.body.clear()
        elif self.status:
            raise DurusError("the application has called start_response twice; the second call needs exc_info")
        self.status, self.headers, self.exc_info = status, headers, exc_info
        return self.body.extend

    def collect(self, pieces: Iterable[bytes]) -> None:
        """Take all pieces of the body, and close their source."""
        try:
            for piece in pieces:
                self.body += piece
        finally:
            close = getattr(pieces, "close", None)
            if close is not None:
                close()
        if not self.status:
            raise DurusError("the application has returned a response without calling start_response")


class ASGIMiddleware(_Middleware[ASGIApp]):
    """An ASGI application that handles each HTTP request in one transaction of a database.

    Handlers may be coroutines, or functions that the framework runs in threads. Other scopes, such as `websocket` and
    `lifespan`, go to the application unchanged.

    Args:
        app: as for WSGIMiddleware.
        db: as for WSGIMiddleware.
        tries: as for WSGIMiddleware.
        max_body: as for WSGIMiddleware.
        commits: as for WSGIMiddleware.
    """

    _slots: asyncio.Semaphore | None = None

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="durus-web")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._slots is None:
            self._slots = asyncio.Semaphore(_MAX_REQUESTS)
        body = _Body(receive, self._max_body)
        await body.read()  # first, so that a slow client holds no slot [WEB-9]
        async with self._slots:
            answer = await self._answer(scope, body)
        for message in answer:
            await send(message)

    async def _answer(self, scope: Scope, body: "_Body") -> list[Message]:
        attempts = _Attempts(self._db, self._tries if body.is_whole else 1)
        while True:
            with attempts:
                answer, cause = await self._try(self._db.new_try(attempts.tries, owner=body), scope, body)
                if not attempts.go_on(cause):
                    return answer
            await asyncio.sleep(attempts.pause)

    async def _try(
        self, transaction: Transaction[Any], scope: Scope, body: "_Body"
    ) -> tuple[list[Message], DurusError | None]:
        """Return the response, and for an error response its possible reason."""
        answer: list[Message] = []
        status = 500

        async def send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            answer.append(message)

        found = await self._in_thread(transaction, transaction.__enter__)
        token = _root.set(found)
        outer = surrounding.set((*surrounding.get(), transaction))
        try:
            await self._app({**scope, ROOT_KEY: found}, body.replay(), send)
            if not self._commits(status):
                raise _Veto(transaction.trouble)
        except BaseException as error:
            await self._in_thread(None, partial(transaction.__exit__, type(error), error, None))
            if not isinstance(error, _Veto):
                raise
            return answer, error.cause
        else:
            await self._in_thread(None, partial(transaction.__exit__, None, None, None))
        finally:
            surrounding.reset(outer)
            _root.reset(token)
        return answer, None

    async def _in_thread(self, begun: Transaction[Any] | None, call: Callable[[], Any]) -> Any:
        """Run a call to its end, even if the request is cancelled meanwhile; then end its transaction. [WEB-7]"""
        future = asyncio.get_running_loop().run_in_executor(self._threads, call)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError as error:
            cancelled = error
            if begun is not None:

                def end(done: "asyncio.Future[Any]") -> None:
                    if done.exception() is None:
                        self._threads.submit(begun.__exit__, type(cancelled), cancelled, None)

                future.add_done_callback(end)
            raise


class _Body:
    """The body of a request, kept for several reads; the part beyond the limit is read from the server once."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._messages: list[Message] = []
        self.is_whole = False

    async def read(self) -> None:
        size = 0
        while size <= self._limit:
            message = await self._receive()
            self._messages.append(message)
            size += len(message.get("body", b""))
            if message["type"] != "http.request" or not message.get("more_body", False):
                self.is_whole = size <= self._limit
                break

    def replay(self) -> Receive:
        """Return a receive function that repeats the messages so far, and then gives new ones."""
        kept = iter(self._messages)

        async def receive() -> Message:
            return next(kept, None) or await self._receive()

        return receive

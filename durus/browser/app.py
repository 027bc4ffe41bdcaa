"""The pages over HTTP: which address leads to which page, and how it becomes HTML. Statements CMD-50 to CMD-56."""

from collections.abc import Awaitable, Callable, Iterable
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from durus.browser import charts, graph, pages, search
from durus.browser.guard import Guard
from durus.browser.reader import Reader
from durus.browser.values import class_title, short_name
from durus.browser.view import View
from durus.error import ArgumentError, DurusError, DurusKeyError, NetworkError

_Handler = Callable[[Request], Awaitable[Response]]


def make_app(reader: Reader, token: str, hosts: Iterable[str]) -> ASGIApp:
    """Return the application; `hosts` are the values of the header Host under which it may be asked."""
    site = _Site(reader, f"/{token}")
    routes = [Route(path, site.handled(handler)) for path, handler in site.pages()]
    missing = {404: site.missing}
    return Guard(Starlette(routes=[Mount("/{token}", routes=routes)], exception_handlers=missing), token, hosts)


class _Site:
    """Makes the answers to requests."""

    def __init__(self, reader: Reader, base: str) -> None:
        self._reader = reader
        self._base = base
        self._templates = Environment(
            loader=PackageLoader("durus.browser"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals["base"] = base
        self._templates.filters |= {
            "name": short_name,
            "title_of": class_title,
            "size": charts.size_text,
            "count": lambda number: f"{number:,}",
            "svg": Markup,  # what graph and charts have made, where all text is escaped
            "path": pages.path_text,
        }
        css = files("durus.browser").joinpath("templates", "style.css").read_text(encoding="utf-8")
        self._style = css + charts.STYLE + graph.STYLE

    def pages(self) -> list[tuple[str, _Handler]]:
        """Return the paths below the token, and what answers them."""
        return [
            ("/", self._overview),
            ("/style.css", self._style_sheet),
            ("/again", self._again),
            ("/classes", self._classes),
            ("/class/{number:int}", self._class),
            ("/search", self._search),
            ("/object", self._go),
            ("/object/{oid:int}", self._object),
            ("/object/{oid:int}/value", self._value),
            ("/object/{oid:int}/items", self._items),
            ("/object/{oid:int}/refs", self._refs),
            ("/object/{oid:int}/referrers", self._referrers),
            ("/object/{oid:int}/history", self._history),
        ]

    def handled(self, handler: _Handler) -> _Handler:
        """Return a handler that shows errors as pages."""

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except DurusKeyError as error:
                return self._failure(404, error)
            except ArgumentError as error:
                return self._failure(400, error)
            except NetworkError as error:
                return self._failure(503, error)
            except DurusError as error:
                return self._failure(500, error)

        return handle

    async def missing(self, request: Request, error: Exception) -> Response:
        """Return the page for an address that leads nowhere."""
        return self._failure(404, ArgumentError("there is no such page"))

    def _failure(self, status: int, error: DurusError) -> Response:
        return self._html("failure.html", status, title="Not possible", problem=str(error))

    def _html(self, template: str, status: int = 200, **values: object) -> Response:
        html = self._templates.get_template(template).render(values)
        return HTMLResponse(html.encode("utf-8", "backslashreplace"), status)

    async def _page(self, template: str, make: Callable[[View], object], **more: object) -> Response:
        """Return a page with what `make` returns of the database."""

        def all_of(view: View) -> dict[str, object]:
            page = make(view)
            return {"page": page, "source": view.source, "progress": view.progress, "failure": view.failure, **more}

        return self._html(template, 200, **await self._reader.ask(all_of))

    # The pages

    async def _overview(self, request: Request) -> Response:
        return await self._page("overview.html", pages.overview)

    async def _style_sheet(self, request: Request) -> Response:
        return Response(self._style, media_type="text/css")

    async def _again(self, request: Request) -> Response:
        await self._reader.open_again()
        return RedirectResponse(f"{self._base}/", 303)

    async def _classes(self, request: Request) -> Response:
        order, name = _text(request, "order") or pages.ORDERS[0], _text(request, "name")
        start = _number(request, "start") or 0
        return await self._page("classes.html", lambda view: pages.classes(view, order, name, start))

    async def _class(self, request: Request) -> Response:
        number, start = request.path_params["number"], _number(request, "start") or 0
        return await self._page("class.html", lambda view: pages.class_page(view, number, start))

    async def _search(self, request: Request) -> Response:
        query = search.Query(_number(request, "class"), _text(request, "attribute"), _text(request, "text"))
        start = _number(request, "start") or 0

        return await self._page("search.html", lambda view: search.search_page(view, query, start))

    async def _go(self, request: Request) -> Response:
        oid = _number(request, "oid")
        if oid is None:
            raise ArgumentError("give the oid of an object")
        return RedirectResponse(f"{self._base}/object/{oid}", 303)

    async def _object(self, request: Request) -> Response:
        oid, commit = request.path_params["oid"], _number(request, "commit")
        return await self._page("object.html", lambda view: pages.object_page(view, self._base, oid, commit))

    async def _value(self, request: Request) -> Response:
        oid, commit = request.path_params["oid"], _number(request, "commit")
        path, start = pages.path_in(_text(request, "at")), _number(request, "start") or 0
        return await self._page("value.html", lambda view: pages.value_page(view, oid, path, start, commit))

    async def _items(self, request: Request) -> Response:
        oid, key = request.path_params["oid"], _text(request, "key")
        place = pages.path_in(_text(request, "from"))
        return await self._page("items.html", lambda view: pages.items_page(view, oid, place, key))

    async def _refs(self, request: Request) -> Response:
        oid, start = request.path_params["oid"], _number(request, "start") or 0
        return await self._page("references.html", lambda view: pages.refs_page(view, oid, start), kind="refs")

    async def _referrers(self, request: Request) -> Response:
        oid, start = request.path_params["oid"], _number(request, "start") or 0
        return await self._page(
            "references.html", lambda view: pages.referrers_page(view, oid, start), kind="referrers"
        )

    async def _history(self, request: Request) -> Response:
        oid, until = request.path_params["oid"], _number(request, "until")
        return await self._page("history.html", lambda view: pages.history_page(view, oid, until))


def _text(request: Request, name: str) -> str:
    return request.query_params.get(name, "")


def _number(request: Request, name: str) -> int | None:
    """Return a number in the query of an address, None if it is not given; ArgumentError if it is none."""
    text = request.query_params.get(name, "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 20):
        raise ArgumentError(f"{name} is a number, and {short_name(text)!r} is none")
    return int(text)

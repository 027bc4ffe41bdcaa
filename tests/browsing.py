"""The pages of `durus browse`, asked as a web server asks them, and what a browser would see in them."""

import asyncio
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urljoin, urlsplit

from durus.browser.app import make_app
from durus.browser.reader import Reader
from durus.cli.browse import open_source
from durus.connection import Connection

TOKEN = "the-token"
HOST = "127.0.0.1:1"
SECONDS = 60
VOID = {"meta", "link", "input", "br", "path", "rect"}
KNOWN = VOID | {
    *("html", "head", "title", "body", "a", "header", "nav", "form", "label", "button", "main", "p", "h1", "h2"),
    *("dl", "div", "dt", "dd", "section", "table", "thead", "tr", "th", "tbody", "td", "ul", "ol", "li", "span"),
    *("code", "pre", "select", "option", "svg", "text"),
}
"""The elements that the pages are made of."""


class Answer(NamedTuple):
    """What was answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def seen(self) -> "Seen":
        found = Seen()
        found.feed(self.text)
        found.close()
        assert found.open == []
        return found


class Seen(HTMLParser):
    """A page as a browser understands it: its text, and its links. An element that is not known is an error."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.text = ""
        self.links: list[str] = []
        self.open: list[str] = []
        self.label: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in KNOWN, tag
        for name, value in attrs:
            assert not name.startswith("on"), name
            assert name != "style"
            if name in ("href", "action", "src"):
                assert value is not None
                assert value.startswith((f"/{TOKEN}/", "#")), value
                if tag == "a":
                    self.links.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag not in ("a", "span"):
            self.text += " "

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError("no page has a comment")


class Pages:
    """The pages of one database."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self._app = make_app(reader, TOKEN, [HOST])

    def get(self, path: str, method: str = "GET", host: str = HOST, base: str = f"/{TOKEN}") -> Answer:
        """Return the answer to a request for a path below the token."""
        return asyncio.run(self._get(base + path, method, [(b"host", host.encode())]))

    def page(self, path: str) -> Answer:
        """Return a page that must be there, with the elements that it may have, and no control characters."""
        answer = self.get(path)
        assert answer.status == 200, answer.text
        assert not re.search(r"[^\n\x20-\x7e\xa0-\U0010ffff]", answer.text), path
        assert not re.search("[\u200e\u200f\u202a-\u202e\u2066-\u2069]", answer.text), path
        assert answer.seen.text
        return answer

    def text(self, path: str) -> str:
        """Return the text of a page as people see it, without differences of space."""
        return " ".join(self.page(path).seen.text.split())

    def all(self, most: int = 1000) -> Iterator[tuple[str, Answer]]:
        """Follow all links from the first page on; yield each page with its path. Of further pages one is enough."""
        pending = ["/"]
        known = set(pending)
        while pending:
            path = pending.pop()
            answer = self.get(path)
            if answer.status == 303:
                continue
            yield path, answer
            for link in answer.seen.links:
                target = urljoin(f"/{TOKEN}{path}", link).partition("#")[0].removeprefix(f"/{TOKEN}")
                if target not in known and target != "/again" and "start=" not in path:
                    known.add(target)
                    pending.append(target)
            assert len(known) <= most, "there is no end of pages"

    async def _get(self, path: str, method: str, headers: list[tuple[bytes, bytes]]) -> Answer:
        parts = urlsplit(path)
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(parts.path),
            "raw_path": parts.path.encode(),
            "query_string": parts.query.encode(),
            "root_path": "",
            "headers": headers,
            "client": ("127.0.0.1", 2),
            "server": ("127.0.0.1", 1),
        }
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await self._app(scope, receive, send)
        start, *bodies = sent
        fields = {name.decode(): value.decode() for name, value in start["headers"]}
        return Answer(start["status"], fields, b"".join(each.get("body", b"") for each in bodies))


@contextmanager
def browsing(name: str | Path, is_damaged: bool = False) -> Iterator[Pages]:
    """Browse a database, about which everything is known already."""
    with closing(Reader(lambda: open_source(str(name)))) as reader:
        assert reader.complete.wait(SECONDS)
        pages = Pages(reader)
        assert ("Not everything could be read" in pages.get("/").text) == is_damaged
        yield pages


def store(path: str | Path, **values: object) -> None:
    """Store values in the root of a new file."""
    with Connection(path) as connection:
        connection.get_root().update(values)
        connection.commit()

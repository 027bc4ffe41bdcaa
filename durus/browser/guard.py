"""Who may ask, and what a browser may do with an answer. Statements CMD-51 and CMD-52.

Other users of this machine can connect to a port on loopback, and so can a page from anywhere that runs in a browser
here. Neither knows the token. A page that has given its own name the address 127.0.0.1 is recognised by the header
Host.
"""

import hmac
import secrets
from collections.abc import Iterable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_TOKEN_BYTES = 24

HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
]
"""What every answer has. [CMD-52]"""


def new_token() -> str:
    """Return a new token."""
    return secrets.token_urlsafe(_TOKEN_BYTES)


class Guard:
    """An application that lets through only requests with the token, for this host, that read."""

    def __init__(self, app: ASGIApp, token: str, hosts: Iterable[str]) -> None:
        """`hosts` are the values of the header Host that are right."""
        self._app = app
        self._token = token.encode()
        self._hosts = {host.encode() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise ValueError(f"a request of HTTP is expected, not one of {scope['type']!r}")

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
            await send(message)

        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, send_with_headers)
        else:
            status, text = refusal
            headers = [(b"content-type", b"text/plain; charset=utf-8")]
            await send_with_headers({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": text.encode()})

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Return the status and the text of the answer to a request that is refused."""
        headers: Any = scope["headers"]
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return 403, "This address is not the one that `durus browse` has printed.\n"
        given = str(scope["path"]).split("/", 2)[1:2]
        if not given or not hmac.compare_digest(given[0].encode("utf-8", "surrogatepass"), self._token):
            return 404, "There is nothing here. Open the whole address that `durus browse` has printed.\n"
        if scope["method"] not in ("GET", "HEAD"):
            return 405, "A database can only be looked at here.\n"
        return None

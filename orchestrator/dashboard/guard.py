"""Who may see the dashboard: a token, known hosts, one origin. Every request goes through it.

Another page in the same browser must get nothing: its requests carry no cookie (SameSite=Strict), a foreign Origin is
refused, and so is a Host that is not ours, which stops names that somebody points at this machine (DNS rebinding).
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import socket
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, quote, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from swarm.orchestrator.pages.render import EMPTY_STYLE

LOOPBACK = ("127.0.0.1", "localhost", "::1")
POLICY = (
    f"default-src 'none'; script-src 'self'; style-src 'self' {EMPTY_STYLE}; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not `no-referrer`: forms would then come from the origin `null`, as those of other sites do.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

ENTRANCE = '<!doctype html><title>kv-swarm</title><link rel="icon" href="data:,">'


class Guard:
    """Lets a request through when it comes from our own pages in a browser that has shown the token.

    Args:
        app: what is guarded.
        host: the address that the server listens on.
        port: its port.
        token: the secret in the URL; a new one by default.
    """

    def __init__(self, app: ASGIApp, host: str, port: int, token: str | None = None) -> None:
        self._app = app
        self._host = host
        self._port = port
        self.token = token or secrets.token_urlsafe(32)
        self._session = secrets.token_urlsafe(32)
        self._cookie = f"swarm-{port}"  # cookies do not tell ports apart

    @property
    def csrf(self) -> str:
        """What forms must send back: nobody can know it without having read a page."""
        return hmac.new(self._session.encode(), b"form", hashlib.sha256).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the application answer."""
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await refusal(scope, receive, _with_headers(send))
            return
        await self._app(scope, receive, _with_headers(send))

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        host = headers.get("host", "")
        if not self._is_ours(host):
            return PlainTextResponse("This is no address of the dashboard.", 421)
        origin = headers.get("origin")
        if origin is not None and origin != f"http://{host}":
            return PlainTextResponse("Another origin gets nothing.", 403)
        if scope["method"] not in ("GET", "HEAD") and origin is None:
            return PlainTextResponse("Only our own pages can send forms.", 403)
        query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if "token" in query:
            return self._enter(scope["path"], query)
        if not hmac.compare_digest(self._shown(headers).encode(), self._session.encode()):
            return PlainTextResponse("Open the address that `swarm dashboard` printed: it holds the token.", 401)
        return None

    def _enter(self, path: str, query: Mapping[str, list[str]]) -> Response:
        """Take the token out of the address and into a cookie.

        By a page that leads on, not by a redirect: to a browser that came here over a link on another site, a redirect
        still belongs to that site, and would carry no strict cookie.
        """
        if not hmac.compare_digest(query["token"][-1].encode(), self.token.encode()):
            return PlainTextResponse("This is not the token that `swarm dashboard` printed.", 401)
        rest = urlencode([(name, value) for name, values in query.items() if name != "token" for value in values])
        # A path such as //elsewhere would lead to another host.
        place = "/" + quote(path.lstrip("/")) + (f"?{rest}" if rest else "")
        answer = HTMLResponse(ENTRANCE, headers={"Cache-Control": "no-store"})
        answer.headers["Refresh"] = f"0; url={place}"
        answer.set_cookie(self._cookie, self._session, httponly=True, samesite="strict", path="/")
        return answer

    def _shown(self, headers: Headers) -> str:
        """The session that the browser shows."""
        try:
            jar: SimpleCookie = SimpleCookie(headers.get("cookie", ""))
        except CookieError:
            return ""
        return jar[self._cookie].value if self._cookie in jar else ""

    def _is_ours(self, host: str) -> bool:
        """Whether a Host header names this server."""
        name, port = _split(host)
        if port != self._port:
            return False
        if name == self._host.lower() or (self._host in LOOPBACK and name in LOOPBACK):
            return True
        # Listening on all addresses: a number cannot be pointed elsewhere, a name only if it is our own.
        return self._host in ("0.0.0.0", "::") and (  # noqa: S104
            name in LOOPBACK or name == socket.gethostname().lower() or _is_number(name)
        )


def _split(host: str) -> tuple[str, int]:
    """Name (without brackets) and port of a Host header; port -1 for one that is none."""
    name, colon, port = host.rpartition(":")
    if not colon or port.endswith("]"):
        name, port = host, "80"
    number = int(port) if port.isascii() and port.isdecimal() and len(port) < 6 else -1
    return name.removeprefix("[").removesuffix("]").lower(), number


def _is_number(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _with_headers(send: Send) -> Send:
    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return sender

"""The server of an endpoint: its URL, and what it answers when it is asked without the client of the protocol."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from swarm.experiments.engines.base import Host, Reply
from swarm.kernels.errors import UsageError

LOOK_SECONDS = 5.0
"""Seconds that a server gets for a plain question."""
MAX_REPLY_BYTES = 16 << 20


def normalise(url: str) -> str:
    """The base URL that the protocol's paths are added to: `localhost:8080` means `http://localhost:8080/v1`.

    Raises:
        UsageError: no URL of an HTTP server.
    """
    given = url.strip()
    parts = urlsplit(given if "://" in given else f"http://{given}")
    try:
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise UsageError(f"{url!r} is not the URL of an endpoint.", "Write for example http://localhost:8080/v1.")
    path = parts.path.rstrip("/") or "/v1"
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


def public(url: str) -> str:
    """A URL without user name and password."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def is_loopback(url: str) -> bool:
    """Whether a URL means this machine."""
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


class HttpHost(Host):
    """The server of an endpoint, asked without the client of the protocol.

    Args:
        base_url: URL of the endpoint, `/v1` included.
        api_key: sent when given.
        timeout: seconds to wait for the answer to a POST request.
    """

    def __init__(self, base_url: str, api_key: str, timeout: float = 600.0) -> None:
        parts = urlsplit(base_url)
        self._root = urlunsplit((parts.scheme, parts.netloc, parts.path.removesuffix("/v1"), "", ""))
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout = timeout
        # No proxy leads to this machine.
        proxies = [urllib.request.ProxyHandler({})] if is_loopback(base_url) else []
        self._open = urllib.request.build_opener(*proxies).open

    def get(self, path: str) -> Reply:
        """GET a path; never raises."""
        return self._ask(urllib.request.Request(self._root + path, headers=self._headers), LOOK_SECONDS)  # noqa: S310

    def post(self, path: str, body: Mapping[str, Any]) -> Reply:
        """POST a JSON body to a path; never raises."""
        headers = {**self._headers, "Content-Type": "application/json"}
        request = urllib.request.Request(self._root + path, json.dumps(body).encode(), headers)  # noqa: S310
        return self._ask(request, self._timeout)

    def _ask(self, request: urllib.request.Request, timeout: float) -> Reply:
        try:
            with self._open(request, timeout=timeout) as answer:
                text = answer.read(MAX_REPLY_BYTES).decode("utf-8", "replace")
                return Reply(answer.status, text, answer.headers.get("Server", ""))
        except urllib.error.HTTPError as error:
            text = error.read(MAX_REPLY_BYTES).decode("utf-8", "replace")
            return Reply(error.code, text, error.headers.get("Server", ""))
        except (OSError, ValueError, http.client.HTTPException):
            return Reply(0)

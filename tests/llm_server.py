"""A real HTTP server that plays an LLM endpoint in any weather."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Behaviour = Callable[["Handler", dict[str, Any]], None]


class Handler(BaseHTTPRequestHandler):
    """Plays the next behaviour of its server; the last one for ever."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.send_json({"object": "list", "data": [{"id": name, "object": "model"} for name in self.server.models]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.bodies.append(body)
            self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
            plan = self.server.plan
            behaviour = plan.pop(0) if len(plan) > 1 else plan[0]
        behaviour(self, body)

    def send_json(self, value: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_bytes(json.dumps(value).encode(), status, headers)

    def send_bytes(self, data: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {
            "content-type": "application/json",
            "content-length": str(len(data)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


class Server(ThreadingHTTPServer):
    """The endpoint. `plan` says what each call meets."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.models = ["test-model"]
        self.plan: list[Behaviour] = [says("{}")]
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, *args: object) -> None:
        pass


def completion(text: str, *, tokens: tuple[int, int] | None = (100, 20), **message: Any) -> dict[str, Any]:
    found = {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "test-model",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text, **message}}
        ],
    }
    if tokens is not None:
        found["usage"] = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
    return found


def says(text: str | Callable[[dict[str, Any]], str], **fields: Any) -> Behaviour:
    def behave(handler: Handler, body: dict[str, Any]) -> None:
        handler.send_json(completion(text(body) if callable(text) else text, **fields))

    return behave


def status(code: int, *, message: str = "no", headers: dict[str, str] | None = None) -> Behaviour:
    def behave(handler: Handler, body: dict[str, Any]) -> None:
        handler.send_json({"error": {"message": message, "type": "x", "code": "x"}}, code, headers)

    return behave


def hangs(seconds: float = 30.0) -> Behaviour:
    def behave(handler: Handler, body: dict[str, Any]) -> None:
        deadline = time.monotonic() + seconds
        handler.connection.settimeout(0.05)
        while time.monotonic() < deadline:
            try:
                if not handler.connection.recv(1, socket.MSG_PEEK):
                    return
            except TimeoutError:
                continue
            except OSError:
                return

    return behave


def breaks_off(data: bytes = b'{"id": "x", "choices": [{"mess') -> Behaviour:
    def behave(handler: Handler, body: dict[str, Any]) -> None:
        handler.send_response(200)
        handler.send_header("content-type", "application/json")
        handler.send_header("content-length", "100000")
        handler.end_headers()
        handler.wfile.write(data)
        handler.wfile.flush()
        handler.connection.shutdown(socket.SHUT_RDWR)
        handler.close_connection = True

    return behave


def raw(data: bytes, content: str = "application/json") -> Behaviour:
    def behave(handler: Handler, body: dict[str, Any]) -> None:
        handler.send_bytes(data, 200, {"content-type": content})

    return behave


def waits(answered: threading.Event) -> Behaviour:
    """No answer before that moment, however long it takes."""

    def behave(handler: Handler, body: dict[str, Any]) -> None:
        answered.wait(240)
        handler.send_json(completion("{}"))

    return behave


@contextmanager
def serving() -> Iterator[Server]:
    """A server on a free port of loopback, for the time of a block."""
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield running
    finally:
        running.shutdown()
        running.server_close()
        thread.join(5)

"""Engines for tests: a real mlx_lm.server process, and a server that answers whatever a test wants."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

START_SECONDS = 90


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_up(url: str, process: subprocess.Popen | None = None) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")
        try:
            urllib.request.urlopen(url, timeout=2).close()
        except (OSError, urllib.error.URLError):
            time.sleep(0.2)
        else:
            return
    raise RuntimeError(f"nothing answers at {url}")


class MlxServer:
    """A real `mlx_lm.server` on loopback, serving a model directory."""

    def __init__(self, model: Path, log: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._log = log.open("w")
        command = [sys.executable, "-m", "mlx_lm", "server", "--model", str(model), "--port", str(port)]
        self._process = subprocess.Popen(
            command, stdout=self._log, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        wait_until_up(f"{self.url}/health", self._process)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()


class FakeEngine:
    """Answers requests by a function `(method, path, body) -> (status, headers, chunks)`: what bad servers do."""

    def __init__(self, answer: Callable[[str, str, dict], tuple[int, dict[str, str], list[bytes]]]) -> None:
        self.requests: list[tuple[str, dict, dict[str, str]]] = []
        engine = self

        class Handler(BaseHTTPRequestHandler):
            server_version = "Fake"
            sys_version = ""

            def _respond(self, method: str) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length) or b"{}")
                engine.requests.append((self.path, body, dict(self.headers)))
                status, headers, chunks = answer(method, self.path, body)
                if status == 0:
                    self.connection.close()
                    return
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.end_headers()
                for chunk in chunks:
                    self.wfile.write(chunk)
                    self.wfile.flush()

            def do_GET(self) -> None:
                self._respond("GET")

            def do_POST(self) -> None:
                self._respond("POST")

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.handle_error = lambda *args: None
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def __enter__(self) -> FakeEngine:
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def events(*pieces: dict, done: bool = True) -> list[bytes]:
    """Server-sent events of a stream."""
    lines = [f"data: {json.dumps(piece)}\n\n".encode() for piece in pieces]
    return [*lines, b"data: [DONE]\n\n"] if done else lines

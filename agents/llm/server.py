"""`--llm local[:MODEL]`: a server of our own on loopback, by llama.cpp for GGUF files on CPUs, else by mlx-lm.

`LocalServer` starts and stops the process; as `python -m swarm.agents.llm.server` this module is that process.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from swarm.agents.llm.endpoint import LlmEndpoint
from swarm.agents.llm.retry import CallError

HOST = "127.0.0.1"
MAX_START_SECONDS = 600.0
"""Seconds that a server may take to load its model (converting it included)."""

MAX_TAIL_CHARS = 300
NICENESS = 7
"""How far the server steps back behind trials: beside two busy workers on two cores a thread gets a fifth of a core."""


class LocalServer:
    """A server process on a free port of loopback. Starting returns at once; `wait` blocks until it answers.

    Args:
        model: a bundled model, a GGUF file, a local directory or a Hugging Face id.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        self._log = Path(tempfile.mkdtemp(prefix="swarm-llm-")) / "server.log"
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            self._port = int(probe.getsockname()[1])
        self._lock = threading.Lock()
        self._ready = False
        command = [sys.executable, "-m", "swarm.agents.llm.server", model, str(self._port), str(os.getpid())]
        with self._log.open("wb") as log:
            # A session of its own: Ctrl-C is for the campaign, which ends the server when it is done with it.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def endpoint(self) -> LlmEndpoint:
        """Where it will answer. `default_model` is mlx_lm.server's name for the model that it was started with."""
        return LlmEndpoint(f"http://{HOST}:{self._port}/v1", "default_model")

    def wait(self) -> None:
        """Block until the server answers.

        Raises:
            CallError: it ended, or took too long, with the end of its log.
        """
        deadline = time.monotonic() + MAX_START_SECONDS
        with self._lock:
            while not self._ready:
                if self._process.poll() is not None:
                    raise CallError(
                        f"the local LLM server ended: {self._tail()}",
                        "Try another --llm local:MODEL, or leave --llm out.",
                        outcome="local_ended",
                        fatal=True,
                    )
                if time.monotonic() > deadline:
                    raise CallError("the local LLM server does not start.", outcome="local_slow", fatal=True)
                self._ready = self._answers()
                if not self._ready:
                    time.sleep(0.25)

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        try:
            self._process.wait(2.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with contextlib.suppress(OSError):
            self._log.unlink()
            self._log.parent.rmdir()

    def _answers(self) -> bool:
        import httpx2

        try:  # past any proxy: the server is on this machine
            return httpx2.get(f"http://{HOST}:{self._port}/health", timeout=2.0, trust_env=False).status_code == 200
        except httpx2.HTTPError:
            return False

    def _tail(self) -> str:
        try:
            lines = self._log.read_text("utf-8", "replace").strip().splitlines()
        except OSError:
            return "no log is left."
        return (lines[-1] if lines else "without a word")[:MAX_TAIL_CHARS]


def main() -> None:
    """Serve `argv[1]` (a model's name) on port `argv[2]` until process `argv[3]`, which started this one, is gone."""
    name, port, parent = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    _die_with(parent)  # told, not looked up: it may be gone already
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    from swarm.agents.llm.runtimes import llama_cpp, mlx
    from swarm.experiments.models import registry
    from swarm.kernels import blas

    file = registry.gguf(name) if llama_cpp.is_installed() and (_is_file(name) or not _has_gpu()) else None
    if file is not None:
        llama_cpp.serve(file, HOST, port)
    else:
        blas.use_openblas()
        mlx.serve(name, registry.ensure(name), HOST, port)


def _is_file(name: str) -> bool:
    """Whether a model is a file that llama.cpp alone can read."""
    return name.endswith(".gguf")


def _has_gpu() -> bool:
    """Whether MLX runs on something else than the CPU."""
    from swarm.kernels import blas

    blas.use_openblas()
    import mlx.core as mx

    return bool(mx.default_device() != mx.cpu)


def _die_with(parent: int) -> None:
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main()

"""A GGUF file served by llama.cpp, in this process: its own HTTP server, answers held to JSON schemas by llguidance."""

from __future__ import annotations

import threading
from importlib.util import find_spec
from pathlib import Path

MAX_CONTEXT = 4_096
"""Tokens of prompt and answer; a role's question takes fewer than half of them."""

MAX_THREADS = 8
"""Threads that decode one answer; more of them wait for memory, and for each other."""

CACHE_MIB = 512
"""Memory for the prompts of the roles, so that each finds its beginning again."""


def is_installed() -> bool:
    """Whether the package is here."""
    return find_spec("xllamacpp") is not None


def serve(file: Path, host: str, port: int) -> None:
    """Serve a GGUF file; returns never.

    Raises:
        RuntimeError: llama.cpp cannot load it.
    """
    import xllamacpp

    from swarm.experiments.environment import cores

    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.hostnames, params.port = [host], port
    params.n_ctx, params.n_parallel, params.cache_ram_mib = MAX_CONTEXT, 1, CACHE_MIB
    # Half of the cores, and no waiting in loops: trials keep cores busy, and threads of one step wait for each other.
    for threads in (params.cpuparams, params.cpuparams_batch):
        threads.n_threads, threads.poll = max(1, min(MAX_THREADS, cores() // 2)), 0
    params.ui = params.endpoint_slots = params.endpoint_props = params.endpoint_metrics = False
    params.warmup = False
    server = xllamacpp.Server(params)
    threading.Event().wait()
    del server  # kept until here: it ends with its last reference

"""llama.cpp's server out of the package xllamacpp, told by the flags of llama-server.

For machines without the executable: the package holds the same server for one process. This file is run by its path,
so that it starts without the rest of kv-swarm.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Sequence
from typing import Any

ON, OFF = "on", "off"


def parser() -> argparse.ArgumentParser:
    """The flags that are understood, named as llama-server names them."""
    made = argparse.ArgumentParser(prog="llama-server (xllamacpp)", allow_abbrev=False)
    made.add_argument("--model", required=True)
    made.add_argument("--host", default="127.0.0.1")
    made.add_argument("--port", type=int, default=8080)
    for name in ("--ctx-size", "--parallel", "--batch-size", "--ubatch-size", "--threads", "--threads-batch", "--poll",
                 "--poll-batch", "--cache-ram", "--ctx-checkpoints", "--cache-reuse", "--n-gpu-layers"):  # fmt: skip
        made.add_argument(name, type=int)
    for name in ("--cache-type-k", "--cache-type-v"):
        made.add_argument(name)
    made.add_argument("--flash-attn", choices=(ON, OFF, "auto"))
    for name in ("--kv-unified", "--swa-full", "--context-shift", "--repack", "--cache-prompt"):
        made.add_argument(name, action=argparse.BooleanOptionalAction)
    return made


def params(given: argparse.Namespace) -> Any:
    """The parameters of the library that the flags mean; what is not given stays as the library has it."""
    import xllamacpp

    made = xllamacpp.CommonParams()
    made.model.path = given.model
    made.hostnames, made.port = [given.host], given.port
    made.ui = False
    direct = {
        "n_ctx": given.ctx_size, "n_parallel": given.parallel, "n_batch": given.batch_size,
        "n_ubatch": given.ubatch_size, "cache_ram_mib": given.cache_ram, "n_ctx_checkpoints": given.ctx_checkpoints,
        "n_cache_reuse": given.cache_reuse, "n_gpu_layers": given.n_gpu_layers, "kv_unified": given.kv_unified,
        "swa_full": given.swa_full, "ctx_shift": given.context_shift, "cache_prompt": given.cache_prompt,
        "no_extra_bufts": None if given.repack is None else not given.repack,
    }  # fmt: skip
    for side in ("k", "v"):
        kind = getattr(given, f"cache_type_{side}")
        known = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{(kind or 'f16').upper()}", None)
        if known is None:
            sys.exit(f"error: --cache-type-{side} {kind} is not supported")
        direct[f"cache_type_{side}"] = known
    if given.flash_attn is not None:
        kind = {ON: "ENABLED", OFF: "DISABLED", "auto": "AUTO"}[given.flash_attn]
        made.flash_attn_type = getattr(xllamacpp.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{kind}")
    for name, value in direct.items():
        if value is not None:
            setattr(made, name, value)
    for cores, threads, poll in (
        (made.cpuparams, given.threads, given.poll),
        (
            made.cpuparams_batch,
            given.threads_batch or given.threads,
            given.poll if given.poll_batch is None else given.poll_batch,
        ),
    ):
        if threads is not None:
            cores.n_threads = threads
        if poll is not None:
            cores.poll = poll
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until the process ends."""
    given = parser().parse_args(arguments)
    import xllamacpp

    server = xllamacpp.Server(params(given))
    threading.Event().wait()
    del server  # kept until here: it ends with its last reference


if __name__ == "__main__":
    main()

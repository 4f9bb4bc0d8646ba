"""`python -m swarm.agents.llm.server`: mlx_lm.server on loopback, fast on a CPU too, gone with its parent."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
LATER = 5


def main() -> None:
    """Serve `argv[1]` (a model's name) on port `argv[2]` until process `argv[3]`, which started this one, is gone."""
    name, port, parent = sys.argv[1:4]
    _die_with(int(parent))  # told, not looked up: it may be gone already
    with contextlib.suppress(OSError):
        os.nice(LATER)  # trials come first
    from swarm.experiments.models import registry
    from swarm.kernels import blas

    blas.use_openblas()
    folder = registry.ensure(name)
    import mlx.core as mx
    from mlx_lm import server

    if mx.default_device() == mx.cpu:
        server.load = _loader(name)
    sys.argv = ["mlx_lm.server", "--model", str(folder), "--host", HOST, "--port", port, "--log-level", "WARNING"]
    server.main()


def _loader(name: str) -> Any:
    """Our loader in the place of mlx-lm's: 16-bit floats are slow on a CPU."""
    from swarm.experiments.models import registry

    def load(path: str, **_: Any) -> tuple[Any, Any, dict[str, Any]]:
        loaded = registry.load(name)
        return loaded.model, loaded.tokenizer, json.loads((Path(path) / "config.json").read_text("utf-8"))

    return load


def _die_with(parent: int) -> None:
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main()

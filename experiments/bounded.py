"""Calls a function in a process of its own, with limits on memory and time: for code of others that might compute.

MLX arrays are lazy, so that looking at a model without weights costs milliseconds. Some models compute on the way all
the same, with random weights of full size.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from swarm.kernels.errors import ModelError

MAX_BYTES = 4 << 30
MAX_SECONDS = 60.0
CHECK_SECONDS = 0.02
"""Between two looks at the memory of the process."""
EXCEEDED_STATUS = 75
"""Exit status of a process that went over its limit."""


def call(function: str, *arguments: Any, what: str) -> Any:
    """The answer of `package.module:function` for arguments that JSON can hold; so must be the answer.

    Args:
        function: module and name.
        arguments: passed on.
        what: what is being looked at, for the error.

    Raises:
        ModelError: the function raised one, went beyond the limits, or failed.
    """
    command = [sys.executable, "-c", f"from {__name__} import main; main()", function, str(MAX_BYTES)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        done = subprocess.run(
            command, input=json.dumps(arguments), capture_output=True, text=True, env=environment,
            timeout=MAX_SECONDS, check=False,
        )  # fmt: skip
        exceeded = done.returncode == EXCEEDED_STATUS
    except subprocess.TimeoutExpired:
        exceeded = True
    if exceeded:
        limits = f"{MAX_BYTES >> 30} GiB or {MAX_SECONDS:g} s"
        raise ModelError(
            f"mlx-lm needs more than {limits} to run {what} without weights.", "Give a GGUF file or the weights of it."
        )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise ModelError(f"mlx-lm cannot run {what} without weights: {reason}.", "Give the weights of it.")
    kind, answer = json.loads(done.stdout.splitlines()[-1])
    if kind == "error":
        raise ModelError(*answer)
    return answer


def main() -> None:
    """The other process: arguments as JSON from standard input, the answer as JSON."""
    threading.Thread(target=_watch_memory, args=(int(sys.argv[2]),), daemon=True).start()
    import mlx.core as mx

    mx.set_default_device(mx.cpu)
    module, name = sys.argv[1].split(":")
    arguments = json.load(sys.stdin)
    try:
        answer = ["answer", getattr(importlib.import_module(module), name)(*arguments)]
    except ModelError as error:
        answer = ["error", [error.problem, error.remedy]]
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    os._exit(0)  # nothing here is worth the time of an orderly end


def _watch_memory(limit: int) -> None:
    """End this process as soon as it held more bytes than its limit."""
    while _most_held() < limit:
        time.sleep(CHECK_SECONDS)
    os._exit(EXCEEDED_STATUS)


def _most_held() -> int:
    """The most bytes of memory that this process held."""
    if sys.platform == "linux":  # where `ru_maxrss` starts at what the parent held
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) << 10
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

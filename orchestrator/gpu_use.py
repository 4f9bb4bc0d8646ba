"""How busy this machine's NVIDIA GPUs are while a campaign runs: asked of nvidia-smi, told as an event at the end."""

from __future__ import annotations

import os
import subprocess
import threading
from dataclasses import dataclass, field
from statistics import fmean
from typing import IO, TYPE_CHECKING, Self

if TYPE_CHECKING:
    from swarm.memory.store import Store

EVENT = "gpu.use"
EVERY_MS = 500


def watching(visible: str | None) -> tuple[str, ...]:
    """The command that prints a line of two numbers per look and GPU, of those that CUDA_VISIBLE_DEVICES names."""
    what = ("--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits", f"--loop-ms={EVERY_MS}")
    return ("nvidia-smi", *what, *([f"--id={visible}"] if visible else []))


@dataclass
class Samples:
    """Per look and GPU: the share of time in which a kernel ran, in percent, and MiB in use by anyone."""

    busy: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)

    def read(self, lines: IO[str]) -> None:
        """Take what nvidia-smi prints until it ends; lines without both numbers are left out."""
        for line in lines:
            try:
                busy, memory = map(float, line.split(","))
            except ValueError:  # a device that does not tell, or a word of warning
                continue
            self.busy.append(busy)
            self.memory.append(memory)


class GpuUse:
    """Watches the GPUs while it is entered; a machine without nvidia-smi has nothing to watch.

    Args:
        store: where the event is written when it is left; open until then.
        campaign_id: whose event it is.
        command: what prints the numbers, see `watching`; that of the GPUs that this process sees if left out.
    """

    def __init__(self, store: Store, campaign_id: int, command: tuple[str, ...] | None = None) -> None:
        self._store = store
        self._campaign_id = campaign_id
        self._command = command or watching(os.environ.get("CUDA_VISIBLE_DEVICES"))
        self.samples = Samples()
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        try:
            self._process = subprocess.Popen(
                self._command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, text=True
            )
        except OSError:
            return self
        self._thread = threading.Thread(target=self.samples.read, args=(self._process.stdout,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._process is None:
            return
        self._process.terminate()
        self._process.wait()
        self._thread.join(1.0)
        if not self.samples.busy:
            return
        busy, memory = fmean(self.samples.busy), max(self.samples.memory)
        self._store.events.add(
            self._campaign_id,
            EVENT,
            f"GPU {busy:.0f}% busy, {memory / 1024:.1f} GiB of its memory in use at most",
            {"busy_percent": busy, "peak_mib": memory, "looks": len(self.samples.busy)},
        )

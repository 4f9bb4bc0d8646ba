"""Kernels that MLX compiled for an NVIDIA GPU, kept in the user cache and shared by the processes of a machine.

MLX keeps what it compiles in the folder `MLX_PTX_CACHE_DIR`, which it reads once, and writes there in place: another
process that reads at that moment gets half a file. So each process has a folder of its own, and files that are complete
are copied into a common one and out of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from swarm.experiments import artifacts
from swarm.experiments.environment import device_name, version

SUFFIXES = (".txt", ".ptx")
"""The names of a module's kernels and its code; MLX takes a module for compiled when it finds the last one."""
OWN, HELD = ".of-process-", "held"
"""Folders of processes, and the file in each that its process keeps locked."""


class CompiledKernels:
    """The folders of this process, made before its first kernel is compiled.

    Args:
        root: where the common folders of all devices and versions of MLX lie; the user cache by default.

    Raises:
        CacheError: it cannot be written.
    """

    def __init__(self, root: Path | None = None) -> None:
        root = artifacts.writable(root or artifacts.cache_dir() / "kernels")
        with artifacts.cache_errors(root), artifacts.locked(root / "lock"):
            _tidy(root)
            self._common = artifacts.writable(root / f"{device_name()}, mlx {version('mlx')}".replace("/", " "))
            self._own = Path(tempfile.mkdtemp(prefix=OWN, dir=root))
            self._held = (self._own / HELD).open("w")  # locked while this process lives
            fcntl.flock(self._held, fcntl.LOCK_EX)
        os.environ["MLX_PTX_CACHE_DIR"] = str(self._own)
        self.exchange()

    def exchange(self) -> None:
        """Take what others compiled, and give what was compiled here; never while MLX compiles in this process."""
        with contextlib.suppress(OSError):  # compiling again is all that a full disk costs
            _copy(self._common, self._own)
            _copy(self._own, self._common)


def _copy(source: Path, target: Path) -> None:
    """Copy the modules that the target lacks; each file appears there complete or not at all."""
    for code in source.rglob(f"*{SUFFIXES[-1]}"):
        place = target / code.relative_to(source)
        if place.exists():
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        for suffix in SUFFIXES:
            partial = place.with_name(f".{os.getpid()}{suffix}.partial")
            shutil.copyfile(code.with_suffix(suffix), partial)
            partial.replace(place.with_suffix(suffix))


def _tidy(root: Path) -> None:
    """Remove the folders of processes that are gone."""
    for held in root.glob(f"{OWN}*/{HELD}"):
        with contextlib.suppress(OSError), held.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(held.parent, ignore_errors=True)

"""Where and with what a measurement was made."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path

from swarm.experiments.spec import Device, Environment
from swarm.kernels import blas

PACKAGES = ("kv-swarm", "mlx", "mlx-lm", "numpy", "transformers")
ARITHMETIC = ("mlx", "mlx-lm", "numpy")
ROOT = Path(__file__).resolve().parents[1]


@cache
def device() -> Device:
    """The device that MLX computes on in this process."""
    import mlx.core as mx

    if mx.default_device().type == mx.DeviceType.cpu:
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"


def cores() -> int:
    """Cores that this process may use, container limits included."""
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    try:
        quota, _, period = Path("/sys/fs/cgroup/cpu.max").read_text().strip().partition(" ")
    except OSError:
        return allowed
    return max(1, min(allowed, int(quota) // int(period))) if quota.isdigit() and period.isdigit() else allowed


def environment() -> Environment:
    """This process: device, versions, BLAS, git revision and code version."""
    return Environment(
        device=f"{device()}: {device_name()}",
        platform=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        versions=_versions(),
        blas=blas_name(),
        git_revision=git_revision(),
        code_version=code_version(),
    )


def arithmetic() -> str:
    """What decides the last bits of a result: device, libraries and their versions."""
    libraries = " ".join(f"{name} {version}" for name, version in _versions().items() if name in ARITHMETIC)
    return f"{device()}; {blas_name()}; {libraries}"


def blas_name() -> str:
    """The BLAS that multiplies matrices, with its threads."""
    status = blas.status()
    threads = "" if status.threads is None else f", {status.threads} thread{'s' * (status.threads != 1)}"
    return f"{status.library}{threads}{'' if status.in_force else ', not in force'}"


@cache
def device_name() -> str:
    """The name of the chip, e.g. `AMD EPYC`."""
    import mlx.core as mx

    if device() != "cpu":
        return str(mx.device_info().get("device_name", "unknown"))
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@cache
def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def version(package: str) -> str:
    """Version of a library that counts; empty where it is not installed."""
    return _versions().get(package, "")


@cache
def git_revision() -> str:
    """The commit of the source tree that this package runs from; empty when it is an installed copy.

    Only a repository whose root is our own root counts: an installed copy may lie inside somebody else's.
    """
    if not (ROOT / ".git").exists():
        return ""
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), "rev-parse", "HEAD"],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


@cache
def code_version() -> str:
    """SHA-256 over the source files of kernels and experiments: which code measured, also where there is no git."""
    total = hashlib.sha256()
    for package in ("experiments", "kernels"):
        inside = (path for path in (ROOT / package).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        for path in sorted(inside):
            total.update(path.relative_to(ROOT).as_posix().encode())
            total.update(path.read_bytes())
    return total.hexdigest()

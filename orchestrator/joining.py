"""How this machine becomes a node of a Ray cluster: what it advertises, as `ray start` understands it."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, get_args

from swarm.kernels.errors import UsageError
from swarm.orchestrator import machine
from swarm.orchestrator.cluster import ONE_THREAD, check_address

if TYPE_CHECKING:
    from swarm.experiments.spec import Device


def check(device: str | None) -> Device:
    """The device that this node advertises: what MLX computes on here, or the CPU of a machine with a GPU.

    Raises:
        UsageError: this machine has no such device.
    """
    from swarm.experiments import environment, spec
    from swarm.kernels import blas

    blas.use_openblas(1)  # before MLX is imported
    here = environment.device()
    known = get_args(spec.Device)
    if device is not None and device not in known:
        raise UsageError(f"--device {device}: no such device.", f"Known: {', '.join(known)}.")
    if device not in (None, "cpu", here):
        raise UsageError(f"--device {device}: MLX computes on {here} here.", "Leave --device out.")
    return here if device is None else "cpu"


def command(address: str | None, port: int, device: Device) -> list[str]:
    """The program and arguments that start Ray's processes and stay until they are stopped.

    Raises:
        UsageError: nobody answers at the address.
    """
    if address is not None:
        check_address(address)
    where = ["--head", f"--port={port}", "--include-dashboard=false"] if address is None else [f"--address={address}"]
    has = [f"--num-cpus={machine.cores()}", f"--num-gpus={machine.gpus() if device == 'cuda' else 0}"]
    if device == "metal":
        has += ["--resources", json.dumps({"metal": 1})]
    return [sys.executable, "-m", "ray.scripts.scripts", "start", *where, *has, "--disable-usage-stats", "--block"]


def environment() -> dict[str, str]:
    """The environment of Ray's processes, which their workers inherit: one thread per worker, no second environment."""
    return {**os.environ, **dict.fromkeys(ONE_THREAD, "1"), "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}

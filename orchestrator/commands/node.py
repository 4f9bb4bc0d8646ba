"""`swarm node`: this machine as a node of a Ray cluster, with what it can compute on advertised."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from swarm.kernels.errors import UsageError
from swarm.orchestrator.options import DeviceName

if TYPE_CHECKING:
    from swarm.experiments.spec import Device

PANEL = "Campaigns"


def command(
    address: Annotated[
        str | None,
        typer.Argument(metavar="[HOST:PORT]", help="The head to join.  [default: be the head]", show_envvar=False),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where a head listens.")] = 6379,
    device: DeviceName = None,
) -> None:
    """Put this machine into a Ray cluster until Ctrl-C; campaigns use it by `--ray-address`.

    Examples: `swarm node` on one machine, `swarm node HOST:6379` on the others,
    then `swarm launch --ray-address HOST:6379`
    """
    line = ray_start(address, port, advertised(device))
    os.execve(line[0], line, environment())  # noqa: S606 - our own interpreter


def advertised(device: str | None) -> Device:
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


def ray_start(address: str | None, port: int, device: Device) -> list[str]:
    """The program and arguments that start Ray's processes and stay until they are stopped.

    Raises:
        UsageError: nobody answers at the address.
    """
    from swarm.experiments.environment import cores
    from swarm.orchestrator import machine
    from swarm.orchestrator.cluster import check_address

    if address is not None:
        check_address(address)
    where = ["--head", f"--port={port}", "--include-dashboard=false"] if address is None else [f"--address={address}"]
    has = [f"--num-cpus={cores()}", f"--num-gpus={machine.gpus() if device == 'cuda' else 0}"]
    if device == "metal":
        has += ["--resources", json.dumps({"metal": 1})]
    return [sys.executable, "-m", "ray.scripts.scripts", "start", *where, *has, "--disable-usage-stats", "--block"]


def environment() -> dict[str, str]:
    """The environment of Ray's processes, which their workers inherit: one thread per worker, no second environment."""
    from swarm.orchestrator.cluster import ONE_THREAD

    return {**os.environ, **dict.fromkeys(ONE_THREAD, "1"), "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}

"""Where on a cluster a worker can run: what each back-end asks of a node. Knows Ray's resources, not trials."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from swarm.experiments.spec import Device

ASKS: Mapping[Device, Mapping[str, float]] = {
    "cpu": {"CPU": 1},
    "cuda": {"CPU": 1, "GPU": 1},
    "metal": {"CPU": 1, "metal": 1},
}
"""What one worker takes of its node. Ray finds cores and NVIDIA GPUs by itself; `swarm node` advertises Metal."""
MEMORY = "memory"


def asks(device: Device, memory: float = 0.0) -> dict[str, float]:
    """What a worker for a device takes: Ray's resources by name; `memory` in bytes, 0 to leave it out of account."""
    return {**ASKS[device], **({MEMORY: memory} if memory else {})}


def options(wanted: Mapping[str, float]) -> dict[str, Any]:
    """The same as options of a Ray actor."""
    own = {name: amount for name, amount in wanted.items() if name not in ("CPU", "GPU", MEMORY)}
    return {
        "num_cpus": wanted.get("CPU", 0),
        "num_gpus": wanted.get("GPU", 0),
        **({"memory": int(wanted[MEMORY])} if MEMORY in wanted else {}),
        **({"resources": own} if own else {}),
    }


def room(nodes: Iterable[Mapping[str, Any]], wanted: Mapping[str, float]) -> int:
    """How many workers the nodes have room for, whoever else uses them: as `ray.nodes()` describes them."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    return sum(min(int(has.get(name, 0) // amount) for name, amount in wanted.items()) for has in alive)

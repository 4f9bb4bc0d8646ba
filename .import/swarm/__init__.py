"""Finds out, by experiment, how far a model's KV cache can be compressed: the Python interface.

Importing this loads nothing else: each name below is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swarm.experiments.deploy.recipe import load_recipe as load_recipe
    from swarm.experiments.measurement.decision import decide as decide
    from swarm.experiments.measurement.runner import measure as measure
    from swarm.experiments.spec import Measurement as Measurement
    from swarm.kernels.model_cache import make_cache as make_cache
    from swarm.kernels.errors import SwarmError as SwarmError
    from swarm.kernels.spec import KVSpec as KVSpec
    from swarm.orchestrator.campaign import Campaign as Campaign
    from swarm.orchestrator.launching import launch as launch
    from swarm.orchestrator.recommending import recommend as recommend
    from swarm.orchestrator.results import StoreReader as StoreReader
    from swarm.orchestrator.results import open_store as open_store

    __version__: str

_MODULES = {
    "Campaign": "swarm.orchestrator.campaign",
    "KVSpec": "swarm.kernels.spec",
    "Measurement": "swarm.experiments.spec",
    "StoreReader": "swarm.orchestrator.results",
    "SwarmError": "swarm.kernels.errors",
    "decide": "swarm.experiments.measurement.decision",
    "launch": "swarm.orchestrator.launching",
    "load_recipe": "swarm.experiments.deploy.recipe",
    "make_cache": "swarm.kernels.model_cache",
    "measure": "swarm.experiments.measurement.runner",
    "open_store": "swarm.orchestrator.results",
    "recommend": "swarm.orchestrator.recommending",
}
"""The module that each public name comes from."""

__all__ = [
    "Campaign",
    "KVSpec",
    "Measurement",
    "StoreReader",
    "SwarmError",
    "__version__",
    "decide",
    "launch",
    "load_recipe",
    "make_cache",
    "measure",
    "open_store",
    "recommend",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("kv-swarm")
    elif name in _MODULES:
        value = getattr(importlib.import_module(_MODULES[name]), name)
    else:
        raise AttributeError(f"module 'swarm' has no attribute {name!r}; it has {', '.join(__all__)}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

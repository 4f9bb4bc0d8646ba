"""Finds out, by experiment, how far a model's KV cache can be compressed: the Python interface.

Importing this loads nothing else: each name below is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swarm.experiments.spec import Measurement as Measurement
    from swarm.kernels.errors import SwarmError as SwarmError
    from swarm.kernels.spec import KVSpec as KVSpec

    __version__: str

_MODULES = {
    "KVSpec": "swarm.kernels.spec",
    "Measurement": "swarm.experiments.spec",
    "SwarmError": "swarm.kernels.errors",
}
"""The module that each public name comes from."""

__all__ = ["KVSpec", "Measurement", "SwarmError", "__version__"]


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

"""Models by name, ready to run. Importing this reads no weights and loads no MLX.

A file in this package is one bundled model; files that begin with an underscore are not.
"""

from swarm.experiments.models._registry import bundled, catalogue, default_models, describe, ensure, load
from swarm.experiments.models.base import LoadedModel, ModelInfo, Progress

__all__ = [
    "LoadedModel",
    "ModelInfo",
    "Progress",
    "bundled",
    "catalogue",
    "default_models",
    "describe",
    "ensure",
    "load",
]

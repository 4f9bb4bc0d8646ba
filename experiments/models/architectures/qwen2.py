"""Qwen2 and Qwen2.5: q, k and v have a bias; nothing is permuted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from swarm.experiments.models.architectures.base import Architecture

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Qwen2Architecture(Architecture):
    """`model_type` qwen2."""

    name = "qwen2"
    model_type = "qwen2"

    def restore(self, name: str, array: NDArray[np.float32]) -> NDArray[np.float32]:  # noqa: ARG002
        """As stored."""
        return array

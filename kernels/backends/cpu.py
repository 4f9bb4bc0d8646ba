"""The CPU: the cache is held in numpy arrays and attention runs in numpy (BLAS products, vectorized exp)."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

import numpy as np

from swarm.kernels.backends.base import Backend

if TYPE_CHECKING:
    from swarm.kernels.arrays import Array, Namespace
    from swarm.kernels.attention import StoredView


class Cpu(Backend):
    """Any machine's processor."""

    name = "cpu"
    remedy = "It is always there."

    @classmethod
    def available(cls) -> bool:
        """Always."""
        return True

    def device_name(self) -> str:
        """The processor's architecture."""
        return platform.processor() or platform.machine()

    @property
    def xp(self) -> Namespace:
        """The cache is numpy's: MLX's CPU operations are several times slower on the same memory."""
        return np

    def attend(
        self, view: StoredView, queries: Array, scale: float, mask: Array | str | None, sinks: Array | None = None
    ) -> Array:
        """Online softmax over chunks of columns, in numpy."""
        from swarm.kernels.backends import _numpy_attention

        return _numpy_attention.attend(view, queries, scale, mask, sinks)

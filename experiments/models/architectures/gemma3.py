"""Gemma 3 (text): GGUF stores norm weights as 1 + w, and leaves out three constants of the family."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from swarm.experiments.models.architectures.base import Architecture

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Gemma3Architecture(Architecture):
    """`model_type` gemma3_text."""

    name = "gemma3"
    model_type = "gemma3_text"

    def config(self) -> dict[str, Any]:
        """The configuration, with what is particular to the family."""
        head_dim = self.fact("attention.key_length")
        return {
            **super().config(),
            "head_dim": head_dim,
            "sliding_window": self.fact("attention.sliding_window"),
            # Not in the file; the same for every published size but the largest, which scales by its own head size.
            "sliding_window_pattern": 6,
            "rope_local_base_freq": 10_000.0,
            "query_pre_attn_scalar": head_dim,
        }

    def restore(self, name: str, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """Norm weights back to w: mlx-lm adds the one."""
        return array - 1.0 if name.endswith("norm.weight") else array

"""Llama family (also SmolLM2, Mistral): GGUF stores query and key rows in interleaved rotary order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from swarm.experiments.models.architectures.base import Architecture

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class LlamaArchitecture(Architecture):
    """`model_type` llama."""

    name = "llama"
    model_type = "llama"

    def config(self) -> dict[str, Any]:
        """The configuration, with what is particular to the family."""
        heads, width = self.fact("attention.head_count"), self.fact("embedding_length")
        head_dim = self.metadata.get("llama.attention.key_length", width // heads)
        return {**super().config(), "head_dim": head_dim}

    def restore(self, name: str, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rows of a head from (0, d/2, 1, d/2 + 1, ...) back to (0, 1, ..., d - 1): rotary halves, not pairs.

        The order decides which channels share a quantization group.
        """
        heads = {"q_proj": "attention.head_count", "k_proj": "attention.head_count_kv"}
        for layer, count in heads.items():
            if f".{layer}." in name:
                n = self.fact(count)
                pairs = array.reshape(n, array.shape[0] // n // 2, 2, *array.shape[1:])
                return pairs.swapaxes(1, 2).reshape(array.shape)
        return array

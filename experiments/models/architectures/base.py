"""What a model family must say: from GGUF metadata to an mlx-lm configuration, from GGUF tensors to its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from swarm.experiments.models.base import WeightsError
from swarm.kernels import plugins

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PACKAGE = "swarm.experiments.models.architectures"


class Architecture:
    """One family.

    Attributes:
        name: `general.architecture` in GGUF.
        model_type: the module of `mlx_lm.models` that runs it.
    """

    name: ClassVar[str]
    model_type: ClassVar[str]

    def __init__(self, metadata: dict[str, Any], tensors: frozenset[str]) -> None:
        self.metadata = metadata
        self.tensors = tensors

    def config(self) -> dict[str, Any]:
        """The Hugging Face style configuration, as far as the file tells."""
        return {
            "model_type": self.model_type,
            "hidden_size": self.fact("embedding_length"),
            "num_hidden_layers": self.fact("block_count"),
            "intermediate_size": self.fact("feed_forward_length"),
            "num_attention_heads": self.fact("attention.head_count"),
            "num_key_value_heads": self.fact("attention.head_count_kv"),
            "rms_norm_eps": _shortest(self.fact("attention.layer_norm_rms_epsilon")),
            "rope_theta": self.fact("rope.freq_base"),
            "max_position_embeddings": self.fact("context_length"),
            "vocab_size": len(self.metadata["tokenizer.ggml.tokens"]),
            "tie_word_embeddings": "output.weight" not in self.tensors,
            "torch_dtype": "float16",
        }

    def fact(self, key: str) -> Any:
        """The metadata entry `<architecture>.<key>`.

        Raises:
            WeightsError: the file does not have it.
        """
        try:
            return self.metadata[f"{self.name}.{key}"]
        except KeyError as error:
            raise WeightsError(f"the GGUF file has no entry {self.name}.{key}.", "Use another file.") from error

    def restore(self, name: str, array: NDArray[np.float32]) -> NDArray[np.float32]:  # noqa: ARG002
        """Undo what the GGUF converter did to the parameter `name` (mlx-lm's name); the default is as stored."""
        return array


def _shortest(value: float) -> float:
    """The decimal that a float32 entry was meant to be: 1e-05, not 9.999999747378752e-06."""
    return float(f"{value:.7g}")


def architecture(metadata: dict[str, Any], tensors: frozenset[str]) -> Architecture:
    """The family of an open GGUF file.

    Raises:
        WeightsError: a family that is not supported.
    """
    name = str(metadata.get("general.architecture", ""))
    if name not in plugins.names(PACKAGE):
        known = ", ".join(plugins.names(PACKAGE))
        raise WeightsError(f"GGUF architecture {name!r} is not supported.", f"Supported: {known}.")
    return plugins.load(PACKAGE, Architecture, name)(metadata, tensors)

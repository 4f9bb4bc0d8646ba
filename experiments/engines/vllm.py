"""vLLM. Lists the longest context of its model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from swarm.experiments.engines.base import Chosen, Engine, Host, KVSetting, Told
from swarm.kernels.spec import KVSpec

STORED = {
    "auto": "none",
    "bfloat16": "none",
    "float16": "none",
    "fp8": "mxfp8",
    "fp8_e4m3": "mxfp8",
    "fp8_per_token_head": "mxfp8",
    "fp8_e5m2": "mxfp8",
    "int8_per_token_head": "q8_0",
    "nvfp4": "nvfp4",
    "turboquant_k8v4": "mxfp8,affine4/g64",
    "turboquant_4bit_nc": "turboquant_mse4,affine4/g64",
    "turboquant_k3v4_nc": "turboquant_mse3,affine4/g64",
    "turboquant_3bit_nc": "turboquant_mse3,affine3/g64",
}
"""What its types hold, or what comes nearest among our methods."""


class VLLM(Engine):
    """vLLM (github.com/vllm-project/vllm)."""

    name = "vllm"
    called = "vllm"
    title = "vLLM"
    skips_layers = True
    kv_settings: ClassVar[Mapping[str, KVSetting]] = {"type": KVSetting(("--kv-cache-dtype",), tuple(STORED))}
    extra_body: ClassVar[Mapping[str, Any]] = {"ignore_eos": True}

    def recognises(self, host: Host) -> bool:
        """Whose models they are."""
        return bool(host.get("/v1/models").entry("data", owned_by="vllm"))

    def told(self, host: Host, model: str) -> Told:
        """Version and longest context."""
        found = host.get("/v1/models").entry("data", id=model)
        return Told(version=str(host.get("/version").field("version") or ""), max_context=found.get("max_model_len"))

    def kv(self, chosen: Chosen) -> KVSpec:
        """One type for keys and values, or one of its pairs."""
        return KVSpec.parse(STORED[chosen["type"]])

    def command(self, chosen: Chosen, skipped: Sequence[int]) -> str:
        """A command line."""
        layers = f" --kv-cache-dtype-skip-layers {' '.join(map(str, skipped))}" if skipped else ""
        return f"vllm serve MODEL --kv-cache-dtype {chosen['type']}{layers}"

    def kv_notes(self, chosen: Chosen) -> list[str]:
        """Where scales are coarser than ours, and what the hardware has to be."""
        kind = chosen["type"]
        if kind.startswith("turboquant"):
            return [
                "its turboquant keeps the first and the last two layers in 16 bit and has one scale per token and head"
            ]
        notes = {
            "fp8": "one scale per tensor (1.0 unless the checkpoint brings one); mxfp8, with one per 32 values, stands "
            "for it and is at least as good",
            "fp8_per_token_head": "one scale per token and head; mxfp8, with one per 32 values, stands for it",
            "fp8_e5m2": "two bits of mantissa and one scale per tensor; mxfp8, with three and one scale per 32 values, "
            "stands for it and is better",
            "int8_per_token_head": "one scale per token and head; q8_0, with one per 32 values, stands for it",
            "nvfp4": "it needs a Blackwell GPU",
        }
        return [notes[key] for key in (kind.replace("fp8_e4m3", "fp8"),) if key in notes]

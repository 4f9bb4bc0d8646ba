"""Ollama. Its native interface tells the version, and of a loaded model the memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from swarm.experiments.engines.base import Chosen, Engine, Host, KVSetting, Told
from swarm.experiments.engines.llama_server import side
from swarm.kernels.spec import KVSpec


class Ollama(Engine):
    """Ollama (github.com/ollama/ollama); cuts prompts at its `num_ctx` without an error."""

    name = "ollama"
    called = "ollama"
    title = "Ollama"
    kv_settings: ClassVar[Mapping[str, KVSetting]] = {
        "type": KVSetting(("OLLAMA_KV_CACHE_TYPE",), ("f16", "q8_0", "q4_0")),
        "flash": KVSetting(("OLLAMA_FLASH_ATTENTION",), ("1", "true", "0", "false")),
    }

    def recognises(self, host: Host) -> bool:
        """Its greeting."""
        return "Ollama is running" in host.get("/").text

    def told(self, host: Host, model: str) -> Told:
        """Size of the loaded model with its cache, the part of it on the GPU, and the context it was loaded with.

        Ollama lists a model by its whole name: without a tag `latest` is meant.
        """
        version = str(host.get("/api/version").field("version") or "")
        loaded = host.get("/api/ps")
        whole = f"{model}:latest"
        found = loaded.entry("models", name=model, model=model) or loaded.entry("models", name=whole, model=whole)
        memory = {kind: int(found[key]) for kind, key in (("total", "size"), ("gpu", "size_vram")) if found.get(key)}
        return Told(version=version, max_context=found.get("context_length"), memory=memory)

    def kv(self, chosen: Chosen) -> KVSpec:
        """One type for keys and values; 16 bit without flash attention, whatever the type says."""
        stored = chosen["type"] if chosen["flash"] in ("1", "true") else "f16"
        spec = side(stored, rotated=False)
        return KVSpec(key=spec, value=spec)

    def command(self, chosen: Chosen, skipped: Sequence[int]) -> str:
        """The environment of its server."""
        del skipped
        return f"OLLAMA_FLASH_ATTENTION=1 OLLAMA_KV_CACHE_TYPE={chosen['type']} ollama serve"

    def kv_notes(self, chosen: Chosen) -> list[str]:
        """What depends on the release."""
        if chosen["type"] == "f16":
            return []
        if chosen["flash"] in ("0", "false"):
            return ["without flash attention Ollama keeps 16 bit, whatever OLLAMA_KV_CACHE_TYPE says"]
        return [
            "it holds for all models that the server loads; where a model does without flash attention, 16 bit stays",
            "releases whose runner is a llama.cpp of April 2026 or later rotate the cache, which this does not say",
        ]

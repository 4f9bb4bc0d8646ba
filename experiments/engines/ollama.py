"""Ollama. Its native interface tells the version, and of a loaded model the memory."""

from __future__ import annotations

from swarm.experiments.engines.base import Engine, Host, Told


class Ollama(Engine):
    """Ollama (github.com/ollama/ollama); cuts prompts at its `num_ctx` without an error."""

    name = "ollama"
    title = "Ollama"

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

"""LM Studio. Its own interface lists models with the context they were loaded with."""

from __future__ import annotations

from swarm.experiments.engines.base import Engine, Host, Told


class LMStudio(Engine):
    """LM Studio (lmstudio.ai)."""

    name = "lm_studio"
    title = "LM Studio"

    def recognises(self, host: Host) -> bool:
        """Its own list of models."""
        return any(
            "compatibility_type" in model or "arch" in model for model in host.get("/api/v0/models").entries("data")
        )

    def told(self, host: Host, model: str) -> Told:
        """The context that the model was loaded with."""
        found = host.get("/api/v0/models").entry("data", id=model)
        return Told(max_context=found.get("loaded_context_length") or found.get("max_context_length"))

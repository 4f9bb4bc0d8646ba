"""vLLM. Lists the longest context of its model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from swarm.experiments.engines.base import Engine, Host, Told


class VLLM(Engine):
    """vLLM (github.com/vllm-project/vllm)."""

    name = "vllm"
    title = "vLLM"
    extra_body: ClassVar[Mapping[str, Any]] = {"ignore_eos": True}

    def recognises(self, host: Host) -> bool:
        """Whose models they are."""
        return bool(host.get("/v1/models").entry("data", owned_by="vllm"))

    def told(self, host: Host, model: str) -> Told:
        """Version and longest context."""
        found = host.get("/v1/models").entry("data", id=model)
        return Told(version=str(host.get("/version").field("version") or ""), max_context=found.get("max_model_len"))

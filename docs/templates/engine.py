"""Template of an engine: how it is recognised and what it tells."""

from __future__ import annotations

from swarm.experiments.engines.base import Engine, Host, Told


class MyEngine(Engine):
    """My engine (where it is developed)."""

    name = "my_engine"
    title = "My engine"

    def recognises(self, host: Host) -> bool:
        """Its status page names it."""
        return host.get("/status").field("engine") == "my-engine"

    def told(self, host: Host, model: str) -> Told:
        """Version, longest context and memory."""
        status = host.get(f"/status?model={model}")
        return Told(
            version=str(status.field("version") or ""),
            max_context=status.field("context"),
            memory={"total": int(status.field("bytes") or 0)},
        )

"""mlx-lm's server, ours (`swarm serve`) included. Tells nothing but that it is well."""

from __future__ import annotations

from swarm.experiments.engines.base import Engine, Host


class MlxLm(Engine):
    """mlx_lm.server (github.com/ml-explore/mlx-lm)."""

    name = "mlx_lm"
    title = "mlx_lm.server"
    fallback_model = "default_model"

    def recognises(self, host: Host) -> bool:
        """Its health check behind Python's own HTTP server."""
        health = host.get("/health")
        return health.field("status") in ("ok", "unavailable") and health.server.startswith("BaseHTTP")

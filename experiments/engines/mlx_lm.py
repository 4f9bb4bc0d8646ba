"""mlx-lm's server, ours (`swarm serve`) included. Tells nothing but that it is well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from swarm.experiments.engines.base import Chosen, Engine, Host, KVSetting
from swarm.kernels.quant_spec import QuantSpec
from swarm.kernels.spec import KVSpec


class MlxLm(Engine):
    """mlx_lm.server (github.com/ml-explore/mlx-lm)."""

    name = "mlx_lm"
    called = "mlx-lm"
    title = "mlx_lm.server"
    kv_settings: ClassVar[Mapping[str, KVSetting]] = {
        "bits": KVSetting(("--kv-bits",), ("16", "8", "6", "5", "4", "3", "2")),
        "group": KVSetting(("--kv-group-size",), ("64", "32", "128")),
        "start": KVSetting(("--quantized-kv-start",), ()),
    }
    fallback_model = "default_model"

    def recognises(self, host: Host) -> bool:
        """Its health check behind Python's own HTTP server."""
        health = host.get("/health")
        return health.field("status") in ("ok", "unavailable") and health.server.startswith("BaseHTTP")

    def kv(self, chosen: Chosen) -> KVSpec:
        """Keys and values alike in mlx's own layout; 16 bits without `--kv-bits`."""
        if chosen["bits"] == "16":
            return KVSpec()
        spec = QuantSpec(method="affine", bits=int(chosen["bits"]), group_size=int(chosen["group"]))
        return KVSpec(key=spec, value=spec)

    def command(self, chosen: Chosen, skipped: Sequence[int]) -> str:
        """A command line that quantizes from the first token on."""
        del skipped
        command = "mlx_lm.server --model MODEL"
        if chosen["bits"] == "16":
            return command
        return f"{command} --kv-bits {chosen['bits']} --kv-group-size {chosen['group']} --quantized-kv-start 0"

    def kv_notes(self, chosen: Chosen) -> list[str]:
        """When it begins to quantize, and what it does not do meanwhile."""
        if chosen["bits"] == "16":
            return []
        notes = ["it answers one request at a time over a quantized cache, and refuses models with sliding windows"]
        start = chosen["start"] or str(START)
        if start != "0":
            notes.insert(
                0, f"it keeps everything in 16 bit until the cache holds {start} tokens, then quantizes it all"
            )
        return notes


START = 5000
"""Tokens from which mlx_lm.server quantizes when it is not told otherwise."""

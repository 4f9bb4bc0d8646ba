"""mlx-lm's server, ours (`swarm serve`) included. Tells nothing but that it is well."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from swarm.experiments.engines.base import Chosen, Host, KVSetting
from swarm.experiments.engines.run.flags import Flag
from swarm.experiments.engines.run.startable import (
    Launch,
    MissingEngineError,
    NextToken,
    NoProbabilitiesError,
    Pieces,
    StartableEngine,
)
from swarm.kernels.quant_spec import QuantSpec
from swarm.kernels.spec import KVSpec

if TYPE_CHECKING:
    from swarm.experiments.models.base import ModelInfo


class MlxLm(StartableEngine):
    """mlx_lm.server (github.com/ml-explore/mlx-lm)."""

    name = "mlx_lm"
    called = "mlx-lm"
    title = "mlx_lm.server"
    install = "pip install mlx-lm"
    usual = ({"kv-bits": 8, "quantized-kv-start": 0}, {"kv-bits": 4, "quantized-kv-start": 0})
    top_tokens = 10
    chunk = ("prefill-step-size", 2048)
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

    def probability_fields(self, top: int) -> Mapping[str, Any]:
        """In the form of chat completions."""
        return {"logprobs": True, "top_logprobs": min(top, self.top_tokens)}

    def executable(self) -> list[str]:
        """This Python's."""
        if find_spec("mlx_lm") is None:
            raise MissingEngineError("mlx-lm is not installed.", f"Install it with `{self.install}`.")
        return [sys.executable, "-m", "mlx_lm", "server"]

    def build(self) -> str:
        """The package's version."""
        return f"mlx-lm {version('mlx-lm')}"

    def arguments(self, launch: Launch) -> list[str]:
        """It takes any context, and as many clients as `decode-concurrency` says."""
        place = ["--host", "127.0.0.1", "--port", str(launch.port), "--log-level", "WARNING"]
        return ["--model", str(launch.model), *place, *launch.options()]

    def flags(self, info: ModelInfo) -> tuple[Flag, ...]:
        """Bits of the cache with their groups and the place where they begin, and how prompts are read."""
        del info
        quantized = {"kv-bits": (8, 4)}
        return (
            Flag("kv-bits", (16, 8, 4)),
            Flag("kv-group-size", (64, 32), quantized),
            Flag("quantized-kv-start", (5000, 0), quantized),
            Flag("prefill-step-size", (2048, 256, 512, 1024)),
            Flag("decode-concurrency", (32, 1)),
        )

    def weights(self, model: str) -> Path:
        """A folder as mlx-lm reads it."""
        from swarm.experiments.models import registry

        return registry.ensure(model)

    def load(self, host: Host, launch: Launch) -> str:
        """Its name for the model that it was started with."""
        del host, launch
        return self.fallback_model

    def next_tokens(self, host: Host, model: str, pieces: Pieces, places: Sequence[int]) -> list[NextToken]:
        """One request per place; it keeps what it has read before."""
        return [self._next(host, model, "".join(map(str, pieces[:place]))) for place in places]

    def _next(self, host: Host, model: str, prompt: str) -> NextToken:
        body = {"model": model, "prompt": prompt, "max_tokens": 1, "temperature": 0, "top_logprobs": self.top_tokens}
        reply = host.post("/v1/completions", {**body, "logprobs": True})
        told = reply.entries("choices")
        content = (told[0].get("logprobs") or {}).get("content") if told else None
        if not content or not content[0].get("top_logprobs"):
            raise NoProbabilitiesError(f"mlx_lm.server tells no probabilities: {reply.reason}.", "Update mlx-lm.")
        return {str(entry["id"]): float(entry["logprob"]) for entry in content[0]["top_logprobs"]}

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

"""Ollama. Its native interface tells the version, and of a loaded model the memory."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from swarm.experiments.engines.base import Chosen, Host, KVSetting, Told
from swarm.experiments.engines.llama_server import side
from swarm.experiments.engines.run.flags import Flag
from swarm.experiments.engines.run.startable import (
    Launch,
    MissingEngineError,
    NextToken,
    NoProbabilitiesError,
    Pieces,
    RefusedError,
    StartableEngine,
)
from swarm.kernels.errors import ModelError
from swarm.kernels.spec import KVSpec

if TYPE_CHECKING:
    from swarm.experiments.models.base import ModelInfo


class Ollama(StartableEngine):
    """Ollama (github.com/ollama/ollama); cuts prompts at its `num_ctx` without an error. Its flags are variables."""

    name = "ollama"
    called = "ollama"
    title = "Ollama"
    install = "curl -fsSL https://ollama.com/install.sh | sh"
    usual = (
        {"OLLAMA_FLASH_ATTENTION": 1, "OLLAMA_KV_CACHE_TYPE": "q8_0"},
        {"OLLAMA_FLASH_ATTENTION": 1, "OLLAMA_KV_CACHE_TYPE": "q4_0"},
    )
    top_tokens = 20
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

    def executable(self) -> list[str]:
        """The executable on PATH."""
        found = shutil.which("ollama")
        if found is None:
            raise MissingEngineError("Ollama is not installed: there is no ollama on PATH.", f"Use `{self.install}`.")
        return [found]

    def arguments(self, launch: Launch) -> list[str]:
        """Everything else is told by variables."""
        del launch
        return ["serve"]

    def environment(self, launch: Launch) -> Mapping[str, str]:
        """Where it listens and keeps models (a folder of ours), its contexts and slots, and the flags."""
        from swarm.experiments.artifacts import cache_dir

        return {
            "OLLAMA_HOST": f"127.0.0.1:{launch.port}",
            "OLLAMA_MODELS": str(cache_dir() / "ollama"),
            "OLLAMA_CONTEXT_LENGTH": str(launch.context),
            "OLLAMA_NUM_PARALLEL": str(launch.clients),
            "OLLAMA_KEEP_ALIVE": "-1",
            **{name: str(value) for name, value in launch.flags.items()},
        }

    def flags(self, info: ModelInfo) -> tuple[Flag, ...]:
        """Flash attention, and with it one type for keys and values."""
        del info
        return (
            Flag("OLLAMA_FLASH_ATTENTION", (0, 1)),
            Flag("OLLAMA_KV_CACHE_TYPE", ("f16", "q8_0", "q4_0"), {"OLLAMA_FLASH_ATTENTION": (1,)}),
        )

    def weights(self, model: str) -> Path:
        """A GGUF file."""
        from swarm.experiments.models import registry

        found = registry.gguf(model)
        if found is None:
            raise ModelError(f"Ollama takes GGUF files here, and {model} has none.", "Give --models FILE.gguf.")
        return found

    def is_ready(self, host: Host) -> bool:
        """Its greeting."""
        return self.recognises(host)

    def load(self, host: Host, launch: Launch) -> str:
        """Make a model of the file; Ollama loads it when it is first asked."""
        del host
        name = f"kv-swarm-{hashlib.sha256(str(launch.model).encode()).hexdigest()[:12]}"
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "Modelfile").write_text(f"FROM {launch.model}\n", "utf-8")
            command = [*self.executable(), "create", name, "-f", str(Path(folder) / "Modelfile")]
            environment = {**os.environ, **self.environment(launch)}
            made = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if made.returncode:
            said = " ".join(made.stderr.split())[-200:].rstrip(".")
            raise RefusedError(f"Ollama refuses {launch.model}: {said}.", "Give another file, or update Ollama.")
        return name

    def next_tokens(self, host: Host, model: str, pieces: Pieces, places: Sequence[int]) -> list[NextToken]:
        """One request per place."""
        return [self._next(host, model, "".join(map(str, pieces[:place]))) for place in places]

    def _next(self, host: Host, model: str, prompt: str) -> NextToken:
        asked = {"logprobs": True, "top_logprobs": self.top_tokens, "options": {"num_predict": 1, "temperature": 0}}
        reply = host.post("/api/generate", {"model": model, "prompt": prompt, "raw": True, "stream": False, **asked})
        told = reply.entries("logprobs")
        if not told or not told[0].get("top_logprobs"):
            raise NoProbabilitiesError(f"Ollama tells no probabilities: {reply.reason}.", "Update to 0.12.11 or later.")
        return {str(entry["token"]): float(entry["logprob"]) for entry in told[0]["top_logprobs"]}

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

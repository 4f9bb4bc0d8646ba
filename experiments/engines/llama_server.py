"""llama.cpp's llama-server. Tells its context and build, and times every request itself."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from swarm.experiments.engines.base import Chosen, Host, KVSetting, Told
from swarm.experiments.engines.run.flags import Flag
from swarm.experiments.engines.run.startable import (
    DISABLED,
    ENABLED,
    Launch,
    MissingEngineError,
    NextToken,
    NoProbabilitiesError,
    Pieces,
    RefusedError,
    StartableEngine,
)
from swarm.experiments.environment import cores
from swarm.kernels.errors import ModelError, UsageError
from swarm.kernels.quant_spec import QuantSpec
from swarm.kernels.spec import KVSpec

if TYPE_CHECKING:
    from swarm.experiments.models.base import ModelInfo

FLOATS = ("f16", "bf16", "f32")
BLOCKS = ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")


def side(stored: str, *, rotated: bool) -> QuantSpec:
    """Keys or values in one of ggml's types; those that are no float are what the method of the same name computes."""
    if stored in FLOATS:
        return QuantSpec()
    return QuantSpec(method=stored, rotation="hadamard" if rotated else "none")


class LlamaServer(StartableEngine):
    """llama-server (github.com/ggml-org/llama.cpp), from PATH or out of the package xllamacpp."""

    name = "llama_server"
    called = "llama.cpp"
    title = "llama-server"
    install = "pip install xllamacpp"
    top_tokens = 64
    usual = (
        {"cache-type-k": "q8_0", "cache-type-v": "q8_0"},
        {"cache-type-k": "q4_0", "cache-type-v": "q4_0"},
    )
    chunk = ("ubatch-size", 512)
    kv_settings: ClassVar[Mapping[str, KVSetting]] = {
        "key": KVSetting(("--cache-type-k", "-ctk", "LLAMA_ARG_CACHE_TYPE_K"), FLOATS + BLOCKS),
        "value": KVSetting(("--cache-type-v", "-ctv", "LLAMA_ARG_CACHE_TYPE_V"), FLOATS + BLOCKS),
        "flash": KVSetting(("--flash-attn", "-fa", "LLAMA_ARG_FLASH_ATTN"), ("auto", "on", "off")),
        "unrotated": KVSetting(("LLAMA_ATTN_ROT_DISABLE",), ("0", "1")),
    }
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

    def fresh_fields(self) -> Mapping[str, Any]:
        """It can be told not to look for a common beginning."""
        return {"cache_prompt": False}

    def executable(self) -> list[str]:
        """The executable on PATH, else the server in the package."""
        found = shutil.which("llama-server")
        if found is not None:
            return [found]
        if find_spec("xllamacpp") is None:
            raise MissingEngineError(
                "llama.cpp is not installed: there is no llama-server on PATH and no package xllamacpp.",
                f"Install it with `{self.install}`, or put llama-server on PATH.",
            )
        return [sys.executable, str(Path(__file__).with_name("_xllamacpp.py"))]

    def build(self) -> str:
        """The package's version where the server is out of the package."""
        return f"xllamacpp {version('xllamacpp')}" if len(self.executable()) > 1 else super().build()

    def arguments(self, launch: Launch) -> list[str]:
        """One slot per client, each with the whole context."""
        return [
            "--model", str(launch.model), "--host", "127.0.0.1", "--port", str(launch.port),
            "--ctx-size", str(launch.context * launch.clients), "--parallel", str(launch.clients),
            *([] if "threads" in launch.flags else ["--threads", str(launch.cores)]), *launch.options(),
        ]  # fmt: skip

    def flags(self, info: ModelInfo) -> tuple[Flag, ...]:
        """Types of keys and values, flash attention, batches, threads and how they wait.

        Quantized values need flash attention. Whole windows cost memory and save models with sliding windows from
        reading a prompt again.
        """
        mine = cores()
        fewer = sorted({mine // 2, mine * 3 // 4} - {0, mine}, reverse=True)
        windowed = any(layer.window for layer in info.layers)
        return (
            Flag("flash-attn", ("auto", "off")),
            Flag("cache-type-k", ("f16", *BLOCKS)),
            Flag("cache-type-v", ("f16", *BLOCKS), {"flash-attn": ("auto",)}),
            Flag("ubatch-size", (512, 64, 128, 256, 1024)),
            Flag("batch-size", (2048, 256, 512, 1024)),
            Flag("threads", ("all", *fewer)),
            Flag("poll", (50, 0, 100)),
            Flag("repack", (ENABLED, DISABLED)),
            Flag("cache-ram", (8192, 0)),
            *((Flag("swa-full", (DISABLED, ENABLED)),) if windowed else ()),
        )

    def weights(self, model: str) -> Path:
        """A GGUF file."""
        from swarm.experiments.models import registry

        found = registry.gguf(model)
        if found is None:
            raise ModelError(f"llama.cpp reads GGUF files, and {model} has none.", "Give --models FILE.gguf.")
        return found

    def pieces(self, host: Host, model: str, text: str) -> Pieces:
        """Its own tokens, begun as it begins a prompt."""
        del model
        reply = host.post("/tokenize", {"content": text, "add_special": True})
        found = reply.field("tokens")
        if not isinstance(found, list):
            raise RefusedError(f"llama-server does not tokenize: {reply.reason}.", "Update the engine.")
        return [int(token) for token in found]

    def next_tokens(self, host: Host, model: str, pieces: Pieces, places: Sequence[int]) -> list[NextToken]:
        """One request per place; what it has read before it keeps."""
        del model
        return [self._next(host, pieces[:place]) for place in places]

    def _next(self, host: Host, prompt: Pieces) -> NextToken:
        body = {"prompt": prompt, "n_predict": 1, "n_probs": self.top_tokens, "temperature": 0, "cache_prompt": True}
        reply = host.post("/completion", body)
        told = reply.entries("completion_probabilities")
        top = told[0].get("top_logprobs") if told else None
        if not top:
            raise NoProbabilitiesError(f"llama-server tells no probabilities: {reply.reason}.", "Update the engine.")
        return {str(entry["id"]): float(entry["logprob"]) for entry in top}

    def kv(self, chosen: Chosen) -> KVSpec:
        """The two types; quantized ones are rotated unless that is switched off."""
        if chosen["value"] in BLOCKS and chosen["flash"] == "off":
            raise UsageError("llama.cpp does not quantize values without flash attention.", "Give --flash-attn on.")
        rotated = chosen["unrotated"] == "0"
        return KVSpec(key=side(chosen["key"], rotated=rotated), value=side(chosen["value"], rotated=rotated))

    def command(self, chosen: Chosen, skipped: Sequence[int]) -> str:
        """A command line; flash attention is asked for where quantized values need it."""
        del skipped
        words = ["llama-server --model MODEL.gguf"]
        words += [f"--cache-type-{letter} {chosen[name]}" for letter, name in (("k", "key"), ("v", "value"))]
        if chosen["value"] in BLOCKS:
            words.append("--flash-attn on")
        if chosen["unrotated"] == "1" and {chosen["key"], chosen["value"]} & set(BLOCKS):
            words.insert(0, "LLAMA_ATTN_ROT_DISABLE=1")
        return " ".join(words)

    def kv_notes(self, chosen: Chosen) -> list[str]:
        """Rotation and activations differ a little."""
        quantized = [name for name in ("key", "value") if chosen[name] in BLOCKS]
        notes = []
        if quantized and chosen["unrotated"] == "0":
            notes.append(
                "llama.cpp rotates quantized keys and values (since April 2026, where the head size is a multiple of "
                "64) without random signs, and values in blocks of 64"
            )
        if quantized:
            notes.append("its flash attention on the CPU rounds queries to 8 bits to multiply them with quantized keys")
        return notes

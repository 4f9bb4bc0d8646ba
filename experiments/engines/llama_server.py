"""llama.cpp's llama-server. Tells its context and build, and times every request itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from swarm.experiments.engines.base import Chosen, Engine, Host, KVSetting, Told
from swarm.kernels.errors import UsageError
from swarm.kernels.quant_spec import QuantSpec
from swarm.kernels.spec import KVSpec

FLOATS = ("f16", "bf16", "f32")
BLOCKS = ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")


def side(stored: str, *, rotated: bool) -> QuantSpec:
    """Keys or values in one of ggml's types; those that are no float are what the method of the same name computes."""
    if stored in FLOATS:
        return QuantSpec()
    return QuantSpec(method=stored, rotation="hadamard" if rotated else "none")


class LlamaServer(Engine):
    """llama-server (github.com/ggml-org/llama.cpp)."""

    name = "llama_server"
    called = "llama.cpp"
    title = "llama-server"
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

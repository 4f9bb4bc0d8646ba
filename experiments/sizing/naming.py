"""Compares names the way people write them: `llama3.1:8b-instruct-q4_K_M` is `meta-llama/Llama-3.1-8B`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")

WORD = re.compile(r"\d+(?:\.\d+)*[a-z]*|[a-z]+")
# Words that say how a checkpoint was tuned or stored, not which shape it has.
NOISE = frozenset(
    {"hf", "instruct", "it", "chat", "base", "pt", "unsloth", "abliterated", "meta", "latest", "ud"}
    | {"mlx", "gguf", "awq", "gptq", "exl2", "bnb", "fp16", "bf16", "fp8", "f16", "mxfp4", "nvfp4", "dwq", "qat"}
    | {f"{bits}bit" for bits in range(2, 9)}
    | {"apple", "nvidia", "geforce", "amd", "radeon", "chip", "gpu"}
)
QUANTIZED = re.compile(r"[-_:.]i?q\d(_[a-z0-9]+)*$")


def words(name: str) -> tuple[str, ...]:
    """The words of a name that identify it, in order; the organization and the kind of quantization left out."""
    text = QUANTIZED.sub("", name.rsplit("/", 1)[-1].strip().lower())
    parts = [part for part in re.split(r"[^a-z0-9.]+", text) if part not in NOISE]
    return tuple(word for part in parts for word in WORD.findall(part) if word not in NOISE)


def matches(name: str, entries: Mapping[str, T]) -> dict[str, T]:
    """The entries that a name means: those of the same words, else the shortest that contain all of its words."""
    wanted = words(name)
    within = {key: entry for key, entry in entries.items() if wanted and set(wanted) <= set(words(key))}
    same = {key: entry for key, entry in within.items() if sorted(words(key)) == sorted(wanted)}
    fewest = min((len(words(key)) for key in within), default=0)
    return same or {key: entry for key, entry in within.items() if len(words(key)) == fewest}


def nearest(name: str, keys: Iterable[str], count: int = 4) -> list[str]:
    """The known names that look most like a wrong one."""
    wanted = " ".join(words(name))
    scored = {key: difflib.SequenceMatcher(None, wanted, " ".join(words(key))).ratio() for key in keys}
    return sorted(scored, key=lambda key: (-scored[key], key))[:count]

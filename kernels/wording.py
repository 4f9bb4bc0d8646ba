"""A cache configuration in plain words, for people who do not read labels."""

from __future__ import annotations

from collections.abc import Iterator

from swarm.kernels.quant_spec import QuantSpec
from swarm.kernels.quantizers import base
from swarm.kernels.spec import KVSpec, ranges

ROTATIONS = {"hadamard": "rotated by a Hadamard matrix", "random": "rotated at random"}


def in_words(kv: KVSpec) -> str:
    """What a configuration's label says, in short sentences.

    For example `Keys: 4-bit kivi, per channel, groups of 64. Values: 3-bit affine, groups of 32.`
    """
    return " ".join(f"{part}." for part in _parts(kv))


def side_in_words(spec: QuantSpec) -> str:
    """How keys or values are stored, e.g. `4-bit kivi, per channel, rotated at random, groups of 64`."""
    if spec.method == "none":
        return "16 bit"
    offered = base.method(spec.method).choices
    parts = [f"{spec.bits}-bit {spec.method}"]
    if len(offered.axes) > 1:
        parts.append(f"per {spec.axis}")
    if spec.rotation not in (None, "none"):
        parts.append(ROTATIONS[spec.rotation])
    if spec.scaling == "learned":
        parts.append("learned scaling")
    if spec.group_size and len(offered.group_sizes) > 1:
        parts.append(f"groups of {spec.group_size}")
    return ", ".join(parts)


def _parts(kv: KVSpec) -> Iterator[str]:
    key, value = side_in_words(kv.key), side_in_words(kv.value)
    yield from (f"Keys and values: {key}",) if key == value else (f"Keys: {key}", f"Values: {value}")
    ends = [(f"first {kv.sink_tokens}", kv.sink_tokens), (f"latest {kv.residual_window}", kv.residual_window)]
    kept = " and ".join(words for words, count in ends if count)
    if kept:
        yield f"{kept[0].upper()}{kept[1:]} tokens: 16 bit"
    if kv.key_bias == "subtract":
        yield "The key bias is subtracted"
    for override in kv.overrides:
        sides = (("keys", override.key), ("values", override.value))
        told = "; ".join(f"{name} {side_in_words(spec)}" for name, spec in sides if spec is not None)
        yield f"{_layers(override.layers)}: {told}"
    if kv.layers is not None:
        yield f"All but {_layers(kv.layers).lower()}: 16 bit"


def _layers(layers: tuple[int, ...]) -> str:
    return f"Layer{'s' * (len(layers) > 1)} {ranges(layers)}"

"""Layers where errors of keys may count more: a bit of the keys goes there from other layers, or the other way round.

For small errors the attention's KL grows with the square of G, the standard error of the logits that the errors of keys
bring about. Its factors |q|, |k| and the scale are what the 16-bit function is made of, so that no edit of weights that
leaves this function as it is can take them out. What can be changed at equal cost is which layers get the bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log

from swarm.kernels.quant_spec import QuantSpec
from swarm.kernels.spec import KVSpec, LayerOverride

APART = log(2.0)
"""Logarithm of the ratio of G from which layers are compared; theory has four times the KL there."""
MOST = 1 / 3
"""Share of the layers that can be among those with much, and among those with little of it."""

Layers = tuple[int, ...]


def layers_apart(logs: Mapping[int, float]) -> tuple[Layers, Layers]:
    """The layers that have most of something and as many that have least of it; empty where layers are alike.

    Args:
        logs: how much each layer has, as a logarithm.
    """
    order = sorted(logs, key=lambda layer: (-logs[layer], layer))
    pairs = zip(order[: int(MOST * len(order))], reversed(order), strict=False)
    apart = [pair for pair in pairs if logs[pair[0]] - logs[pair[1]] > APART]
    return tuple(sorted(most for most, _ in apart)), tuple(sorted(least for _, least in apart))


def both_ways(kv: KVSpec, most: Layers, least: Layers) -> tuple[KVSpec, KVSpec]:
    """A cache with a bit of the keys moved from the layers with least to those with most, and the other way."""
    wider, narrower = (kv.key.model_copy(update={"bits": (kv.key.bits or 0) + more}) for more in (1, -1))

    def with_keys(of_most: QuantSpec, of_least: QuantSpec) -> KVSpec:
        overrides = (LayerOverride(layers=most, key=of_most), LayerOverride(layers=least, key=of_least))
        return kv.model_copy(update={"overrides": overrides})

    return with_keys(wider, narrower), with_keys(narrower, wider)


def other_way(kv: KVSpec) -> KVSpec | None:
    """The second cache of `both_ways` for its first one; None for any other cache."""
    if len(kv.overrides) != 2 or kv.key.method == "none":
        return None
    plain = kv.model_copy(update={"overrides": ()})
    there, back = both_ways(plain, *(override.layers for override in kv.overrides))
    return back if kv == there else None

"""Configurations of a cache by the name of a method."""

from __future__ import annotations

from swarm.kernels.quantizers import base
from swarm.kernels.spec import KVSpec, QuantSpec

ROTATED = QuantSpec(method="q4_0", rotation="hadamard")


def kv_of(name: str, other: QuantSpec = ROTATED, **segments: int) -> KVSpec:
    """The method on every side that it is made for, the other side as given; no 16-bit segments where all is 16 bit."""
    spec = QuantSpec(method=name)
    sides = base.method(name).choices.sides
    key, value = (spec if side in sides else other for side in ("key", "value"))
    return KVSpec(key=key, value=value, **({} if name == "none" else segments))

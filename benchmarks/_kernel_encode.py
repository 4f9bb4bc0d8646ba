"""Times quantize-and-pack on this device: our kernel against MLX's operations for the same bytes. Prints a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from swarm.kernels.fused.encode import FusedEncode
from swarm.kernels.fused.timing import BENCHMARK, time_chain
from swarm.kernels.quantizers import base

if TYPE_CHECKING:
    from swarm.kernels.fused.launch import Launcher
    from swarm.kernels.quantizers.base import Quantizer
    from swarm.kernels.spec import QuantSpec

TOKENS = (1, 4096)
KV_HEADS, HEAD_DIM = 8, 128
SETS = 8


def table(launcher: Launcher, formats: Sequence[QuantSpec]) -> list[dict[str, Any]]:
    """Print microseconds of encoding one side's new tokens of one layer, already rotated, and return the numbers.

    The peer is `mx.quantize` where the format is its own, else the method written in MLX's operations.
    """
    import mlx.core as mx

    print(f"Encoding {KV_HEADS} KV heads, d = {HEAD_DIM}: the kernel, and MLX's operations for the same bytes")
    print("| format | tokens | kernel, us | spread | MLX, us | spread | kernel is faster |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    encode = FusedEncode(launcher)
    for spec in formats:
        quantizer = base.build(spec, HEAD_DIM)
        for tokens in TOKENS:
            xs = [mx.random.normal((1, KV_HEADS, tokens, HEAD_DIM)).astype(mx.float16) for _ in range(SETS)]
            mx.eval(xs)
            ours = time_chain(_chain(partial(encode, quantizer.form()), xs), BENCHMARK)
            theirs = time_chain(_chain(_peer(quantizer), xs), BENCHMARK)
            spreads = [f"{low:.1f} to {high:.1f}" for _, low, high in (ours, theirs)]
            speed = theirs[0] / ours[0]
            print(
                f"| {spec.label} | {tokens} | {ours[0]:.1f} | {spreads[0]} | {theirs[0]:.1f} | {spreads[1]} "
                f"| {speed:.1f}x |",
                flush=True,
            )
            rows.append({"format": spec.label, "tokens": tokens, "kernel": ours, "mlx": theirs})
    print()
    return rows


def _peer(quantizer: Quantizer) -> Callable[[Any], dict[Any, Any]]:
    import mlx.core as mx

    if quantizer.name != "affine":
        return lambda x: quantizer.pack(mx, x)
    return lambda x: dict(enumerate(mx.quantize(x, group_size=quantizer.group, bits=quantizer.bits)))


def _chain(pack: Callable[[Any], Any], xs: Sequence[Any]) -> Callable[[int], Any]:
    """Launches that do not wait for each other's results, as layers of a step do."""
    return lambda steps: [list(pack(xs[i % len(xs)]).values()) for i in range(steps)]

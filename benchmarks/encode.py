"""How long each method takes to encode one layer, as a multiple of `mx.quantize` at the same bits.

Run: python benchmarks/encode.py [--tokens 2048] [--repeats 9] [--out FILE.json]

Every row is one method at the shapes of a bundled model's layer (KV heads, head size). The reference is
`mx.quantize` of the same 16-bit values at the same bits (8 above 6, 4 for what has no twin), packing included, timed
in turns with the method, so that a busy machine slows both. Times are CPU times of the process.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from swarm.kernels import plugins
from swarm.kernels.codec import Codec
from swarm.kernels.errors import SpecError
from swarm.kernels.quantizers import base
from swarm.kernels.spec import QuantSpec

SHAPES = {"smollm2-135m": (3, 64), "gemma3-270m": (1, 256), "qwen2.5-coder-0.5b": (2, 64)}
AFFINE_BITS = (2, 3, 4, 5, 6, 8)
SKETCHED = {"qjl"}  # projects although its specification has no rotation


def specs() -> list[QuantSpec]:
    """Every method at every bit width as it is by default; at its default width under every rotation."""
    found = []
    for name in plugins.names(base.PACKAGE):
        choices = base.method(name).choices
        found += [QuantSpec(method=name, rotation=rotation) for rotation in choices.rotations]
        found += [QuantSpec(method=name, bits=bits) for bits in choices.bits[1:]]
    return [spec for spec in found if spec.method != "none"]


def alternate(first: Callable[[], Any], second: Callable[[], Any], repeats: int) -> list[tuple[float, float]]:
    """CPU seconds of both, taken in turns."""
    pairs = []
    for _ in range(repeats):
        start = time.process_time()
        first()
        middle = time.process_time()
        second()
        pairs.append((middle - start, time.process_time() - middle))
    return pairs


def row(model: str, spec: QuantSpec, tokens: int, repeats: int) -> dict[str, Any] | None:
    """One method on one layer's shape; None where it does not fit."""
    heads, head_dim = SHAPES[model]
    try:
        codec = Codec(spec, "key", head_dim)
    except SpecError:
        return None
    rng = np.random.default_rng(0)
    values = mx.array(rng.standard_normal((1, heads, tokens, head_dim)).astype(np.float16))
    bits = min(AFFINE_BITS, key=lambda known: abs(known - (spec.bits or 4)))

    def reference() -> None:
        mx.eval(mx.quantize(values, group_size=64, bits=bits))

    def encode() -> None:
        mx.eval(codec.encode(values))

    for warm_up in (reference, encode, reference, encode):
        warm_up()
    pairs = alternate(reference, encode, repeats)
    rotated = spec.rotation != "none" or spec.method in SKETCHED
    return {
        "model": model,
        "method": spec.label,
        "bits_per_value": codec.bits_per_value,
        "reference_ms": 1e3 * statistics.median(pair[0] for pair in pairs),
        "encode_ms": 1e3 * statistics.median(pair[1] for pair in pairs),
        "ratio": statistics.median(mine / theirs for theirs, mine in pairs),
        "limit": 5.0 if rotated else 2.0,
    }


def main() -> int:
    """Print the table; exit status 1 if a method is slower than its limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--methods", nargs="*", default=None)
    parser.add_argument("--models", nargs="*", default=list(SHAPES))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--short", action="store_true", help="the smallest sizes: whether it runs, not how fast")
    options = parser.parse_args()
    if options.short:
        options.tokens, options.repeats, options.models = 64, 1, options.models[:1]
    rows = []
    print(f"{'model':20} {'method':26} {'b/v':>6} {'mx.quantize':>12} {'encode':>9} {'ratio':>6} {'limit':>6}")
    for model in options.models:
        for spec in specs():
            if options.methods and spec.method not in options.methods:
                continue
            if found := row(model, spec, options.tokens, options.repeats):
                rows.append(found)
                late = " over" if found["ratio"] > found["limit"] else ""
                print(
                    f"{model:20} {found['method']:26} {found['bits_per_value']:6.3f} {found['reference_ms']:9.2f} ms"
                    f" {found['encode_ms']:6.2f} ms {found['ratio']:6.2f} {found['limit']:6.1f}{late}",
                    flush=True,
                )
    if options.out:
        about = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "platform": platform.platform(),
            "mlx": mx.__version__,
            "numpy": np.__version__,
            "tokens": options.tokens,
        }
        options.out.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    return int(not options.short and any(found["ratio"] > found["limit"] for found in rows))


if __name__ == "__main__":
    sys.exit(main())

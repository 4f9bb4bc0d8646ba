"""How long each method takes to encode one layer, as a multiple of `mx.quantize` at the same bits.

Every row is one method at the shape of a bundled model's layer (KV heads, head size), random 16-bit values. The peer is
`mx.quantize` of the same values at the nearest bits that it has (4 for methods without bits), packing included,
evaluated in turns with the method, so that a busy machine slows both. Times are CPU times of the process on one thread;
ratios are those of the medians, with the extremes over all pairs of repeats.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from benchmarks import _frame

from swarm.kernels import blas

if TYPE_CHECKING:
    from swarm.kernels.spec import QuantSpec

SHAPES = {"smollm2-135m": (3, 64), "gemma3-270m": (1, 256), "qwen2.5-coder-0.5b": (2, 64)}
AFFINE_BITS = (2, 3, 4, 5, 6, 8)
TOKENS, REPEATS = 2048, 9
SHORT_TOKENS, SHORT_REPEATS = 64, 2
GOALS = {"scalar": 2.0, "rotated or angular": 5.0}
PROJECTED = {"qjl"}
"""Methods that multiply by a matrix although their specification has no rotation."""


def measure(short: bool, tell: _frame.Tell) -> _frame.Results:
    """All methods at all shapes; in the short form at the first shape, and fewer tokens."""
    blas.use_openblas(1)  # before MLX is imported, as in every worker
    tokens, repeats = (SHORT_TOKENS, SHORT_REPEATS) if short else (TOKENS, REPEATS)
    rows = []
    for model in list(SHAPES)[: 1 if short else None]:
        for spec in specs():
            found = row(model, spec, tokens, repeats)
            if found is not None:
                rows.append(found)
                tell(f"{model}: {found['method']}: {_frame.times(found['ratio'])} of mx.quantize")
    return {"tokens": tokens, "repeats": repeats, "shapes": SHAPES, "rows": rows}


def specs() -> list[QuantSpec]:
    """Every method at every bit width as it is by default; at its default width under every rotation."""
    from swarm.kernels import plugins
    from swarm.kernels.quantizers import base
    from swarm.kernels.spec import QuantSpec

    found = []
    for name in plugins.names(base.PACKAGE):
        choices = base.method(name).choices
        found += [QuantSpec(method=name, rotation=rotation) for rotation in choices.rotations]
        found += [QuantSpec(method=name, bits=bits) for bits in choices.bits[1:]]
    return [spec for spec in found if spec.method != "none"]


def row(model: str, spec: QuantSpec, tokens: int, repeats: int) -> dict[str, Any] | None:
    """One method on one layer's shape; None where it does not fit."""
    import mlx.core as mx
    import numpy as np

    from swarm.kernels.codec import Codec
    from swarm.kernels.errors import SpecError

    heads, head_dim = SHAPES[model]
    try:
        codec = Codec(spec, "key", head_dim)
    except SpecError:
        return None
    rng = np.random.default_rng(0)
    values = mx.array(rng.standard_normal((1, heads, tokens, head_dim)).astype(np.float16))
    bits = min(AFFINE_BITS, key=lambda known: abs(known - (spec.bits or 4)))

    def peer() -> None:
        mx.eval(mx.quantize(values, group_size=64, bits=bits))

    def encode() -> None:
        mx.eval(codec.encode(values))

    for warm_up in (peer, encode, peer, encode):
        warm_up()
    theirs, ours = alternate(peer, encode, repeats)
    return {
        "model": model,
        "method": spec.label,
        "bits_per_value": codec.bits_per_value,
        "kind": "rotated or angular" if spec.rotation != "none" or spec.method in PROJECTED else "scalar",
        "peer_bits": bits,
        "peer": theirs,
        "ours": ours,
        "ratio": _frame.ratio(ours, theirs),
    }


def alternate(
    first: Callable[[], object], second: Callable[[], object], repeats: int
) -> tuple[list[float], list[float]]:
    """CPU seconds of both, taken in turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for action, found in zip((first, second), times, strict=True):
            start = time.process_time()
            action()
            found.append(time.process_time() - start)
    return times


def page(record: _frame.Results) -> str:
    """The page of a record."""
    results = record["results"]
    parts = [
        _frame.heading(record, "Encoding: what each method costs beside mx.quantize"),
        (__doc__ or "").partition("\n\n")[2].strip() + "\n",
        f"{results['tokens']} tokens, {results['repeats']} repeats; milliseconds are medians.\n",
    ]
    for model, (heads, head_dim) in results["shapes"].items():
        rows = [one for one in results["rows"] if one["model"] == model]
        if rows:
            title = f"## {model}: {heads} KV head{'s' * (heads > 1)} of {head_dim}\n"
            columns = ("method", "bits/value", "`mx.quantize`, ms", "encode, ms", "ratio", "goal")
            parts += [title, _frame.table(columns, map(_line, rows))]
    return "\n".join((*parts, _verdict(results["rows"])))


def _line(one: dict[str, Any]) -> tuple[str, ...]:
    goal = f"{GOALS[one['kind']]:g}x: {'met' if _met(one) else 'not met'}"
    theirs, ours = (f"{1e3 * statistics.median(one[key]):.2f}" for key in ("peer", "ours"))
    peer = f"{theirs} ({one['peer_bits']} bit)"
    return one["method"], f"{one['bits_per_value']:.3f}", peer, ours, _frame.times(one["ratio"]), goal


def _met(one: dict[str, Any]) -> bool:
    return bool(one["ratio"]["ratio"] <= GOALS[one["kind"]])


def _verdict(rows: list[dict[str, Any]]) -> str:
    lines = []
    for kind, goal in GOALS.items():
        here = [one for one in rows if one["kind"] == kind]
        missed = [f"{one['method']} on {one['model']} ({one['ratio']['ratio']:.2f}x)" for one in here if not _met(one)]
        sure = sum(one["ratio"]["high"] <= goal for one in here)
        said = f"met by {len(here) - len(missed)} of {len(here)} rows, by {sure} in every pair of repeats"
        late = f" Not met: {', '.join(missed)}." * bool(missed)
        lines.append(f"- {kind} methods, at most {goal:g}x: {said}.{late}")
    return "## The goals\n\n" + "\n".join(lines) + "\n"


BENCHMARK = _frame.Benchmark("encode", measure, page)

if __name__ == "__main__":
    raise SystemExit(BENCHMARK.main())

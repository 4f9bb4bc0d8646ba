"""What the roofline predicts for Apple's GPUs, and the table of predictions and measurements in docs/kernels.md."""

from __future__ import annotations

import re

from swarm.kernels.errors import UsageError
from swarm.kernels.fused.half_precision import AttentionShape

# GB/s of memory and float32 TFLOP/s of the largest GPU of each chip, as published.
CHIPS = {"M1 Max": (400, 10.4), "M4 Pro": (273, 9.2), "M4 Max": (546, 18.4)}
HEADER = "| chip | GB/s | TFLOP/s | by memory | by arithmetic | expected share of bandwidth | measured |"
UNKNOWN = ("?",) * 5


def predicted(chip: str, shape: AttentionShape, context: int, bits: float) -> tuple[str, ...]:
    """Bandwidth, rate, both limits of one decode step, and the share of the bandwidth that they allow.

    Args:
        chip: its name without `Apple`; the limits of others are not known here.
        shape: the layer.
        context: tokens.
        bits: per stored value.
    """
    if chip not in CHIPS:
        return UNKNOWN
    bandwidth, rate = CHIPS[chip]
    memory = 2 * shape.kv_heads * shape.seen(context) * shape.head_dim * bits / 8 / bandwidth / 1e6
    arithmetic = shape.operations(context) / rate / 1e9
    share = memory / max(memory, arithmetic)
    return str(bandwidth), str(rate), f"{memory:.2f} ms", f"{arithmetic:.2f} ms", f"up to {share:.0%}"


def filled(page: str, chip: str, row: tuple[str, ...], measured: str) -> str:
    """The page with a chip's row of the table: the predictions, and what was measured.

    Raises:
        UsageError: the page has no such table.
    """
    lines = page.split("\n")
    if HEADER not in lines:
        raise UsageError("docs/kernels.md has no table of Apple GPUs.", f"Put back the line: {HEADER}")
    first = lines.index(HEADER) + 2
    last = next((i for i in range(first, len(lines)) if not lines[i].startswith("|")), len(lines))
    text = "| " + " | ".join((chip, *row, measured)) + " |"
    at = next((i for i in range(first, last) if re.match(rf"\|\s*{re.escape(chip)}\s*\|", lines[i])), None)
    lines[last if at is None else at : last if at is None else at + 1] = [text]
    return "\n".join(lines)

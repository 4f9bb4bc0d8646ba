"""Sizes and token counts as people read and write them."""

from __future__ import annotations

import re

from swarm.kernels.errors import UsageError

SCALES = ("B", "KiB", "MiB", "GiB", "TiB")
TOKENS = re.compile(r"(\d+(?:\.\d+)?)\s*([km]?)", re.IGNORECASE)
GIGABYTES = re.compile(r"(\d+(?:\.\d+)?)\s*(?:gi?b?)?", re.IGNORECASE)


def size(n_bytes: float) -> str:
    """Bytes as `128 KiB` or `12.5 GiB`: three significant digits."""
    value, scale = float(n_bytes), 0
    while abs(value) >= 1023.95 and scale < len(SCALES) - 1:
        value, scale = value / 1024, scale + 1
    digits = 0 if value >= 99.95 or scale == 0 else 1 if value >= 9.995 else 2
    text = f"{value:.{digits}f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} {SCALES[scale]}"


def tokens(count: int) -> str:
    """A number of tokens as `128K` or `1.5M`, exact where it is a round one, rounded down otherwise."""
    if count < 1024:
        return str(count)
    unit, letter = (1 << 20, "M") if count >= 1 << 20 else (1 << 10, "K")
    if count >= 100 * unit or count % unit == 0:
        return f"{count // unit}{letter}"
    tenths = count * 10 // unit
    return f"{tenths // 10}{letter}" if tenths % 10 == 0 else f"{tenths / 10:.1f}{letter}"


def parse_tokens(text: str) -> int:
    """`131072`, `128K` or `1M` (1K is 1024) as a number of tokens.

    Raises:
        UsageError: anything else.
    """
    found = TOKENS.fullmatch(text.strip())
    count = round(float(found[1]) * {"": 1, "k": 1 << 10, "m": 1 << 20}[found[2].lower()]) if found else 0
    if count < 1:
        raise UsageError(f"{text!r} is no number of tokens.", "Write 131072 or 128K.")
    return count


def parse_gigabytes(text: str) -> float:
    """`64`, `64GB` or `64 GiB` as GB of memory (2^30 bytes).

    Raises:
        UsageError: anything else.
    """
    found = GIGABYTES.fullmatch(text.strip())
    if found is None or float(found[1]) <= 0:
        raise UsageError(f"{text!r} is no size of memory.", "Write 64 or 64GB.")
    return float(found[1])

"""Seeds derived from the campaign seed: each decision has its own stream, whatever was decided before."""

from __future__ import annotations

from zlib import crc32

import numpy as np


def derive(seed: int, *path: int | str) -> int:
    """A 32-bit seed for one purpose, a pure function of campaign seed and path."""
    return int(np.random.SeedSequence([seed, *map(_number, path)]).generate_state(1)[0])


def generator(seed: int, *path: int | str) -> np.random.Generator:
    """A random generator for one purpose."""
    return np.random.default_rng([seed, *map(_number, path)])


def _number(part: int | str) -> int:
    return crc32(part.encode()) if isinstance(part, str) else part

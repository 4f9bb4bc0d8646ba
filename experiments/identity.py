"""Digests of source files: what was measured is known only together with the code that measured it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
ROOTS = {"experiments": HERE, "kernels": HERE.parent / "kernels"}

CAPTURED = (
    "experiments/artifacts.py",
    "experiments/text.py",
    "experiments/measurement/decode.py",
    "experiments/measurement/divergence.py",
    "experiments/measurement/halves.py",
    "experiments/measurement/listening.py",
    "experiments/models",
    "experiments/measurement/noise.py",
    "experiments/measurement/prefill.py",
    "experiments/measurement/forward.py",
    "experiments/tokenized.py",
    "kernels/arrays.py",
    "kernels/attention.py",
    "kernels/backends",
    "kernels/cache.py",
    "kernels/codec.py",
    "kernels/elementwise.py",
    "kernels/modules.py",
    "kernels/quantizers/base.py",
    "kernels/quantizers/none.py",
    "kernels/side.py",
)
"""Everything that a 16-bit run goes through. Other changes leave captures valid."""

FITTED = (
    "experiments/measurement/attention_error.py",
    "experiments/measurement/calibration.py",
    "experiments/measurement/learned_scaling.py",
    "kernels/bits.py",
    "kernels/codebooks.py",
    "kernels/key_bias.py",
    "kernels/quantizers",
    "kernels/rotation.py",
)
"""What learned factors depend on beside the captures."""


@cache
def captured() -> str:
    """SHA-256 over the source files that decide what captures hold."""
    return digest(CAPTURED)


@cache
def fitted() -> str:
    """SHA-256 over the source files that decide what learned factors are, given the captures."""
    return digest(FITTED)


def digest(names: Iterable[str]) -> str:
    """SHA-256 over source files and folders of source files, named from the packages' common parent.

    Raises:
        FileNotFoundError: there is no such file or folder.
    """
    total = hashlib.sha256()
    for name in names:
        package, _, rest = name.partition("/")
        place = ROOTS[package] / rest
        if not place.exists():
            raise FileNotFoundError(name)
        inside = (path for path in place.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        files = [place] if place.is_file() else sorted(inside)
        for path in files:
            total.update(f"{package}/{path.relative_to(ROOTS[package]).as_posix()}".encode())
            total.update(path.read_bytes())
    return total.hexdigest()

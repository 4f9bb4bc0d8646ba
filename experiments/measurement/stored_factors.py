"""Learned factors as text: what a recipe carries, and what a measurement says about those that it used."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
from pydantic import Field, field_validator

from swarm.kernels.codec import Factors
from swarm.kernels.errors import SpecError
from swarm.kernels.quantizers.base import Side
from swarm.kernels.spec import FrozenModel

if TYPE_CHECKING:
    from swarm.kernels.cache import PackedKVCache

LayerFactors = Mapping[int, Mapping[str, Factors]]
"""By layer and side."""
STORED = np.dtype("<f2")


class StoredFactors(FrozenModel):
    """Learned factors of one side of one layer, as a recipe carries them.

    `channel` is base64 of little-endian float16 [heads, head size], which is all that a cache counts and holds.
    """

    layer: int = Field(ge=0)
    side: Side
    heads: int = Field(ge=1)
    clip: float = Field(gt=0, le=1)
    channel: str

    @classmethod
    def of(cls, layer: int, side: str, factors: Factors) -> Self:
        """Write factors down."""
        channel = np.atleast_2d(factors.channel).astype(STORED)
        text = base64.b64encode(channel.tobytes()).decode()
        fields = {"layer": layer, "side": side, "heads": len(channel), "clip": factors.clip, "channel": text}
        return cls.model_validate(fields)

    @field_validator("channel", mode="after")
    @classmethod
    def _decodes(cls, text: str) -> str:
        try:
            data = base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise SpecError("learned factors are not base64.", "Make the recipe again.") from error
        if not data or len(data) % STORED.itemsize:
            raise SpecError("learned factors are cut off.", "Make the recipe again.")
        return text

    def factors(self) -> Factors:
        """The factors as caches take them.

        Raises:
            SpecError: they are no positive numbers, or not of so many heads.
        """
        values = np.frombuffer(base64.b64decode(self.channel), STORED)
        if len(values) % self.heads:
            raise SpecError(f"{len(values)} factors are not those of {self.heads} heads.", "Make the recipe again.")
        return Factors(values.reshape(self.heads, -1).astype(np.float32), self.clip)


def stored(factors: LayerFactors) -> tuple[StoredFactors, ...]:
    """Factors of some layers as text, in order."""
    return tuple(
        StoredFactors.of(layer, side, factors[layer][side])
        for layer in sorted(factors)
        for side in sorted(factors[layer])
    )


def restored(entries: Sequence[StoredFactors]) -> LayerFactors:
    """Factors per layer and side.

    Raises:
        SpecError: an entry makes no sense.
    """
    found: dict[int, dict[str, Factors]] = {}
    for entry in entries:
        found.setdefault(entry.layer, {})[entry.side] = entry.factors()
    return found


def digest(entries: Sequence[StoredFactors]) -> str:
    """SHA-256 over everything that the factors do; empty when there are none."""
    if not entries:
        return ""
    return hashlib.sha256("".join(entry.model_dump_json() for entry in entries).encode()).hexdigest()


def factors_note(caches: Sequence[PackedKVCache]) -> str:
    """What a measurement says about the factors that it used, empty without any; `speaks_of` finds it in notes."""
    found = digest(stored({cache.layer: cache.factors for cache in caches if cache.factors}))
    return _note(found) if found else ""


def speaks_of(notes: str, entries: Sequence[StoredFactors]) -> bool:
    """Whether the notes of a measurement are about these factors."""
    return _note(digest(entries)) in notes


def _note(found: str) -> str:
    return f" Learned factors {found[:16]}."

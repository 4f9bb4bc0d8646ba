"""The base of all value types, and the words that methods and specifications share."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Axis = Literal["token", "channel"]
RotationKind = Literal["none", "hadamard", "random"]
Scaling = Literal["fixed", "learned"]

HALF_MAX = 65504.0
"""The largest finite float16, in which most formats hold scales and norms."""


class FrozenModel(BaseModel):
    """Base of all value types: immutable, hashable, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

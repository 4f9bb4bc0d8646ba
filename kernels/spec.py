"""Specifications of a quantized KV cache: what is stored in how many bits. Pure data; knows no arrays.

A method's own rules live with the method: a specification that makes no sense is refused while it is built.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Axis = Literal["token", "channel"]
RotationKind = Literal["none", "hadamard", "random"]
Scaling = Literal["fixed", "learned"]


class FrozenModel(BaseModel):
    """Base of all value types: immutable, hashable, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class QuantSpec(FrozenModel):
    """How keys or values are quantized.

    `bits` are the bits of one code, `group_size` the values that share one scale, `axis` whether a group runs
    along the channels of one token or along the tokens of one channel. `rotation` is applied before encoding and
    undone on the queries or on the attention output; `scaling` says whether per-channel factors were fitted.
    `bits` and `group_size` left out mean the method's default.
    """

    method: str = "none"
    bits: int | None = Field(default=None, ge=1, le=16)
    group_size: int | None = Field(default=None, ge=1)
    axis: Axis | None = None
    rotation: RotationKind | None = None
    scaling: Scaling = "fixed"

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults(cls, data: object) -> object:
        from swarm.kernels.quantizers import base

        return base.complete(data) if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _check_method(self) -> Self:
        from swarm.kernels.quantizers import base

        base.method(self.method).check(self)
        return self

    @property
    def label(self) -> str:
        """Short unambiguous name, e.g. `affine4/g64+hadamard+learned`."""
        text = self.method
        if self.method != "none":
            text += f"{self.bits}" + (f"/g{self.group_size}" if self.group_size else "")
        if self.axis == "channel":
            text += "/channel"
        if self.rotation not in (None, "none"):
            text += f"+{self.rotation}"
        return text + ("+learned" if self.scaling == "learned" else "")


class KVSpec(FrozenModel):
    """How the KV cache of a layer is stored: keys, values, and the tokens that stay in 16 bit.

    The first `sink_tokens` and the most recent `residual_window` tokens stay in 16 bit. `key_bias="subtract"`
    removes the RoPE-rotated bias of k_proj before encoding (models that have one).
    """

    key: QuantSpec = Field(default_factory=QuantSpec)
    value: QuantSpec = Field(default_factory=QuantSpec)
    sink_tokens: int = Field(default=0, ge=0)
    residual_window: int = Field(default=0, ge=0)
    key_bias: Literal["keep", "subtract"] = "keep"

    @property
    def label(self) -> str:
        """Short unambiguous name, e.g. `K affine4/g64 V affine2/g64 sink4 recent32`."""
        text = f"K {self.key.label} V {self.value.label}"
        text += f" sink{self.sink_tokens}" if self.sink_tokens else ""
        text += f" recent{self.residual_window}" if self.residual_window else ""
        return text + (" -bias" if self.key_bias == "subtract" else "")

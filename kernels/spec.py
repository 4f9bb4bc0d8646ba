"""Specifications of a quantized KV cache: what is stored in how many bits. Pure data; knows no arrays.

A method's own rules live with the method: a specification that makes no sense is refused while it is built.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from swarm.kernels.errors import SpecError

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
        """Short unambiguous name, e.g. `affine4/g64+hadamard+learned`; bits and group only where there is a choice."""
        from swarm.kernels.quantizers import base

        offered = base.method(self.method).choices
        text = self.method + (f"{self.bits}" if len(offered.bits) > 1 else "")
        if self.group_size and len(offered.group_sizes) > 1:
            text += f"/g{self.group_size}"
        if self.axis == "channel":
            text += "/channel"
        if self.rotation not in (None, "none"):
            text += f"+{self.rotation}"
        return text + ("+learned" if self.scaling == "learned" else "")


def _for_side(spec: QuantSpec, side: str | None) -> QuantSpec:
    from swarm.kernels.quantizers import base

    return base.for_side(spec, "key" if side == "key" else "value")


class LayerOverride(FrozenModel):
    """Other methods or bits for some layers: what is None stays as the KVSpec says."""

    layers: tuple[int, ...] = Field(min_length=1)
    key: QuantSpec | None = None
    value: QuantSpec | None = None

    @field_validator("key", "value", mode="after")
    @classmethod
    def _complete_axis(cls, spec: QuantSpec | None, info: ValidationInfo) -> QuantSpec | None:
        return spec and _for_side(spec, info.field_name)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 0:
            raise SpecError(f"layers={self.layers} is not a list of layers.", "Give layer indices once each, in order.")
        if self.key is None and self.value is None:
            raise SpecError(f"The override of layers {self.layers} changes nothing.", "Give its key or its value.")
        return self

    @property
    def label(self) -> str:
        """Short name, e.g. `layers 0,23: K affine8/g64`."""
        sides = [f"{side} {spec.label}" for side, spec in (("K", self.key), ("V", self.value)) if spec]
        return f"layers {','.join(map(str, self.layers))}: {' '.join(sides)}"


class KVSpec(FrozenModel):
    """How the KV cache of a layer is stored: keys, values, and the tokens that stay in 16 bit.

    The first `sink_tokens` and the most recent `residual_window` tokens stay in 16 bit. `key_bias="subtract"`
    removes the RoPE-rotated bias of k_proj before encoding (models that have one). `overrides` give some layers
    other methods or bits; where layers repeat, the later override wins.
    """

    key: QuantSpec = Field(default_factory=QuantSpec)
    value: QuantSpec = Field(default_factory=QuantSpec)
    sink_tokens: int = Field(default=0, ge=0)
    residual_window: int = Field(default=0, ge=0)
    key_bias: Literal["keep", "subtract"] = "keep"
    overrides: tuple[LayerOverride, ...] = ()

    @field_validator("key", "value", mode="after")
    @classmethod
    def _complete_axis(cls, spec: QuantSpec, info: ValidationInfo) -> QuantSpec:
        return _for_side(spec, info.field_name)

    @model_validator(mode="after")
    def _check_sense(self) -> Self:
        keys = [self.key, *(override.key for override in self.overrides if override.key)]
        values = [self.value, *(override.value for override in self.overrides if override.value)]
        if all(spec.method == "none" for spec in keys + values) and (self.sink_tokens or self.residual_window):
            raise SpecError(
                "sink_tokens and residual_window keep tokens in 16 bit, and here everything is 16 bit already.",
                "Leave them at 0, or quantize keys or values.",
            )
        self._check_overrides()
        if self.key_bias == "subtract" and all(spec.method == "none" for spec in keys):
            raise SpecError(
                "key_bias='subtract' changes how keys are quantized, and here keys stay in 16 bit.",
                "Leave it at 'keep', or quantize the keys.",
            )
        return self

    def _check_overrides(self) -> None:
        """Refuse an override that leaves every one of its layers as it was: the same cache under another name."""
        now: dict[tuple[int, str], QuantSpec] = {}
        for override in self.overrides:
            changed = False
            for name in ("key", "value"):
                spec = getattr(override, name)
                for layer in override.layers if spec is not None else ():
                    changed |= now.get((layer, name), getattr(self, name)) != spec
                    now[layer, name] = spec
            if not changed:
                raise SpecError(
                    f"The override of {override.label} gives these layers what they have without it.", "Leave it out."
                )

    def at(self, layer: int) -> KVSpec:
        """The specification of one layer, its overrides applied."""
        fields = {name: getattr(self, name) for name in ("key", "value", "sink_tokens", "residual_window", "key_bias")}
        for override in self.overrides:
            if layer in override.layers:
                fields |= {name: spec for name in ("key", "value") if (spec := getattr(override, name)) is not None}
        if fields["key"].method == "none":
            fields["key_bias"] = "keep"
            if fields["value"].method == "none":
                fields["sink_tokens"] = fields["residual_window"] = 0
        return KVSpec(**fields)

    @property
    def label(self) -> str:
        """Short unambiguous name, e.g. `K affine4/g64 V affine2/g64 sink4 recent32`."""
        text = f"K {self.key.label} V {self.value.label}"
        text += f" sink{self.sink_tokens}" if self.sink_tokens else ""
        text += f" recent{self.residual_window}" if self.residual_window else ""
        text += " -bias" if self.key_bias == "subtract" else ""
        return text + "".join(f" [{override.label}]" for override in self.overrides)

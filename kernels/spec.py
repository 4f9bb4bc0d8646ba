"""Specifications of a quantized KV cache: what is stored in how many bits, and their text form.

`label` writes a specification as text and `parse` reads that text back. A specification that makes no sense is
refused while it is built, by the rules of its method.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from swarm.kernels.errors import SpecError
from swarm.kernels.quant_spec import Piece, QuantSpec, named_fields, specs, variants
from swarm.kernels.quantizers import base
from swarm.kernels.values import FrozenModel

__all__ = [
    "FrozenModel",
    "KVSpec",
    "LayerOverride",
    "QuantSpec",
    "check_layers",
    "layers_in_kv",
    "ranges",
    "read_layers",
    "specs",
    "variants",
]

# A specification with the axis that its method takes on that side.
KeySpec = Annotated[QuantSpec, AfterValidator(partial(base.for_side, side="key"))]
ValueSpec = Annotated[QuantSpec, AfterValidator(partial(base.for_side, side="value"))]


class LayerOverride(FrozenModel):
    """Other methods or bits for some layers: what is None stays as the KVSpec says."""

    layers: tuple[int, ...] = Field(min_length=1)
    key: KeySpec | None = None
    value: ValueSpec | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_layers(self.layers)
        if self.key is None and self.value is None:
            raise SpecError(f"The override of layers {self.layers} changes nothing.", "Give its key or its value.")
        return self

    @property
    def label(self) -> str:
        """Short name, e.g. `layers 0,23: K affine8/g64`."""
        sides = [f"{side} {spec.label}" for side, spec in (("K", self.key), ("V", self.value)) if spec]
        return f"layers {','.join(map(str, self.layers))}: {' '.join(sides)}"


def check_layers(layers: tuple[int, ...]) -> None:
    """Refuse what is no sorted list of layers.

    Raises:
        SpecError: it is empty, or a layer is negative, out of order or given twice.
    """
    if not layers or list(layers) != sorted(set(layers)) or layers[0] < 0:
        raise SpecError(f"layers={layers} is not a list of layers.", "Give layer indices once each, in order.")


class KVSpec(FrozenModel):
    """How the KV cache of a model is stored: keys, values, and the tokens and layers that stay in 16 bit.

    The first `sink_tokens` and the most recent `residual_window` tokens stay in 16 bit. `key_bias="subtract"`
    removes the RoPE-rotated bias of k_proj before encoding (models that have one). `overrides` give some layers
    other methods or bits; where layers repeat, the later override wins. `layers` are the quantized layers (sorted;
    None means all), the others stay in 16 bit. Wherever data holds a KVSpec, the text that `parse` reads will do.
    """

    key: KeySpec = Field(default_factory=QuantSpec)
    value: ValueSpec = Field(default_factory=QuantSpec)
    sink_tokens: int = Field(default=0, ge=0)
    residual_window: int = Field(default=0, ge=0)
    key_bias: Literal["keep", "subtract"] = "keep"
    overrides: tuple[LayerOverride, ...] = ()
    layers: tuple[int, ...] | None = None

    @model_validator(mode="before")
    @classmethod
    def _read_text(cls, data: object) -> object:
        return _kv_fields(data) if isinstance(data, str) else data

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
        if self.layers is not None:
            check_layers(self.layers)
            named = {layer for override in self.overrides for layer in override.layers}
            if unused := sorted(named - set(self.layers)):
                raise SpecError(
                    f"kv.overrides name layer {unused[0]}, which stays in 16 bit because `layers` does not list it.",
                    "Add it to `layers`, or take it out of the override.",
                )
        return self

    def _check_overrides(self) -> None:
        """Refuse an override that leaves every one of its layers as it was: the same cache under another name."""
        for count, override in enumerate(self.overrides):
            before, after = self.overrides[:count], self.overrides[: count + 1]
            if all(self._sides(layer, before) == self._sides(layer, after) for layer in override.layers):
                raise SpecError(
                    f"The override of {override.label} gives these layers what they have without it.", "Leave it out."
                )

    def _sides(self, layer: int, overrides: Iterable[LayerOverride]) -> tuple[QuantSpec, QuantSpec]:
        key, value = self.key, self.value
        for override in overrides:
            if layer in override.layers:
                key, value = override.key or key, override.value or value
        return key, value

    def at(self, layer: int) -> KVSpec:
        """The specification of one layer, its overrides applied."""
        if self.layers is not None and layer not in self.layers:
            return KVSpec()
        key, value = self._sides(layer, self.overrides)
        kept: dict[str, Any] = {} if key.method == "none" else {"key_bias": self.key_bias}
        if (key.method, value.method) != ("none", "none"):
            kept |= {"sink_tokens": self.sink_tokens, "residual_window": self.residual_window}
        return KVSpec(key=key, value=value, **kept)

    def on(self, layers: Iterable[int] | None) -> KVSpec:
        """The same specification on these layers (sorted); None means all layers."""
        return self.model_copy(update={"layers": None if layers is None else tuple(layers)})

    @property
    def label(self) -> str:
        """Short unambiguous name, e.g. `K affine4/g64 V affine2/g64 sink4 recent32 [layers 0: K q8_0] layers 0-13`."""
        return f"K {self.key.label} V {self.value.label}{self._options}"

    @property
    def short_label(self) -> str:
        """The label, with keys and values named once where they are alike, e.g. `KV affine4/g64 sink4`."""
        alike = self.key.label == self.value.label
        return f"KV {self.key.label}{self._options}" if alike else self.label

    @property
    def _options(self) -> str:
        text = f" sink{self.sink_tokens}" if self.sink_tokens else ""
        text += f" recent{self.residual_window}" if self.residual_window else ""
        text += " -bias" if self.key_bias == "subtract" else ""
        text += "".join(f" [{override.label}]" for override in self.overrides)
        if self.layers is not None:
            text += f" layer{'s' if len(self.layers) > 1 else ''} {ranges(self.layers)}"
        return text

    @classmethod
    def parse(cls, text: str) -> Self:
        """The specification that `label` or `short_label` writes so.

        Beyond labels it takes one method for both sides, `affine4/g64 sink4` (a side that the method is not made for
        stays in 16 bit), and `q8_0,q4_0` for keys and values; there an axis left out is the method's for that side,
        and after `K`, `V` or `KV` it is `token`, as in labels.

        Raises:
            SpecError: with the column and the piece that cannot be read, and the nearest that can.
        """
        fields = _kv_fields(text)
        with Piece(text, text.strip()).located():
            return cls(**fields)


def layers_in_kv(data: Any) -> Any:
    """What release 0.1 wrote, `layers` beside `kv`, as fields of today: for models that hold a `kv`."""
    if not isinstance(data, dict) or "layers" not in data:
        return data
    kv = data.get("kv", {})
    fields = kv.model_dump() if isinstance(kv, KVSpec) else kv
    rest = {name: value for name, value in data.items() if name != "layers"}
    return {**rest, "kv": {**fields, "layers": data["layers"]}}


def ranges(layers: Iterable[int]) -> str:
    """Sorted layer numbers in short: `0-3,7`."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


_PIECES = re.compile(r"\[[^\]]*\]|\S+")
_LAYERS = re.compile(r"[0-9]{1,5}(?:-[0-9]{1,5})?(?:,[0-9]{1,5}(?:-[0-9]{1,5})?)*")
_OVERRIDE = re.compile(r"\[\s*layers?\s+(?P<layers>[^:\]]*?)\s*:(?P<sides>[^\]]*)\]")
_SIDES = ("K", "V", "KV")
_OPTIONS = (*_SIDES, "sink4", "recent32", "-bias", "layers", "layer", "[layers 0,1: K q8_0]")


def _kv_fields(text: str) -> dict[str, Any]:
    """The fields of a KVSpec that a text means."""
    pieces = (Piece(text, part[0], part.start()) for part in _PIECES.finditer(text))
    fields: dict[str, Any] = {}
    overrides: list[LayerOverride] = []
    for place, piece in enumerate(pieces):
        if piece.part in _SIDES:
            _read_sides(pieces, piece, fields)
        elif piece.part.startswith("["):
            overrides.append(_read_override(piece))
        elif place == 0:
            fields |= _read_both(piece)
        else:
            name, value = _read_option(pieces, piece)
            if name in fields:
                raise piece.error("it is given twice.", "Give it once.")
            fields[name] = value
    if "key" not in fields and "value" not in fields:
        raise Piece(text, text).error("it names no method.", "Write it as in K affine4/g64 V affine4/g64.")
    return {**fields, "overrides": tuple(overrides)} if overrides else fields


def _read_sides(pieces: Iterator[Piece], piece: Piece, fields: dict[str, Any]) -> None:
    """Read what follows `K`, `V` or `KV` into the fields."""
    quant = next(pieces, None)
    if quant is None:
        raise piece.error("a method is missing after it.", f"Write it as in {piece.part} affine4/g64.")
    for letter in piece.part:
        side: base.Side = "key" if letter == "K" else "value"
        if side in fields:
            raise piece.error(f"the {side}s are given twice.", "Give them once.")
        fields[side] = _read_side(quant, side, literal=True)


def _read_side(piece: Piece, side: base.Side, *, literal: bool) -> QuantSpec:
    """The specification of keys or values; `literal` reads an axis left out as labels mean it."""
    fields = named_fields(piece)
    if literal and "token" in base.method(fields["method"]).choices.axes:
        fields.setdefault("axis", "token")
    with piece.located():
        return base.for_side(QuantSpec(**fields), side)


def _read_both(piece: Piece) -> dict[str, QuantSpec]:
    """One method for keys and values, or two with a comma."""
    parts = piece.part.split(",")
    if len(parts) > 2:
        raise piece.error(f"it names {len(parts)} methods.", "Give one, or two: keys,values.")
    if len(parts) == 1:
        sides = base.method(named_fields(piece)["method"]).choices.sides
        return {side: _read_side(piece, side, literal=False) for side in sides}
    key, value = piece.sub(parts[0], 0), piece.sub(parts[1], len(parts[0]) + 1)
    return {"key": _read_side(key, "key", literal=False), "value": _read_side(value, "value", literal=False)}


def _read_override(piece: Piece) -> LayerOverride:
    found = _OVERRIDE.fullmatch(piece.part)
    if found is None:
        raise piece.error("not an override.", "Write it as in [layers 0,1: K q8_0 V q8_0].")
    fields: dict[str, Any] = {"layers": read_layers(piece.sub(found["layers"], found.start("layers")))}
    inner = piece.sub(found["sides"], found.start("sides"))
    pieces = (inner.sub(part[0], part.start()) for part in _PIECES.finditer(inner.part))
    for name in pieces:
        if name.part not in _SIDES:
            name.unknown("side", _SIDES)
        _read_sides(pieces, name, fields)
    with piece.located():
        return LayerOverride(**fields)


def _read_option(pieces: Iterator[Piece], piece: Piece) -> tuple[str, Any]:
    """The field and value that what follows the methods means."""
    count = re.fullmatch("(sink|recent)([0-9]{1,9})", piece.part)
    if count:
        return "sink_tokens" if count[1] == "sink" else "residual_window", int(count[2])
    if piece.part == "-bias":
        return "key_bias", "subtract"
    if piece.part not in ("layer", "layers"):
        piece.unknown("option", _OPTIONS)
    return "layers", read_layers(next(pieces, Piece(piece.text, "", len(piece.text))))


def read_layers(piece: Piece) -> tuple[int, ...]:
    """The layers that `ranges` writes so.

    Raises:
        SpecError: with the place and the reason.
    """
    layers: list[int] = []
    for run in piece.part.split(",") if _LAYERS.fullmatch(piece.part) else ():
        first, _, last = run.partition("-")
        layers += range(int(first), int(last or first) + 1)
    if not layers or layers != sorted(set(layers)):
        raise piece.error("not a list of layers.", "Write each layer once and in order, as in 0-3,7.")
    return tuple(layers)

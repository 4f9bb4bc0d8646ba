"""Specifications of a quantized KV cache: what is stored in how many bits, and their text form.

`label` writes a specification as text and `parse` reads that text back. A specification that makes no sense is
refused while it is built, by the rules of its method.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, NoReturn, Self, get_args

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from swarm.kernels import plugins
from swarm.kernels.errors import SpecError
from swarm.kernels.quantizers import base
from swarm.kernels.values import Axis, FrozenModel, RotationKind, Scaling

__all__ = ["FrozenModel", "KVSpec", "LayerOverride", "QuantSpec", "layers_in_kv", "ranges", "specs"]


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
        return base.complete(data) if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _check_method(self) -> Self:
        base.method(self.method).check(self)
        return self

    @property
    def label(self) -> str:
        """Short unambiguous name, e.g. `affine4/g64+hadamard+learned`; bits and group only where there is a choice."""
        offered = base.method(self.method).choices
        text = self.method + (f"{self.bits}" if len(offered.bits) > 1 else "")
        if self.group_size and len(offered.group_sizes) > 1:
            text += f"/g{self.group_size}"
        if self.axis == "channel":
            text += "/channel"
        if self.rotation not in (None, "none"):
            text += f"+{self.rotation}"
        return text + ("+learned" if self.scaling == "learned" else "")

    @classmethod
    def parse(cls, text: str) -> Self:
        """The specification that `label` writes so; bits and group left out are the method's default.

        An axis left out stays open where keys and values take different ones: a `KVSpec` fills it in.

        Raises:
            SpecError: with the column and the piece that cannot be read, and the nearest that can.
        """
        return cls(**_quant_fields(_Piece(text, text.strip(), text.find(text.strip()))))


def specs(method: str, head_dim: int) -> tuple[QuantSpec, ...]:
    """Every valid specification of a method at a head size, the default first; none where it does not fit."""
    kind, found = base.method(method), []
    for fields in kind.choices.combinations():
        try:
            spec = QuantSpec(method=method, **fields)
            kind.check_head_dim(spec, head_dim)
        except SpecError:
            continue
        found.append(spec)
    return tuple(found)


def _for_side(spec: QuantSpec, side: str | None) -> QuantSpec:
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
        _check_layers(self.layers)
        if self.key is None and self.value is None:
            raise SpecError(f"The override of layers {self.layers} changes nothing.", "Give its key or its value.")
        return self

    @property
    def label(self) -> str:
        """Short name, e.g. `layers 0,23: K affine8/g64`."""
        sides = [f"{side} {spec.label}" for side, spec in (("K", self.key), ("V", self.value)) if spec]
        return f"layers {','.join(map(str, self.layers))}: {' '.join(sides)}"


def _check_layers(layers: tuple[int, ...]) -> None:
    if not layers or list(layers) != sorted(set(layers)) or layers[0] < 0:
        raise SpecError(f"layers={layers} is not a list of layers.", "Give layer indices once each, in order.")


class KVSpec(FrozenModel):
    """How the KV cache of a model is stored: keys, values, and the tokens and layers that stay in 16 bit.

    The first `sink_tokens` and the most recent `residual_window` tokens stay in 16 bit. `key_bias="subtract"`
    removes the RoPE-rotated bias of k_proj before encoding (models that have one). `overrides` give some layers
    other methods or bits; where layers repeat, the later override wins. `layers` are the quantized layers (sorted;
    None means all), the others stay in 16 bit. Wherever data holds a KVSpec, the text that `parse` reads will do.
    """

    key: QuantSpec = Field(default_factory=QuantSpec)
    value: QuantSpec = Field(default_factory=QuantSpec)
    sink_tokens: int = Field(default=0, ge=0)
    residual_window: int = Field(default=0, ge=0)
    key_bias: Literal["keep", "subtract"] = "keep"
    overrides: tuple[LayerOverride, ...] = ()
    layers: tuple[int, ...] | None = None

    @model_validator(mode="before")
    @classmethod
    def _read_text(cls, data: object) -> object:
        return _kv_fields(data) if isinstance(data, str) else data

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
        if self.layers is not None:
            _check_layers(self.layers)
            named = {layer for override in self.overrides for layer in override.layers}
            if unused := sorted(named - set(self.layers)):
                raise SpecError(
                    f"kv.overrides name layer {unused[0]}, which stays in 16 bit because `layers` does not list it.",
                    "Add it to `layers`, or take it out of the override.",
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
        if self.layers is not None and layer not in self.layers:
            return KVSpec()
        fields = {name: getattr(self, name) for name in ("key", "value", "sink_tokens", "residual_window", "key_bias")}
        for override in self.overrides:
            if layer in override.layers:
                fields |= {name: spec for name in ("key", "value") if (spec := getattr(override, name)) is not None}
        if fields["key"].method == "none":
            fields["key_bias"] = "keep"
            if fields["value"].method == "none":
                fields["sink_tokens"] = fields["residual_window"] = 0
        return KVSpec(**fields)

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
        try:
            return cls(**fields)
        except SpecError as error:
            raise _unreadable(_Piece(text, text.strip(), 0), error.problem, error.remedy) from error


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
_QUANT = re.compile(r"(?P<name>[^/+]*)(?P<parts>(?:[/+][^/+]*)*)")
_LAYERS = re.compile(r"[0-9]{1,5}(?:-[0-9]{1,5})?(?:,[0-9]{1,5}(?:-[0-9]{1,5})?)*")
_OVERRIDE = re.compile(r"\[\s*layers?\s+(?P<layers>[^:\]]*?)\s*:(?P<sides>[^\]]*)\]")
_SIDES = ("K", "V", "KV")
_OPTIONS = (*_SIDES, "sink4", "recent32", "-bias", "layers", "layer", "[layers 0,1: K q8_0]")
_QUANT_OPTIONS: dict[str, tuple[str, str]] = {
    **{f"/{axis}": ("axis", axis) for axis in get_args(Axis)},
    **{f"+{kind}": ("rotation", kind) for kind in get_args(RotationKind)},
    **{f"+{kind}": ("scaling", kind) for kind in get_args(Scaling)},
}


@dataclass(frozen=True)
class _Piece:
    """A part of a text that is read, and where it starts."""

    text: str
    part: str
    start: int

    def sub(self, part: str, start: int) -> _Piece:
        """A part of this part, which starts at `start` in it."""
        return _Piece(self.text, part, self.start + start)


def _unreadable(piece: _Piece, why: str, remedy: str = "") -> SpecError:
    part = piece.part if len(piece.part) <= 60 else f"{piece.part[:60]}..."
    text = piece.text if len(piece.text) <= 200 else f"{piece.text[:200]}..."
    return SpecError(f"{text!r} cannot be read at column {piece.start + 1}, {part!r}: {why}", remedy)


def _unknown(piece: _Piece, kind: str, known: Iterable[str]) -> NoReturn:
    """Refuse a name, with the nearest that there is."""
    known = list(known)
    near = get_close_matches(piece.part, known, n=1, cutoff=0.5)
    remedy = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}."
    raise _unreadable(piece, f"unknown {kind}.", remedy)


def _quant_fields(piece: _Piece) -> dict[str, Any]:
    """The fields of a QuantSpec that `METHOD[BITS][/gGROUP][/AXIS][+ROTATION][+learned]` means."""
    found = _QUANT.fullmatch(piece.part)
    names = plugins.names(base.PACKAGE)
    head = found["name"] if found else piece.part
    fitting = [name for name in names if head.startswith(name) and re.fullmatch("[0-9]{0,3}", head[len(name) :])]
    if not found or not fitting:
        _unknown(piece.sub(head, 0), "method", names)
    name = max(fitting, key=len)
    offered = base.method(name).choices
    fields: dict[str, Any] = {"method": name}
    if bits := head[len(name) :]:
        fields["bits"] = int(bits)
    for part in re.finditer("[/+][^/+]*", found["parts"]):
        group = re.fullmatch("/g([0-9]{1,6})", part[0])
        if group is None and part[0] not in _QUANT_OPTIONS:
            _unknown(piece.sub(part[0], len(head) + part.start()), "option", ("/g64", *_QUANT_OPTIONS))
        field, value = ("group_size", int(group[1])) if group else _QUANT_OPTIONS[part[0]]
        if field in fields:
            raise _unreadable(piece.sub(part[0], len(head) + part.start()), f"{field} is given twice.")
        fields[field] = value
    if "none" in offered.rotations:
        fields.setdefault("rotation", "none")
    if not offered.side_axes and "token" in offered.axes:
        fields.setdefault("axis", "token")
    try:
        QuantSpec(**fields)
    except SpecError as error:
        raise _unreadable(piece, error.problem, error.remedy) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise _unreadable(piece, f"{first['loc'][0]}: {first['msg']}.") from error
    return fields


def _side(piece: _Piece, side: str, *, literal: bool) -> QuantSpec:
    """The specification of keys or values; `literal` reads an axis left out as labels mean it."""
    fields = _quant_fields(piece)
    if literal and "token" in base.method(fields["method"]).choices.axes:
        fields.setdefault("axis", "token")
    try:
        return _for_side(QuantSpec(**fields), side)
    except SpecError as error:
        raise _unreadable(piece, error.problem, error.remedy) from error


def _layers(piece: _Piece) -> tuple[int, ...]:
    if not _LAYERS.fullmatch(piece.part):
        raise _unreadable(piece, "not a list of layers.", "Write it as in 0-3,7.")
    layers: list[int] = []
    for run in piece.part.split(","):
        first, _, last = run.partition("-")
        layers += range(int(first), int(last or first) + 1)
    try:
        _check_layers(tuple(layers))
    except SpecError as error:
        raise _unreadable(piece, "not a list of layers.", error.remedy) from error
    return tuple(layers)


def _sides(pieces: Iterator[_Piece], piece: _Piece, fields: dict[str, Any]) -> None:
    """Read what follows `K`, `V` or `KV` into the fields."""
    quant = next(pieces, None)
    if quant is None:
        raise _unreadable(piece, "a method is missing after it.", f"Write it as in {piece.part} affine4/g64.")
    for letter in piece.part:
        side = "key" if letter == "K" else "value"
        if side in fields:
            raise _unreadable(piece, f"the {side}s are given twice.", "Give them once.")
        fields[side] = _side(quant, side, literal=True)


def _override(piece: _Piece) -> LayerOverride:
    found = _OVERRIDE.fullmatch(piece.part)
    if found is None:
        raise _unreadable(piece, "not an override.", "Write it as in [layers 0,1: K q8_0 V q8_0].")
    fields: dict[str, Any] = {"layers": _layers(piece.sub(found["layers"], found.start("layers")))}
    inner = piece.sub(found["sides"], found.start("sides"))
    pieces = (inner.sub(part[0], part.start()) for part in _PIECES.finditer(inner.part))
    for name in pieces:
        if name.part not in _SIDES:
            _unknown(name, "side", _SIDES)
        _sides(pieces, name, fields)
    try:
        return LayerOverride(**fields)
    except SpecError as error:
        raise _unreadable(piece, error.problem, error.remedy) from error


def _both(piece: _Piece) -> dict[str, QuantSpec]:
    """One method for keys and values, or two with a comma."""
    parts = piece.part.split(",")
    if len(parts) > 2:
        raise _unreadable(piece, f"it names {len(parts)} methods.", "Give one, or two: keys,values.")
    key, value = piece.sub(parts[0], 0), piece.sub(parts[-1], len(piece.part) - len(parts[-1]))
    if len(parts) == 1:
        sides = base.method(_quant_fields(piece)["method"]).choices.sides
        return {side: _side(piece, side, literal=False) for side in sides}
    return {"key": _side(key, "key", literal=False), "value": _side(value, "value", literal=False)}


def _kv_fields(text: str) -> dict[str, Any]:
    """The fields of a KVSpec that a text means."""
    pieces = (_Piece(text, part[0], part.start()) for part in _PIECES.finditer(text))
    fields: dict[str, Any] = {}
    overrides: list[LayerOverride] = []
    for place, piece in enumerate(pieces):
        if piece.part in _SIDES:
            _sides(pieces, piece, fields)
        elif piece.part.startswith("["):
            overrides.append(_override(piece))
        elif place == 0:
            fields |= _both(piece)
        else:
            name, value = _option(pieces, piece)
            if name in fields:
                raise _unreadable(piece, "it is given twice.", "Give it once.")
            fields[name] = value
    if "key" not in fields and "value" not in fields:
        raise _unreadable(_Piece(text, text, 0), "it names no method.", "Write it as in K affine4/g64 V affine4/g64.")
    return {**fields, "overrides": tuple(overrides)} if overrides else fields


def _option(pieces: Iterator[_Piece], piece: _Piece) -> tuple[str, Any]:
    """The field and value that what follows the methods means."""
    count = re.fullmatch("(sink|recent)([0-9]{1,9})", piece.part)
    if count:
        return "sink_tokens" if count[1] == "sink" else "residual_window", int(count[2])
    if piece.part == "-bias":
        return "key_bias", "subtract"
    if piece.part not in ("layer", "layers"):
        _unknown(piece, "option", _OPTIONS)
    return "layers", _layers(next(pieces, _Piece(piece.text, "", len(piece.text))))

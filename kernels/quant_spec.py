"""How keys or values are quantized: the specification of one side, and its text form.

`label` writes a specification as text and `parse` reads that text back. A specification that makes no sense is
refused while it is built, by the rules of its method.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import product
from typing import Any, NoReturn, Self, get_args

from pydantic import Field, ValidationError, model_validator

from swarm.kernels import plugins
from swarm.kernels.errors import SpecError
from swarm.kernels.quantizers import base
from swarm.kernels.values import Axis, FrozenModel, RotationKind, Scaling


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
        piece = Piece(text, text.strip(), text.find(text.strip()))
        fields = named_fields(piece)
        with piece.located():
            return cls(**fields)


def variants(method: str) -> tuple[QuantSpec, ...]:
    """Every choice of bits, group size and axis of a method, its default first; the rest is left at its default."""
    offered = base.method(method).choices
    return tuple(
        QuantSpec(method=method, bits=bits, group_size=group, axis=axis)
        for bits, group, axis in product(offered.bits, offered.group_sizes, offered.axes)
    )


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


@dataclass(frozen=True)
class Piece:
    """A part of a text that is read, and where in it the part starts."""

    text: str
    part: str
    start: int = 0

    def sub(self, part: str, start: int) -> Piece:
        """A part of this part, which starts at `start` in it."""
        return Piece(self.text, part, self.start + start)

    def error(self, why: str, remedy: str = "") -> SpecError:
        """The error that says where the text cannot be read, and why."""
        text, part = (f"{t[:most]}..." if len(t) > most else t for t, most in ((self.text, 200), (self.part, 60)))
        return SpecError(f"{text!r} cannot be read at column {self.start + 1}, {part!r}: {why}", remedy)

    def unknown(self, kind: str, known: Iterable[str]) -> NoReturn:
        """Refuse a name, with the nearest that there is.

        Raises:
            SpecError: always.
        """
        known = list(known)
        near = get_close_matches(self.part, known, n=1, cutoff=0.5)
        raise self.error(f"unknown {kind}.", f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}.")

    @contextmanager
    def located(self) -> Iterator[None]:
        """What is refused inside is refused with this place.

        Raises:
            SpecError: with the place and the reason.
        """
        try:
            yield
        except SpecError as error:
            raise self.error(error.problem, error.remedy) from error
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise self.error(f"{first['loc'][0]}: {first['msg']}.") from error


_QUANT = re.compile(r"(?P<name>[^/+]*)(?P<parts>(?:[/+][^/+]*)*)")
_OPTIONS: dict[str, tuple[str, str]] = {
    **{f"/{axis}": ("axis", axis) for axis in get_args(Axis)},
    **{f"+{kind}": ("rotation", kind) for kind in get_args(RotationKind)},
    **{f"+{kind}": ("scaling", kind) for kind in get_args(Scaling)},
}


def named_fields(piece: Piece) -> dict[str, Any]:
    """The fields that `METHOD[BITS][/gGROUP][/AXIS][+ROTATION][+learned]` names, and those that labels leave out.

    Raises:
        SpecError: with the place that cannot be read.
    """
    found = _QUANT.fullmatch(piece.part)
    known = plugins.names(base.PACKAGE)
    head = found["name"] if found else piece.part
    fitting = [name for name in known if head.startswith(name) and re.fullmatch("[0-9]{0,3}", head[len(name) :])]
    if not found or not fitting:
        piece.sub(head, 0).unknown("method", known)
    name = max(fitting, key=len)
    fields: dict[str, Any] = {"method": name}
    if bits := head[len(name) :]:
        fields["bits"] = int(bits)
    for match in re.finditer("[/+][^/+]*", found["parts"]):
        part = piece.sub(match[0], len(head) + match.start())
        group = re.fullmatch("/g([0-9]{1,6})", match[0])
        if group is None and match[0] not in _OPTIONS:
            part.unknown("option", ("/g64", *_OPTIONS))
        field, value = ("group_size", int(group[1])) if group else _OPTIONS[match[0]]
        if field in fields:
            raise part.error(f"{field} is given twice.")
        fields[field] = value
    offered = base.method(name).choices
    if "none" in offered.rotations:
        fields.setdefault("rotation", "none")
    if not offered.side_axes and "token" in offered.axes:
        fields.setdefault("axis", "token")
    return fields

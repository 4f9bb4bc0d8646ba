"""The base of all quantization methods: what a method declares and what it computes.

A method works on arrays of one layer's keys or values; rotations and learned factors are applied around it.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from swarm.kernels import plugins
from swarm.kernels.errors import NonFiniteError, SpecError
from swarm.kernels.values import HALF_MAX, Axis, FrozenModel, RotationKind, Scaling

if TYPE_CHECKING:
    from swarm.kernels.arrays import Array, Namespace, Packed
    from swarm.kernels.fused.form import PackedForm
    from swarm.kernels.spec import KVSpec, QuantSpec

PACKAGE = "swarm.kernels.quantizers"
NOT_HELD = "NaN, Inf or magnitudes beyond the 16-bit type"
Side = Literal["key", "value"]

CODEC_VERSION = 1
"""Raised by whoever changes what all methods share: rotations, key bias, factors, sinks, windows, attention."""


class Choices(FrozenModel):
    """The parameters of a method: its piece of the search space; the first entry of each is the default.

    `side_axes` says which axis keys and values take by default where the method has one for each.
    """

    bits: tuple[int, ...] = Field(min_length=1)
    group_sizes: tuple[int | None, ...] = (None,)
    axes: tuple[Axis, ...] = ("token",)
    rotations: tuple[RotationKind, ...] = ("none", "hadamard", "random")
    scalings: tuple[Scaling, ...] = ("fixed",)
    sides: tuple[Side, ...] = ("key", "value")
    side_axes: Mapping[Side, Axis] = Field(default_factory=dict)

    def combinations(self) -> Iterator[dict[str, Any]]:
        """Every combination as fields of a QuantSpec, the default first; some may fit no head size."""
        names = {"bits": self.bits, "group_size": self.group_sizes, "axis": self.axes, "rotation": self.rotations}
        for values in itertools.product(*names.values(), self.scalings):
            yield dict(zip((*names, "scaling"), values, strict=True))


class Quantizer(ABC):
    """One method at one head size: encodes vectors into packed arrays and back.

    Class attributes `name` (the module's), `source` (arXiv id or project), `summary` (one line),
    `formula` (bits/value as text) and `choices` describe the method without any array library; `demands` says in
    words what it needs beyond what `choices` say. `version` is raised by whoever changes what the method computes:
    results of different versions are different experiments. `largest` is the magnitude from
    which a format that cannot overflow would silently cut values off.

    A method writes `pack` and `unpack` once over the array namespace `xp` (numpy or mlx.core); `encode` and `decode`
    are the entry points for arrays of either library.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    summary: ClassVar[str]
    formula: ClassVar[str]
    choices: ClassVar[Choices]
    demands: ClassVar[tuple[str, ...]] = ()
    version: ClassVar[int] = 1
    largest: ClassVar[float] = math.inf
    transient_bytes: ClassVar[int] = 16  # of a value, beside the result, while `dense` computes

    def __init__(self, spec: QuantSpec, head_dim: int, seed: int = 0) -> None:
        self.spec = spec
        self.head_dim = head_dim
        self.seed = seed
        self.check_head_dim(spec, head_dim)

    @property
    def block_tokens(self) -> int:
        """Tokens that are encoded together; `encode` takes multiples of it."""
        return 1

    @property
    def bits(self) -> int:
        """Bits of one code."""
        bits = self.spec.bits
        if bits is None:
            raise SpecError(f"{self.name} was given no bits.", "Build the specification through QuantSpec.")
        return bits

    @property
    def group(self) -> int:
        """Values that share one scale: the head's, where the specification has no group."""
        return self.spec.group_size or self.head_dim

    @property
    def constant_nbytes(self) -> int:
        """Bytes of data-independent tables (codebooks) that one layer's side needs besides its packed arrays."""
        return 0

    @abstractmethod
    def pack(self, xp: Namespace, x: Array) -> Packed:
        """Pack finite vectors of 16 or 32 bit [B, H, T, D] into named arrays [B, H, T / block_tokens, ...]."""

    @abstractmethod
    def unpack(self, xp: Namespace, packed: Packed) -> Array:
        """Packed arrays to float32 vectors [B, H, T, F] in the method's frame."""

    def dense(self, packed: Packed, dtype: Any) -> Array:
        """Packed MLX arrays to vectors of a type, on an accelerator."""
        import mlx.core as mx

        return self.unpack(mx, packed).astype(dtype)

    @abstractmethod
    def bits_per_value(self) -> float:
        """Exact bits stored per value, all metadata included; equals the bytes that `encode` returns."""

    def encode(self, x: Array) -> Packed:
        """Pack `x` [B, H, T, D] (T a multiple of `block_tokens`) into named arrays [B, H, T / block_tokens, ...].

        Raises:
            NonFiniteError: NaN, Inf, or a magnitude beyond what the format can hold.
        """
        from swarm.kernels import arrays

        xp, values = arrays.compute(x)
        if not arrays.finite(xp, values):
            raise self.out_of_range(NOT_HELD)
        self.check_range(xp, values)
        return {name: arrays.like(x, part) for name, part in self.pack(xp, values).items()}

    def check_range(self, xp: Namespace, x: Array) -> None:
        """Refuse finite vectors [B, H, T, D] in the method's frame that the format cannot hold.

        Scales and norms are at most sqrt(D) times the largest magnitude. Where that bound does not suffice, the vectors
        are packed and unpacked to see.

        Raises:
            NonFiniteError: a magnitude beyond the format, or a scale or norm that overflows.
        """
        import numpy as np

        from swarm.kernels import arrays

        peak = arrays.peak(xp, x)
        if not peak <= self.largest:
            raise self.out_of_range(f"a magnitude of {peak:.6g}, beyond the {self.largest:g} of the format,")
        if peak * math.sqrt(self.head_dim) <= min(self.largest, HALF_MAX):
            return
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows shows in the result
            packed = self.pack(xp, x)
            decoded = self.unpack(xp, packed)
        scales = [part for part in packed.values() if part.dtype in (xp.float16, xp.float32)]
        if not all(math.isfinite(arrays.peak(xp, part)) for part in (*scales, decoded)):
            raise self.out_of_range(f"a magnitude of {peak:.6g}, with which its scales overflow,")

    def decode(self, packed: Packed) -> Array:
        """Packed arrays to float32 vectors [B, H, T, F] in the method's frame (F = D unless `query` says otherwise)."""
        from swarm.kernels import arrays

        first = next(iter(packed.values()))
        xp, _ = arrays.compute(first)
        parts = {name: arrays.compute(part)[1] for name, part in packed.items()}
        return arrays.like(first, self.unpack(xp, parts))

    def query(self, q: Array) -> Array:
        """Map queries [..., D] into the frame, so that <query(q), decode(encode(k))> estimates <q, k>."""
        return q

    def output(self, o: Array) -> Array:
        """Map a weighted sum of decoded values [..., F] back to [..., D]."""
        return o

    def form(self) -> PackedForm | None:
        """How the fused kernels read the packed arrays; None where they do not know the format."""
        return None

    def out_of_range(self, what: str) -> NonFiniteError:
        """The error for input that the format cannot hold."""
        return NonFiniteError(
            f"{what} in the input of {self.spec.label}.",
            "Check the model's weights and its compute type; scale the keys or values down if they are meant.",
        )

    @classmethod
    def needs(cls) -> tuple[str, ...]:
        """What must be given for the method to work, in words; empty when it takes keys and values as they come."""
        offered = cls.choices
        found = []
        if len(offered.sides) == 1:
            found.append(f"{offered.sides[0]}s")
        if "none" not in offered.rotations:
            found.append("a rotation")
        if any(offered.group_sizes) and "token" in offered.axes:
            found.append("head size a multiple of the group")
        if "channel" in offered.axes:
            found.append("whole groups of tokens (16 bit until then)")
        return (*found, *cls.demands)

    @classmethod
    def check(cls, spec: QuantSpec) -> None:
        """Refuse a specification that the method cannot honour.

        Raises:
            SpecError: with the field, the value and what is allowed.
        """
        offered = cls.choices
        for name, value, allowed in (
            ("bits", spec.bits, offered.bits),
            ("group_size", spec.group_size, offered.group_sizes),
            ("axis", spec.axis, (*offered.axes, None) if offered.side_axes else offered.axes),
            ("rotation", spec.rotation, offered.rotations),
            ("scaling", spec.scaling, offered.scalings),
        ):
            if value not in allowed:
                known = ", ".join(str(choice) for choice in allowed if choice is not None)
                remedy = f"It takes {name} in: {known}." if known else f"It takes no {name}."
                raise SpecError(f"{cls.name} does not take {name}={value}.", remedy)

    @classmethod
    def check_side(cls, spec: QuantSpec, side: Side) -> None:
        """Refuse a method on a side that it was not made for.

        Raises:
            SpecError: with the sides it takes.
        """
        if side not in cls.choices.sides:
            sides = " and ".join(f"{name}s" for name in cls.choices.sides)
            raise SpecError(f"{spec.label} cannot quantize {side}s.", f"It is made for {sides}.")

    @classmethod
    def check_head_dim(cls, spec: QuantSpec, head_dim: int) -> None:
        """Refuse a head size that the specification does not fit.

        Raises:
            SpecError: the group does not divide the head size, or codes would not fill whole bytes.
        """
        if spec.axis == "token" and spec.group_size is not None and head_dim % spec.group_size:
            raise SpecError(
                f"group_size={spec.group_size} of {spec.label} does not divide the head size {head_dim}.",
                "Choose a group size that divides it.",
            )
        if head_dim % 8:
            raise SpecError(
                f"The head size {head_dim} is not a multiple of 8.", "Packed codes need whole bytes; use method none."
            )


def method(name: str) -> type[Quantizer]:
    """The quantizer class of a method name.

    Raises:
        UnknownNameError: with the list of known methods.
    """
    return plugins.load(PACKAGE, Quantizer, name)  # type: ignore[type-abstract]


def methods() -> dict[str, type[Quantizer]]:
    """Every quantizer class by method name."""
    return plugins.load_all(PACKAGE, Quantizer)  # type: ignore[type-abstract]


def build(spec: QuantSpec, head_dim: int, seed: int = 0) -> Quantizer:
    """The quantizer of a specification at a head size.

    Raises:
        SpecError: the specification does not fit the head size.
    """
    return method(spec.method)(spec, head_dim, seed)


def for_side(spec: QuantSpec, side: Side) -> QuantSpec:
    """The specification with the axis that its method takes on that side, where it was left open.

    Raises:
        SpecError: the method is not made for that side.
    """
    kind = method(spec.method)
    kind.check_side(spec, side)
    if spec.axis is None:
        return spec.model_copy(update={"axis": kind.choices.side_axes[side]})
    return spec


def complete(data: dict[str, Any]) -> dict[str, Any]:
    """Fill the fields of a QuantSpec that were left out with the defaults of its method."""
    offered = method(str(data.get("method", "none"))).choices
    defaults = {
        "bits": offered.bits[0],
        "group_size": offered.group_sizes[0],
        "axis": None if offered.side_axes else offered.axes[0],
        "rotation": offered.rotations[0],
    }
    given = {key: value for key, value in data.items() if value is not None}
    return {**defaults, **given}


def versions(kv: KVSpec) -> dict[str, int]:
    """The versions of the methods that a specification uses and of the codec that they share, by name."""
    sides = [kv.key, kv.value, *(side for override in kv.overrides for side in (override.key, override.value) if side)]
    return {name: version(name) for name in ("codec", *sorted({side.method for side in sides}))}


def version(name: str) -> int:
    """The version of a method, or of the `codec`.

    Raises:
        UnknownNameError: with the list of known methods.
    """
    return CODEC_VERSION if name == "codec" else method(name).version

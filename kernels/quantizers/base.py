"""The seam of all quantization methods: what a method declares and what it computes.

Knows arrays of one layer's keys or values; knows nothing of caches, rotations or models.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from swarm.kernels import plugins
from swarm.kernels.errors import SpecError

if TYPE_CHECKING:
    import mlx.core as mx

    from swarm.kernels.spec import Axis, QuantSpec, RotationKind

PACKAGE = "swarm.kernels.quantizers"
Side = Literal["key", "value"]


@dataclass(frozen=True)
class Choices:
    """What a method offers to a specification and so to the search; the first entry of each is the default."""

    bits: tuple[int, ...]
    group_sizes: tuple[int | None, ...] = (None,)
    axes: tuple[Axis, ...] = ("token",)
    rotations: tuple[RotationKind, ...] = ("none", "hadamard", "random")
    scalings: tuple[str, ...] = ("fixed",)
    sides: tuple[Side, ...] = ("key", "value")


class Quantizer(ABC):
    """One method at one head size: encodes vectors into packed arrays and back.

    Class attributes `name` (the module's), `source` (arXiv id or project), `summary` (one line),
    `formula` (bits/value as text) and `choices` describe the method without any array library.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    summary: ClassVar[str]
    formula: ClassVar[str]
    choices: ClassVar[Choices]

    def __init__(self, spec: QuantSpec, head_dim: int, seed: int = 0) -> None:
        self.spec = spec
        self.head_dim = head_dim
        self.seed = seed
        self.check_head_dim(spec, head_dim)

    @property
    def block_tokens(self) -> int:
        """Tokens that are encoded together; `encode` takes multiples of it."""
        return 1

    @abstractmethod
    def encode(self, x: mx.array) -> dict[str, mx.array]:
        """Pack `x` [B, H, T, D] (T a multiple of `block_tokens`) into named arrays [B, H, T / block_tokens, ...]."""

    @abstractmethod
    def decode(self, packed: dict[str, mx.array]) -> mx.array:
        """Packed arrays to float32 vectors [B, H, T, F] in the method's frame (F = D unless `query` says otherwise)."""

    @abstractmethod
    def bits_per_value(self) -> float:
        """Exact bits stored per value, all metadata included; equals the bytes that `encode` returns."""

    def query(self, q: mx.array) -> mx.array:
        """Map queries [..., D] into the frame, so that <query(q), decode(encode(k))> estimates <q, k>."""
        return q

    def output(self, o: mx.array) -> mx.array:
        """Map a weighted sum of decoded values [..., F] back to [..., D]."""
        return o

    @classmethod
    def check(cls, spec: QuantSpec) -> None:
        """Refuse a specification that the method cannot honour.

        Raises:
            SpecError: with the field, the value and what is allowed.
        """
        offered = cls.choices
        for field, value, allowed in (
            ("bits", spec.bits, offered.bits),
            ("group_size", spec.group_size, offered.group_sizes),
            ("axis", spec.axis, offered.axes),
            ("rotation", spec.rotation, offered.rotations),
            ("scaling", spec.scaling, offered.scalings),
        ):
            if value not in allowed:
                known = ", ".join(str(choice) for choice in allowed)
                raise SpecError(f"{cls.name} does not take {field}={value}.", f"It takes {field} in: {known}.")

    @classmethod
    def check_head_dim(cls, spec: QuantSpec, head_dim: int) -> None:
        """Refuse a head size that the specification does not fit.

        Raises:
            SpecError: the group does not divide the head size.
        """
        if spec.axis == "token" and spec.group_size is not None and head_dim % spec.group_size:
            raise SpecError(
                f"group_size={spec.group_size} of {spec.label} does not divide the head size {head_dim}.",
                "Choose a group size that divides it.",
            )


def method(name: str) -> type[Quantizer]:
    """The quantizer class of a method name.

    Raises:
        UnknownNameError: with the list of known methods.
    """
    return plugins.load(PACKAGE, Quantizer, name)  # type: ignore[type-abstract]


def complete(data: dict[str, Any]) -> dict[str, Any]:
    """Fill the fields of a QuantSpec that were left out with the defaults of its method."""
    offered = method(str(data.get("method", "none"))).choices
    defaults = {
        "bits": offered.bits[0],
        "group_size": offered.group_sizes[0],
        "axis": offered.axes[0],
        "rotation": offered.rotations[0],
    }
    given = {key: value for key, value in data.items() if value is not None}
    return {**defaults, **given}

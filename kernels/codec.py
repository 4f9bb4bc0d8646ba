"""One side (keys or values) of one layer: per-channel factors, then rotation, then the method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from swarm.kernels import arrays
from swarm.kernels.arrays import Array, Namespace, Packed
from swarm.kernels.errors import SpecError
from swarm.kernels.quant_spec import QuantSpec
from swarm.kernels.quantizers import base
from swarm.kernels.quantizers.base import Side
from swarm.kernels.rotation import Rotation
from swarm.kernels.values import HALF_MAX

Packer = Callable[[base.Quantizer, Array], Packed]

_TILE = 1 << 17  # values encoded at a time in numpy, so that intermediate arrays stay in the processor's cache


@dataclass(frozen=True, eq=False)
class Factors:
    """Learned scaling of one side of one layer.

    `channel` float32 [H, D] or [D], positive, rounded to what 16 bit hold: vectors are divided by it before encoding,
    queries or outputs multiplied. `clip` in (0, 1]: the share of each group's extreme that is kept before encoding.
    """

    channel: np.ndarray
    clip: float = 1.0

    def __post_init__(self) -> None:
        channel = np.asarray(self.channel, np.float16).astype(np.float32)
        if not (np.isfinite(channel).all() and (channel > 0).all()):
            raise SpecError("Learned factors must be positive finite numbers.", "Fit them again.")
        if not 0 < self.clip <= 1:
            raise SpecError(f"clip={self.clip} is not in (0, 1].", "Give the share of the extreme that is kept.")
        object.__setattr__(self, "channel", channel)

    @property
    def per_head(self) -> np.ndarray:
        """The factors as [H, 1, D] or [1, 1, D], to broadcast over [B, H, T, D]."""
        return self.channel.reshape(-1, 1, self.channel.shape[-1])


class Codec:
    """Encodes and decodes one side of one layer, and maps queries and outputs into its frame and back.

    For keys, <query(q), decode(encode(k))> estimates <q, k>; for values, output(sum_t p_t decode(encode(v))_t)
    estimates sum_t p_t v_t. Arrays of numpy and MLX alike; computed in float32. `packer` packs in the method's place.
    """

    def __init__(
        self,
        spec: QuantSpec,
        side: Side,
        head_dim: int,
        seed: int = 0,
        *,
        factors: Factors | None = None,
        packer: Packer | None = None,
    ) -> None:
        spec = base.for_side(spec, side)
        if (spec.scaling == "learned") != (factors is not None):
            raise SpecError(
                f"{spec.label} and the given factors do not agree on learned scaling.",
                "Pass the fitted factors with scaling=learned, and none with scaling=fixed.",
            )
        if factors is not None and factors.channel.shape[-1] != head_dim:
            raise SpecError(
                f"The factors have {factors.channel.shape[-1]} channels, the head size is {head_dim}.",
                "Fit the factors on this model.",
            )
        self.spec = spec
        self.side = side
        self.head_dim = head_dim
        self.factors = factors
        self.quantizer = base.build(spec, head_dim, seed)
        self.form = self.quantizer.form()  # how kernels read it, None where they do not
        self._packer = packer
        self.rotation = Rotation(spec.rotation or "none", head_dim, seed)

    @property
    def block_tokens(self) -> int:
        """Tokens that are encoded together."""
        return self.quantizer.block_tokens

    @property
    def bits_per_value(self) -> float:
        """Exact bits stored per value, metadata included."""
        return self.quantizer.bits_per_value()

    @property
    def constant_nbytes(self) -> int:
        """Bytes held once per layer: codebooks, and learned factors at 16 bit."""
        learned = 0 if self.factors is None else self.factors.channel.size * 2
        return self.quantizer.constant_nbytes + learned

    @cached_property
    def identity(self) -> bool:
        """Whether decoded vectors live in the original frame, so that queries and outputs need no mapping."""
        probe = np.zeros((1, self.head_dim), np.float32)
        return self.query(probe) is probe and self.output(probe) is probe

    @cached_property
    def frame(self) -> tuple[int, np.ndarray] | None:
        """The order of H and factors float32 [H or 1, D] where `query` is (q * factors) H and `output` (o H) * factors.

        H is block diagonal of Hadamard matrices of 1 and -1 (of order 1: none). None for other maps, and for no map.
        """
        if self.identity or not self.decodes or self.rotation.signs is None:
            return None
        order, signs = self.rotation.signs
        learned = np.ones((1, self.head_dim), np.float32) if self.factors is None else self.factors.per_head[:, 0]
        return order, signs * learned * np.float32(order**-0.5)

    def encode(self, x: Array) -> Packed:
        """Pack x [B, H, T, D] (T a multiple of `block_tokens`) into named arrays [B, H, T / block_tokens, ...].

        Raises:
            NonFiniteError: NaN, Inf, or a magnitude beyond what the format can hold.
        """
        xp, values = arrays.compute(x)
        self.check_range(xp, values)
        return {name: arrays.like(x, part) for name, part in self.pack(xp, values).items()}

    def check_range(self, xp: Namespace, x: Array) -> None:
        """Refuse vectors [B, H, T, D] that the format cannot hold, after factors and rotation.

        Raises:
            NonFiniteError: NaN, Inf, or a magnitude beyond what the 16-bit type or the format can hold.
        """
        if not self.surely_holds(xp, arrays.peak(xp, x), x):
            self.quantizer.check_range(xp, self.moved(xp, x))

    def surely_holds(self, xp: Namespace, peak: float, x: Array) -> bool:
        """Whether the format holds vectors of the type of `x` up to a magnitude, whatever they are.

        Raises:
            NonFiniteError: NaN, Inf, or a magnitude beyond the 16-bit type.
        """
        if not peak <= arrays.largest(xp, x):
            raise self.quantizer.out_of_range(base.NOT_HELD)
        return peak * self._growth <= min(self.quantizer.largest, HALF_MAX)

    @cached_property
    def _growth(self) -> float:
        """How many times the largest magnitude a norm, and so a rotated value, can become."""
        learned = 1.0 if self.factors is None else float(self.factors.channel.min())
        return float(np.sqrt(self.head_dim)) / learned

    def pack(self, xp: Namespace, x: Array) -> Packed:
        """`encode` for arrays that are known to be finite and of the namespace."""
        if xp is not np or x.size <= _TILE:
            return self._pack(xp, x)
        block = self.block_tokens
        step = max(1, _TILE // (x.size // x.shape[2] * block)) * block
        tiles = [self._pack(xp, x[:, :, start : start + step]) for start in range(0, x.shape[2], step)]
        return {name: np.concatenate([tile[name] for tile in tiles], axis=2) for name in tiles[0]}

    def moved(self, xp: Namespace, x: Array) -> Array:
        """Vectors in the method's frame: divided by the factors, rotated, clipped."""
        if self.factors is None and self.rotation.kind == "none":
            return x
        held = x.dtype
        if self.factors is not None:
            x = arrays.single(xp, x) / arrays.constant(xp, self.factors.per_head)
        x = self._clip(xp, self.rotation.forward(x))
        return x.astype(held) if xp is not np and held == xp.bfloat16 else x

    def _pack(self, xp: Namespace, x: Array) -> Packed:
        x = self.moved(xp, x)
        return self.quantizer.pack(xp, x) if self._packer is None else self._packer(self.quantizer, x)

    def decode(self, packed: Packed) -> Array:
        """Packed arrays to float32 vectors [B, H, T, F] in the codec's frame."""
        return self.quantizer.decode(packed)

    def unpack(self, xp: Namespace, packed: Packed) -> Array:
        """`decode` for arrays of the namespace."""
        return self.quantizer.unpack(xp, packed)

    def query(self, q: Array) -> Array:
        """Queries [B, H, L, D] (H the KV heads) into the frame of decoded keys, [B, H, L, F]."""
        if self.factors is not None:
            q = q * arrays.constant(arrays.namespace(q), self.factors.per_head)
        return self.quantizer.query(self.rotation.forward(q))

    @property
    def decodes(self) -> bool:
        """Whether decoded vectors are vectors of the head's size, and not what products are estimated from."""
        kind = type(self.quantizer)
        return kind.query is base.Quantizer.query and kind.output is base.Quantizer.output

    def framed(self, x: Array, heads: slice) -> Array:
        """Some heads of vectors [B, H, T, D] in the frame of decoded ones, not quantized; [B, h, T, D]."""
        x = x[:, heads]
        if self.factors is not None:
            per_head = self.factors.per_head if len(self.factors.per_head) == 1 else self.factors.per_head[heads]
            x = x / arrays.constant(arrays.namespace(x), per_head)
        return self.rotation.forward(x)

    def output(self, o: Array) -> Array:
        """Weighted sums of decoded values [B, H, L, F] back to [B, H, L, D]."""
        o = self.rotation.inverse(self.quantizer.output(o))
        if self.factors is not None:
            o = o * arrays.constant(arrays.namespace(o), self.factors.per_head)
        return o

    def _clip(self, xp: Namespace, x: Array) -> Array:
        """Clip every group, the same that will share a scale, to a share of its own extremes."""
        clip = 1.0 if self.factors is None else self.factors.clip
        if clip == 1.0:
            return x
        if self.spec.axis == "channel":
            groups, axis = x.reshape(*x.shape[:2], -1, self.block_tokens, self.head_dim), -2
        else:
            groups, axis = x.reshape(*x.shape[:-1], -1, self.quantizer.group), -1
        high = xp.max(groups, axis=axis, keepdims=True) * clip
        low = xp.min(groups, axis=axis, keepdims=True) * clip
        return xp.clip(groups, low, high).reshape(x.shape)

"""What the ggml block formats share: 32 channels of one token in one byte block.

Source: llama.cpp, ggml-quants. The arithmetic is done in the order of the `gguf` package, so that blocks agree with
it bit for bit.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from swarm.kernels import arrays, bits
from swarm.kernels.arrays import Array, Namespace, Packed
from swarm.kernels.quantizers import _groups
from swarm.kernels.quantizers.base import Quantizer

BLOCK = 32


class GgmlBlock(Quantizer):
    """A ggml block format.

    Layout: `blocks` uint8 [B, H, T, D / 32 * block_bytes]; each block as ggml lays it out, 16-bit fields
    little-endian first.
    """

    block_bytes: ClassVar[int]

    @abstractmethod
    def pack_blocks(self, xp: Namespace, x: Array) -> Sequence[Array]:
        """Blocks as columns float32 [32, n] to the block's fields in order, each uint8 [bytes, n]."""

    @abstractmethod
    def unpack_blocks(self, xp: Namespace, blocks: Array) -> Array:
        """Byte blocks [n, block_bytes] to float32 [n, 32]."""

    def pack(self, xp: Namespace, x: Array) -> Packed:
        """Encode every run of 32 channels into one block."""
        columns = _groups.columns(xp, arrays.single(xp, x), BLOCK)
        with np.errstate(all="ignore"):
            fields = self.pack_blocks(xp, columns)
        blocks = xp.concatenate(fields, axis=0).T
        return {"blocks": blocks.reshape(*x.shape[:-1], x.shape[-1] // BLOCK * self.block_bytes)}

    def unpack(self, xp: Namespace, packed: Packed) -> Array:
        """Decode the blocks."""
        blocks = packed["blocks"]
        values = self.unpack_blocks(xp, blocks.reshape(-1, self.block_bytes))
        return values.reshape(*blocks.shape[:-1], blocks.shape[-1] // self.block_bytes * BLOCK)

    def bits_per_value(self) -> float:
        """The block's bytes over its 32 values."""
        return self.block_bytes * 8 / BLOCK


class ExtremeBlock(GgmlBlock):
    """x ~ d (q - h), d = (the value of largest magnitude, with its sign) / -h and h half of the 2^bits codes."""

    def pack_blocks(self, xp: Namespace, x: Array) -> tuple[Array, ...]:
        """Scale and codes."""
        half = 1 << (self.bits - 1)
        d = _groups.extremes(xp, x) / -half
        codes = xp.minimum(x * inverse(xp, d) + (half + 0.5), 2 * half - 1).astype(xp.uint8)
        return half_field(xp, d), *pack_codes(codes, self.bits)

    def unpack_blocks(self, xp: Namespace, blocks: Array) -> Array:
        """Decode: d (q - h)."""
        codes = unpack_codes(xp, blocks[:, 2:], self.bits).astype(xp.float32)
        codes -= 1 << (self.bits - 1)
        return codes * read_half(xp, blocks[:, :2])


class MinimumBlock(GgmlBlock):
    """x ~ min + q d with d = (max - min) / (2^bits - 1)."""

    def pack_blocks(self, xp: Namespace, x: Array) -> tuple[Array, ...]:
        """Scale, minimum and codes."""
        low, levels = xp.min(x, axis=0), (1 << self.bits) - 1
        d = (xp.max(x, axis=0) - low) / levels
        codes = xp.minimum((x - low) * inverse(xp, d) + 0.5, levels).astype(xp.uint8)
        return half_field(xp, d), half_field(xp, low), *pack_codes(codes, self.bits)

    def unpack_blocks(self, xp: Namespace, blocks: Array) -> Array:
        """Decode: min + q d."""
        codes = unpack_codes(xp, blocks[:, 4:], self.bits).astype(xp.float32)
        codes *= read_half(xp, blocks[:, :2])
        codes += read_half(xp, blocks[:, 2:4])
        return codes


def half_field(xp: Namespace, x: Array) -> Array:
    """Float32 [n] as the two bytes [2, n] of a float16."""
    return x.astype(xp.float16).view(xp.uint8).reshape(-1, 2).T


def read_half(xp: Namespace, field: Array) -> Array:
    """Two bytes [n, 2] of a float16 as float32 [n, 1]."""
    if xp is np:
        return np.ascontiguousarray(field).view(np.float16).astype(np.float32)
    return xp.contiguous(field).view(xp.float16).astype(xp.float32)


def inverse(xp: Namespace, d: Array) -> Array:
    """1 / d, and 0 where d is 0."""
    return xp.where(d == 0, xp.zeros_like(d), 1 / d)


def pack_nibbles(q: Array) -> Array:
    """Codes uint8 [32, n] to [16, n]: code i low, code i + 16 high."""
    return (q[:16] & 0x0F) | (q[16:] << 4)


def unpack_nibbles(xp: Namespace, data: Array) -> Array:
    """The reverse of `pack_nibbles`, by rows: bytes [n, 16] to codes [n, 32]."""
    return xp.concatenate([data & 0x0F, data >> 4], axis=-1)


def pack_codes(q: Array, n_bits: int) -> tuple[Array, ...]:
    """Codes uint8 [32, n] of 4 bits to nibbles [16, n]; of 5 bits to their fifth bits [4, n] and nibbles."""
    if n_bits == 4:
        return (pack_nibbles(q),)
    high = (q >> 4).reshape(4, 8, q.shape[1])
    fifth = high[:, 0]
    for bit in range(1, 8):
        fifth = fifth | (high[:, bit] << bit)
    return fifth, pack_nibbles(q)


def unpack_codes(xp: Namespace, data: Array, n_bits: int) -> Array:
    """The reverse of `pack_codes`, by rows: bytes [n, 16 or 20] to codes [n, 32]."""
    if n_bits == 4:
        return unpack_nibbles(xp, data)
    return unpack_nibbles(xp, data[:, 4:]) | (bits.unpack(xp, data[:, :4], 1) << 4)

"""Packs unsigned codes of 1 to 8 bits into bytes, low bits first, and back.

Eight codes of b bits fill b bytes, as one little-endian number: the order of MLX's packed uint32 words too. Eight
codes are moved at a time inside 64-bit words, so the work costs little more than touching the bytes.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from swarm.kernels.arrays import Array, Namespace, constant

_SPREAD = (0x00FF00FF00FF00FF, 0x0000FFFF0000FFFF, 0x00000000FFFFFFFF)
# Bits of a code: the word that a byte of such codes becomes, and how far halves move apart there, with what stays.
_WIDE = {
    4: ("uint16", ((4, 0x0F0F),)),
    2: ("uint32", ((12, 0x000F000F), (6, 0x03030303))),
    1: ("uint64", ((28, 0x0000000F0000000F), (14, 0x0003000300030003), (7, 0x0101010101010101))),
}


def _word(xp: Namespace, value: int) -> Array:
    return constant(xp, np.array(value & 0xFFFFFFFFFFFFFFFF, np.uint64))


def pack(xp: Namespace, codes: Array, bits: int) -> Array:
    """Codes uint8 [..., n] below 2^bits, n a multiple of 8, to bytes uint8 [..., n * bits / 8]."""
    if bits == 8:
        return codes
    if bits == 1 and xp is np:
        return np.packbits(codes, axis=-1, bitorder="little")
    words = (np.ascontiguousarray(codes) if xp is np else codes).view(xp.uint64)
    for level, low in enumerate(_SPREAD):
        gap = (8 - bits) << level
        high = words & _word(xp, ~low)
        high >>= _word(xp, gap)
        words = words & _word(xp, low)
        words |= high
    lanes = words.view(xp.uint8).reshape(*codes.shape[:-1], codes.shape[-1] // 8, 8)
    return lanes[..., :bits].reshape(*codes.shape[:-1], codes.shape[-1] // 8 * bits)


def unpack(xp: Namespace, data: Array, bits: int) -> Array:
    """Bytes uint8 [..., m], m a multiple of `bits`, to codes uint8 [..., m * 8 / bits]."""
    if bits == 8:
        return data
    if bits in _WIDE:
        return _widen(xp, data, bits)
    shape = (*data.shape[:-1], data.shape[-1] // bits)
    lanes = xp.zeros((*shape, 8), dtype=xp.uint8)
    lanes[..., :bits] = data.reshape(*shape, bits)
    words = lanes.view(xp.uint64)
    for level in (2, 1, 0):
        width, lane = bits << level, 8 << level
        low = sum(((1 << width) - 1) << start for start in range(0, 64, 2 * lane))
        high = words & _word(xp, low << width)
        high <<= _word(xp, lane - width)
        words &= _word(xp, low)
        words |= high
    return words.view(xp.uint8).reshape(*data.shape[:-1], shape[-1] * 8)


def _widen(xp: Namespace, data: Array, bits: int) -> Array:
    """Codes that do not straddle bytes: every byte becomes one word, in which halves move apart until codes are bytes.

    Five times as fast as moving eight codes through zeroed 64-bit words.
    """
    kind, levels = _WIDE[bits]
    words = (np.ascontiguousarray(data) if xp is np else data).astype(getattr(xp, kind))
    for gap, mask in levels:
        words |= words << gap
        words &= constant(xp, np.array(mask, kind))
    return words.view(xp.uint8).reshape(*data.shape[:-1], data.shape[-1] * 8 // bits)


@cache
def _byte_table(table: bytes, bits: int) -> np.ndarray:
    """All codes of a byte at once: [256, 8 / bits] floats, viewed as one wide element per byte."""
    values = np.frombuffer(table, np.float32)
    codes = np.arange(256)[:, None] >> np.arange(0, 8, bits) & ((1 << bits) - 1)
    rows = np.ascontiguousarray(values[codes])
    return rows.view(np.complex64 if bits == 4 else np.complex128)[:, 0]


def lookup(xp: Namespace, data: Array, bits: int, table: np.ndarray) -> Array:
    """Bytes of packed codes to the table's float32 values: table [2^bits] -> [..., m * 8 / bits]."""
    if xp is np and bits in (2, 4):
        wide = np.take(_byte_table(table.tobytes(), bits), data)
        return wide.view(np.float32).reshape(*data.shape[:-1], data.shape[-1] * 8 // bits)
    return xp.take(constant(xp, table), unpack(xp, data, bits))

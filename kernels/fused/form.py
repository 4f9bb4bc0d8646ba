"""How a packed format looks to a kernel: widths, groups, where scales lie. A method declares its own.

The compile-time arguments of `source/formats.h` follow from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

Codes = Literal["unsigned", "signed", "book", "float16", "bfloat16", "minifloat", "polar"]
Scales = Literal["float", "e8m0", "e4m3"]
Encoder = Literal["affine", "peak", "extreme", "minimum", "nearest", "power", "ratio"]
ENCODERS: tuple[Encoder, ...] = ("affine", "peak", "extreme", "minimum", "nearest", "power", "ratio")
_CODES: tuple[Codes, ...] = ("unsigned", "signed", "book", "float16", "bfloat16", "minifloat", "polar")
_SCALES: tuple[Scales, ...] = ("float", "e8m0", "e4m3")

CHANNELS = 3  # `meta` of scales and biases that belong to a channel


@dataclass(frozen=True, eq=False)
class PackedForm:
    """One side's packed arrays as a kernel reads them.

    A code of `bits` means itself (`unsigned`, `signed`), an entry of `book`, a 16-bit float, or a float of 4 bits
    (e2m1) or 8 (e4m3, both `minifloat`). `group` channels share a scale, a number of its array's type or a byte that
    stands for a power of two (`e8m0`) or is a float (`e4m3`); with a bias (`meta` 2) a value is scale * code + bias,
    without (1) scale * code, and 0 has neither; with 3 (`CHANNELS`), scale and bias belong to a channel and count for
    `group` tokens. `polar` codes are polarquant's angles under a radius per `group` channels; their `book` is cosines
    and sines. Codes lie low bits first. With `block` > 0, scale, bias and codes of each group are together in that many
    bytes, 16-bit fields first; otherwise `scales` and `biases` name arrays of their own, one entry per group.
    `halves`: of 32 channels, byte i holds channel i in its low and channel i + 16 in its high nibble; fifth bits come
    before those bytes, in the order of channels. For unsigned codes without bias the middle of the range is zero.

    `encoder` says how codes are found, where a kernel can do it: as `mx.quantize` does (`affine`), from the largest
    magnitude (`peak`), the value that has it (`extreme`), minimum and range (`minimum`), as the nearest entry of a
    symmetric codebook with positive `edges` to the vector's direction (`nearest`), or as the nearest float under the
    smallest power of two that cuts nothing off (`power`), or under the ratio of the largest magnitudes (`ratio`).
    """

    bits: int
    group: int
    codes: Codes
    meta: int
    block: int = 0
    halves: bool = False
    scales: Scales = "float"
    codes_name: str = "codes"
    scales_name: str | None = None
    biases_name: str | None = None
    book: np.ndarray | None = None
    encoder: Encoder | None = None
    edges: np.ndarray | None = None

    @property
    def decodes_whole(self) -> bool:
        """Whether numbers come out of a decoder of their own, with their scales: no product comes before."""
        return self.codes == "polar" or self.meta == CHANNELS

    def channels(self, parts: Mapping[str, Any]) -> int:
        """The head size of arrays [B, H, T, ...] of this form."""
        if self.codes == "polar":
            return int(parts[self.scales_name or ""].shape[-1] * self.group)
        codes = parts[self.codes_name]
        nbytes = codes.shape[-1] * codes.dtype.size
        return int(nbytes // self.block * self.group if self.block else nbytes * 8 // self.bits)

    def scale_bytes(self, dim: int) -> int:
        """Bytes of scales and biases of a head of `dim` channels, for which a kernel needs registers.

        Decoders that make numbers with their scales need more than any format's scales, and so do codes of a byte in
        blocks, which begin in the middle of words and have to be shifted.
        """
        if self.decodes_whole or (self.block and self.bits == 8):
            return dim
        return dim // self.group * self.meta * (2 if self.scales == "float" else 1)

    @cached_property
    def key(self) -> tuple[object, ...]:
        """What tells this form from others."""
        names = (self.codes_name, self.scales_name, self.biases_name, self.encoder)
        return (*self.arguments(""), *names, self.book_bytes, self.edge_bytes)

    @cached_property
    def book_bytes(self) -> bytes:
        """The codebook in float32."""
        return b"" if self.book is None else np.asarray(self.book, np.float32).tobytes()

    @cached_property
    def edge_bytes(self) -> bytes:
        """The edges in float32."""
        return b"" if self.edges is None else np.asarray(self.edges, np.float32).tobytes()

    def arguments(self, prefix: str) -> tuple[tuple[str, int], ...]:
        """Compile-time arguments of the format, names beginning with `prefix`."""
        values = {
            "BITS": self.bits,
            "GROUP": self.group,
            "CODES": _CODES.index(self.codes),
            "META": self.meta,
            "BLOCK": self.block,
            "HALVES": int(self.halves),
            "SCALES": _SCALES.index(self.scales),
        }
        return tuple((prefix + name, value) for name, value in values.items())

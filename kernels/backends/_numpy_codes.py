"""Products of a few rows with packed vectors, without decoding them: scales are applied to the products.

A decoded vector is scale * code + bias in every group of channels, so its product with a query is scale * (query *
codes) + bias * sum(query), group by group. One token's queries are fewer than a group's channels, and this reads every
code once where decoding passes over the values three times.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from swarm.kernels import arrays, bits

if TYPE_CHECKING:
    from swarm.kernels.arrays import Packed
    from swarm.kernels.fused.form import PackedForm

MAX_FEW_ROWS = 32  # query rows up to which keys are the first factor of a product: about those of one token


class Vectors:
    """Float32 vectors [B, H, T, F] as one factor of attention's two products."""

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = vectors

    def scores(self, queries: np.ndarray, out: np.ndarray) -> None:
        """Every query [B, H, R, F] with every vector, into `out` [B, H, R, T].

        A BLAS is twice as fast when a few rows are the second factor.
        """
        if queries.shape[-2] > MAX_FEW_ROWS:
            np.matmul(queries, self.vectors.swapaxes(-1, -2), out=out)
        else:
            out[...] = (self.vectors @ queries.swapaxes(-1, -2)).swapaxes(-1, -2)

    def weighted(self, weights: np.ndarray) -> np.ndarray:
        """Sums of the vectors [B, H, R, F] under weights [B, H, R, T]."""
        product: np.ndarray = weights @ self.vectors
        return product


class Codes:
    """The same products from packed arrays [B, H, T, ...] of a form that `foldable` takes."""

    def __init__(self, form: PackedForm, packed: Packed) -> None:
        data = packed[form.codes_name].view(np.uint8)
        shape = data.shape[:3]
        if form.block:
            blocks = data.reshape(*shape, -1, form.block)
            halves = np.ascontiguousarray(blocks[..., : 2 * form.meta]).view(np.float16)
            fields = arrays.single(np, halves)
            scales, biases = fields[..., 0], fields[..., 1] if form.meta > 1 else None
            data = np.ascontiguousarray(blocks[..., 2 * form.meta :]).reshape(*shape, -1)
        else:
            scales = arrays.single(np, packed[form.scales_name or ""])
            biases = None if form.biases_name is None else arrays.single(np, packed[form.biases_name])
        if form.book is not None:
            codes = bits.lookup(np, data, form.bits, form.book)
        else:
            whole = bits.unpack(np, data, form.bits)
            codes = (whole.view(np.int8) if form.codes == "signed" else whole).astype(np.float32)
        scales = scales.reshape(*shape, -1)
        if biases is None and form.codes == "unsigned":  # the middle of the codes is zero
            biases = scales * np.float32(-(1 << (form.bits - 1)))
        self.codes = codes.reshape(*shape, -1, form.group).swapaxes(2, 3)  # [B, H, G, T, g]
        self.scales = np.ascontiguousarray(scales.swapaxes(-1, -2))  # [B, H, G, T]
        self.biases = None if biases is None else biases.reshape(*shape, -1)  # [B, H, T, G]
        self.order = _order(form.group) if form.halves else None

    def scores(self, queries: np.ndarray, out: np.ndarray) -> None:
        """Every query [B, H, R, D] with every vector, into `out` [B, H, R, T]."""
        grouped = queries.reshape(*queries.shape[:3], -1, self.codes.shape[-1])
        ordered = grouped if self.order is None else grouped[..., self.order]
        products = self.codes @ ordered.transpose(0, 1, 3, 4, 2)  # [B, H, G, T, R]
        products *= self.scales[..., None]
        total = products[:, :, 0] if products.shape[2] == 1 else products.sum(axis=2)
        if self.biases is not None:
            total += self.biases @ grouped.sum(axis=-1).swapaxes(-1, -2)
        out[...] = total.swapaxes(-1, -2)

    def weighted(self, weights: np.ndarray) -> np.ndarray:
        """Sums of the vectors [B, H, R, D] under weights [B, H, R, T]."""
        scaled = weights[:, :, None] * self.scales[:, :, :, None]  # [B, H, G, R, T]
        products = (scaled @ self.codes).swapaxes(2, 3)  # [B, H, R, G, g]
        if self.biases is not None:
            products = products + (weights @ self.biases)[..., None]
        if self.order is not None:
            ordered = np.empty(products.shape, np.float32)
            ordered[..., self.order] = products
            products = ordered
        sums: np.ndarray = products.reshape(*weights.shape[:3], -1)
        return sums


def foldable(form: PackedForm) -> bool:
    """Whether vectors of a form are scale * code + bias, of codes and scales that are read at once."""
    together = form.scales == "float" and not (form.halves and form.bits == 5)
    return form.meta > 0 and not form.decodes_whole and together and form.codes in ("unsigned", "signed", "book")


@cache
def _order(group: int) -> np.ndarray:
    """The channel that each code of a group of nibbles stands for, where byte i has channels i and i + 16 of 32."""
    return np.arange(group).reshape(-1, 2, 16).swapaxes(1, 2).reshape(-1)

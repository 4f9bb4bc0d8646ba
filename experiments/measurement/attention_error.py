"""Errors of one layer's attention over a quantized cache, against the 16-bit run.

G = s |q| |k| sqrt(relMSE / d), for logits s <q, k>, is the size of the error that quantized keys bring into a logit
when it points in no particular direction; the divergence of attention is about G^2 / 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from swarm.experiments.measurement.reference_run import float32_from_file, from_file
from swarm.kernels import arrays
from swarm.kernels.errors import NonFiniteError

if TYPE_CHECKING:
    from swarm.experiments.measurement.reference_run import LayerInputs
    from swarm.kernels.arrays import Array
    from swarm.kernels.cache import PackedKVCache
    from swarm.kernels.side import CacheSide

Floats = NDArray[np.float32]
FIELDS = ("logit_rel_error", "output_rel_error", "attention_kl", "g", "key_rel_mse", "value_rel_mse")
HIDDEN_LOGIT = -1e30
SINKS = 4
"""First tokens that count as attention sinks (arXiv 2309.17453)."""


@dataclass(frozen=True)
class LayerErrors:
    """Errors of one layer, float64 [W] per window; `head_g` [Hq] is G per query head over all windows.

    `sink_mass` is no error: the share of the 16-bit attention weights that the first tokens get.

    Attributes:
        logit_rel_error: |logits - logits16| / |logits16| over what each query sees.
        output_rel_error: the same of the attention output, through the deployed attention.
        attention_kl: mean divergence of the attention weights from the 16-bit ones, nats.
        g: mean of G over query heads.
        key_rel_mse: |k - k16|^2 / |k16|^2 over the packed keys; 0 if none is packed.
        value_rel_mse: the same of the values.
    """

    logit_rel_error: NDArray[np.float64]
    output_rel_error: NDArray[np.float64]
    attention_kl: NDArray[np.float64]
    g: NDArray[np.float64]
    key_rel_mse: NDArray[np.float64]
    value_rel_mse: NDArray[np.float64]
    head_g: NDArray[np.float64]
    sink_mass: NDArray[np.float64]


def layer_errors(given: LayerInputs, cache: PackedKVCache) -> LayerErrors:
    """Attend over a cache as a model would, and compare with 16 bit.

    Args:
        given: what the layer's attention was given.
        cache: the layer's cache, empty; it is filled. Its logit gain multiplies the logits.

    Raises:
        NonFiniteError: an error is NaN or Inf.
    """
    out = attend(given, cache)
    gained = given.scale * cache.logit_gain
    key, value = (
        _Stored(side, np.concatenate([float32_from_file(old), float32_from_file(new)], axis=2), cache)
        for side, old, new in zip(
            cache.sides, (given.keys, given.values), (given.tail_keys, given.tail_values), strict=True
        )
    )
    queries = given.queries * np.float32(gained)
    seen, packed = _forms(cache, given.queries.shape[2])
    exact = _grouped(queries, key.exact.swapaxes(-1, -2))
    quantized = exact.copy()
    columns = key.packed
    if key.rel_mse.any():  # a product over fewer columns may round otherwise, which is no error of exact keys
        np.copyto(quantized[..., columns], _grouped(queries, key.decoded.swapaxes(-1, -2)), where=packed[:, columns])
    if cache.logit_cap is not None:
        exact, quantized = (np.float32(cache.logit_cap) * np.tanh(x / cache.logit_cap) for x in (exact, quantized))
    p_log, q_log = (_log_weights(logits, seen, given.sinks) for logits in (exact, quantized))
    p = np.exp(p_log)
    expected = _grouped(p[..., : seen.shape[1]], value.exact)
    head_g = _g(given.queries, key, gained)
    errors = LayerErrors(
        logit_rel_error=_norm((quantized - exact) * seen) / _norm(exact * seen),
        output_rel_error=_norm(out - expected) / _norm(expected),
        attention_kl=np.maximum(np.vecdot(p, p_log - q_log), 0).mean((1, 2), dtype=np.float64),
        g=head_g.mean(1),
        key_rel_mse=key.rel_mse.mean(1),
        value_rel_mse=value.rel_mse.mean(1),
        head_g=head_g.mean(0),
        sink_mass=p[..., :SINKS].sum(-1).mean((1, 2), dtype=np.float64),
    )
    if not all(np.isfinite(getattr(errors, name)).all() for name in FIELDS):
        raise NonFiniteError(f"attention of layer {cache.layer} is not finite.", "Use a milder configuration.")
    return errors


class _Stored:
    """One side of a filled cache in the original frame.

    `exact` float32 [W, H, C, D] all columns; `decoded` [W, H, n, D] what decoding gives for the columns `packed`;
    `rel_mse` [W, H] over these.
    """

    def __init__(self, side: CacheSide, exact: Floats, cache: PackedKVCache) -> None:
        self.exact = exact
        self.packed = slice(side.packed_first, side.encoded)
        vectors = exact[:, :, self.packed]
        self.decoded = _decode(side, cache) if vectors.shape[2] else vectors
        self.rel_mse = _squares(self.decoded - vectors, 2) / np.maximum(_squares(vectors, 2), np.finfo(float).tiny)


def _decode(side: CacheSide, cache: PackedKVCache) -> Floats:
    """The packed columns in the original frame. Every method's query map is linear, so its matrix undoes the frame."""
    xp, codec = cache.backend.xp, side.codec
    vectors = np.asarray(arrays.to_numpy(codec.unpack(xp, side.store.read(0, side.store.blocks))))
    if not codec.identity:
        heads, dim = vectors.shape[1], codec.head_dim
        if codec.side == "key":
            unit = np.ascontiguousarray(np.broadcast_to(np.eye(dim, dtype=np.float32), (1, heads, dim, dim)))
            vectors = vectors @ np.asarray(arrays.to_numpy(codec.query(unit))).swapaxes(-1, -2)
        else:
            vectors = np.asarray(arrays.to_numpy(codec.output(vectors)))
    if side.part is not None:
        vectors = vectors + side.part.keys(np, side.packed_first, side.encoded)
    return vectors


def attend(given: LayerInputs, cache: PackedKVCache) -> Floats:
    """Attention output float32 [W, Hq, P, D] through the function that models call; fills the empty cache."""
    found: Floats = arrays.single(np, arrays.to_numpy(attention_output(given, cache)))
    return found


def attention_output(given: LayerInputs, cache: PackedKVCache) -> Array:
    """The same as an MLX array, of which a GPU need not have computed anything yet; the cache may hold the prefix."""
    import mlx.core as mx
    from mlx_lm.models.base import scaled_dot_product_attention

    if cache.empty():
        cache.append(from_file(given.keys), from_file(given.values))
    mask = cache.make_mask(given.queries.shape[2])
    view, _ = cache.update_and_fetch(from_file(given.tail_keys), from_file(given.tail_values))
    queries = mx.array(given.queries)
    sinks = None if given.sinks is None else mx.array(given.sinks)
    return scaled_dot_product_attention(queries, view, view, cache=cache, scale=given.scale, mask=mask, sinks=sinks)


def _forms(cache: PackedKVCache, count: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which columns each of the last `count` tokens sees, and of which it reads the packed key: two [P, C]."""
    side = cache.sides[0]
    positions = np.arange(cache.offset - count, cache.offset)[:, None]
    columns = np.arange(cache.offset)[None]
    seen = columns <= positions
    if cache.reach is not None:
        seen &= columns >= cache.first_seen(positions)
    until = np.array([side.encoded_after(int(position) + 1) for position in positions[:, 0]])
    return seen, (columns >= side.sinks) & (columns < until[:, None])


def _g(queries: Floats, key: _Stored, scale: float) -> NDArray[np.float64]:
    """G per window and query head [W, Hq]."""
    q = np.linalg.norm(queries, axis=-1).mean(-1)
    k = np.linalg.norm(key.exact[:, :, key.packed], axis=-1).sum(-1) / max(1, key.packed.stop - key.packed.start)
    per_head = k * np.sqrt(key.rel_mse / queries.shape[-1])
    return np.asarray(scale * q * np.repeat(per_head, q.shape[1] // per_head.shape[1], axis=1), np.float64)


def _grouped(left: Floats, right: Floats) -> Floats:
    """Left [W, Hq, P, n] times right [W, H, n, m], where Hq / H query heads share a head."""
    windows, q_heads, rows, n = left.shape
    heads = right.shape[1]
    product = left.reshape(windows, heads, q_heads // heads * rows, n) @ right
    return product.reshape(windows, q_heads, rows, -1)


def _log_weights(logits: Floats, seen: NDArray[np.bool_], sinks: Floats | None) -> Floats:
    """Logarithms of the softmax over the seen columns and, as a last column, a learned sink; very low elsewhere."""
    hidden: Floats = np.where(seen, logits, np.float32(HIDDEN_LOGIT))
    if sinks is not None:
        column = np.broadcast_to(sinks[:, None, None], (*hidden.shape[:3], 1))
        hidden = np.concatenate([hidden, column], axis=-1)
    hidden -= hidden.max(-1, keepdims=True)
    hidden -= np.log(np.exp(hidden).sum(-1, keepdims=True))
    return hidden


def _norm(x: Floats) -> NDArray[np.float64]:
    return np.sqrt(_squares(x, 1))


def _squares(x: Floats, axes: int) -> NDArray[np.float64]:
    """Sum of squares over all but the first axes."""
    flat = x.reshape(*x.shape[:axes], -1)
    return np.asarray(np.vecdot(flat, flat), np.float64)

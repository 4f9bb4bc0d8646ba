"""The bias of k_proj after RoPE: the part of every key that is known from its position alone.

Qwen2's key bias dwarfs the rest of the key in some layers, and a quantizer spends its range on it. With b the bias
and R_t the rotation of position t, keys are stored as k_t - R_t b, and scores get <q, R_t b> back, which is a product
of query features with a table of cosines and sines.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

import numpy as np

from swarm.kernels import arrays
from swarm.kernels.arrays import Array, Namespace
from swarm.kernels.errors import ModelError

PAGE = 1024  # positions of one table page


class KeyBias:
    """The rotated key bias of one layer: `bias` [H, D] of k_proj, and the layer's RoPE module.

    The table row of position t is R_t e, where e is 1 on the first channel of every rotated pair and on channels that
    are not rotated: it holds the cosine at the first and the sine at the second channel of each pair.

    Raises:
        ModelError: the module does not rotate pairs of channels.
    """

    def __init__(self, bias: np.ndarray, rope: Any) -> None:
        self.bias = np.ascontiguousarray(bias, np.float32)
        dim = self.bias.shape[-1]
        turn = _apply(rope, np.eye(dim, dtype=np.float32)[:, None], 1)[:, 0]
        sines = np.abs(turn) * (1 - np.eye(dim))
        own = np.arange(dim)
        self._partner = np.where(sines.max(axis=0) > 0, sines.argmax(axis=0), own)
        self._first = np.minimum(own, self._partner)
        self._second = np.maximum(own, self._partner)
        self._sign = np.sign(own - self._partner).astype(np.float32)
        self._rope = hashlib.sha256(
            turn.tobytes() + _apply(rope, np.eye(dim, dtype=np.float32), 7919).tobytes()
        ).digest()
        _ropes.setdefault(self._rope, (rope, (own == self._first).astype(np.float32)))
        self._verify(rope)

    def __deepcopy__(self, memo: dict[int, Any]) -> KeyBias:
        return self  # immutable, and the RoPE module belongs to the model

    def keys(self, xp: Namespace, start: int, stop: int) -> Array:
        """R_t b at positions [start, stop), float32 [H, T, D]."""
        return arrays.held(xp, self._rotate(self.bias, _rows(self._rope, start, stop)))

    def features(self, q: Array) -> Array:
        """Queries float32 [B, H, L, D] to features [B, H, L, D], whose product with a table row is <q, R_t b>."""
        xp = arrays.namespace(q)
        other = self.bias[:, self._partner]
        second = self._sign > 0
        own = np.where(second, other, self.bias)[:, None]
        across = np.where(second, -self.bias, np.where(self._sign < 0, other, 0)).astype(np.float32)[:, None]
        swapped = xp.take(q, arrays.constant(xp, self._partner), axis=-1)
        return q * arrays.constant(xp, own) + swapped * arrays.constant(xp, across)

    def table(self, xp: Namespace, start: int, stop: int) -> Array:
        """Cosines and sines at positions [start, stop), float32 [T, D]."""
        return arrays.held(xp, _rows(self._rope, start, stop))

    def _rotate(self, vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Rotate vectors [H, D] by table rows [T, D] to [H, T, D]."""
        crossed = vectors[:, self._partner] * self._sign
        rotated: np.ndarray = vectors[:, None] * rows[:, self._first] + crossed[:, None] * rows[:, self._second]
        return rotated

    def _verify(self, rope: Any) -> None:
        probe = np.random.default_rng(0).standard_normal((2, self.bias.shape[-1])).astype(np.float32)
        for position in (0, 37):
            expected = _apply(rope, probe[:, None], position)
            ours = self._rotate(probe, _rows(self._rope, position, position + 1))
            if not np.allclose(ours, expected, atol=1e-4 * float(np.abs(expected).max())):
                raise ModelError(
                    "This model's position embedding does not rotate pairs of channels by position.",
                    "Use key_bias='keep' with it.",
                )


# Layers share RoPE modules that act alike, and the table follows from the position: it is no part of any cache.
_ropes: dict[bytes, tuple[Any, np.ndarray]] = {}


@lru_cache(maxsize=128)
def _page(rope: bytes, page: int) -> np.ndarray:
    module, unit = _ropes[rope]
    rows: np.ndarray = _apply(module, np.broadcast_to(unit, (1, PAGE, len(unit))), page * PAGE)[0]
    return rows


def _rows(rope: bytes, start: int, stop: int) -> np.ndarray:
    first = start // PAGE
    pages = [_page(rope, page) for page in range(first, (stop - 1) // PAGE + 1)]
    rows = pages[0] if len(pages) == 1 else np.concatenate(pages)
    cut: np.ndarray = rows[start - first * PAGE : stop - first * PAGE]
    return cut


def _apply(rope: Any, x: np.ndarray, offset: int) -> np.ndarray:
    """The module on vectors [H, T, D] at positions from the offset on.

    On the CPU, also where MLX computes on a GPU: on an H200 the module turned one token and a page of tokens in ways
    that did not agree, and a table is made only once per page.
    """
    import mlx.core as mx

    with mx.stream(mx.cpu):
        turned = arrays.to_numpy(rope(mx.array(x)[None], offset=offset))
    return np.array(turned[0]).reshape(x.shape)

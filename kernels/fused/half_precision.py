"""The attention of one layer of a shape, and 16-bit keys and values of it to time MLX's own attention on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

Array = Any
MAX_SETS = 16  # of keys and values that rotate
WINDOW_SLACK = 256  # tokens that a windowed cache holds beyond its window


@dataclass(frozen=True)
class AttentionShape:
    """One layer's attention: heads, head size, and the sliding window if it has one."""

    name: str
    q_heads: int
    kv_heads: int
    head_dim: int
    window: int | None = None

    def seen(self, context: int) -> int:
        """Tokens that a query attends to."""
        return context if self.window is None else min(context, self.window)

    def operations(self, context: int) -> int:
        """Floating-point operations of one step: a product and a sum per query head and channel of K and of V."""
        return 4 * self.q_heads * self.head_dim * self.seen(context)


class HalfSets:
    """Several sets of random 16-bit keys and values of one layer, made when first attended to."""

    def __init__(self, shape: AttentionShape, context: int, rotate_bytes: int) -> None:
        self.shape = shape
        self.seen = shape.seen(context)
        self.context = min(context, self.seen + WINDOW_SLACK)  # a windowed cache drops what nothing sees
        self.scale = shape.head_dim**-0.5
        self.nbytes = 2 * 2 * shape.kv_heads * self.seen * shape.head_dim
        self._count = min(MAX_SETS, max(2, rotate_bytes // self.nbytes))

    @cached_property
    def _sets(self) -> list[list[Array]]:
        import mlx.core as mx

        found = [[self.vectors() for _ in "kv"] for _ in range(self._count)]
        mx.eval(found)
        return found

    def vectors(self) -> Array:
        """Random keys or values of one set."""
        import mlx.core as mx

        return mx.random.normal((1, self.shape.kv_heads, self.context, self.shape.head_dim)).astype(mx.float16)

    def query(self) -> Array:
        """A random query."""
        import mlx.core as mx

        return mx.random.normal((1, self.shape.q_heads, 1, self.shape.head_dim)).astype(mx.float16)

    def attend(self, q: Array, i: int) -> Array:
        """MLX's own attention over set `i`."""
        import mlx.core as mx

        k, v = (x[:, :, self.context - self.seen :] for x in self._sets[i % len(self._sets)])
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=self.scale)

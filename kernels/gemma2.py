"""Gemma 2's attention over packed caches: the family caps its logits and computes them itself, past mlx-lm's function.

For caches of ours the same attention goes through that function, with the cap handed over.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swarm.kernels.arrays import Array

FAMILY = "mlx_lm.models.gemma2"


def install() -> None:
    """Let Gemma 2 hand keys and values of packed caches to mlx-lm's attention, where the family is imported."""
    module = sys.modules.get(FAMILY)
    if module is None or getattr(module.Attention.__call__, "original", None) is not None:
        return
    from mlx_lm.models import base
    from mlx_lm.models.cache import _BaseCache

    original = module.Attention.__call__

    def call(self: Any, x: Array, mask: Array | str | None = None, cache: Any = None) -> Array:
        if cache is None or isinstance(cache, _BaseCache):
            return original(self, x, mask, cache)
        batch, length, _ = x.shape
        sides = ((self.q_proj, self.n_heads), (self.k_proj, self.n_kv_heads), (self.v_proj, self.n_kv_heads))
        q, k, v = (project(x).reshape(batch, length, n, -1).transpose(0, 2, 1, 3) for project, n in sides)
        q, k = (self.rope(part, offset=cache.offset) for part in (q, k))
        k, v = cache.update_and_fetch(k, v)
        cap = float(self.attn_logit_softcapping)
        out = base.scaled_dot_product_attention(q, k, v, cache, self.scale, mask, logit_cap=cap)
        return self.o_proj(out.transpose(0, 2, 1, 3).reshape(batch, length, -1))

    call.original = original  # type: ignore[attr-defined]
    module.Attention.__call__ = call

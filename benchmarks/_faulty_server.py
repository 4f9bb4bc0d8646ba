"""A real server whose cache is at fault: mlx_lm's HTTP server over a real model, with one planted fault or none.

`python -m benchmarks._faulty_server MODEL PORT WHERE WHAT [KV]` serves on loopback until it is ended. Faults are
written into the stored keys and values, in every second layer, at the moment that the faulty feature is used. With KV,
a configuration of ours, the server is `swarm serve` as it is.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any, ClassVar

CHUNK = 48
"""Tokens of a prompt that the server computes at a time."""
REMEMBERED = 1
"""Prompts that it remembers."""
HURT = 8
"""Tokens before the place of the fault that it hurts."""
COARSE_BITS = 2
WHERE = ("nowhere", "chunk", "reuse", "parted", "slots", "window")
WHAT = ("drop", "swap", "round", "repeat")


def hurt(stored: Any, end: int, what: str, row: int = 0) -> Any:
    """Keys or values [B, H, T, D], one sequence's last tokens before `end` dropped, swapped, rounded or repeated."""
    import mlx.core as mx

    start = max(0, end - HURT)
    part = stored[row : row + 1, :, start:end]
    if what == "drop":
        new = mx.zeros_like(part)
    elif what == "swap":
        new = part[:, :, ::-1]
    elif what == "round":
        scale = mx.abs(part).max(axis=-1, keepdims=True) / (2 ** (COARSE_BITS - 1) - 0.5) + 1e-9
        new = (mx.floor(part / scale) + 0.5) * scale
    else:
        new = mx.concatenate([part[:, :, :1], part[:, :, :-1]], axis=2)
    stored[row : row + 1, :, start:end] = new
    return stored


def hurt_both(cache: Any, end: int, what: str, row: int = 0) -> None:
    """Hurt the keys and values of a cache; keys alone are swapped, as tokens in another order are no fault."""
    cache.keys = hurt(cache.keys, end, what, row)
    if what != "swap":
        cache.values = hurt(cache.values, end, what, row)


def faulty_caches(model: Any, where: str, what: str) -> Any:
    """What makes a model's caches, every second of them faulty."""
    from mlx_lm.models.cache import BatchKVCache, KVCache, RotatingKVCache, make_prompt_cache

    class Alone(KVCache):  # type: ignore[misc]
        """Without `merge`, so that requests are answered one at a time."""

        merge: ClassVar[None] = None
        faulty = True

        def _hurt(self) -> None:
            if self.faulty:
                hurt_both(self, self.offset, what)

        def update_and_fetch(self, keys: Any, values: Any) -> Any:
            if where == "chunk" and self.offset and self.offset % CHUNK == 0 and keys.shape[2] > 1:
                self._hurt()
            return super().update_and_fetch(keys, values)

        def trim(self, n: int) -> int:
            trimmed: int = super().trim(n)
            parted = n > HURT
            if self.offset > HURT and where == ("parted" if parted else "reuse"):
                self._hurt()
            return trimmed

    class Batch(BatchKVCache):  # type: ignore[misc]
        faulty = True

        def update_and_fetch(self, keys: Any, values: Any) -> Any:
            if self.faulty and keys.shape[0] > 1 and keys.shape[2] == 1 and self._idx > 2 * HURT:
                hurt_both(self, self._idx, what, row=1)
            return super().update_and_fetch(keys, values)

    class Mixed(KVCache):  # type: ignore[misc]
        @classmethod
        def merge(_, caches: Any) -> Any:  # noqa: N804
            made = BatchKVCache.merge(caches)
            made.__class__ = Batch
            made.faulty = caches[0].faulty
            return made

    class Window(RotatingKVCache):  # type: ignore[misc]
        merge: ClassVar[None] = None
        faulty = True

        def update_and_fetch(self, keys: Any, values: Any) -> Any:
            before = self.offset
            found = super().update_and_fetch(keys, values)
            if where == "window" and self.faulty and before <= self.max_size < self.offset and keys.shape[2] > 1:
                hurt_both(self, self.keys.shape[2], what)
            return found

    def make() -> list[Any]:
        made: list[Any] = plain()
        for number, cache in enumerate(made):
            if type(cache) is (RotatingKVCache if where == "window" else KVCache):
                cache.__class__ = Window if where == "window" else Mixed if where == "slots" else Alone
                cache.faulty = number % 2 == 0
        return made

    plain = getattr(model, "make_cache", None) or (lambda: make_prompt_cache(model))
    return make


def main() -> None:
    """Serve `argv[1]` on port `argv[2]` with the fault `argv[3]`, `argv[4]`."""
    from swarm.experiments.deploy import serving
    from swarm.experiments.deploy.recipe import Recipe
    from swarm.experiments.models import registry
    from swarm.kernels import blas
    from swarm.kernels.spec import KVSpec

    name, port, where, what = sys.argv[1:5]
    # Threads of one server each, however many run side by side.
    blas.use_openblas(1)
    if where not in WHERE or what not in WHAT:
        sys.exit(f"no such fault: {where} {what}")
    serving.PREFILL_STEP, serving.MAX_PROMPT_CACHES = CHUNK, REMEMBERED
    serving.prompt_caches = partial(serving.prompt_caches, size=REMEMBERED)
    loaded = registry.load(name)
    recipe = Recipe(model=name, kv=KVSpec.parse(sys.argv[5])) if len(sys.argv) > 5 else None
    if recipe is None and where != "nowhere":
        loaded.model.make_cache = faulty_caches(loaded.model, where, what)
    serving.serve(loaded, recipe, "127.0.0.1", int(port), lambda url: print(url, flush=True))


if __name__ == "__main__":
    main()

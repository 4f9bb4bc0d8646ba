"""The cache of one layer behind mlx-lm's cache interface: one class for every method."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from swarm.kernels import arrays, attention
from swarm.kernels.attention import StoredView
from swarm.kernels.backends import base as backends
from swarm.kernels.codec import Codec, Factors
from swarm.kernels.errors import ModelError, UsageError
from swarm.kernels.last_view import KeepsLastView
from swarm.kernels.quantizers import base
from swarm.kernels.side import CacheSide
from swarm.kernels.spec import KVSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from swarm.kernels.arrays import Array
    from swarm.kernels.backends.base import Backend
    from swarm.kernels.batch_cache import PackedBatchCache
    from swarm.kernels.key_bias import KeyBias


class PackedKVCache(KeepsLastView):
    """Keys and values of one layer, really stored in the bits that the specification says.

    Three segments by position: 16-bit sinks, packed codes, 16-bit tail (the residual window and, for methods that
    encode blocks of tokens, the block that is not yet full). With a `window` (of the most recent tokens) or a `chunk`
    (attention stays within chunks of so many tokens), tokens that no query sees any more are dropped. `logit_gain`
    multiplies the attention logits, which `logit_cap` bounds where the model does so.
    """

    def __init__(
        self,
        kv: KVSpec | None = None,
        *,
        window: int | None = None,
        chunk: int | None = None,
        layer: int = 0,
        seed: int = 0,
        factors: Mapping[str, Factors] | None = None,
        key_bias: KeyBias | None = None,
        family: str = "",
        backend: Backend | None = None,
        dims: tuple[int, int] | None = None,
        logit_cap: float | None = None,
    ) -> None:
        # mlx-lm's `load_prompt_cache` looks classes up by name in the module of its caches.
        from mlx_lm.models import cache as mlx_caches

        setattr(mlx_caches, type(self).__name__, type(self))
        self.kv = kv or KVSpec()
        self.window = window
        self.chunk = chunk
        self.layer = layer
        self.seed = seed
        self.family = family
        self.factors = dict(factors or {})
        self.key_bias = key_bias
        self.logit_gain = 1.0
        self.logit_cap = logit_cap
        self.dims = dims  # values per key and per value; known from the first token on if not before
        self.offset = 0
        self.backend = backend or backends.current()
        self._key: CacheSide | None = None
        self._value: CacheSide | None = None
        self._keep_at: int | None = None  # tokens of the state to keep
        self._kept: tuple[CacheSide, ...] = ()

    def fresh(self) -> Self:
        """A cache for the same layer with nothing in it."""
        return type(self)(
            self.kv,
            window=self.window,
            chunk=self.chunk,
            layer=self.layer,
            seed=self.seed,
            factors=self.factors,
            key_bias=self.key_bias,
            family=self.family,
            dims=self.dims,
            logit_cap=self.logit_cap,
        )

    def __deepcopy__(self, _memo: object) -> Self:
        """A cache of the same tokens on the same arrays: whichever of the two grows first takes arrays of its own."""
        other = copy.copy(self)
        other._view = None
        if self.sides:
            other._key, other._value = sides = tuple(copy.copy(side) for side in self.sides)
            for side in sides:
                side.store = side.store.shared(side.store.blocks)
        return other

    @classmethod
    def merge(cls, caches: Sequence[PackedKVCache]) -> PackedBatchCache:
        """One cache for a batch of sequences, as mlx-lm's server asks for it; the caches belong to it from now on."""
        from swarm.kernels.batch_cache import PackedBatchCache

        return PackedBatchCache(caches)

    def update_and_fetch(self, keys: Array, values: Array) -> tuple[StoredView, StoredView]:
        """Take in the keys and values [B, H, T, D] of new tokens; the returned views are for attention only."""
        self._view = self.append(keys, values)
        return self._view, self._view

    def append(self, keys: Array, values: Array) -> StoredView:
        """Take in keys and values [B, H, T, D] (numpy or MLX, after RoPE) without computing attention.

        Keys and values may differ in D.

        Raises:
            NonFiniteError: NaN, Inf, or magnitudes beyond the 16-bit type; on an accelerator one call later.
            SpecError: the method does not fit the head size.
        """
        key, value = self.sides or self._sides(keys.shape[-1], values.shape[-1])
        xp = self.backend.xp
        self.release()
        fresh = arrays.half(xp, arrays.held(xp, keys)), arrays.half(xp, arrays.held(xp, values))
        key_view, value_view = self.backend.append((key, value), fresh)
        self.offset = key.offset
        self._keep_state()
        return StoredView(self, key_view, value_view, (keys, values))

    def attend(
        self, view: StoredView, queries: Array, scale: float, mask: Array | str | None, sinks: Array | None = None
    ) -> Array:
        """Attention output [B, Hq, L, D] over the columns of a view of this cache, by its back-end.

        A mask [L, columns] of a layer with chunks says what the cache knows itself.
        """
        if self.chunk is not None and mask is not None and not isinstance(mask, str) and mask.ndim == 2:
            mask = "causal" if queries.shape[2] > 1 else None
        return self.backend.attend(view, queries, scale * self.logit_gain, mask, sinks)

    def _sides(self, key_dim: int, value_dim: int) -> tuple[CacheSide, CacheSide]:
        if self._key is None or self._value is None:
            seeds = self.seed * 100_003 + self.layer
            kv, pack = self.kv, self.backend.pack
            self._key = CacheSide(
                Codec(kv.key, "key", key_dim, 2 * seeds, factors=self.factors.get("key"), packer=pack),
                kv.sink_tokens,
                kv.residual_window,
                self.key_bias if kv.key_bias == "subtract" else None,
            )
            self._value = CacheSide(
                Codec(kv.value, "value", value_dim, 2 * seeds + 1, factors=self.factors.get("value"), packer=pack),
                kv.sink_tokens,
                kv.residual_window,
            )
        return self._key, self._value

    def release(self) -> None:
        """Forget tokens that no later query sees: what every further call begins with."""
        if self.reach is not None:
            seen = self.first_seen(self.offset)
            for side in self.sides:
                side.drop_before(seen)

    @property
    def reach(self) -> int | None:
        """The most tokens that a query sees, None for all."""
        return self.window or self.chunk

    def first_seen(self, position: Any) -> Any:
        """The first token that the query at a position sees: integers or integer arrays."""
        if self.chunk is not None:
            return position // self.chunk * self.chunk
        if self.window is None:
            return position * 0
        first = position - self.window + 1
        return max(first, 0) if isinstance(first, int) else np.maximum(first, 0)

    @property
    def sides(self) -> tuple[CacheSide, ...]:
        """Keys and values as held; empty before the first token."""
        return () if self._key is None or self._value is None else (self._key, self._value)

    @property
    def sequences(self) -> int:
        """Sequences of the batch that came in; 1 before."""
        return 1 if self._view is None else int(self._view.fresh[0].shape[0])

    @property
    def nbytes(self) -> int:
        """Bytes really held, room for growth, codebooks and a kept state included."""
        kept = sum(side.half_nbytes + (side.store.nbytes if self.reach else 0) for side in self._kept)
        return kept + sum(side.nbytes for side in self.sides)

    def bits_per_value(self) -> float:
        """Exact bits per stored value now: sinks, packed codes, tail, codebooks."""
        values = sum(side.values for side in self.sides)
        return sum(side.live_nbytes for side in self.sides) * 8 / values if values else self.limit_bits_per_value()

    def limit_bits_per_value(self) -> float:
        """Bits per value of keys and values as the context grows without bound.

        Raises:
            ModelError: no token has come in and the head size is not known.
        """
        if self.sides:
            sizes = [(side.codec.spec, side.codec.head_dim) for side in self.sides]
        elif self.dims is not None:
            sizes = list(zip((self.kv.key, self.kv.value), self.dims, strict=True))
        else:
            raise ModelError("The head size is not known yet.", "Ask again when a token has come in.")
        bits = sum(base.build(spec, dim).bits_per_value() * dim for spec, dim in sizes)
        return bits / sum(dim for _, dim in sizes)

    def mask_columns(self, offset: int) -> int:
        """Old columns that a mask covers when `offset` tokens are stored."""
        if self.chunk is not None:
            return min(offset, self.chunk)
        return offset if self.window is None else min(offset, self.window - 1)

    @property
    def start_position(self) -> int:
        """Position of the first column that a mask covers, for models with chunks, which make the mask themselves."""
        return self.offset - self.mask_columns(self.offset)

    def maybe_trim_front(self) -> None:
        """Part of mlx-lm's interface for caches with chunks: tokens of earlier chunks are dropped anyway."""

    def make_mask(self, N: int, return_array: bool = False, window_size: int | None = None) -> Any:  # noqa: N803
        """mlx-lm's mask for N new tokens: None, "causal", or a bool array right-aligned with the columns.

        The cache's own window is applied by attention, so it needs no array.
        """
        from mlx_lm.models.base import create_causal_mask

        foreign = window_size is not None and window_size != self.window
        if N == 1 and not foreign:
            return None
        if foreign or return_array:
            return create_causal_mask(N, self.mask_columns(self.offset), window_size=window_size or self.window)
        return "causal"

    def size(self) -> int:
        """Tokens held."""
        return max((side.tokens for side in self.sides), default=0)

    def empty(self) -> bool:
        """Whether no token came in yet."""
        return self.offset == 0

    def is_trimmable(self) -> bool:
        """Whether any number of last tokens can be taken back, so that what is left is what a new cache would hold.

        Not once a window has dropped tokens, nor once a token was packed that a shorter cache has in 16 bit: in its
        residual window, or in a block of tokens that is not yet full.
        """
        return self._dropped_nothing and all(side.trims_exactly for side in self.sides)

    @property
    def _dropped_nothing(self) -> bool:
        return int(self.first_seen(self.offset)) == 0

    def trim(self, n: int) -> int:
        """Take back the last n tokens (all, if there are fewer); returns how many were.

        Raises:
            UsageError: what is left would not be what a new cache of these tokens holds.
        """
        n = min(self.offset, n)
        if not self._dropped_nothing or not all(side.can_trim(n) for side in self.sides):
            raise UsageError(
                f"The last {n} of {self.offset} tokens cannot be taken back from a cache of {self.kv.label}.",
                "Tokens before them are packed or dropped already: read the shorter text into a new cache.",
            )
        for side in self.sides:
            side.trim(self.backend.xp, n)
        self.offset -= n
        self._view = None
        if self._kept and self.offset < self._kept[0].offset:
            self._kept = ()
        return n

    def hold(self, tokens: int, states: Sequence[Mapping[str, Any]]) -> None:
        """Hold so many tokens, states of keys and of values, in the place of all others."""
        for side, state in zip(self.sides, states, strict=True):
            side.restore(self.backend.xp, state)
        self.offset, self._view = tokens, None

    def is_like(self, other: PackedKVCache) -> bool:
        """Whether both pack and read tokens in the same way."""
        names = {*self.factors, *other.factors}
        learned = all(self.factors.get(name) is other.factors.get(name) for name in names)
        given = ("kv", "seed", "layer", "window", "chunk", "logit_gain", "logit_cap", "backend")
        return learned and all(getattr(self, name) == getattr(other, name) for name in given)

    def keep_state_at(self, tokens: int) -> None:
        """Remember the state in which the cache will be when it holds so many tokens, for `kept_state`.

        Beside the cache this holds the 16-bit tokens of that state, and with a window its packed ones.
        """
        self._keep_at, self._kept = tokens, ()
        self._keep_state()

    def _keep_state(self) -> None:
        if self.offset != self._keep_at:
            return
        self._kept = tuple(copy.copy(side) for side in self.sides)
        if self.reach is not None:  # drops packed tokens; without one they only grow
            for side in self._kept:
                side.store = side.store.shared(side.store.blocks)

    def kept_state(self) -> PackedKVCache | None:
        """A cache in the state that `keep_state_at` asked for, sharing arrays until it grows; None if not reached."""
        if not self._kept:
            return None
        older = copy.copy(self)
        older._keep_at, older._kept, older.offset = None, (), self._kept[0].offset
        older._key, older._value = kept = tuple(copy.copy(side) for side in self._kept)
        for side, now in zip(kept, self.sides, strict=True):
            packed = (side.encoded - side.sinks) // side.store.block_tokens
            side.store = now.store.shared(packed) if self.reach is None else side.store.shared(side.store.blocks)
        return older

    @property
    def state(self) -> dict[str, Any]:
        """Everything stored, as MLX arrays and text: what mlx-lm's prompt-cache files hold."""
        settings = {
            "kv": self.kv.model_dump(mode="json"),
            "window": self.window,
            "chunk": self.chunk,
            "logit_cap": self.logit_cap,
            "layer": self.layer,
            "seed": self.seed,
            "logit_gain": self.logit_gain,
            "offset": self.offset,
        }
        parts = {name: side.state() for name, side in zip(("key", "value"), self.sides, strict=False)}
        learned = {
            side: {"channel": arrays.to_mlx(factors.channel), "clip": factors.clip}
            for side, factors in self.factors.items()
        }
        return {"settings": json.dumps(settings), **parts, **({"factors": learned} if learned else {})}

    @state.setter
    def state(self, state: Mapping[str, Any]) -> None:
        settings = json.loads(state["settings"])
        kv = KVSpec(**settings["kv"])
        if kv.key_bias == "subtract" and self.key_bias is None:
            raise ModelError(
                "A cache with subtracted key bias needs its model.",
                "Make caches with make_cache(model, kv) and assign their state.",
            )
        self.kv, self.window, self.layer, self.seed = kv, settings["window"], settings["layer"], settings["seed"]
        self.chunk, self.logit_cap = settings.get("chunk"), settings.get("logit_cap")
        self.logit_gain, self.offset = settings["logit_gain"], settings["offset"]
        self.factors = {
            side: Factors(arrays.to_numpy(entry["channel"]), float(entry["clip"]))
            for side, entry in state.get("factors", {}).items()
        }
        self._key = self._value = self._view = None
        self._kept = ()
        if self.offset:
            dims = [int(state[name]["head_dim"]) for name in ("key", "value")]
            for name, side in zip(("key", "value"), self._sides(*dims), strict=True):
                side.restore(self.backend.xp, state[name])

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """A cache from a saved state, as mlx-lm's `load_prompt_cache` makes it."""
        attention.install()
        cache = cls()
        cache.state = state
        return cache

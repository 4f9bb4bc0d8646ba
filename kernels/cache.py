"""The cache that models run with, behind mlx-lm's cache interface: one class for every layer and every method."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any, Self

from swarm.kernels import arrays, attention, modules
from swarm.kernels.attention import StoredView
from swarm.kernels.backends import base as backends
from swarm.kernels.codec import Codec, Factors
from swarm.kernels.errors import ModelError, SpecError, SwarmError, UsageError
from swarm.kernels.quantizers import base
from swarm.kernels.side import CacheSide
from swarm.kernels.spec import KVSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from swarm.kernels.arrays import Array
    from swarm.kernels.backends.base import Backend
    from swarm.kernels.key_bias import KeyBias


class PackedKVCache:
    """Keys and values of one layer, really stored in the bits that the specification says.

    Three segments by position: 16-bit sinks, packed codes, 16-bit tail (the residual window and, for methods that
    encode blocks of tokens, the block that is not yet full). With a `window`, tokens that no query sees any more are
    dropped. `logit_gain` multiplies the attention logits.
    """

    # mlx-lm sends a cache with these two to its packed attention, which `attention.install` replaces.
    bits = 16
    group_size = 0

    def __init__(
        self,
        kv: KVSpec | None = None,
        *,
        window: int | None = None,
        layer: int = 0,
        seed: int = 0,
        factors: Mapping[str, Factors] | None = None,
        key_bias: KeyBias | None = None,
        family: str = "",
        backend: Backend | None = None,
        head_dim: int | None = None,
    ) -> None:
        attention.install(PackedKVCache)
        self.kv = kv or KVSpec()
        self.window = window
        self.layer = layer
        self.seed = seed
        self.family = family
        self.factors = dict(factors or {})
        self.key_bias = key_bias
        self.logit_gain = 1.0
        self.logit_cap: float | None = None  # logits are cap * tanh(logits / cap) before they are masked
        self.head_dim = head_dim  # of keys and values; known from the first token on if not before
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
            layer=self.layer,
            seed=self.seed,
            factors=self.factors,
            key_bias=self.key_bias,
            family=self.family,
            head_dim=self.head_dim,
        )

    def update_and_fetch(self, keys: Array, values: Array) -> tuple[StoredView, StoredView]:
        """Take in the keys and values [B, H, T, D] of new tokens; the returned views are for attention only."""
        view = self.append(keys, values)
        return view, view

    def append(self, keys: Array, values: Array) -> StoredView:
        """Take in keys and values [B, H, T, D] (numpy or MLX, after RoPE) without computing attention.

        Raises:
            NonFiniteError: NaN, Inf, or magnitudes beyond the 16-bit type; on an accelerator one call later.
            SpecError: the method does not fit the head size.
        """
        key, value = self._sides(keys.shape[-1], values.shape[-1])
        xp = self.backend.xp
        self.release()
        key_view = key.append(xp, arrays.half(xp, arrays.held(xp, keys)))
        value_view = value.append(xp, arrays.half(xp, arrays.held(xp, values)))
        self.offset = key.offset
        self._keep_state()
        return StoredView(self, key_view, value_view, (keys, values))

    def attend(
        self, view: StoredView, queries: Array, scale: float, mask: Array | str | None, sinks: Array | None = None
    ) -> Array:
        """Attention output [B, Hq, L, D] over the columns of a view of this cache, by its back-end."""
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
        if self.window is not None:
            for side in self.sides:
                side.drop_before(self.offset - self.window + 1)

    @property
    def sides(self) -> tuple[CacheSide, ...]:
        """Keys and values as held; empty before the first token."""
        return () if self._key is None or self._value is None else (self._key, self._value)

    @property
    def nbytes(self) -> int:
        """Bytes really held, room for growth, codebooks and a kept state included."""
        kept = sum(side.half_nbytes + (side.store.nbytes if self.window else 0) for side in self._kept)
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
        elif self.head_dim is not None:
            sizes = [(self.kv.key, self.head_dim), (self.kv.value, self.head_dim)]
        else:
            raise ModelError("The head size is not known yet.", "Ask again when a token has come in.")
        bits = sum(base.build(spec, dim).bits_per_value() * dim for spec, dim in sizes)
        return bits / sum(dim for _, dim in sizes)

    def mask_columns(self, offset: int) -> int:
        """Old columns that a mask covers when `offset` tokens are stored."""
        return offset if self.window is None else min(offset, self.window - 1)

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
        return self.window is None or self.offset < self.window

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
        if self._kept and self.offset < self._kept[0].offset:
            self._kept = ()
        return n

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
        if self.window is not None:  # drops packed tokens; without one they only grow
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
            side.store = now.store.shared(packed) if self.window is None else side.store.shared(side.store.blocks)
        return older

    @property
    def state(self) -> dict[str, Any]:
        """Everything stored, as MLX arrays and text: what mlx-lm's prompt-cache files hold."""
        settings = {
            "kv": self.kv.model_dump(mode="json"),
            "window": self.window,
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
        self.logit_gain, self.offset = settings["logit_gain"], settings["offset"]
        self.factors = {
            side: Factors(arrays.to_numpy(entry["channel"]), float(entry["clip"]))
            for side, entry in state.get("factors", {}).items()
        }
        self._key = self._value = None
        self._kept = ()
        if self.offset:
            dims = [int(state[name]["head_dim"]) for name in ("key", "value")]
            for name, side in zip(("key", "value"), self._sides(*dims), strict=True):
                side.restore(self.backend.xp, state[name])

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """A cache from a saved state, as mlx-lm's `load_prompt_cache` makes it."""
        cache = cls()
        cache.state = state
        return cache


def make_cache(
    model: Any,
    kv: KVSpec | str | None = None,
    *,
    seed: int = 0,
    factors: Mapping[int, Mapping[str, Factors]] | None = None,
) -> list[PackedKVCache]:
    """One packed cache per layer of an mlx-lm model, to be passed as its `cache` or `prompt_cache`.

    Args:
        model: The model as `mlx_lm.load` gives it.
        kv: What the layers store, or its label. Left out, everything stays in 16 bit.
        seed: Decides random rotations and sketches; every layer derives its own.
        factors: Learned scaling per layer: {"key": Factors, "value": Factors}.

    Raises:
        ModelError: the model's attention cannot work on packed caches; says why.
        SpecError: the label cannot be read, or the specification does not fit the model; says which layer and why.
    """
    kv = KVSpec.parse(kv) if isinstance(kv, str) else kv or KVSpec()
    family = str(getattr(model, "model_type", type(model).__module__.rpartition(".")[2]))
    attentions = modules.attention_modules(model)
    windows = modules.windows(model, family)
    if len(attentions) != len(windows):
        raise ModelError(
            f"{family} has {len(attentions)} attention layers and {len(windows)} caches.",
            "Only models with one attention per cache can use packed caches.",
        )
    named = {*(kv.layers or ()), *(layer for override in kv.overrides for layer in override.layers), *(factors or {})}
    if unknown := sorted(layer for layer in named if not 0 <= layer < len(attentions)):
        raise SpecError(f"Layer {unknown[0]} does not exist.", f"This model has layers 0 to {len(attentions) - 1}.")
    caches = []
    for layer, (module, window) in enumerate(zip(attentions, windows, strict=True)):
        modules.check_attention(module, family)
        spec = kv.at(layer)
        learned = dict((factors or {}).get(layer, {}))
        try:
            modules.check_head_dim(module, model, spec)
            bias = modules.key_bias(module) if spec.key_bias == "subtract" else None
            modules.check_factors(module, model, spec, learned)
        except SwarmError as error:
            raise type(error)(f"Layer {layer}: {error.problem}", error.remedy) from error
        size = modules.head_dim(module, model)
        caches.append(
            PackedKVCache(
                spec,
                window=window,
                layer=layer,
                seed=seed,
                factors=learned,
                key_bias=bias,
                family=family,
                head_dim=size,
            )
        )
    return caches

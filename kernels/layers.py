"""What each layer of an mlx-lm model keeps between tokens, read from one unevaluated pass through the model.

The pass costs little (MLX builds shapes without computing) and shows what every layer really does, whatever the
family: the keys, values or latents that reach its cache, its window, learned sinks, and which layers read the keys and
values of another one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from swarm.kernels import attention, elementwise
from swarm.kernels.errors import ModelError
from swarm.kernels.layer_shape import LayerShape
from swarm.kernels.places import Place, all_places, replaced

if TYPE_CHECKING:
    from swarm.kernels.arrays import Array


@dataclass(frozen=True)
class TracedLayer:
    """A layer of a model in memory: what it keeps, where, and how its attention is computed.

    Attributes:
        shape: what it keeps.
        place: where in the model's own list of caches; None where it keeps no keys and values of its own.
        query_heads: heads of its queries; 0 where the pass did not show them.
        scale: factor on its attention logits; None where the pass did not show it.
        logit_cap: the logits are cap * tanh(logits / cap), before they are masked; None for no cap.
        reads_arrays: the model's own code reads what the cache returns, at least for several tokens at a time.
        entry: index in the model's own list of caches; None for layers that read those of another one.
        own_cache: names of the classes of mlx-lm's own caches of this layer.
    """

    shape: LayerShape
    place: Place | None = None
    query_heads: int = 0
    scale: float | None = None
    logit_cap: float | None = None
    reads_arrays: bool = False
    entry: int | None = None
    own_cache: str = ""


def trace(model: Any) -> tuple[TracedLayer, ...]:
    """The layers of an mlx-lm model (weights may be unevaluated), in the order of its caches.

    Every cache of keys and values is a layer, so that a block with two attentions counts twice and one that is run
    twice too. Layers that read another one's keys and values come last.

    Raises:
        ModelError: the model's code cannot be run over other caches.
    """
    attention.install()
    chunk, step = (_Pass.through(model, tokens) for tokens in (2, 1))
    layers: list[TracedLayer] = []
    numbers: dict[Place, int] = {}
    for entry, places in groupby(all_places(chunk.caches), key=lambda found: found[0][0]):
        parts = list(places)
        probes = [(place, part) for place, part in parts if isinstance(part, _Probe) and part.taken is not None]
        found = [chunk.layer(place, step) for place, part in probes if not part.indexes]
        first = found[0] if found else TracedLayer(LayerShape())
        kept = {
            "state_bytes": sum(_state_bytes(part) for _, part in parts if not isinstance(part, _Probe)),
            "plain_dim": sum(part.width for _, part in probes if part.indexes),
        }
        names = ", ".join(type(part.own if isinstance(part, _Probe) else part).__name__ for _, part in parts)
        found[:1] = [replace(first, shape=first.shape.model_copy(update=kept), own_cache=names)]
        found = [replace(layer, entry=entry) for layer in found]
        numbers |= {layer.place: len(layers) + at for at, layer in enumerate(found) if layer.place is not None}
        layers += found
    for call in chunk.repeated:
        shape = LayerShape(shared_from=numbers[call.place], sinks=call.sinks)
        layers.append(TracedLayer(shape, None, call.heads, call.scale, call.logit_cap))
    return tuple(layers)


def check(model: Any, layers: Sequence[TracedLayer]) -> None:
    """Refuse a model that keeps nothing which could be packed.

    Raises:
        ModelError: with what it keeps.
    """
    if all(layer.place is None for layer in layers):
        from mlx_lm.models import cache

        names = sorted({layer.own_cache for layer in layers})
        kept = ", ".join(names)
        if not all(name in vars(cache) for name in names):
            raise ModelError(
                f"{attention.family(model)} keeps what it attends to in caches of its own kind ({kept}).",
                "Packed caches take the place of mlx-lm's common ones only: choose another model.",
            )
        raise ModelError(
            f"{attention.family(model)} keeps no keys and values that could be packed: its layers have {kept}.",
            "Choose a model with attention in at least one layer.",
        )


def attention_modules(model: Any, layers: Sequence[TracedLayer]) -> list[Any]:
    """The attention module of each layer, None where the layer has none or the model does not tell."""
    found = blocks(layers, len(model.layers))
    return [None if block is None else _attention_of(model.layers[block]) for block in found]


def blocks(layers: Sequence[TracedLayer], count: int) -> list[int | None]:
    """Which of `count` blocks of a model computes each layer, None where the model does not tell.

    A model that runs its blocks several times has so many caches for each.
    """
    entries = {layer.entry for layer in layers if layer.entry is not None}
    shared = any(layer.entry is None for layer in layers)
    told = len(entries) < count if shared else len(entries) % count == 0
    return [layer.entry % count if told and layer.entry is not None else None for layer in layers]


def _attention_of(block: Any) -> Any:
    names = ("self_attn", "attention", "attn", "self_attention")
    found = (getattr(block, name, None) for name in names)
    return next((module for module in found if module is not None), None)


@dataclass(eq=False)
class _Probe:
    """Stands in for a layer's cache during the pass: notes what reaches it, and returns that as arrays of its own."""

    own: Any
    offset: int = 0
    start_position: int = 0
    keys: Any = None
    values: Any = None
    taken: tuple[Array, Array] | None = None
    handed: tuple[Array, Array] = field(default=())  # type: ignore[assignment]

    def update_and_fetch(self, keys: Array, values: Array) -> tuple[Array, Array]:
        import mlx.core as mx

        self.taken = (keys, values)
        self.handed = mx.stop_gradient(keys), mx.stop_gradient(values)
        self.keys, self.values = self.handed
        self.offset += keys.shape[2]
        return self.handed

    def keys_and_values(self) -> tuple[Array, Array]:
        return self.handed

    def make_mask(self, N: int, return_array: bool = False, window_size: int | None = None) -> Any:  # noqa: N803
        from mlx_lm.models.base import create_causal_mask

        if N == 1:
            return None
        return create_causal_mask(N, self.offset, window_size=window_size) if return_array or window_size else "causal"

    def maybe_trim_front(self) -> None:
        """Part of the interface of mlx-lm's caches of chunks."""

    def advance(self, _tokens: int) -> None:
        """Part of the interface of mlx-lm's caches."""

    @property
    def indexes(self) -> bool:
        """Whether keys alone are kept, which only choose what attention reads."""
        if self.taken is None:
            return False
        keys, values = self.taken
        return keys is values or values.shape[-1] == 0

    @property
    def width(self) -> int:
        """Values per token of an indexer's keys (mlx-lm holds as many zeros beside them)."""
        return math.prod(self.taken[0].shape[1::2]) if self.taken else 0


@dataclass(frozen=True)
class _Call:
    """One call of mlx-lm's attention that read what a cache handed out."""

    place: Place
    heads: int
    scale: float
    sinks: bool
    logit_cap: float | None
    latent: bool


class _Pass:
    """One pass over a few tokens with probes in the place of the caches of keys and values."""

    def __init__(self, own: list[Any]) -> None:
        self.probes = {place: _Probe(cache) for place, cache in all_places(own) if _packable(cache)}
        self.caches = replaced(own, self.probes)
        self.calls: dict[Place, _Call] = {}
        self.repeated: list[_Call] = []

    @classmethod
    def through(cls, model: Any, tokens: int) -> _Pass:
        """A pass over so many tokens."""
        import mlx.core as mx
        from mlx_lm.models.cache import make_prompt_cache

        run = cls(make_prompt_cache(model))
        try:
            with elementwise.suspended(), attention.intercepted(run.note):
                model(mx.zeros((1, tokens), mx.int32), cache=run.caches)
        except ModelError:
            raise
        except Exception as error:  # every family has its own code
            cls._check_own(model, tokens)
            raise ModelError(
                f"The layers of {attention.family(model)} cannot be traced: {type(error).__name__}: {error}.",
                "Packed caches need a model that runs over other caches than its own: choose another model.",
            ) from error
        return run

    @staticmethod
    def _check_own(model: Any, tokens: int) -> None:
        """Refuse a model that does not run with its own caches either.

        Raises:
            ModelError: with what mlx-lm says.
        """
        import mlx.core as mx
        from mlx_lm.models.cache import make_prompt_cache

        try:
            model(mx.zeros((1, tokens), mx.int32), cache=make_prompt_cache(model))
        except Exception as error:
            raise ModelError(
                f"mlx-lm's {attention.family(model)} cannot read {tokens} tokens at a time on this machine, with its "
                f"own cache either: {type(error).__name__}: {error}.",
                "Choose another model, or try another version of mlx-lm.",
            ) from error

    def note(self, queries: Array, keys: Array, values: Array, options: attention.CallOptions) -> None:
        """Note a call of attention, where it reads what a cache handed out."""
        for place, probe in self.probes.items():
            if not probe.handed or keys is not probe.handed[0]:
                continue
            if values is not probe.handed[1] and values is not probe.handed[0]:
                continue
            call = _Call(
                place,
                heads=queries.shape[1],
                scale=options.scale,
                sinks=options.sinks is not None,
                logit_cap=options.logit_cap,
                latent=values is probe.handed[0],
            )
            if place in self.calls:
                self.repeated.append(call)
            else:
                self.calls[place] = call
            return

    def layer(self, place: Place, step: _Pass) -> TracedLayer:
        """The layer whose keys and values are kept at a place, as this pass over a chunk and one over a step show."""
        probe = self.probes[place]
        keys, values = probe.taken  # type: ignore[misc]
        handed, call = self.calls.get(place), step.calls.get(place) or self.calls.get(place)
        shape = LayerShape(
            kv_heads=keys.shape[1],
            key_dim=keys.shape[3],
            value_dim=values.shape[3],
            window=_limit(probe.own, "max_size"),
            chunk=_limit(probe.own, "chunk_size"),
            sinks=call is not None and call.sinks,
            latent=call is not None and call.latent,
        )
        if call is None:
            return TracedLayer(shape, place, reads_arrays=True)
        return TracedLayer(shape, place, call.heads, call.scale, call.logit_cap, reads_arrays=handed is None)


def _packable(cache: Any) -> bool:
    """Whether it is a cache of keys and values that a packed one can replace."""
    from mlx_lm.models.cache import ChunkedKVCache, KVCache, RotatingKVCache

    return type(cache) in (KVCache, ChunkedKVCache) or (type(cache) is RotatingKVCache and cache.keep == 0)


def _limit(own: Any, name: str) -> int | None:
    size = getattr(own, name, None)
    return None if size is None else int(size)


def _state_bytes(cache: Any) -> int:
    return sum(array.nbytes for array in _arrays(cache.state))


def _arrays(state: Any) -> Iterator[Array]:
    import mlx.core as mx
    from mlx.utils import tree_flatten

    for _, leaf in tree_flatten(state):
        if isinstance(leaf, mx.array):
            yield leaf

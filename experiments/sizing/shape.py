"""The shape of a model as far as its cache and its weights are concerned: what each layer keeps, how many weights."""

from __future__ import annotations

from collections import Counter
from functools import cache

from pydantic import Field

from swarm.kernels.spec import FrozenModel


class LayerShape(FrozenModel):
    """What one layer caches: per token `kv_heads` keys of `key_dim` values and as many values of `value_dim`.

    `window` is the number of recent tokens that the layer can see (None: all). A layer that reuses the cache of
    another one, or that has none, has 0 heads. `state_bytes` is a recurrent state, the same at every length.
    Multi-head latent attention (2405.04434) is one head: the latent is the key, the shared rotary key the value, and
    with it the key of a sparse indexer (DeepSeek-V3.2).
    """

    kv_heads: int = Field(ge=0)
    key_dim: int = Field(ge=0)
    value_dim: int = Field(ge=0)
    window: int | None = Field(default=None, ge=1)
    state_bytes: int = Field(default=0, ge=0)

    def tokens(self, context: int) -> int:
        """Tokens that the layer holds when `context` tokens have been read."""
        return context if self.window is None else min(context, self.window)


def state_space(*, conv: int, inner: int, state: int, groups: int = 0) -> LayerShape:
    """A recurrent layer: `state` values per inner channel and the last `conv - 1` inputs of a convolution, in float32.

    Mamba (2312.00752) convolves the inner channels; Mamba 2 (2405.21060) those and two projections of `state` values
    per group; short convolutions (LFM2) have no state beside their inputs.
    """
    floats = inner * state + (conv - 1) * (inner + 2 * groups * state)
    return LayerShape(kv_heads=0, key_dim=0, value_dim=0, state_bytes=4 * floats)


def gated_delta_net(*, conv: int, key_heads: int, key_dim: int, values: int) -> LayerShape:
    """A gated delta net (2412.06464): a matrix per value head and the last inputs of a convolution, in float32.

    `values` counts the value channels of all heads. The sizes are those of Mamba 2 with keys as its states.
    """
    return state_space(conv=conv, inner=values, state=key_dim, groups=key_heads)


class ModelShape(FrozenModel):
    """A model's layers and weights.

    `parameters` counts the weights, `active_parameters` those that one token reads (experts that are not routed
    to and the rows of the input embedding left out); None means unknown. `weight_bytes` is the size of the weights
    as they are on disk, when they are. `max_context` is the trained window, rope factors that lengthen it included.
    `shared_layers` reuse the cache of an earlier layer. `notes` says what was assumed.
    """

    name: str
    family: str
    layers: tuple[LayerShape, ...] = Field(min_length=1)
    query_heads: int = Field(ge=1)
    hidden_size: int = Field(ge=1)
    intermediate_size: int = Field(default=0, ge=0)
    max_context: int | None = Field(default=None, ge=1)
    shared_layers: int = Field(default=0, ge=0)
    parameters: int | None = Field(default=None, ge=1)
    active_parameters: int | None = Field(default=None, ge=1)
    weight_bytes: int | None = Field(default=None, ge=1)
    weights_bits: float | None = Field(default=None, gt=0)
    source: str = ""
    notes: tuple[str, ...] = ()

    @property
    def groups(self) -> dict[LayerShape, int]:
        """Each distinct layer and how many of the layers are like it."""
        return _groups(self.layers)

    @property
    def widest(self) -> LayerShape:
        """The layer that holds most per token."""
        return max(self.groups, key=lambda layer: layer.kv_heads * (layer.key_dim + layer.value_dim))

    @property
    def dims(self) -> frozenset[int]:
        """The sizes of the cached keys and values."""
        return frozenset(dim for layer in self.groups if layer.kv_heads for dim in (layer.key_dim, layer.value_dim))

    @property
    def latent(self) -> bool:
        """Whether the cache holds latents (one head of unequal sides) instead of heads."""
        return self.widest.kv_heads == 1 and self.widest.key_dim != self.widest.value_dim


@cache
def _groups(layers: tuple[LayerShape, ...]) -> dict[LayerShape, int]:
    return dict(Counter(layers))

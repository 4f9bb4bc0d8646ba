"""The shape of a model as far as its cache and its weights are concerned: what each layer keeps, how many weights."""

from __future__ import annotations

from collections import Counter
from functools import cache

from pydantic import Field

from swarm.kernels.layer_shape import LayerShape
from swarm.kernels.spec import FrozenModel


def state_space(*, conv: int, inner: int, state: int, groups: int = 0) -> LayerShape:
    """A recurrent layer: `state` values per inner channel and the last `conv - 1` inputs of a convolution, in float32.

    Mamba (2312.00752) convolves the inner channels; Mamba 2 (2405.21060) those and two projections of `state` values
    per group; short convolutions (LFM2) have no state beside their inputs.
    """
    floats = inner * state + (conv - 1) * (inner + 2 * groups * state)
    return LayerShape(state_bytes=4 * floats)


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
    `notes` says what was assumed.
    """

    name: str
    family: str
    layers: tuple[LayerShape, ...] = Field(min_length=1)
    query_heads: int = Field(ge=1)
    hidden_size: int = Field(ge=1)
    intermediate_size: int = Field(default=0, ge=0)
    max_context: int | None = Field(default=None, ge=1)
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
    def shared_layers(self) -> int:
        """Layers that read the keys and values of an earlier one."""
        return sum(layer.shared_from is not None for layer in self.layers)

    @property
    def widest(self) -> LayerShape:
        """The layer that holds most per token."""
        return max(self.groups, key=lambda layer: layer.token_values)

    @property
    def dims(self) -> frozenset[int]:
        """The sizes of the cached keys and values."""
        return frozenset(dim for layer in self.groups if layer.kv_heads for dim in (layer.key_dim, layer.value_dim))

    @property
    def latent(self) -> bool:
        """Whether the cache holds latents instead of heads."""
        return self.widest.latent


@cache
def _groups(layers: tuple[LayerShape, ...]) -> dict[LayerShape, int]:
    return dict(Counter(layers))

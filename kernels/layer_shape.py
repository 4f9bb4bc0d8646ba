"""What one layer of a model keeps between tokens: the shape that caches, plans and searches share."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from swarm.kernels.values import FrozenModel

LayerKind = Literal["global", "windowed", "latent", "state", "shared", "none"]


class LayerShape(FrozenModel):
    """What one layer keeps: per token `kv_heads` keys of `key_dim` values and as many values of `value_dim`.

    A layer with a `window` sees so many recent tokens, one with a `chunk` those of its own chunk of so many. `sinks`
    says that its softmax has a learned extra logit per query head. Multi-head latent attention (2405.04434) is
    `latent`: one head whose keys are the latent and whose values are the shared rotary part. A layer without heads
    keeps nothing, or reads the keys and values of layer `shared_from`. `state_bytes` is a recurrent or convolution
    state of one sequence, the same at every length; `plain_dim` counts values per token that no method touches (the
    keys of a sparse indexer, DeepSeek-V3.2).
    """

    kv_heads: int = Field(default=0, ge=0)
    key_dim: int = Field(default=0, ge=0)
    value_dim: int = Field(default=0, ge=0)
    window: int | None = Field(default=None, ge=1)
    chunk: int | None = Field(default=None, ge=1)
    sinks: bool = False
    latent: bool = False
    shared_from: int | None = Field(default=None, ge=0)
    state_bytes: int = Field(default=0, ge=0)
    plain_dim: int = Field(default=0, ge=0)

    @property
    def kind(self) -> LayerKind:
        """The kind of layer, as searches and findings name it."""
        if self.shared_from is not None:
            return "shared"
        if not self.kv_heads:
            return "state" if self.state_bytes else "none"
        if self.latent:
            return "latent"
        return "global" if self.reach is None else "windowed"

    @property
    def reach(self) -> int | None:
        """The most tokens that a query sees, None for all."""
        return self.window or self.chunk

    @property
    def token_values(self) -> int:
        """Values of keys and values, or of latent and rotary part, per token."""
        return self.kv_heads * (self.key_dim + self.value_dim)

    def tokens(self, context: int) -> int:
        """Tokens that the layer holds when `context` tokens have been read."""
        return context if self.reach is None else min(context, self.reach)

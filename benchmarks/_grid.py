"""The part of the search space that is measured exhaustively: every combination of a few choices per parameter.

Knows which configurations there are; measures nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Literal

from swarm.experiments.space.layers import ALL, EdgeLayers, KindLayers, Scope
from swarm.experiments.space.search_space import Space, SpaceSettings
from swarm.experiments.space.sides import SideChoices
from swarm.experiments.spec import TrialSpec
from swarm.kernels.errors import SpecError
from swarm.kernels.spec import KVSpec, QuantSpec

if TYPE_CHECKING:
    from swarm.experiments.models.base import ModelInfo

MODELS = ("smollm2-135m", "gemma3-270m", "qwen2.5-coder-0.5b")
SINKS = (0, 4)
WINDOWS = (0, 32)
PROTECTED = 1
"""First layers that may stay in 16 bit; models with a key bias choose how to treat that instead."""


@cache
def specs(side: Literal["key", "value"]) -> tuple[QuantSpec, ...]:
    """What keys or values can be, the default of each method first."""
    axis: Literal["channel", "token"] = "channel" if side == "key" else "token"
    found = [QuantSpec()]
    for bits in (4, 8, 3, 2):
        found += [
            QuantSpec(method="affine", bits=bits, group_size=64, axis="token", rotation=rotation)
            for rotation in ("none", "hadamard")
        ]
    found += [QuantSpec(method="iq4_nl", axis="token", rotation="none")]
    found += [QuantSpec(method="kivi", bits=bits, group_size=32, axis=axis, rotation="none") for bits in (2, 4)]
    found += [QuantSpec(method="nvfp4", axis="token", rotation="none")]
    found += [QuantSpec(method="turboquant_mse", bits=bits, axis="token", rotation="hadamard") for bits in (4, 3, 2)]
    return tuple(found) if side == "key" else (*found, QuantSpec(method="iq4_nl", axis="token", rotation="hadamard"))


def configurations(info: ModelInfo) -> Iterator[KVSpec]:
    """All configurations of a model."""
    yield KVSpec()
    for key, value, sink, window in itertools.product(specs("key"), specs("value"), SINKS, WINDOWS):
        if (key.method, value.method) == ("none", "none"):
            continue
        plain = KVSpec(key=key, value=value, sink_tokens=sink, residual_window=window)
        yield plain
        if not info.key_bias:
            yield plain.on(range(PROTECTED, info.n_layers))
        elif key.method != "none":
            yield plain.model_copy(update={"key_bias": "subtract"})


class FewSide(SideChoices):
    """Keys or values that can only be what the grid has."""

    def specs(self, method: str) -> tuple[QuantSpec, ...]:
        """The grid's specifications of a method, the default first."""
        return tuple(spec for spec in specs(self.name) if spec.method == method)


LATER = Scope("later", lambda _: {}, lambda n: (PROTECTED, n), lambda *_: ())
"""All layers but the protected first ones."""


class Grid(Space):
    """The search space cut down to what was measured: the parameters are the space's own, with fewer choices."""

    def __init__(self, models: Sequence[ModelInfo], context: int) -> None:
        super().__init__(models, SpaceSettings(context=context, sink_tokens=SINKS, residual_window=WINDOWS))

    def sides(self, info: ModelInfo) -> tuple[SideChoices, SideChoices]:
        """What keys and values can be."""
        return FewSide("key", info.dims("key")), FewSide("value", info.dims("value"))

    def scopes(self, protocol: str, info: ModelInfo) -> tuple[Scope, ...]:  # noqa: ARG002
        """All layers, and where nothing else distinguishes the model, all but the first."""
        return (ALL,) if info.key_bias else (ALL, LATER)

    def edge_layers(self, info: ModelInfo) -> EdgeLayers:
        """First and last layers are like the others: there are none that could differ."""
        return EdgeLayers(*self.sides(info), ())

    def kind_layers(self, info: ModelInfo) -> KindLayers:
        """Layers of all kinds are alike."""
        return KindLayers(*self.sides(info), {})

    def defaults(self, info: ModelInfo) -> list[TrialSpec]:
        """The campaign's defaults as far as they were measured."""
        return [spec for spec in super().defaults(info) if self._measured(spec)]

    def _measured(self, spec: TrialSpec) -> bool:
        try:
            self.params(spec)
        except SpecError:
            return False
        return True

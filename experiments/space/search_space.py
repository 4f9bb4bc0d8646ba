"""The search space: which trials there are, built from what the methods and protocols offer.

Parameters that depend on a choice carry it in their name (`key.affine.bits`), so that a parameter of one name always
has the same distribution for a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from swarm.experiments.protocols import base as protocols
from swarm.experiments.space.layers import EdgeLayers, KindLayers, Layers, Scope, most_protected
from swarm.experiments.space.sides import SideChoices, side
from swarm.experiments.space.suggest import (
    GivenTrial,
    Params,
    RandomTrial,
    Trial,
)
from swarm.experiments.spec import Device, TrialSpec
from swarm.kernels.errors import SpecError, UnknownNameError
from swarm.kernels.spec import FrozenModel, KVSpec, LayerOverride, QuantSpec

if TYPE_CHECKING:
    from swarm.experiments.models.base import ModelInfo


class SpaceSettings(FrozenModel):
    """What the search may choose besides the methods, and how trials are shared between protocols.

    `shares` are weights by protocol, for drivers that leave the choice to the space.
    """

    context: int = Field(default=512, ge=2)
    sink_tokens: tuple[int, ...] = (0, 4, 16)
    residual_window: tuple[int, ...] = (0, 32, 128)
    shares: dict[str, float] = Field(default={"quality": 0.6, "attention": 0.2, "depth": 0.2})


class Space:
    """All trials that a campaign may choose from.

    Args:
        models: the campaign's models.
        settings: choices besides the methods.
        corpus_digest: digest of the text that trials read; goes into every specification.
        device: the device that trials run on.
    """

    protocol_searched: ClassVar[str] = "quality"
    """Protocol of the trials that samplers propose."""
    objectives: ClassVar[int] = 2
    """How many numbers `agents.analysis.pareto.objectives` gives for them."""
    kinds: ClassVar[Mapping[str, float]] = {}
    """The only kinds of trial of the agents' arm (`agents.generation.nodes`) with their weights; empty for all."""

    def __init__(
        self,
        models: Sequence[ModelInfo],
        settings: SpaceSettings | None = None,
        *,
        corpus_digest: str = "",
        device: Device = "cpu",
    ) -> None:
        self.models = {info.name: info for info in models}
        self.settings = settings or SpaceSettings()
        self.corpus_digest = corpus_digest
        self.device: Device = device

    def sides(self, info: ModelInfo) -> tuple[SideChoices, SideChoices]:
        """What keys and values of a model can be. A part of the space is a subclass that offers less."""
        learned = info.shown_layers == info.kv_layers  # it is fitted to what attention reads
        return side("key", *info.dims("key"), learned=learned), side("value", *info.dims("value"), learned=learned)

    def scopes(self, protocol: str, info: ModelInfo) -> tuple[Scope, ...]:
        """Which layers of a model a protocol may quantize.

        Raises:
            SpecError: the search never chooses this protocol, or it cannot measure any layer of the model.
        """
        kind = protocols.protocol(protocol)
        if not kind.layers_of(info):
            raise SpecError(f"protocol {protocol!r} can measure no layer of {info.name}.", "Use protocol quality.")
        scopes = kind.scopes
        if not scopes:
            raise SpecError(
                f"protocol {protocol!r} is not part of the search space.",
                f"Choose one of: {', '.join(protocols.searchable())}.",
            )
        return scopes

    def edge_layers(self, info: ModelInfo) -> EdgeLayers:
        """What the first and last layers of a model can be, next to the others."""
        return EdgeLayers(*self.sides(info), info.kv_layers)

    def kind_layers(self, info: ModelInfo) -> KindLayers:
        """What the layers of one kind can be, next to the others."""
        return KindLayers(*self.sides(info), {kind: info.of_kind(kind) for kind in info.kinds})

    def protocol(self, rng: np.random.Generator) -> str:
        """Draw a protocol by the shares."""
        names, weights = zip(*sorted(self.settings.shares.items()), strict=True)
        total = np.array(weights, float)
        return str(rng.choice(names, p=total / total.sum()))

    def suggest(
        self,
        trial: Trial,
        info: ModelInfo,
        protocol: str = "quality",
        *,
        rung: int = 0,
        seed: int = 0,
        replicate: int = 0,
    ) -> TrialSpec:
        """Choose a trial of a model and protocol; every answer is a valid specification.

        Args:
            trial: gives the values (an Optuna trial, `RandomTrial`, `GivenTrial`).
            info: the model.
            protocol: name of the protocol.
            rung: fidelity of the trial.
            seed: seed of the trial.
            replicate: number of the replication.
        """
        key, value = (side.suggest(trial) for side in self.sides(info))
        kv = KVSpec()
        if (key.method, value.method) != ("none", "none"):
            layers = self._suggest_layers(trial, info, protocol)
            kv = KVSpec(
                key=key,
                value=value,
                layers=layers,
                sink_tokens=trial.suggest_categorical("sink_tokens", self.settings.sink_tokens),
                residual_window=trial.suggest_categorical("residual_window", self.settings.residual_window),
                key_bias=self._suggest_key_bias(trial, info, key),
                overrides=self._suggest_overrides(trial, info, key, value) if layers is None else (),
            )
        return self._spec(info, kv, protocol, rung=rung, seed=seed, replicate=replicate)

    def params(self, spec: TrialSpec) -> Params:
        """The parameters for which `suggest` gives this specification.

        Raises:
            SpecError: the space does not contain it.
            UnknownNameError: the model is not of the campaign.
        """
        info, kv = self._info(spec.model), spec.kv
        key, value = self.sides(info)
        named = {**key.params(kv.key), **value.params(kv.value)}
        if (kv.key.method, kv.value.method) != ("none", "none"):
            named |= {"sink_tokens": kv.sink_tokens, "residual_window": kv.residual_window}
            if info.key_bias and kv.key.method != "none":
                named["key_bias"] = kv.key_bias
            named |= self._layer_params(spec, info)
            if spec.layers is None:
                named |= self._override_params(info, kv)
        again = self.suggest(
            GivenTrial(named), info, spec.protocol, rung=spec.rung, seed=spec.seed, replicate=spec.replicate
        )
        if again != spec:
            fields = [name for name in TrialSpec.model_fields if getattr(again, name) != getattr(spec, name)]
            raise SpecError(f"the search space has no such {', '.join(fields)}.", "Choose a trial inside the space.")
        return named

    def with_edge_layers(
        self, spec: TrialSpec, first: int, last: int, *, key_bits: int | None = None, value_bits: int | None = None
    ) -> TrialSpec:
        """The trial with other bits in its first and last layers, see `EdgeLayers.overrides`.

        Raises:
            UnknownNameError: the model is not of the campaign.
            SpecError: only some layers are quantized, or the model has not so many.
        """
        ends, kv = self.edge_layers(self._info(spec.model)), spec.kv
        overrides = ends.overrides(
            first, last, {"key": kv.key, "value": kv.value}, {"key": key_bits, "value": value_bits}
        )
        changed = spec.model_dump() | {"kv": kv.model_dump() | {"overrides": overrides}}
        return TrialSpec.model_validate(changed)

    def random(self, rng: np.random.Generator, info: ModelInfo, protocol: str | None = None) -> TrialSpec:
        """A uniformly random trial."""
        return self.suggest(RandomTrial(rng), info, protocol or self.protocol_searched)

    def defaults(self, info: ModelInfo) -> list[TrialSpec]:
        """What every campaign measures first: the 16-bit run, common references, and each method as it comes."""
        key, value = self.sides(info)
        pairs: list[tuple[QuantSpec | None, QuantSpec | None]] = [(key.default("none"), value.default("none"))]
        for key_bits, value_bits in ((4, 4), (8, 8), (3, 3), (8, 4)):
            pairs += [(key.default("affine", bits=key_bits), value.default("affine", bits=value_bits))]
        methods = dict.fromkeys((*key.methods, *value.methods))
        pairs += [(_default(key, method), _default(value, method)) for method in methods]
        kvs = [KVSpec(key=k, value=v) for k, v in pairs if k is not None and v is not None]
        kvs += self._for_key_bias(info) if info.key_bias else []
        return [self._spec(info, kv, "quality") for kv in dict.fromkeys(kvs)]

    def _info(self, model: str) -> ModelInfo:
        if model not in self.models:
            raise UnknownNameError("model", model, ", ".join(self.models))
        return self.models[model]

    def _suggest_key_bias(self, trial: Trial, info: ModelInfo, key: QuantSpec) -> Any:
        if not info.key_bias or key.method == "none":
            return "keep"
        return trial.suggest_categorical("key_bias", ("keep", "subtract"))

    def _for_key_bias(self, info: ModelInfo) -> list[KVSpec]:
        """What may recover a model whose key bias breaks int4 keys, each beside int4 values: one remedy at a time.

        The bias subtracted; per-channel keys; both; and int4 with 8-bit keys in the first and last layers.
        """
        key, value = self.sides(info)
        plain, per_channel = key.default("affine", bits=4), key.default("kivi", bits=4)
        values = value.default("affine", bits=4)
        if plain is None or per_channel is None or values is None:
            return []
        edges = self.edge_layers(info)
        count = min(2, most_protected(len(edges.layers)))
        ends = edges.overrides(count, count, {"key": plain, "value": values}, {"key": 8})
        return [
            KVSpec(key=plain, value=values, key_bias="subtract"),
            KVSpec(key=per_channel, value=values),
            KVSpec(key=per_channel, value=values, key_bias="subtract"),
            KVSpec(key=plain, value=values, overrides=ends),
        ]

    def _suggest_layers(self, trial: Trial, info: ModelInfo, protocol: str) -> Layers:
        scopes = {scope.name: scope for scope in self.scopes(protocol, info)}
        name = next(iter(scopes)) if len(scopes) == 1 else trial.suggest_categorical(f"{protocol}.scope", tuple(scopes))
        layers = protocols.protocol(protocol).layers_of(info)
        places = scopes[name].suggest(trial, f"{protocol}.{name}.", len(layers))
        return None if places is None else tuple(layers[place] for place in places)

    def _suggest_overrides(
        self, trial: Trial, info: ModelInfo, key: QuantSpec, value: QuantSpec
    ) -> tuple[LayerOverride, ...]:
        """Other bits for the layers of a kind, or else for those at both ends."""
        kinds = self.kind_layers(info).suggest(trial, key, value)
        return kinds or self.edge_layers(info).suggest(trial, key, value)

    def _override_params(self, info: ModelInfo, kv: KVSpec) -> Params:
        kinds = self.kind_layers(info)
        of_kind = kinds.params(kv.overrides)
        if of_kind is not None:
            return of_kind if kv.overrides else of_kind | self.edge_layers(info).params(())
        return (kinds.params(()) or {}) | self.edge_layers(info).params(kv.overrides)

    def _layer_params(self, spec: TrialSpec, info: ModelInfo) -> Params:
        scopes = self.scopes(spec.protocol, info)
        layers = protocols.protocol(spec.protocol).layers_of(info)
        places = spec.layers
        if places is not None:
            places = tuple(layers.index(layer) for layer in places if layer in layers)
        for scope in scopes if places is None or len(places) == len(spec.layers or ()) else ():
            found = scope.params(places, f"{spec.protocol}.{scope.name}.", len(layers))
            if found is not None:
                chosen: Params = {f"{spec.protocol}.scope": scope.name} if len(scopes) > 1 else {}
                return {**chosen, **found}
        raise SpecError(f"layers={spec.layers} are outside the search space.", "Choose contiguous layers.")

    def _spec(self, info: ModelInfo, kv: KVSpec, protocol: str, **fields: Any) -> TrialSpec:
        return TrialSpec(
            model=info.name,
            model_digest=info.digest,
            corpus_digest=self.corpus_digest,
            kv=kv,
            protocol=protocol,
            context=min(self.settings.context, info.max_context),
            device=self.device,
            **fields,
        )


def _default(side: SideChoices, method: str) -> QuantSpec | None:
    """The method as it comes; 16 bit where the method does not offer this side."""
    return side.default(method) if method in side.methods else QuantSpec()

"""The search space of an engine: its flags, on each model of a campaign."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from swarm.experiments.engines.run import flags
from swarm.experiments.engines.run.flags import EngineSpec, Flag
from swarm.experiments.engines.run.startable import StartableEngine
from swarm.experiments.space.search_space import Space, SpaceSettings
from swarm.experiments.space.suggest import Params, Trial
from swarm.experiments.spec import Device, TrialSpec
from swarm.kernels.errors import SpecError
from swarm.kernels.spec import KVSpec

if TYPE_CHECKING:
    from swarm.experiments.models.base import ModelInfo


class EngineSpace(Space):
    """All flags that a campaign may start an engine with.

    Args:
        engine: which one.
        models: the campaign's models.
        settings: the context that is measured at.
        corpus_digest: as for `Space`.
        device: as for `Space`.
    """

    protocol_searched: ClassVar[str] = "engine"
    objectives: ClassVar[int] = 3
    kinds: ClassVar[Mapping[str, float]] = {"quality": 0.7, "replication": 0.1, "finalist": 0.2}

    def __init__(
        self,
        engine: StartableEngine,
        models: Sequence[ModelInfo],
        settings: SpaceSettings | None = None,
        *,
        corpus_digest: str = "",
        device: Device = "cpu",
    ) -> None:
        super().__init__(models, settings, corpus_digest=corpus_digest, device=device)
        self.engine = engine

    def flags(self, info: ModelInfo) -> tuple[Flag, ...]:
        """The flags that may be chosen for a model."""
        return self.engine.flags(info)

    def suggest(
        self,
        trial: Trial,
        info: ModelInfo,
        protocol: str = protocol_searched,
        *,
        rung: int = 0,
        seed: int = 0,
        replicate: int = 0,
    ) -> TrialSpec:
        """Choose flags; what the engine takes by itself is left out of the specification."""
        chosen = EngineSpec(engine=self.engine.called, flags=flags.suggest(trial, self.flags(info)))
        return self._spec(info, KVSpec(), protocol, engine=chosen, rung=rung, seed=seed, replicate=replicate)

    def params(self, spec: TrialSpec) -> Params:
        """The parameters for which `suggest` gives these flags."""
        if spec.engine is None or spec.engine.engine != self.engine.called:
            raise SpecError(f"the trial starts no {self.engine.title}.", "Choose a trial of this campaign.")
        if spec.kv != KVSpec() or spec.protocol != self.protocol_searched:
            raise SpecError(f"the trial is no {self.protocol_searched} trial of an engine.", "Choose flags alone.")
        return dict(flags.params(spec.engine, self.flags(self._info(spec.model))))

    def defaults(self, info: ModelInfo) -> list[TrialSpec]:
        """The engine as it comes, and with the flags that people usually give it."""
        made = (EngineSpec(engine=self.engine.called, flags=dict(chosen)) for chosen in ({}, *self.engine.usual))
        return [self._spec(info, KVSpec(), self.protocol_searched, engine=spec) for spec in made]

"""What a proposal is made from: the trial's place in the plan, the space, the models and the history."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np
from pydantic import ValidationError

from swarm.agents.analysis import pareto
from swarm.agents.analysis.results import ConfigResult, Place
from swarm.agents.history import History
from swarm.agents.settings import AgentSettings
from swarm.experiments.identity import fingerprint
from swarm.experiments.spec import TrialSpec
from swarm.kernels.errors import SwarmError, UsageError
from swarm.kernels.spec import KVSpec
from swarm.memory.records import Arm, Finding, Proposal

if TYPE_CHECKING:
    from swarm.agents.published_claims.plan import AgendaPlan
    from swarm.experiments.models.base import ModelInfo
    from swarm.experiments.space.search_space import Space

TRIES = 8
"""Attempts at a configuration that nobody has proposed before a sampler gives up."""

CARRIED = 0.5
"""Share of a logarithmic effect on one model that is predicted to carry over to another."""


def derive(seed: int, *path: int | str) -> int:
    """A 32-bit seed for one purpose, a pure function of campaign seed and path, whatever was decided before."""
    return int(np.random.SeedSequence([seed, *map(_number, path)]).generate_state(1)[0])


def generator(seed: int, *path: int | str) -> np.random.Generator:
    """A random generator for one purpose, as `derive`."""
    return np.random.default_rng([seed, *map(_number, path)])


def _number(part: int | str) -> int:
    return crc32(part.encode()) if isinstance(part, str) else part


@dataclass(frozen=True)
class ProposalContext:
    """Everything that a proposal is a pure function of, with the small tools that nodes and samplers share."""

    number: int
    """Number of the trial in the campaign."""
    arm: Arm
    node: str
    """The kind of trial that the plan has for this number."""
    model: str
    """The model that it has."""
    index: int
    """How many earlier trials of this kind the plan has for this model."""
    seed: int
    """Seed of the campaign."""
    space: Space
    infos: Mapping[str, ModelInfo]
    templates: Mapping[str, TrialSpec]
    """The 16-bit run of each model, which others are copied from."""
    settings: AgentSettings
    history: History
    findings: Callable[[], Sequence[Finding]]
    """The judged findings of the last milestone."""
    samplers: Mapping[str, Callable[[ProposalContext], Proposal | None]]
    """`Sampler.propose` of the built-in samplers and of the LLM's roles, by the names that they sign with."""
    plan: AgendaPlan | None = None
    """The trials that decide published claims."""
    external: Callable[[], Sequence[Proposal]] = tuple
    """What people and agents outside have left for the campaign, oldest first."""

    @cached_property
    def rng(self) -> np.random.Generator:
        """The random generator of this trial number."""
        return generator(self.seed, "proposal", self.number)

    @property
    def info(self) -> ModelInfo:
        """Facts about the model of this trial."""
        return self.infos[self.model]

    @property
    def results(self) -> dict[Place, ConfigResult]:
        """KLD of the quality trials pooled by model and configuration."""
        return self.history.results()

    @cached_property
    def ids(self) -> dict[str, int]:
        """Ids of the stored findings by key."""
        return {record.finding.key: record.id for record in self.history.findings}

    def front(self, model: str) -> list[ConfigResult]:
        """The feasible first-rung configurations of a model that nothing dominates beyond the noise."""
        settings = self.settings
        found = [
            result
            for (name, _), result in self.results.items()
            if name == model
            and result.spec.rung == 0
            and result.bits is not None
            and result.bits <= settings.max_bits
            and result.level <= np.log(settings.max_kld)
        ]
        return [result for result, rank in zip(found, pareto.ranks(found), strict=True) if rank == 0]

    def is_new(self, spec: TrialSpec) -> bool:
        """Whether nobody has proposed this experiment before."""
        return fingerprint(spec) not in self.history.fingerprints

    def first_new(self, make: Callable[[int], TrialSpec], tries: int = TRIES) -> TrialSpec | None:
        """The first of several attempts that is new; None when all are known."""
        return next((spec for spec in map(make, range(tries)) if self.is_new(spec)), None)

    def expresses(self, spec: TrialSpec) -> bool:
        """Whether the search space knows this configuration for its model."""
        try:
            self.space.params(spec)
        except UsageError:
            return False
        return True

    def trial(self, kv: KVSpec, model: str, protocol: str = "quality") -> TrialSpec | None:
        """A cache configuration on a model; None when the model's space does not have it."""
        spec = self.templates[model].model_copy(update={"kv": kv, "protocol": protocol})
        return spec if self.expresses(spec) else None

    def new_trial(self, kv: KVSpec, protocol: str = "quality") -> TrialSpec | None:
        """A cache configuration on this trial's model; None when the space does not have it or it was proposed."""
        spec = self.trial(kv, self.model, protocol)
        return spec if spec is not None and self.is_new(spec) else None

    def validated(self, data: Mapping[str, object]) -> TrialSpec | None:
        """A specification from its fields; None when it is not valid, not in the space of its model, or not new."""
        try:
            spec = TrialSpec.model_validate(data)
        except (ValidationError, SwarmError):
            return None
        return spec if self.expresses(spec) and self.is_new(spec) else None

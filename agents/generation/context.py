"""What lies before whoever proposes trial number n: space, models, history, studies. Holds no state of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from swarm.agents.analysis import judge
from swarm.agents.analysis.results import ConfigResult
from swarm.agents.generation.seeds import generator
from swarm.agents.history import History
from swarm.agents.samplers.optuna_bridge.study import ModelStudy
from swarm.agents.settings import AgentSettings
from swarm.experiments.identity import fingerprint
from swarm.experiments.spec import TrialSpec
from swarm.kernels.errors import UsageError
from swarm.kernels.spec import KVSpec
from swarm.memory.records import Finding, Proposal

if TYPE_CHECKING:
    from swarm.agents.published_claims.plan import AgendaPlan
    from swarm.agents.samplers.base import Proposer
    from swarm.experiments.models.base import ModelInfo
    from swarm.experiments.space.search_space import Space

TRIES = 8
RANDOM_TRIES = 200


@dataclass(frozen=True)
class ProposalContext:
    """Everything a proposal is a pure function of, with the small tools that all proposers share."""

    number: int
    seed: int
    space: Space
    infos: Mapping[str, ModelInfo]
    templates: Mapping[str, TrialSpec]
    """The 16-bit run of each model, which others are copied from."""
    settings: AgentSettings
    history: History
    study: Callable[[str, str], ModelStudy]
    """The study of a model (first argument) as an arm sees it (second), brought up to date."""

    findings: Callable[[], Sequence[Finding]]
    """The judged findings of the last milestone."""

    plan: AgendaPlan | None = None
    """The trials that decide published claims."""

    external: Callable[[], Sequence[Proposal]] = tuple
    """What people and agents outside have left for the campaign, oldest first."""

    guests: Mapping[str, Proposer] = field(default_factory=dict)
    """Proposers besides the built-in ones, by the names that they sign with."""

    @cached_property
    def rng(self) -> np.random.Generator:
        """The stream of this trial number."""
        return generator(self.seed, "proposal", self.number)

    @property
    def cells(self) -> dict[tuple[str, str], ConfigResult]:
        """KLD of the quality trials pooled by model and configuration."""
        return self.history.cells()

    @cached_property
    def ids(self) -> dict[str, int]:
        """Ids of the stored findings by key."""
        return {record.finding.key: record.id for record in self.history.findings}

    def replications(self) -> Iterator[tuple[Finding, TrialSpec]]:
        """Trials that open findings wait for."""
        return judge.replications(self.findings(), self.history)

    def is_new(self, spec: TrialSpec) -> bool:
        """Whether nobody has proposed this experiment before."""
        return fingerprint(spec) not in self.history.fingerprints

    def first_new(self, make: Callable[[int], TrialSpec], tries: int = TRIES) -> TrialSpec | None:
        """The first of several attempts that is new; None when all are known."""
        return next((spec for spec in map(make, range(tries)) if self.is_new(spec)), None)

    def random(self, model: str, protocol: str = "quality") -> TrialSpec:
        """A configuration that nobody has proposed, uniform over the space.

        A space that is used up is measured again on other text windows.
        """
        info = self.infos[model]
        spec = self.first_new(lambda _: self.space.random(self.rng, info, protocol), RANDOM_TRIES)
        if spec is not None:
            return spec
        return self.replicate(self.space.random(self.rng, info, protocol))

    def replicate(self, spec: TrialSpec) -> TrialSpec:
        """The same configuration on the next text windows and with the next seed that are not taken."""
        while not self.is_new(spec):
            spec = spec.model_copy(update={"replicate": spec.replicate + 1, "seed": spec.seed + 1})
        return spec

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

"""Proposes what TPE suggests when it sees everything that was measured on the model."""

from __future__ import annotations

from collections.abc import Iterable

from swarm.agents.generation.context import ProposalContext
from swarm.agents.samplers.base import Sampler
from swarm.agents.samplers.optuna_bridge.study import ModelStudy
from swarm.experiments.spec import TrialSpec
from swarm.memory.records import Proposal, TrialRecord


class TpeSampler(Sampler):
    """Optuna's multi-objective TPE over all trials of the model, those of other proposers included."""

    name = "sampler"

    def __init__(self) -> None:
        self._studies: dict[str, ModelStudy] = {}

    def propose(self, context: ProposalContext) -> Proposal | None:
        """TPE's answer; None when it only repeats itself."""
        spec = self.suggest(context, context.history.records)
        if spec is None:
            return None
        return Proposal(spec=spec, proposer=self.name, rationale="TPE over all trials of this model.")

    def suggest(self, context: ProposalContext, records: Iterable[TrialRecord]) -> TrialSpec | None:
        """What TPE suggests for the context's model when it sees these trials; None when it only repeats itself."""
        if context.model not in self._studies:
            self._studies[context.model] = ModelStudy(context.space, context.info, context.settings, context.seed)
        study = self._studies[context.model]
        study.feed(records)
        return context.first_new(lambda attempt: study.ask(context.number, attempt))

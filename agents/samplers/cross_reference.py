"""Takes an effect found on one model to another: the same controlled comparison, with a registered prediction."""

from __future__ import annotations

from collections.abc import Iterator

from swarm.agents.analysis.claims import Claim, token
from swarm.agents.analysis.results import ConfigResult
from swarm.agents.generation.context import CARRIED, ProposalContext
from swarm.agents.samplers.base import Sampler
from swarm.memory.records import Effect, Finding, Prediction, Proposal


class CrossReferenceSampler(Sampler):
    """Completes on this model the pair of configurations that made a difference on another."""

    name = "cross_reference"

    def propose(self, context: ProposalContext) -> Proposal | None:
        """The missing half of the clearest effect, first the one that does worse; None when all are known here."""
        for finding, better, worse in self._effects(context):
            measured = context.results.get((context.model, worse.key))
            anchor = measured.records[0].id if measured else None
            spec = context.new_trial((better if anchor else worse).spec.kv)
            if spec is not None:
                return Proposal(
                    spec=spec,
                    proposer=self.name,
                    rationale=f"Does this hold here as well? {finding.statement}"[:1_000],
                    prediction=_prediction(finding.effect, anchor) if anchor and finding.effect else None,
                    parents=(context.ids[finding.key],) if finding.key in context.ids else (),
                )
        return None

    @staticmethod
    def _effects(context: ProposalContext) -> Iterator[tuple[Finding, ConfigResult, ConfigResult]]:
        """Open or confirmed effects on other models, confirmed ones first, with the better and the worse result."""
        by_token = {(token(name), key): result for (name, key), result in context.results.items()}
        found = [f for f in context.findings() if f.kind == "sensitivity" and f.status != "refuted"]
        for finding in sorted(
            found, key=lambda f: (f.status != "confirmed", f.effect.high if f.effect else 1.0, f.key)
        ):
            claim = Claim.parse(finding.key)
            if claim is None or claim.models[0] == token(context.model):
                continue
            better, worse = (by_token.get((claim.models[0], key)) for key in claim.configurations)
            if better is not None and worse is not None and not better.spec.rung:
                yield finding, better, worse


def _prediction(effect: Effect, anchor: int) -> Prediction | None:
    if effect.value <= 0:
        return None
    return Prediction(metric="kld", comparator="<=", threshold=round(effect.value**CARRIED, 4), reference=anchor)

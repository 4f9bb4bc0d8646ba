"""Takes an effect found on one model to another: the same controlled comparison, with a registered prediction."""

from __future__ import annotations

from collections.abc import Iterator

from swarm.agents.analysis.claims import Claim, token
from swarm.agents.analysis.results import ConfigResult
from swarm.agents.generation.context import ProposalContext
from swarm.agents.samplers.base import Proposer
from swarm.memory.records import Finding, Prediction, Proposal

CARRIED = 0.5
"""Share of the logarithmic effect that is predicted to carry over."""


class CrossReference(Proposer):
    """Completes on this model the pair of configurations that made a difference on another."""

    name = "cross_reference"
    summary = "an effect found on another model, tested here"

    def propose(self, model: str, context: ProposalContext) -> Proposal | None:
        """The missing half of the clearest effect, first the one that does worse; None when all are known here."""
        for finding, better, worse in self._effects(model, context):
            anchor = self._here(worse, model, context)
            target = better if anchor else worse
            spec = context.trial(target.spec.kv, model)
            if spec is None or not context.is_new(spec):
                continue
            return Proposal(
                spec=spec,
                proposer=self.name,
                rationale=f"Does this hold here as well? {finding.statement}"[:1_000],
                prediction=self._prediction(finding, anchor) if anchor else None,
                parents=(context.ids[finding.key],) if finding.key in context.ids else (),
            )
        return None

    @staticmethod
    def _effects(model: str, context: ProposalContext) -> Iterator[tuple[Finding, ConfigResult, ConfigResult]]:
        """Open or confirmed effects on other models that are not decided here, confirmed ones first."""
        by_token = {(token(name), key): cell for (name, key), cell in context.cells.items()}
        found = [f for f in context.findings() if f.kind == "sensitivity" and f.status != "refuted"]
        for finding in sorted(
            found, key=lambda f: (f.status != "confirmed", f.effect.high if f.effect else 1.0, f.key)
        ):
            claim = Claim.parse(finding.key)
            if claim is None or claim.models[0] == token(model):
                continue
            cells = [by_token.get((claim.models[0], key)) for key in claim.configurations]
            if cells[0] is not None and cells[1] is not None and not cells[0].spec.rung:
                yield finding, cells[0], cells[1]

    @staticmethod
    def _here(cell: ConfigResult, model: str, context: ProposalContext) -> int | None:
        """The trial on this model with the same configuration."""
        found = context.cells.get((model, cell.key))
        return found.records[0].id if found else None

    @staticmethod
    def _prediction(finding: Finding, anchor: int) -> Prediction | None:
        if finding.effect is None or finding.effect.value <= 0:
            return None
        factor = finding.effect.value**CARRIED
        return Prediction(metric="kld", comparator="<=", threshold=round(factor, 4), reference=anchor)

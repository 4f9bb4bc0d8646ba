"""One setup on one model at several logit gains: the exponent of the attention's KL over G."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from swarm.agents.analysis import results, statistics
from swarm.agents.analysis.results import ConfigResult
from swarm.agents.published_claims.kinds.base import Kind
from swarm.agents.published_claims.schema import Claim
from swarm.experiments.spec import TrialSpec
from swarm.memory.records import Effect, TrialRecord

if TYPE_CHECKING:
    from swarm.experiments.models.base import ModelInfo

LEAST = 3
METRIC = "attention_kl"
CONTROL = "g"


class Law(Kind):
    """Slope of ln(attention KL) over ln(G) per text window; the gain moves G and nothing else."""

    name = "law"
    summary = "attention KL as a power of G, moved by the logit gain"
    needs = ("gains",)

    def specs(
        self, claim: Claim, models: Sequence[str], templates: Mapping[str, TrialSpec], infos: Mapping[str, ModelInfo]
    ) -> dict[str, TrialSpec]:
        """All layers at every gain."""
        base = claim.a.spec(templates[models[0]], infos[models[0]])
        return {
            f"{gain:g}": base.model_copy(update={"protocol": "attention", "rung": 0, "logit_gain": gain})
            for gain in sorted(claim.gains)
        }

    def metric(self, claim: Claim) -> str:  # noqa: ARG002
        """Always the attention's KL."""
        return METRIC

    def effect(self, claim: Claim, cells: Mapping[str, ConfigResult]) -> Effect | None:  # noqa: ARG002
        """The exponent: the mean of the windows' slopes."""
        levels = [(_control(cell), cell.samples()) for cell in cells.values()]
        if len(levels) < LEAST:
            return None
        shared = sorted(set.intersection(*(set(g) & set(kl) for g, kl in levels)))
        slopes = [statistics.slope([g[w] for g, _ in levels], [kl[w] for _, kl in levels]) for w in shared]
        found = statistics.mean([slope.mean for slope in slopes if slope is not None])
        if found is None:
            return None
        low, high = found.interval()
        return Effect(name="exponent of G", value=found.mean, low=low, high=high, unit="exponent")


def _control(cell: ConfigResult) -> dict[tuple[int, int], float]:
    """ln(G) per window of the same trials."""
    records: tuple[TrialRecord, ...] = cell.records
    pooled = results.pool(records, CONTROL, "attention")
    return next(iter(pooled.values())).samples() if pooled else {}

"""One setup on one model: its metric itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from swarm.agents.analysis import statistics
from swarm.agents.analysis.results import ConfigResult
from swarm.agents.published_claims.kinds.base import Kind
from swarm.agents.published_claims.schema import Claim
from swarm.experiments.spec import TrialSpec
from swarm.memory.records import Effect

if TYPE_CHECKING:
    from swarm.experiments.models.base import ModelInfo


class Threshold(Kind):
    """Mean over all text windows."""

    name = "threshold"
    summary = "a metric of one setup against a number"
    needs = ("threshold",)

    def specs(
        self, claim: Claim, models: Sequence[str], templates: Mapping[str, TrialSpec], infos: Mapping[str, ModelInfo]
    ) -> dict[str, TrialSpec]:
        """The one setup."""
        return {"a": claim.a.spec(templates[models[0]], infos[models[0]])}

    def effect(self, claim: Claim, cells: Mapping[str, ConfigResult]) -> Effect | None:
        """The mean with its interval."""
        if "a" not in cells:
            return None
        records = cells["a"].records
        series = [r.arrays.get(f"window_{claim.metric}", (r.metrics[claim.metric].value,)) for r in records]
        found = statistics.mean([value for windows in series for value in windows])
        if found is None:
            return None
        low, high = found.interval()
        return Effect(
            name=claim.metric, value=found.mean, low=low, high=high, unit=records[0].metrics[claim.metric].unit
        )

"""Two setups on one model: the ratio of their metric on the same text windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from swarm.agents.analysis import results
from swarm.agents.analysis.results import ConfigResult
from swarm.agents.published_claims.kinds.base import Kind
from swarm.agents.published_claims.schema import Claim
from swarm.experiments.spec import TrialSpec
from swarm.memory.records import Effect

if TYPE_CHECKING:
    from swarm.experiments.models.base import ModelInfo


class Pair(Kind):
    """a / b, paired by window."""

    name = "pair"
    summary = "ratio of two setups on one model"
    needs = ("b",)

    def specs(
        self, claim: Claim, models: Sequence[str], templates: Mapping[str, TrialSpec], infos: Mapping[str, ModelInfo]
    ) -> dict[str, TrialSpec]:
        """Both setups."""
        setups = {"b": claim.b, "a": claim.a}
        return {n: s.spec(templates[models[0]], infos[models[0]]) for n, s in setups.items() if s is not None}

    def effect(self, claim: Claim, cells: Mapping[str, ConfigResult]) -> Effect | None:
        """The ratio of the geometric means."""
        if len(cells) < 2:
            return None
        found = results.compare(cells["a"], cells["b"])
        return results.ratio(f"{claim.metric} ratio", found) if found else None

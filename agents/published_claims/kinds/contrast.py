"""Two setups on two models: how much worse their ratio is on one than on the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from swarm.agents.analysis import results
from swarm.agents.analysis.results import ConfigResult
from swarm.agents.published_claims.kinds.base import Kind
from swarm.agents.published_claims.schema import Claim, selected
from swarm.experiments.spec import TrialSpec
from swarm.memory.records import Effect, FindingKind

if TYPE_CHECKING:
    from swarm.experiments.models.base import ModelInfo


class Contrast(Kind):
    """(a / b on the first model) / (a / b on the second), paired by window on each."""

    name = "contrast"
    summary = "ratio of two setups, compared between two models"
    finding: ClassVar[FindingKind] = "contrast"
    needs = ("b", "against")

    def cases(self, claim: Claim, infos: Mapping[str, ModelInfo]) -> list[tuple[str, ...]]:
        """Every model of `on` with every model of `against`."""
        others = selected(claim.against or "all", infos)
        return [(one, other) for one in selected(claim.on, infos) for other in others if one != other]

    def specs(
        self, claim: Claim, models: Sequence[str], templates: Mapping[str, TrialSpec], infos: Mapping[str, ModelInfo]
    ) -> dict[str, TrialSpec]:
        """Both setups on both models."""
        setups = {"b": claim.b, "a": claim.a}
        return {
            f"{name} {place}": setup.spec(templates[model], infos[model])
            for place, model in enumerate(models)
            for name, setup in setups.items()
            if setup is not None
        }

    def effect(self, claim: Claim, cells: Mapping[str, ConfigResult]) -> Effect | None:
        """The ratio of the two ratios."""
        if len(cells) < 4:
            return None
        sides = [results.compare(cells[f"a {place}"], cells[f"b {place}"]) for place in (0, 1)]
        if sides[0] is None or sides[1] is None:
            return None
        return results.ratio(f"ratio of the {claim.metric} ratios", sides[0] - sides[1])

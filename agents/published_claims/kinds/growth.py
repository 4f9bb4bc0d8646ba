"""One setup on ever more layers of one model: the exponent with which its metric grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log
from typing import TYPE_CHECKING

from swarm.agents.analysis import statistics
from swarm.agents.analysis.results import ConfigResult
from swarm.agents.published_claims.kinds.base import Kind
from swarm.agents.published_claims.schema import Claim
from swarm.experiments.spec import TrialSpec
from swarm.memory.records import Effect

if TYPE_CHECKING:
    from swarm.experiments.models.base import ModelInfo

PROTOCOL = "depth"
LEAST = 3


class Growth(Kind):
    """Slope of ln(metric) over ln(number of quantized layers); one slope per window, windows are the samples."""

    name = "growth"
    summary = "growth of a metric with the number of quantized layers"
    needs = ("depths",)

    def specs(
        self, claim: Claim, models: Sequence[str], templates: Mapping[str, TrialSpec], infos: Mapping[str, ModelInfo]
    ) -> dict[str, TrialSpec]:
        """The first layers, up to each depth."""
        info = infos[models[0]]
        whole = claim.a.spec(templates[models[0]], info).model_copy(update={"protocol": PROTOCOL, "rung": 0})
        found = {}
        for share in sorted(claim.depths):
            n = max(1, min(info.n_layers, round(share * info.n_layers)))
            kv = whole.kv.on(None if n == info.n_layers else range(n))
            found[f"{n}"] = whole.model_copy(update={"kv": kv})
        return found

    def effect(self, claim: Claim, cells: Mapping[str, ConfigResult]) -> Effect | None:  # noqa: ARG002
        """The exponent: the mean of the windows' slopes."""
        if len(cells) < LEAST:
            return None
        depths = sorted(int(name) for name in cells)
        samples = [cells[f"{depth}"].samples() for depth in depths]
        shared = sorted(set.intersection(*(set(s) for s in samples)))
        x = [log(depth) for depth in depths]
        slopes = [statistics.slope(x, [s[window] for s in samples]) for window in shared]
        found = statistics.mean([slope.mean for slope in slopes if slope is not None])
        if found is None:
            return None
        low, high = found.interval()
        return Effect(name="exponent of depth", value=found.mean, low=low, high=high, unit="exponent")

"""Factors: what each choice does on a model at equal bits, and where models differ, from a designed experiment."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

from swarm.agents.analysis import design, results, statistics
from swarm.agents.analysis.base import Analyst
from swarm.agents.analysis.claims import NEGLIGIBLE
from swarm.agents.analysis.design import Factor
from swarm.agents.analysis.results import ConfigResult
from swarm.agents.analysis.statistics import Estimate
from swarm.agents.history import History
from swarm.experiments.models.base import ModelInfo
from swarm.memory.records import Finding

Tested = tuple[Factor, tuple[str, ...]]
"""A factor, and the model it is tested on or the two that are compared."""


class FactorAnalyst(Analyst):
    """Main effects on every model and their differences between models, at a family-wise error of 5% (Holm)."""

    name = "factors"

    def analyse(self, history: History, infos: Mapping[str, ModelInfo]) -> list[Finding]:
        """Effects larger than 10%, as ratios of KLD."""
        pooled = list(history.results().values())
        rows = {model: design.measured(pooled, model) for model in infos}
        effects = {model: found for model in infos if (found := design.effects(rows[model]))}
        tested: list[tuple[Tested, Estimate]] = [
            ((factor, (model,)), estimate) for model, found in effects.items() for factor, estimate in found.items()
        ]
        tested += [
            ((factor, (first, second)), effects[first][factor] - effects[second][factor])
            for first, second in combinations(effects, 2)
            for factor in effects[first].keys() & effects[second].keys()
        ]
        tested.sort(key=lambda entry: (len(entry[0][1]), entry[0][1], entry[0][0].name))
        return [self._finding(*what, e, rows) for what, e in statistics.significant(tested, NEGLIGIBLE)]

    def _finding(
        self,
        factor: Factor,
        models: tuple[str, ...],
        estimate: Estimate,
        rows: Mapping[str, Mapping[design.Levels, ConfigResult]],
    ) -> Finding:
        used = [result for model in models for result in rows[model].values()]
        bits = sum(result.bits or 0.0 for result in used) / len(used)
        ids = (i for result in used for i in result.ids)
        if len(models) == 1:
            verb = "lower" if estimate.mean < 0 else "raise"
            text = f"On {models[0]} {factor.words} {verb} the KLD at {bits:.1f} bits per value."
            effect = results.ratio("KLD ratio", estimate)
            return self.finding("sensitivity", f"factor:kld:{factor.name}", models, text, effect, ids)
        if estimate.mean > 0:
            models, estimate = models[::-1], -estimate
        text = f"At {bits:.1f} bits per value {factor.words} do more good (or less harm) on {models[0]} than on "
        text += f"{models[1]}."
        effect = results.ratio("ratio of the KLD ratios", estimate)
        return self.finding("contrast", f"factor:kld:{factor.name}", models, text, effect, ids)

"""Factors: what each choice does on a model at equal bits, and where models differ, from designed experiments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from swarm.agents.analysis import design, results, statistics, words
from swarm.agents.analysis.base import Analyst
from swarm.agents.analysis.claims import NEGLIGIBLE
from swarm.agents.analysis.design import Factor
from swarm.agents.analysis.results import ConfigResult
from swarm.agents.analysis.statistics import Estimate
from swarm.agents.history import History
from swarm.experiments.models.base import ModelInfo
from swarm.memory.records import Finding

Measured = tuple[Estimate, Sequence[ConfigResult]]
"""An effect on one model, and the results of the block that it is estimated from."""
Tested = tuple[Factor, tuple[str, ...]]
"""A factor, and the model it is tested on or the two that are compared."""


class FactorAnalyst(Analyst):
    """Main effects on every model and their differences between models, at a family-wise error of 5% (Holm)."""

    name = "factors"

    def analyse(self, history: History, infos: Mapping[str, ModelInfo]) -> list[Finding]:
        """Effects larger than 10%, as ratios of KLD."""
        pooled = list(history.results().values())
        measured = {model: dict(_measured(pooled, info)) for model, info in infos.items()}
        tested = sorted(_tests(measured), key=lambda entry: (len(entry[0][1]), entry[0][1], entry[0][0].name))
        clear = statistics.significant(tested, NEGLIGIBLE)
        return [self._finding(factor, models, estimate, measured) for (factor, models), estimate in clear]

    def _finding(
        self,
        factor: Factor,
        models: tuple[str, ...],
        estimate: Estimate,
        measured: Mapping[str, Mapping[Factor, Measured]],
    ) -> Finding:
        used = [result for model in models for result in measured[model][factor][1]]
        bits = sum(result.bits or 0.0 for result in used) / len(used)
        ids = (i for result in used for i in result.ids)
        if len(models) == 1:
            effect = results.ratio("KLD ratio", estimate)
            text = f"On {models[0]} {factor.words} {words.change(effect)} at {bits:.1f} bits per value "
            text += f"{words.interval(effect)}."
            return self.finding("sensitivity", f"factor:kld:{factor.name}", models, text, effect, ids)
        if estimate.mean > 0:
            models, estimate = models[::-1], -estimate
        here, there = (results.ratio("KLD ratio", measured[model][factor][0]) for model in models)
        text = f"On {models[0]} {factor.words} {words.change(here)} at {bits:.1f} bits per value "
        text += f"{words.interval(here)}; on {models[1]} they {words.change(there, 'it')} {words.interval(there)}."
        effect = results.ratio("ratio of the KLD ratios", estimate)
        return self.finding("contrast", f"factor:kld:{factor.name}", models, text, effect, ids)


def _measured(pooled: Sequence[ConfigResult], info: ModelInfo) -> Iterator[tuple[Factor, Measured]]:
    for block in design.blocks(info):
        rows = block.measured(pooled, info.name)
        for factor, estimate in block.effects(rows).items():
            yield factor, (estimate, tuple(rows.values()))


def _tests(measured: Mapping[str, Mapping[Factor, Measured]]) -> Iterator[tuple[Tested, Estimate]]:
    for model, found in measured.items():
        for factor, (estimate, _) in found.items():
            yield (factor, (model,)), estimate
    for first, second in combinations(measured, 2):
        for factor in measured[first].keys() & measured[second].keys():
            yield (factor, (first, second)), measured[first][factor][0] - measured[second][factor][0]

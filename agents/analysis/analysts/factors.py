"""Factors: what each choice does on a model at equal bits, and where models differ, from designed experiments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations

from swarm.agents.analysis import design, results, statistics, words
from swarm.agents.analysis.base import Analyst
from swarm.agents.analysis.claims import NEGLIGIBLE
from swarm.agents.analysis.design import Block, Factor
from swarm.agents.analysis.results import ConfigResult
from swarm.agents.analysis.statistics import Estimate
from swarm.agents.history import History
from swarm.experiments.models.base import ModelInfo
from swarm.memory.records import Finding

Effects = Mapping[str, Mapping[Factor, Estimate]]
"""Effects by model and factor."""
Rows = Mapping[str, Mapping[design.Levels, ConfigResult]]
"""Results of a block by model."""
Tested = tuple[int, Factor, tuple[str, ...]]
"""Number of the block, factor, and the model it is tested on or the two that are compared."""


class FactorAnalyst(Analyst):
    """Main effects on every model and their differences between models, at a family-wise error of 5% (Holm)."""

    name = "factors"

    def analyse(self, history: History, infos: Mapping[str, ModelInfo]) -> list[Finding]:
        """Effects larger than 10%, as ratios of KLD."""
        pooled = list(history.results().values())
        rows: list[Rows] = [{model: block.measured(pooled, model) for model in infos} for block in design.BLOCKS]
        effects = [_effects(block, found) for block, found in zip(design.BLOCKS, rows, strict=True)]
        tested = [entry for number, found in enumerate(effects) for entry in _tests(number, found)]
        tested.sort(key=lambda entry: (len(entry[0][2]), entry[0][2], entry[0][1].name))
        clear = statistics.significant(tested, NEGLIGIBLE)
        return [
            self._finding(factor, models, estimate, rows[number], effects[number])
            for (number, factor, models), estimate in clear
        ]

    def _finding(
        self, factor: Factor, models: tuple[str, ...], estimate: Estimate, rows: Rows, effects: Effects
    ) -> Finding:
        used = [result for model in models for result in rows[model].values()]
        bits = sum(result.bits or 0.0 for result in used) / len(used)
        ids = (i for result in used for i in result.ids)
        if len(models) == 1:
            effect = results.ratio("KLD ratio", estimate)
            text = f"On {models[0]} {factor.words} {words.change(effect)} at {bits:.1f} bits per value "
            text += f"{words.interval(effect)}."
            return self.finding("sensitivity", f"factor:kld:{factor.name}", models, text, effect, ids)
        if estimate.mean > 0:
            models, estimate = models[::-1], -estimate
        here, there = (results.ratio("KLD ratio", effects[model][factor]) for model in models)
        text = f"On {models[0]} {factor.words} {words.change(here)} at {bits:.1f} bits per value "
        text += f"{words.interval(here)}; on {models[1]} they {words.change(there, 'it')} {words.interval(there)}."
        effect = results.ratio("ratio of the KLD ratios", estimate)
        return self.finding("contrast", f"factor:kld:{factor.name}", models, text, effect, ids)


def _effects(block: Block, rows: Rows) -> Effects:
    return {model: found for model, one in rows.items() if (found := block.effects(one))}


def _tests(number: int, effects: Effects) -> Iterator[tuple[Tested, Estimate]]:
    for model, found in effects.items():
        for factor, estimate in found.items():
            yield (number, factor, (model,)), estimate
    for first, second in combinations(effects, 2):
        for factor in effects[first].keys() & effects[second].keys():
            yield (number, factor, (first, second)), effects[first][factor] - effects[second][factor]

"""Interactions: one change that helps a model more than another, or helps one and harms the other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations

from swarm.agents.analysis import results, statistics
from swarm.agents.analysis.base import Analyst
from swarm.agents.analysis.claims import NEGLIGIBLE
from swarm.agents.analysis.pairs import ControlledPair, controlled
from swarm.agents.analysis.statistics import Estimate
from swarm.agents.history import History
from swarm.experiments.models.base import ModelInfo
from swarm.memory.records import Finding

MIN_PAIRS = 2
"""Pairs that an effect on a model rests on, at least."""

MAX_SHOWN = 2
"""Pairs of each model that stand as evidence, and are replicated."""

Change = tuple[str, str, str]
"""Factor, and its two levels."""


class InteractionAnalyst(Analyst):
    """Averages each change over its controlled pairs on every model, and compares models, at 5% family-wise (Holm).

    An effect's error covers both the text windows and how much the pairs disagree, whichever is larger.
    """

    name = "interaction"

    def analyse(self, history: History, infos: Mapping[str, ModelInfo]) -> list[Finding]:
        """Changes whose effect differs between models."""
        effects = {model: self._effects(model, history) for model in infos}
        tested: list[tuple[tuple[Change, str, str], Estimate]] = []
        for first, second in combinations(infos, 2):
            for change in effects[first].keys() & effects[second].keys():
                difference = effects[first][change][1] - effects[second][change][1]
                tested.append(((change, first, second), difference))
        tested.sort(key=lambda entry: entry[0])
        clear = statistics.significant(tested, NEGLIGIBLE)
        return [self._finding(*where, difference, effects) for where, difference in clear]

    @staticmethod
    def _effects(model: str, history: History) -> dict[Change, tuple[list[ControlledPair], Estimate]]:
        pooled = history.results().values()
        found = [r for r in pooled if r.model == model and r.spec.layers is None and not r.spec.rung]
        grouped: dict[Change, list[ControlledPair]] = defaultdict(list)
        for pair in controlled(found):
            grouped[pair.factor, pair.low, pair.high].append(pair)
        effects = {}
        for change, pairs in grouped.items():
            estimate = effect(pairs)
            if len(pairs) >= MIN_PAIRS and estimate is not None:
                effects[change] = (pairs, estimate)
        return effects

    def _finding(
        self,
        change: Change,
        first: str,
        second: str,
        difference: Estimate,
        effects: Mapping[str, Mapping[Change, tuple[list[ControlledPair], Estimate]]],
    ) -> Finding:
        if difference.mean > 0:
            first, second, difference = second, first, -difference
        factor, low, high = change
        here, there = effects[first][change], effects[second][change]
        text = f"{factor[0].upper()}{factor[1:]}: {low} instead of {high} "
        if here[1].interval()[1] < 0 < there[1].interval()[0]:
            text += f"lowers the KLD on {first} and raises it on {second}."
        else:
            text += f"does more good (or less harm) on {first} than on {second}."
        # With the fewest bits errors are largest, and cost the least to measure again.
        used = [
            pair
            for pairs, _ in (here, there)
            for pair in sorted(pairs, key=lambda p: (p.a.bits or 0.0, p.a.key))[:MAX_SHOWN]
        ]
        ids = dict.fromkeys(record.id for pair in used for result in (pair.a, pair.b) for record in result.records)
        key = f"interaction:kld:{_word(factor)}:{_word(low)}:{_word(high)}"
        ratio = results.ratio("ratio of the KLD ratios", difference)
        return self.finding("contrast", key, (first, second), text, ratio, ids)


def effect(pairs: Sequence[ControlledPair]) -> Estimate | None:
    """Mean ln(a / b) over the pairs; None without two shared windows."""
    over_pairs = []
    by_window: dict[tuple[int, int], list[float]] = defaultdict(list)
    for pair in pairs:
        left, right = pair.a.samples(), pair.b.samples()
        shared = left.keys() & right.keys()
        if shared:
            over_pairs.append(sum(left[w] - right[w] for w in shared) / len(shared))
        for window in shared:
            by_window[window].append(left[window] - right[window])
    candidates = [statistics.mean(over_pairs), statistics.mean([sum(v) / len(v) for v in by_window.values()])]
    found = [estimate for estimate in candidates if estimate is not None]
    return max(found, key=lambda e: e.width) if len(found) == len(candidates) else None


def _word(text: str) -> str:
    return text.replace(":", "-").replace(" ", "-")

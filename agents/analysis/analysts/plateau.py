"""Plateaus: where the recent trials of a model have not improved an objective by more than the noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import log

from swarm.agents.analysis import results
from swarm.agents.analysis.base import Analyst
from swarm.agents.analysis.results import ConfigResult
from swarm.agents.history import History
from swarm.experiments.models.base import ModelInfo
from swarm.memory.records import Effect, Finding

BUDGETS = (3.5, 4.6, 6.6, 8.6)
"""Bits per value up to which the best KLD is looked at: a 3, 4, 6 and 8-bit cache with metadata."""

LEVELS = (0.2, 0.05, 0.01)
"""KLD in nats up to which the fewest bits are looked at."""

NEAR_FACTOR = 4.0
"""A KLD within this factor of a level was an attempt at it."""

MIN_LATEST = 12
"""Trials, at least, that count as the latest."""
LATEST_SHARE = 0.4
"""Share of all trials that does."""
MIN_GAIN = log(1.05)
MIN_BITS_SAVED = 0.05
"""Bits per value that count as an improvement."""


class PlateauAnalyst(Analyst):
    """Compares the best of the latest trials with the best before them.

    The latest are 40% of the trials that could have improved the objective, 12 at least. It is a plateau when even
    the optimistic end of the interval of their best is no improvement worth having (5% of KLD, 0.05 bits).
    """

    name = "plateau"

    def analyse(self, history: History, infos: Mapping[str, ModelInfo]) -> list[Finding]:
        """One finding per model and objective that stands still."""
        pooled = [r for r in history.results().values() if not r.spec.rung and r.bits is not None]
        return [
            finding for model in infos for finding in self._of_model(model, [r for r in pooled if r.model == model])
        ]

    def _of_model(self, model: str, found: Sequence[ConfigResult]) -> Iterator[Finding]:
        for low, bits in zip((0.0, *BUDGETS), BUDGETS, strict=False):
            # Far cheaper configurations were no attempt at this budget.
            yield from self._best_kld(model, bits, [r for r in found if low < _bits(r) <= bits])
        for level in LEVELS:
            tried = [r for r in found if r.interval[0] <= NEAR_FACTOR * level]
            yield from self._fewest_bits(model, level, tried)

    def _best_kld(self, model: str, bits: float, tried: Sequence[ConfigResult]) -> Iterator[Finding]:
        earlier, later = _split(tried)
        if not earlier:
            return
        best, latest = min(earlier, key=lambda r: r.level), min(later, key=lambda r: r.level)
        difference = results.compare(latest, best)
        if difference is None or difference.interval()[0] <= -MIN_GAIN:
            return
        text = f"On {model} the best KLD at no more than {bits:g} bits/value stands still. "
        text += f"{best.label} is not beaten by the latest {len(later)} of {len(tried)} attempts."
        effect = results.ratio("best of the latest / best before", difference)
        ids = (best.records[0].id, latest.records[0].id)
        yield self.finding("plateau", f"plateau:kld:{bits:g}", (model,), text, effect, ids)

    def _fewest_bits(self, model: str, level: float, tried: Sequence[ConfigResult]) -> Iterator[Finding]:
        earlier, later = _split(tried)
        sure = [r for r in earlier if r.interval[1] <= level]
        hopeful = [r for r in later if r.interval[0] <= level]
        if not sure or not hopeful:
            return
        best, cheapest = min(sure, key=_bits), min(hopeful, key=_bits)
        certain = [r for r in later if r.interval[1] <= level] or [cheapest]
        low, high = _bits(cheapest) - _bits(best), min(map(_bits, certain)) - _bits(best)
        if low < -MIN_BITS_SAVED:
            return
        text = f"On {model} the fewest bits/value at a KLD of no more than {level:g} stand still. "
        text += f"{best.label} is not undercut by the latest {len(later)} of {len(tried)} attempts."
        name = "fewest of the latest - fewest before"
        effect = Effect(name=name, value=(low + high) / 2, low=low, high=high, unit="bits/value")
        ids = (best.records[0].id, cheapest.records[0].id)
        yield self.finding("plateau", f"plateau:bits:{level:g}", (model,), text, effect, ids)


def _bits(result: ConfigResult) -> float:
    return result.bits or 0.0


def _split(tried: Sequence[ConfigResult]) -> tuple[Sequence[ConfigResult], Sequence[ConfigResult]]:
    """Earlier and latest attempts; no earlier ones while there are too few."""
    latest = max(MIN_LATEST, round(LATEST_SHARE * len(tried)))
    ordered = sorted(tried, key=lambda r: r.records[0].number)
    return (ordered[:-latest], ordered[-latest:]) if len(tried) >= latest + MIN_LATEST // 2 else ([], ordered)

"""What flags of an engine do to its speed and memory, all else equal, from all trials of a model together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from math import log

import numpy as np

from swarm.agents.analysis import engine_speed, results, statistics
from swarm.agents.analysis.base import Analyst
from swarm.agents.analysis.claims import NEGLIGIBLE
from swarm.agents.analysis.statistics import Estimate
from swarm.agents.history import History
from swarm.experiments.models.base import ModelInfo
from swarm.memory.records import Finding, TrialRecord

EFFECTS = {"decode_rate": "generates tokens", "prefill_rate": "reads prompts", "memory": "takes memory"}
MIN_EACH = 3
"""Trials that a flag needs with and without it."""
MIN_LEFT = 4
"""Trials beyond the number of flags: degrees of freedom of the errors."""
MAX_EVIDENCE = 6
LEAST_ERROR = 1e-6
"""Standard error below which trials only look as if they agreed."""


class EngineFlagsAnalyst(Analyst):
    """Least squares of the logarithms over flags and their values, at 5% family-wise (Holm).

    Values that too few trials have are left out together with these trials, so that nothing stands for them.
    """

    name = "engine flags"

    def analyse(self, history: History, infos: Mapping[str, ModelInfo]) -> list[Finding]:
        """One finding per flag and number that it surely changes by a tenth or more."""
        return [finding for model in infos for finding in self._of_model(model, history)]

    def _of_model(self, model: str, history: History) -> Iterator[Finding]:
        found = [r for r in history.select(model=model, protocol=engine_speed.PROTOCOL) if not r.spec.rung]
        found = [r for r in found if engine_speed.objectives(r) is not None]
        tested = [
            ((choice, metric), estimate) for metric in EFFECTS for choice, estimate in _effects(found, metric).items()
        ]
        for (choice, metric), estimate in statistics.significant(tested, NEGLIGIBLE):
            more, less = ("more", "less") if metric == "memory" else ("faster", "slower")
            text = f"On {model} the engine {EFFECTS[metric]} {more if estimate.mean > 0 else less} with {choice} "
            text += "than with what it has by itself, all other flags equal."
            ids = [r.id for r in found if choice in _choices(r)][:MAX_EVIDENCE]
            effect = results.ratio(f"{metric}, with / without", estimate)
            yield self.finding("sensitivity", f"flag:{metric}:{choice}", (model,), text, effect, ids)


def _choices(record: TrialRecord) -> frozenset[str]:
    """The flags of a trial with their values, such as `cache-type-k=q8_0`."""
    engine = record.spec.engine
    return frozenset(f"{name}={value}" for name, value in engine.flags.items()) if engine is not None else frozenset()


def _effects(found: Sequence[TrialRecord], metric: str) -> dict[str, Estimate]:
    """The change of a metric's logarithm with each choice that enough trials have, and enough have not."""
    counts = Counter(choice for record in found for choice in _choices(record))
    names = sorted(choice for choice, n in counts.items() if n >= MIN_EACH)
    used = [record for record in found if _choices(record) <= set(names)]
    names = [name for name in names if MIN_EACH <= sum(name in _choices(r) for r in used) <= len(used) - MIN_EACH]
    design = np.array([[1.0, *(float(name in _choices(r)) for name in names)] for r in used])
    df = len(used) - len(names) - 1
    if not names or df < MIN_LEFT or np.linalg.matrix_rank(design) < design.shape[1]:
        return {}
    y = np.array([log(r.metrics[metric].value) for r in used])
    solution = np.linalg.lstsq(design, y, rcond=None)[0]
    variance = float(((y - design @ solution) ** 2).sum()) / df
    errors = np.sqrt(variance * np.diag(np.linalg.inv(design.T @ design)))
    return {
        name: Estimate(float(solution[i]), max(float(errors[i]), LEAST_ERROR), df, len(used))
        for i, name in enumerate(names, start=1)
    }

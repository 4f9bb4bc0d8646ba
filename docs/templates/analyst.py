"""Template of an analyst: whether rotated keys do better on a model."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, log

from scipy import stats

from swarm.agents.analysis.base import Analyst
from swarm.agents.history import History
from swarm.experiments.models.base import ModelInfo
from swarm.memory.records import Effect, Finding

MIN_TRIALS = 3
"""Trials that each group must have. The judge asks again on the replications alone, which must be so many too."""


class RotatedKeys(Analyst):
    """Ratio of the mean KLD of 4-bit configurations with rotated keys to those without, by Welch's interval."""

    name = "rotated_keys"

    def analyse(self, history: History, infos: Mapping[str, ModelInfo]) -> list[Finding]:
        """One finding per model whose interval leaves out 1."""
        found = []
        for model in infos:
            trials = [
                r
                for r in history.select(model=model, protocol="quality")
                if r.spec.kv.key.bits == 4 and r.metrics["kld"].value > 0
            ]
            rotated = [r for r in trials if r.spec.kv.key.rotation != "none"]
            plain = [r for r in trials if r.spec.kv.key.rotation == "none"]
            if min(len(rotated), len(plain)) < MIN_TRIALS:
                continue
            logs = [[log(r.metrics["kld"].value) for r in group] for group in (rotated, plain)]
            test = stats.ttest_ind(*logs, equal_var=False)
            low, high = map(exp, test.confidence_interval(0.95))
            if low <= 1 <= high:
                continue
            value = exp(sum(logs[0]) / len(rotated) - sum(logs[1]) / len(plain))
            # With the unit "ratio" no effect is 1; with any other it is 0.
            effect = Effect(name="KLD, rotated over plain keys", value=value, low=low, high=high, unit="ratio")
            text = f"On {model} 4-bit keys do {'better' if value < 1 else 'worse'} rotated."
            evidence = [r.id for r in (*rotated, *plain)]
            found.append(self.finding("sensitivity", "rotated_keys", (model,), text, effect, evidence))
        return found

"""Template of an analyst: which models lose most at the default configurations."""

from __future__ import annotations

from collections.abc import Mapping

from swarm.agents.analysis.base import Analyst
from swarm.agents.history import History
from swarm.experiments.models.base import ModelInfo
from swarm.memory.records import Effect, Finding

MIN_TRIALS = 3


class WorstDefault(Analyst):
    """The default configuration with the largest KLD of each model, with an interval of two standard errors."""

    name = "worst_default"

    def analyse(self, history: History, infos: Mapping[str, ModelInfo]) -> list[Finding]:
        """One finding per model with at least three measured defaults."""
        found = []
        for model in infos:
            trials = [r for r in history.select(model=model, protocol="quality") if r.arm == "defaults"]
            if len(trials) < MIN_TRIALS:
                continue
            worst = max(trials, key=lambda r: r.metrics["kld"].value)
            kld = worst.metrics["kld"]
            spread = 2 * (kld.stderr or 0.0)
            effect = Effect(name="kld", value=kld.value, low=kld.value - spread, high=kld.value + spread)
            text = f"Of the defaults {worst.spec.kv.label} harms {model} most."
            found.append(self.finding("sensitivity", "worst_default", (model,), text, effect, (worst.id,)))
        return found

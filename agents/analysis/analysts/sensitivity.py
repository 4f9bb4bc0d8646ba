"""Sensitivities: what one change does to a model, from pairs of configurations that differ in nothing else."""

from __future__ import annotations

from collections.abc import Mapping

from swarm.agents.analysis import results, statistics
from swarm.agents.analysis.base import Analyst
from swarm.agents.analysis.claims import NEGLIGIBLE, Claim, token
from swarm.agents.analysis.pairs import ControlledPair, controlled
from swarm.agents.analysis.results import ConfigResult
from swarm.agents.analysis.statistics import Estimate
from swarm.agents.history import History
from swarm.experiments.models.base import ModelInfo
from swarm.memory.records import Finding

MAX_FINDINGS = 8
"""Findings per model, the clearest first."""


class SensitivityAnalyst(Analyst):
    """Paired tests of every controlled comparison of a model, at a family-wise error of 5% (Holm).

    Controlled are two configurations that differ in one field of keys or values or of the cache, or in that keys
    and values have changed places. Only changes that cost about the same bits are tested.
    """

    name = "sensitivity"
    summary = "effect of a single change, all else equal"

    def analyse(self, history: History, infos: Mapping[str, ModelInfo]) -> list[Finding]:
        """The clearest effects on every model."""
        pooled = history.results()
        found = []
        for model in infos:
            found += self._of_model(model, [r for r in pooled.values() if r.model == model and r.spec.layers is None])
        return found

    def _of_model(self, model: str, found: list[ConfigResult]) -> list[Finding]:
        estimates = ((pair, results.compare(pair.a, pair.b)) for pair in controlled(found))
        tested = [(pair, estimate) for pair, estimate in estimates if estimate is not None]
        clear = statistics.significant(tested, NEGLIGIBLE)
        clear.sort(key=lambda entry: (entry[1].p, -abs(entry[1].mean)))
        best: dict[str, tuple[ControlledPair, Estimate]] = {}
        for pair, estimate in clear:
            best.setdefault(pair.factor, (pair, estimate))
        return [self._finding(model, *entry) for entry in list(best.values())[:MAX_FINDINGS]]

    def _finding(self, model: str, pair: ControlledPair, estimate: Estimate) -> Finding:
        a, b = pair.a, pair.b
        if estimate.mean > 0:
            a, b, estimate = b, a, -estimate
        return Finding(
            kind="sensitivity",
            key=Claim("pair", "kld", (a.key, b.key), (token(model),)).key,
            statement=f"On {model} [{a.label}] beats [{b.label}] ({pair.factor}).",
            models=(model,),
            effect=results.ratio("KLD ratio", estimate),
            evidence=(*a.ids, *b.ids),
            author=self.name,
        )

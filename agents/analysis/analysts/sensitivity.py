"""Sensitivities: what one change does to a model, from pairs of configurations that differ in nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from swarm.agents.analysis import results, statistics
from swarm.agents.analysis.base import Analyst
from swarm.agents.analysis.claims import NEGLIGIBLE, Claim, by_token, token
from swarm.agents.analysis.pairs import ControlledPair, controlled
from swarm.agents.analysis.results import Results
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

    def analyse(self, history: History, infos: Mapping[str, ModelInfo]) -> list[Finding]:
        """The clearest effects on every model."""
        pooled = history.results()
        return [finding for model in infos for finding in _of_model(model, pooled)]


def _of_model(model: str, pooled: Results) -> Iterator[Finding]:
    found = by_token(pooled)
    of_model = [result for result in pooled.values() if result.model == model and result.spec.layers is None]
    estimates = ((pair, results.compare(pair.a, pair.b)) for pair in controlled(of_model))
    clear = statistics.significant([(pair, e) for pair, e in estimates if e is not None], NEGLIGIBLE)
    clear.sort(key=lambda entry: (entry[1].p, -abs(entry[1].mean)))
    best: dict[str, tuple[ControlledPair, Estimate]] = {}
    for pair, estimate in clear:
        best.setdefault(pair.factor, (pair, estimate))
    for pair, estimate in list(best.values())[:MAX_FINDINGS]:
        a, b = (pair.a, pair.b) if estimate.mean < 0 else (pair.b, pair.a)
        effect = results.ratio("KLD ratio", estimate if estimate.mean < 0 else -estimate)
        claim = Claim("pair", "kld", (a.key, b.key), (token(model),))
        text = f"On {model} [{a.label}] beats [{b.label}] ({pair.factor})."
        yield claim.finding(found, text, effect, SensitivityAnalyst.name)

"""Sensitivities: what one change does to a model, from pairs of configurations that differ in nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from swarm.agents.analysis import results, statistics
from swarm.agents.analysis.base import Analyst
from swarm.agents.analysis.claims import NEGLIGIBLE, Claim, token
from swarm.agents.analysis.pairs import controlled
from swarm.agents.analysis.results import Cell
from swarm.agents.analysis.statistics import Estimate
from swarm.agents.history import History
from swarm.memory.records import Finding

if TYPE_CHECKING:
    from swarm.experiments.models.base import ModelInfo

MOST = 8
"""Findings per model, the clearest first."""


class Sensitivity(Analyst):
    """Paired tests of every controlled comparison of a model, at a family-wise error of 5% (Holm).

    Controlled are two configurations that differ in one field of keys or values or of the cache, or in that keys
    and values have changed places. Only changes that cost about the same bits are tested.
    """

    name = "sensitivity"
    summary = "effect of a single change, all else equal"

    def analyse(self, history: History, infos: Mapping[str, ModelInfo]) -> list[Finding]:
        """The clearest effects on every model."""
        pooled = history.cells()
        found = []
        for model in infos:
            cells = [cell for (name, _), cell in pooled.items() if name == model and cell.configuration.layers is None]
            found += self._of_model(model, cells)
        return found

    def _of_model(self, model: str, cells: list[Cell]) -> list[Finding]:
        tested: list[tuple[str, Cell, Cell, Estimate]] = []
        for pair in controlled(cells):
            estimate = results.compare(pair.a, pair.b)
            if estimate is not None:
                tested.append((pair.factor, pair.a, pair.b, estimate))
        firm = statistics.moderate([entry[3] for entry in tested])
        kept = statistics.holm([estimate.p for estimate in firm])
        clear = [
            (*entry[:3], estimate)
            for entry, estimate, keep in zip(tested, firm, kept, strict=True)
            if keep and abs(estimate.mean) > NEGLIGIBLE
        ]
        clear.sort(key=lambda e: (e[3].p, -abs(e[3].mean)))
        best: dict[str, tuple[str, Cell, Cell, Estimate]] = {}
        for entry in clear:
            best.setdefault(entry[0], entry)
        return [self._finding(model, *entry) for entry in list(best.values())[:MOST]]

    def _finding(self, model: str, change: str, a: Cell, b: Cell, estimate: Estimate) -> Finding:
        if estimate.mean > 0:
            a, b = b, a
            estimate = Estimate(-estimate.mean, estimate.stderr, estimate.df, estimate.n)
        claim = Claim("pair", "kld", a.configuration.key, b.configuration.key, (token(model),))
        return Finding(
            kind="sensitivity",
            key=claim.key,
            statement=f"On {model} [{a.configuration.label}] beats [{b.configuration.label}] ({change}).",
            models=(model,),
            effect=results.ratio("KLD ratio", estimate),
            evidence=(*a.ids, *b.ids),
            author=self.name,
        )

"""Contrasts: two configurations of similar cost whose ratio of KLD differs between two models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import TYPE_CHECKING

from swarm.agents.analysis import results, statistics
from swarm.agents.analysis.base import Analyst
from swarm.agents.analysis.claims import (
    NEGLIGIBLE,
    Claim,
    token,
    tokened,
)
from swarm.agents.analysis.results import Cell, Cells
from swarm.agents.analysis.statistics import Estimate
from swarm.agents.history import History
from swarm.memory.records import Finding

if TYPE_CHECKING:
    from swarm.experiments.models.base import ModelInfo

SIMILAR = 0.5
"""Bits per value that configurations may differ in, so that a contrast is about the method and not about the cost."""

MOST = 8
"""Findings per pair of models, the clearest first; each configuration leads one."""


class Contrast(Analyst):
    """Tests every pair of shared configurations on every pair of models, at a family-wise error of 5% (Holm).

    Windows pair the configurations on each model; between models the difference of the two logarithms is taken.
    """

    name = "contrast"
    summary = "configurations whose order, or ratio, differs between models"

    def analyse(self, history: History, infos: Mapping[str, ModelInfo]) -> list[Finding]:
        """The clearest contrasts of every pair of models."""
        cells = {
            place: cell
            for place, cell in history.cells().items()
            if _is_quantized(cell) and cell.configuration.layers is None
        }
        return [finding for first, second in combinations(infos, 2) for finding in self._between(first, second, cells)]

    def _between(self, first: str, second: str, cells: Cells) -> Iterator[Finding]:
        by_token = tokened(cells)
        tested: list[tuple[Claim, Estimate]] = []
        for a, b in combinations(sorted(_shared(first, second, cells)), 2):
            if not _similar(cells[first, a], cells[first, b]):
                continue
            claim = Claim("contrast", "kld", a, b, (token(first), token(second)))
            estimate = claim.estimate(by_token)
            if estimate is not None:
                tested.append((claim, estimate))
        firm = statistics.moderate([estimate for _, estimate in tested])
        kept = statistics.holm([estimate.p for estimate in firm])
        clear = [
            (claim, estimate)
            for (claim, _), estimate, keep in zip(tested, firm, kept, strict=True)
            if keep and abs(estimate.mean) > NEGLIGIBLE
        ]
        led: set[str] = set()
        for claim, estimate in sorted(clear, key=lambda pair: (pair[1].p, -abs(pair[1].mean))):
            if len(led) < 2 * MOST and not led & {claim.better, claim.worse}:
                led |= {claim.better, claim.worse}
                yield state(claim, estimate, first, second, cells)


def state(claim: Claim, estimate: Estimate, first: str, second: str, cells: Cells) -> Finding:
    """The finding of a contrast, turned so that the effect is below 1."""
    if estimate.mean > 0:
        first, second = second, first
        claim = Claim("contrast", claim.metric, claim.better, claim.worse, claim.models[::-1])
        estimate = Estimate(-estimate.mean, estimate.stderr, estimate.df, estimate.n)
    used = [cells[model, key] for model in (first, second) for key in (claim.better, claim.worse)]
    here, there = results.compare(used[0], used[1]), results.compare(used[2], used[3])
    a, b = used[0].configuration.label, used[1].configuration.label
    if here is not None and there is not None and here.interval()[1] < 0 < there.interval()[0]:
        text = f"[{a}] beats [{b}] on {first}; on {second} it is the other way round."
    else:
        text = f"Against [{b}], [{a}] does better on {first} than on {second}."
    return Finding(
        kind="contrast",
        key=claim.key,
        statement=text,
        models=(first, second),
        effect=results.ratio("ratio of the KLD ratios", estimate),
        evidence=tuple(i for cell in used for i in cell.ids),
        author=Contrast.name,
    )


def _is_quantized(cell: Cell) -> bool:
    kv = cell.configuration.kv
    return (kv.key.method, kv.value.method) != ("none", "none")


def _shared(first: str, second: str, cells: Cells) -> set[str]:
    return {key for model, key in cells if model == first} & {key for model, key in cells if model == second}


def _similar(a: Cell, b: Cell) -> bool:
    same_rung = a.configuration.rung == b.configuration.rung
    return same_rung and a.bits is not None and b.bits is not None and abs(a.bits - b.bits) <= SIMILAR

"""Transfers: which advantages measured on one model held on another, and how alike the models rank configurations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import combinations, permutations
from typing import TYPE_CHECKING

import numpy as np

from swarm.agents.analysis import results, statistics
from swarm.agents.analysis.base import Analyst
from swarm.agents.analysis.claims import (
    NEGLIGIBLE,
    Claim,
    token,
    tokened,
)
from swarm.agents.analysis.results import Cell, Cells, Configuration
from swarm.agents.analysis.statistics import Estimate
from swarm.agents.history import History
from swarm.memory.records import Effect, Finding, TrialRecord

if TYPE_CHECKING:
    from swarm.experiments.models.base import ModelInfo

LEAST = 8
"""Shared configurations that a rank correlation needs."""

MOST = 3
"""Findings per direction. All predictions are counted; what people need to read is that, and what, carries over."""


class Transfer(Analyst):
    """Tests the advantages that were predicted before they were measured, at a family-wise error of 5% (Holm)."""

    name = "transfer"
    summary = "what carries over from one model to another"

    def analyse(self, history: History, infos: Mapping[str, ModelInfo]) -> list[Finding]:
        """Advantages that carried over, and rank correlations between models."""
        cells = history.cells()
        return [*self._carried(history, infos, cells), *self._ranks(infos, cells)]

    def _carried(self, history: History, infos: Mapping[str, ModelInfo], cells: Cells) -> Iterator[Finding]:
        by_id = {record.id: record for record in history.completed}
        by_token = tokened(cells)
        tested: list[tuple[Claim, Estimate]] = []
        for source, target in permutations(infos, 2):
            for record in history.completed:
                claim = predicted(record, by_id, source, target)
                estimate = claim and claim.estimate(by_token)
                if claim and estimate and _was_learned(claim, by_token):
                    tested.append((claim, estimate))
        firm = statistics.moderate([estimate for _, estimate in tested])
        kept = statistics.holm([estimate.p for estimate in firm])
        told: Counter[tuple[str, ...]] = Counter()
        # In the order of their trials, so that later ones do not push earlier ones out.
        for (claim, _), estimate, keep in zip(tested, firm, kept, strict=True):
            if keep and estimate.mean < -NEGLIGIBLE and told[claim.models] < MOST:
                told[claim.models] += 1
                yield self._finding(claim, estimate, by_token)

    def _finding(self, claim: Claim, estimate: Estimate, by_token: Cells) -> Finding:
        source, target = claim.models
        used = [by_token[model, key] for model in (target, source) for key in (claim.better, claim.worse)]
        better, worse = used[0].configuration.label, used[1].configuration.label
        return Finding(
            kind="transfer",
            key=claim.key,
            statement=f"[{better}] beats [{worse}] on {used[0].model}, as predicted from {used[2].model}.",
            models=(used[2].model, used[0].model),
            effect=results.ratio(f"KLD ratio on {used[0].model}", estimate),
            evidence=tuple(i for cell in used for i in cell.ids),
            author=self.name,
        )

    def _ranks(self, infos: Mapping[str, ModelInfo], cells: Cells) -> Iterator[Finding]:
        for first, second in combinations(infos, 2):
            pairs = [
                (cell, cells[second, key])
                for (model, key), cell in cells.items()
                if model == first and (second, key) in cells and _is_whole(cell)
            ]
            if len(pairs) < LEAST:
                continue
            rho, low, high = statistics.rank_correlation(*(_residuals(list(side)) for side in zip(*pairs, strict=True)))
            if low <= 0 <= high:
                continue
            yield Finding(
                kind="transfer",
                key=f"ranks:kld:{token(first)}:{token(second)}",
                statement=(
                    f"Beyond their cost in bits, configurations rank {'alike' if rho > 0 else 'in opposite order'} "
                    f"on {first} and {second}."
                ),
                models=(first, second),
                effect=Effect(name="rank correlation", value=rho, low=low, high=high, unit="rho"),
                evidence=tuple(cell.records[0].id for pair in pairs for cell in pair),
                author=self.name,
            )


def predicted(record: TrialRecord, by_id: Mapping[int, TrialRecord], source: str, target: str) -> Claim | None:
    """The transfer that a trial's registered prediction states; None when it states another or none."""
    prediction = record.prediction
    if prediction is None or prediction.reference is None or record.spec.model != target:
        return None
    reference = by_id.get(prediction.reference)
    if reference is None or reference.spec.model != target:
        return None
    comparable = record.spec.protocol == reference.spec.protocol == "quality"
    if not comparable or prediction.comparator != "<=" or prediction.threshold > 1:
        return None
    keys = [Configuration.of(r.spec).key for r in (record, reference)]
    return Claim("transfer", prediction.metric, keys[0], keys[1], (token(source), token(target)))


def _was_learned(claim: Claim, by_token: Cells) -> bool:
    """Whether the source model shows the advantage beyond doubt."""
    lesson = Claim("pair", claim.metric, claim.better, claim.worse, claim.models[:1]).estimate(by_token)
    return lesson is not None and lesson.interval()[1] < 0


def _is_whole(cell: Cell) -> bool:
    kv = cell.configuration.kv
    quantized = (kv.key.method, kv.value.method) != ("none", "none")
    return quantized and cell.configuration.layers is None and not cell.configuration.rung and cell.bits is not None


def _residuals(cells: list[Cell]) -> list[float]:
    """Levels less what the number of bits explains linearly."""
    bits = np.array([cell.bits for cell in cells], dtype=float)
    level = np.array([cell.level for cell in cells])
    design = np.stack([np.ones_like(bits), bits], axis=1)
    left = level - design @ np.linalg.lstsq(design, level, rcond=None)[0]
    return [float(x) for x in left]

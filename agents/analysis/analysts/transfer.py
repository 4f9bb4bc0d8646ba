"""Transfers: which advantages measured on one model held on another, and how alike the models rank configurations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import combinations, permutations

from swarm.agents.analysis import results, statistics
from swarm.agents.analysis.base import Analyst
from swarm.agents.analysis.claims import NEGLIGIBLE, Claim, by_token, token
from swarm.agents.analysis.pairs import costs_the_same
from swarm.agents.analysis.results import ConfigResult, Results, config_key
from swarm.agents.analysis.statistics import Estimate
from swarm.agents.history import History
from swarm.experiments.models.base import ModelInfo
from swarm.memory.records import Effect, Finding, TrialRecord

MIN_SHARED = 8
"""Shared configurations that a rank correlation needs."""

MAX_FINDINGS = 3
"""Findings per direction. All predictions are counted; what people need to read is that, and what, carries over."""


class TransferAnalyst(Analyst):
    """Tests the advantages that were predicted before they were measured, at a family-wise error of 5% (Holm)."""

    name = "transfer"

    def analyse(self, history: History, infos: Mapping[str, ModelInfo]) -> list[Finding]:
        """Advantages that carried over, and rank correlations between models."""
        return [*self._carried(history, infos), *self._ranks(infos, history.results())]

    def _carried(self, history: History, infos: Mapping[str, ModelInfo]) -> Iterator[Finding]:
        by_id = {record.id: record for record in history.completed}
        found = by_token(history.results())
        tested: list[tuple[Claim, Estimate]] = []
        for source, target in permutations(infos, 2):
            for record in history.completed:
                claim = predicted(record, by_id, source, target)
                estimate = claim and claim.estimate(found)
                if (
                    claim
                    and estimate
                    and _was_learned(claim, found)
                    and costs_the_same(*(found[need].bits for need in claim.needs))
                ):
                    tested.append((claim, estimate))
        told: Counter[tuple[str, ...]] = Counter()
        # In the order of their trials, so that later ones do not push earlier ones out.
        for claim, estimate in statistics.significant(tested, NEGLIGIBLE):
            if estimate.mean < 0 and told[claim.models] < MAX_FINDINGS:
                told[claim.models] += 1
                better, worse = (found[place] for place in claim.needs)
                source = found[claim.models[0], better.key].model
                text = f"[{better.label}] beats [{worse.label}] on {better.model}, as predicted from {source}."
                effect = results.ratio(f"KLD ratio on {better.model}", estimate)
                yield claim.finding(found, text, effect, self.name)

    def _ranks(self, infos: Mapping[str, ModelInfo], found: Results) -> Iterator[Finding]:
        for first, second in combinations(infos, 2):
            pairs = [
                (result, found[second, key])
                for (model, key), result in found.items()
                if model == first and (second, key) in found and _is_comparable(result)
            ]
            if len(pairs) < MIN_SHARED:
                continue
            rho, low, high = statistics.rank_correlation(*map(results.residuals, zip(*pairs, strict=True)))
            if low <= 0 <= high:
                continue
            alike = "alike" if rho > 0 else "in opposite order"
            text = f"Beyond their cost in bits, configurations rank {alike} on {first} and {second}."
            effect = Effect(name="rank correlation", value=rho, low=low, high=high, unit="rho")
            ids = (result.records[0].id for pair in pairs for result in pair)
            yield self.finding("transfer", "ranks:kld", (first, second), text, effect, ids)


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
    keys = (config_key(record.spec), config_key(reference.spec))
    return Claim("transfer", prediction.metric, keys, (token(source), token(target)))


def _was_learned(claim: Claim, found: Results) -> bool:
    """Whether the source model shows the advantage beyond doubt."""
    lesson = Claim("pair", claim.metric, claim.configurations, claim.models[:1]).estimate(found)
    return lesson is not None and lesson.interval()[1] < 0


def _is_comparable(result: ConfigResult) -> bool:
    return result.is_quantized and result.spec.layers is None and not result.spec.rung and result.bits is not None

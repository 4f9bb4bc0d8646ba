"""Contrasts: two configurations of similar cost whose ratio of KLD differs between two models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations

from swarm.agents.analysis import results, statistics
from swarm.agents.analysis.base import Analyst
from swarm.agents.analysis.claims import NEGLIGIBLE, Claim, by_token, token
from swarm.agents.analysis.pairs import costs_the_same
from swarm.agents.analysis.results import ConfigResult, Results
from swarm.agents.analysis.statistics import Estimate
from swarm.agents.history import History
from swarm.experiments.models.base import ModelInfo
from swarm.memory.records import Finding

MAX_FINDINGS = 8
"""Findings per pair of models, the clearest first; each configuration leads one."""


class ContrastAnalyst(Analyst):
    """Tests every pair of shared configurations on every pair of models, at a family-wise error of 5% (Holm).

    Windows pair the configurations on each model; between models the difference of the two logarithms is taken.
    """

    name = "contrast"

    def analyse(self, history: History, infos: Mapping[str, ModelInfo]) -> list[Finding]:
        """The clearest contrasts of every pair of models."""
        found = {place: r for place, r in history.results().items() if r.is_quantized and r.spec.layers is None}
        return [finding for first, second in combinations(infos, 2) for finding in _between(first, second, found)]


def _between(first: str, second: str, found: Results) -> Iterator[Finding]:
    tokened = by_token(found)
    tested: list[tuple[Claim, Estimate]] = []
    for a, b in combinations(sorted(key for model, key in found if model == first and (second, key) in found), 2):
        claim = Claim("contrast", "kld", (a, b), (token(first), token(second)))
        estimate = claim.estimate(tokened) if _is_similar(found[first, a], found[first, b]) else None
        if estimate is not None:
            tested.append((claim, estimate))
    clear = statistics.significant(tested, NEGLIGIBLE)
    led: set[str] = set()
    for claim, estimate in sorted(clear, key=lambda pair: (pair[1].p, -abs(pair[1].mean))):
        if len(led) < 2 * MAX_FINDINGS and not led.intersection(claim.configurations):
            led.update(claim.configurations)
            yield state(claim, estimate, first, second, found)


def state(claim: Claim, estimate: Estimate, first: str, second: str, found: Results) -> Finding:
    """The finding of a contrast, turned so that the effect is below 1."""
    if estimate.mean > 0:
        first, second = second, first
        claim = Claim("contrast", claim.metric, claim.configurations, claim.models[::-1])
        estimate = -estimate
    tokened = by_token(found)
    used = [tokened[place] for place in claim.needs]
    here, there = results.compare(used[0], used[1]), results.compare(used[2], used[3])
    a, b = used[0].label, used[1].label
    if here is not None and there is not None and here.interval()[1] < 0 < there.interval()[0]:
        text = f"[{a}] beats [{b}] on {first}; on {second} it is the other way round."
    else:
        text = f"Against [{b}], [{a}] does better on {first} than on {second}."
    effect = results.ratio("ratio of the KLD ratios", estimate)
    return claim.finding(tokened, text, effect, ContrastAnalyst.name)


def _is_similar(a: ConfigResult, b: ConfigResult) -> bool:
    return a.spec.rung == b.spec.rung and costs_the_same(a.bits, b.bits)

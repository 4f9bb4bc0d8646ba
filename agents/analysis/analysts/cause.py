"""Causes: what errors do when something that may cause them is taken out of the model, and where models differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from swarm.agents.analysis import causes, statistics, words
from swarm.agents.analysis.base import Analyst
from swarm.agents.analysis.causes import Suspect
from swarm.agents.analysis.claims import NEGLIGIBLE, Claim, token
from swarm.agents.analysis.removals import Layers
from swarm.agents.analysis.results import Place, Results
from swarm.agents.analysis.statistics import Estimate
from swarm.agents.history import History
from swarm.experiments.models.base import ModelInfo
from swarm.memory.records import Effect, Finding

MAX_FINDINGS = 4
"""Explained effects per model and suspect, the clearest first; each configuration leads one."""

Tested = dict[Place, tuple[Suspect, Layers, Claim]]
"""Interventions by model and configuration."""


class CauseAnalyst(Analyst):
    """States what was tested as a cause, on a model and between models, and which effects it explains.

    Of many tests those are stated that hold together (Holm), and those that rule a suspect out.

    Whether it is one, the judge finds out, on replications: without the suspect errors have to be smaller by more than
    a tenth; between models that difference has to differ; of an effect that it explains more than half (on the
    logarithmic scale) has to go.
    """

    name = "cause"

    def analyse(self, history: History, infos: Mapping[str, ModelInfo]) -> list[Finding]:
        """One claim per model and suspect, per pair of models and suspect, and per explained effect."""
        plain, edited = history.results(), history.edited
        measured = history.measured
        tested: Tested = {
            (model, claim.configurations[0]): (suspect, layers, claim)
            for model in infos
            for suspect, layers, claim in causes.interventions(model, plain, edited)
        }
        between = [
            _oriented(Claim("difference", "kld", claim.configurations, (token(model), token(other))), measured)
            for (model, key), (_, _, claim) in tested.items()
            for other in list(infos)[list(infos).index(model) + 1 :]
            if (other, key) in tested
        ]
        places = {claim.key: place for place, (_, _, claim) in tested.items()}
        on = [claim for _, _, claim in tested.values()]
        return [
            *(self._on(*places[claim.key], tested, measured) for claim in _decided(on, measured)),
            *(self._between(claim, tested, measured) for claim in _larger(between, measured)),
            *(found for model in infos for found in self._explained(model, plain, edited, measured)),
        ]

    def _on(self, model: str, key: str, tested: Tested, measured: Results) -> Finding:
        suspect, layers, claim = tested[model, key]
        size = _size(claim, measured)
        worse = measured[claim.needs[1]].label
        text = f"On {model} {suspect.words}{causes.place(layers)} cause errors: {suspect.removal.words} "
        text += f"the KLD of [{worse}] is {_said(size)} of what it was."
        return claim.finding(measured, text, size, self.name)

    def _between(self, claim: Claim, tested: Tested, measured: Results) -> Finding:
        """Where taking a suspect out does more on the first model than on the second."""
        key = claim.configurations[0]
        model, other = (next(name for name, k in tested if token(name) == one and k == key) for one in claim.models)
        suspect, layers, here = tested[model, key]
        there = tested[other, key][2]
        who = suspect.words + causes.place(layers)
        text = f"{who[0].upper()}{who[1:]} are why [{measured[here.needs[1]].label}] does worse on {model} than on "
        text += f"{other}: {suspect.removal.words} its KLD is {_said(_size(here, measured))} of what it was on "
        text += f"{model}, and {_said(_size(there, measured))} on {other}."
        return claim.finding(measured, text, _size(claim, measured), self.name)

    def _explained(self, model: str, plain: Results, edited: Results, measured: Results) -> Iterator[Finding]:
        led: dict[str, set[str]] = {}
        tested = causes.explained(model, plain, edited)
        for suspect, claim, _ in sorted(tested, key=lambda entry: (entry[2].p, entry[2].mean, entry[1].key)):
            taken = led.setdefault(suspect.name, set())
            size = claim.evaluate(measured)
            if size is None or taken.intersection(claim.configurations) or len(taken) >= 2 * MAX_FINDINGS:
                continue
            taken.update(claim.configurations[:2])
            better, worse = (measured[place] for place in claim.needs[:2])
            text = f"On {model} {suspect.words} are why [{better.label}] beats [{worse.label}]: "
            text += f"{suspect.removal.words} more than half of the advantage is gone."
            yield claim.finding(measured, text, size, self.name)


def _oriented(claim: Claim, measured: Results) -> Claim:
    """The claim with the model first on which the effect is larger."""
    estimate = claim.estimate(measured)
    turned = estimate is not None and estimate.mean > 0
    return Claim(claim.relation, claim.metric, claim.configurations, claim.models[::-1]) if turned else claim


def _estimates(claims: Sequence[Claim], measured: Results) -> list[tuple[Claim, Estimate]]:
    found = ((claim, claim.estimate(measured)) for claim in claims)
    return [(claim, estimate) for claim, estimate in found if estimate is not None]


def _larger(claims: Sequence[Claim], measured: Results) -> list[Claim]:
    """Claims whose effect is below 0 at a family-wise error of 5% (Holm), and not negligible."""
    clear = statistics.significant(_estimates(claims, measured), NEGLIGIBLE)
    return [claim for claim, estimate in clear if estimate.mean < 0]


def _decided(claims: Sequence[Claim], measured: Results) -> list[Claim]:
    """The same, and those whose effect is negligible beyond doubt: what is ruled out is worth knowing."""
    kept = _larger(claims, measured)
    ruled_out = [claim for claim, e in _estimates(claims, measured) if e.stderr and e.interval()[0] > -NEGLIGIBLE]
    return list(dict.fromkeys([*kept, *ruled_out]))


def _size(claim: Claim, measured: Results) -> Effect:
    """The effect of a claim that was estimated."""
    size = claim.evaluate(measured)
    if size is None:
        raise AssertionError(f"{claim.key} has an estimate and no size")
    return size


def _said(size: Effect) -> str:
    """A ratio with its interval, as it is said."""
    return f"{size.value:.2g} {words.interval(size)}"

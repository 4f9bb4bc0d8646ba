"""Published claims put to work on a campaign's models: the trials still to run, and the verdicts so far.

A pure function of the history. A verdict is given when all planned trials of a case are finished, not before:
looking again and again until an interval fits would find anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from swarm.agents.analysis import results
from swarm.agents.analysis.claims import Claim, token
from swarm.agents.analysis.results import ConfigResult, Place, config_key
from swarm.agents.history import FINISHED, History
from swarm.agents.published_claims.schema import SELECTORS, Agenda, PublishedClaim
from swarm.experiments.identity import fingerprint
from swarm.experiments.models.base import ModelInfo
from swarm.experiments.spec import TrialSpec
from swarm.kernels.errors import SwarmError
from swarm.memory.records import Effect, Finding, FindingStatus, Prediction, TrialRecord

AUTHOR = "agenda"
PREFIX = "agenda:"


@dataclass(frozen=True)
class Case:
    """A published claim applied to a model or to a pair of models, with its trials by model token and part."""

    claim: PublishedClaim
    models: tuple[str, ...]
    specs: Mapping[Place, TrialSpec]
    replicates: int

    def trials(self) -> Iterator[tuple[Place, TrialSpec]]:
        """Every planned trial with its part, set of text windows after set of text windows."""
        for replicate in range(self.replicates):
            for place, spec in self.specs.items():
                yield place, spec.model_copy(update={"replicate": replicate, "seed": replicate})

    @property
    def test(self) -> Claim:
        """What the trials are evaluated by."""
        test = self.claim.test
        metric = "attention_kl" if test == "law" else self.claim.metric
        parts = ("a", "b") if test in ("pair", "contrast") else tuple(part for _, part in self.specs)
        points = tuple(map(float, parts)) if test == "growth" else ()
        return Claim(test, metric, parts, tuple(map(token, self.models)), points)

    def effect(self, records: Sequence[TrialRecord]) -> Effect | None:
        """What completed trials of the case show; None when it cannot be told."""
        measured: dict[Place, ConfigResult] = {}
        for place, spec in self.specs.items():
            found = results.pool(records, self.test.metric, spec.protocol).get((spec.model, config_key(spec)))
            if found is not None:
                measured[place] = found
        return self.test.evaluate(measured)


class AgendaPlan:
    """The cases of an agenda on the models of a campaign; `templates` are the 16-bit runs of the models."""

    def __init__(self, agenda: Agenda, infos: Mapping[str, ModelInfo], templates: Mapping[str, TrialSpec]) -> None:
        self.agenda = agenda
        self.cases: list[Case] = []
        self.untestable: dict[str, str] = {}
        """Claims that no installed model can decide, with the reason."""
        for claim in agenda.claim:
            reason = f"the campaign has no model for it ({SELECTORS[claim.on][0]}"
            reason += f" against {SELECTORS[claim.against][0]})" if claim.against else ")"
            found = []
            for models in claim.applications(infos):
                try:
                    parts = {model: claim.parts(templates[model], infos[model]) for model in models}
                except SwarmError as error:
                    reason = error.problem
                    continue
                specs = {(token(model), name): spec for model in models for name, spec in parts[model].items()}
                found.append(Case(claim, models, specs, agenda.replicates))
            self.cases += found
            if not found:
                self.untestable[claim.id] = reason

    def remarks(self) -> tuple[str, ...]:
        """Why some claims cannot be tested, one sentence each."""
        return tuple(f"untested: {claim}: {reason.rstrip('.')}." for claim, reason in self.untestable.items())

    def wanted(self, history: History) -> Iterator[tuple[Case, TrialSpec, Prediction | None]]:
        """Planned trials that nobody has proposed yet, claim after claim."""
        by_fingerprint = {record.fingerprint: record for record in history.records}
        for case in self.cases:
            for (_, part), spec in case.trials():
                if fingerprint(spec) not in by_fingerprint:
                    yield case, spec, _prediction(case, part, spec, by_fingerprint)

    def findings(self, history: History) -> list[Finding]:
        """One finding per case that has been measured at all, with its verdict."""
        by_fingerprint = {record.fingerprint: record for record in history.records}
        found = []
        for case in self.cases:
            planned = [by_fingerprint.get(fingerprint(spec)) for _, spec in case.trials()]
            records = [r for r in planned if r is not None and r.state == "complete"]
            effect = case.effect(records)
            if effect is None:
                continue
            finished = all(r is not None and r.state in FINISHED for r in planned)
            identity = f"{PREFIX}{self.agenda.name}:{case.claim.id}:{':'.join(map(token, case.models))}"
            found.append(
                Finding(
                    kind=case.test.kind,
                    key=identity[:200],
                    statement=f"{case.claim.says} (on {' against '.join(case.models)}).",
                    models=case.models,
                    effect=effect,
                    evidence=tuple(record.id for record in records),
                    status=verdict(case.claim, effect) if finished else "hypothesis",
                    author=AUTHOR,
                )
            )
        return found


def verdict(claim: PublishedClaim, effect: Effect) -> FindingStatus:
    """Confirmed or refuted when the whole interval says so, else still a hypothesis."""
    low, high = claim.bounds
    if low <= effect.low and effect.high <= high:
        return "confirmed"
    return "refuted" if effect.high < low or effect.low > high else "hypothesis"


def _prediction(case: Case, part: str, spec: TrialSpec, by_fingerprint: Mapping[str, TrialRecord]) -> Prediction | None:
    """What the claim predicts for this trial alone, where it predicts that."""
    claim = case.claim
    if claim.comparator == "within" or claim.threshold is None or part != "a" or claim.test == "contrast":
        return None
    reference = None
    if claim.test == "pair":
        other = case.specs[token(spec.model), "b"]
        other = other.model_copy(update={"replicate": spec.replicate, "seed": spec.seed})
        reference = by_fingerprint.get(fingerprint(other))
        if reference is None:
            return None
    return Prediction(
        metric=claim.metric,
        comparator=claim.comparator,
        threshold=claim.threshold,
        reference=reference.id if reference else None,
    )

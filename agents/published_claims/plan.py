"""An agenda put to work on a campaign's models: the trials still to run, and the verdicts so far.

A pure function of the history. A verdict is given when all planned trials of a case are finished, not before:
looking again and again until an interval fits would find anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from swarm.agents.analysis.claims import token
from swarm.agents.history import FINISHED, History
from swarm.agents.published_claims.kinds import base
from swarm.agents.published_claims.schema import Agenda, Claim
from swarm.experiments.spec import TrialSpec
from swarm.kernels.errors import SwarmError
from swarm.memory.records import Effect, Finding, FindingStatus, Prediction, TrialRecord

if TYPE_CHECKING:
    from swarm.experiments.models.base import ModelInfo

AUTHOR = "agenda"
PREFIX = "agenda:"


@dataclass(frozen=True)
class Case:
    """A claim applied to a model or to a pair of models."""

    claim: Claim
    models: tuple[str, ...]
    specs: Mapping[str, TrialSpec]
    replicates: int

    def trials(self) -> Iterator[tuple[str, TrialSpec]]:
        """Every planned trial with its part, set of text windows after set of text windows."""
        for replicate in range(self.replicates):
            for name, spec in self.specs.items():
                yield name, spec.model_copy(update={"replicate": replicate, "seed": replicate})


class Programme:
    """The cases of an agenda on the models of a campaign.

    Args:
        agenda: the claims.
        infos: the models.
        templates: the 16-bit run of each model.
    """

    def __init__(self, agenda: Agenda, infos: Mapping[str, ModelInfo], templates: Mapping[str, TrialSpec]) -> None:
        self.agenda = agenda
        self.cases: list[Case] = []
        self.untestable: dict[str, str] = {}
        """Claims that no installed model can decide, with the reason."""
        for claim in agenda.claim:
            self._add(claim, infos, templates)

    def _add(self, claim: Claim, infos: Mapping[str, ModelInfo], templates: Mapping[str, TrialSpec]) -> None:
        kind = base.kind(claim.test)
        reason = f"the campaign has no model for it ({_words(claim.on)}"
        reason += f" against {_words(claim.against)})" if claim.against else ")"
        found = []
        for models in kind.cases(claim, infos):
            try:
                specs = kind.specs(claim, models, templates, infos)
            except SwarmError as error:
                reason = error.problem
                continue
            found.append(Case(claim, models, specs, self.agenda.replicates))
        self.cases += found
        if not found:
            self.untestable[claim.id] = reason

    def remarks(self) -> tuple[str, ...]:
        """Why some claims cannot be tested, one sentence each."""
        return tuple(f"untested: {claim}: {reason.rstrip('.')}." for claim, reason in self.untestable.items())

    def wanted(self, history: History) -> Iterator[tuple[Case, TrialSpec, Prediction | None]]:
        """Planned trials that nobody has proposed yet, claim after claim."""
        known = history.fingerprints
        by_fingerprint = {record.fingerprint: record for record in history.records}
        for case in self.cases:
            for name, spec in case.trials():
                if spec.fingerprint() not in known:
                    yield case, spec, _prediction(case, name, spec, by_fingerprint)

    def findings(self, history: History) -> list[Finding]:
        """One finding per case that has been measured at all, with its verdict."""
        by_fingerprint = {record.fingerprint: record for record in history.records}
        found = []
        for case in self.cases:
            planned = [by_fingerprint.get(spec.fingerprint()) for _, spec in case.trials()]
            records = [r for r in planned if r is not None and r.state == "complete"]
            finished = all(r is not None and r.state in FINISHED for r in planned)
            finding = self._finding(case, records, finished=finished)
            if finding is not None:
                found.append(finding)
        return found

    def _finding(self, case: Case, records: Sequence[TrialRecord], *, finished: bool) -> Finding | None:
        claim, kind = case.claim, base.kind(case.claim.test)
        cells = base.gather(records, case.specs, kind.metric(claim))
        effect = kind.effect(claim, cells) if cells else None
        if effect is None:
            return None
        status = verdict(claim, effect) if finished else "hypothesis"
        return Finding(
            kind=kind.finding,
            key=f"{PREFIX}{self.agenda.name}:{claim.id}:{':'.join(map(token, case.models))}"[:200],
            statement=f"{claim.says} (on {' against '.join(case.models)}).",
            models=case.models,
            effect=effect,
            evidence=tuple(record.id for record in records),
            status=status,
            author=AUTHOR,
        )


def verdict(claim: Claim, effect: Effect) -> FindingStatus:
    """Confirmed or refuted when the whole interval says so, else still a hypothesis."""
    low, high = claim.bounds
    if low <= effect.low and effect.high <= high:
        return "confirmed"
    return "refuted" if effect.high < low or effect.low > high else "hypothesis"


def _prediction(case: Case, name: str, spec: TrialSpec, by_fingerprint: Mapping[str, TrialRecord]) -> Prediction | None:
    """What the claim predicts for this trial alone, where it predicts that."""
    claim = case.claim
    if claim.comparator == "within" or claim.threshold is None or name != "a":
        return None
    if claim.test == "threshold":
        return Prediction(metric=claim.metric, comparator=claim.comparator, threshold=claim.threshold)
    if claim.test != "pair":
        return None
    other = case.specs["b"].model_copy(update={"replicate": spec.replicate, "seed": spec.seed})
    reference = by_fingerprint.get(other.fingerprint())
    if reference is None:
        return None
    return Prediction(
        metric=claim.metric, comparator=claim.comparator, threshold=claim.threshold, reference=reference.id
    )


def _words(selector: str) -> str:
    return {
        "all": "any",
        "learned": "with learned attention scaling",
        "fixed": "with fixed attention scaling",
        "key_bias": "with a key bias",
        "no_key_bias": "without a key bias",
    }[selector]

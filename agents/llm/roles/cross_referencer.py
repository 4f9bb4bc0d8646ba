"""Cross-referencer: which differences seen on one model hold, or turn around, on another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from swarm.agents.analysis.analysts import contrast
from swarm.agents.analysis.claims import (
    NEGLIGIBLE,
    Claim,
    by_token,
    token,
)
from swarm.agents.analysis.results import config_key
from swarm.agents.generation.context import ProposalContext
from swarm.agents.llm.dialogue import Used
from swarm.agents.llm.roles.base import (
    MAX_REASON,
    Contribution,
    Role,
    Shape,
    author,
)
from swarm.agents.llm.roles.scout import comparable, pair, reason
from swarm.experiments.identity import fingerprint
from swarm.kernels.errors import SwarmError
from swarm.memory.records import Finding, Prediction, Proposal, TrialRecord

MOST = 5
CARRIED = 0.5
"""Share of a logarithmic effect that is predicted to carry over."""


class Question(Shape):
    """Trial `better_trial` beats trial `worse_trial`; `other_model` will show the same or the opposite."""

    better_trial: int
    worse_trial: int
    other_model: str
    expectation: Literal["same", "opposite"] = "same"
    because: str = Field(default="")


class Questions(Shape):
    """The answer of the cross-referencer."""

    questions: list[Question]


class CrossReferencer(Role[Questions]):
    """Turns an expectation into a judged finding where both sides are measured, else into the trials that decide it."""

    name = "cross_referencer"
    job = "carry differences from one model to another"
    answer = Questions

    def task(self, context: ProposalContext) -> Mapping[str, Any]:
        """What to look for."""
        return {"ask": MOST, "metric": "kld", "models": list(context.infos), "trials": comparable(context)}

    def use(self, answer: Questions, context: ProposalContext) -> Used[Contribution]:
        """Findings that the data bears out, and trials for what is not measured yet."""
        findings: dict[str, Finding] = {}
        proposals: dict[str, Proposal] = {}
        reasons = []
        for number, question in enumerate(answer.questions[: 2 * MOST]):
            try:
                found = self._answer(question, context)
                if isinstance(found, Finding):
                    findings.setdefault(found.key, found)
                else:
                    proposals.setdefault(fingerprint(found.spec), found)
            except SwarmError as error:
                reasons.append(f"question {number}: {error.problem}")
        if not answer.questions:
            reasons.append("the list of questions is empty")
        kept = Contribution(tuple(proposals.values()), tuple(findings.values()))
        return Used(kept if findings or proposals else None, tuple(reasons))

    def _answer(self, question: Question, context: ProposalContext) -> Finding | Proposal:
        better, worse = pair(question.better_trial, question.worse_trial, context)
        model = question.other_model
        if model not in context.infos:
            raise SwarmError(f"model {model[:80]!r} is not part of this campaign.")
        if model == better.spec.model:
            raise SwarmError("the other model is the same model.")
        missing = [r for r in (worse, better) if (model, config_key(r.spec)) not in context.cells]
        if missing:
            return self._proposal(question, missing, worse, better, context)
        return self._finding(question, better, worse, context)

    def _proposal(
        self,
        question: Question,
        missing: list[TrialRecord],
        worse: TrialRecord,
        better: TrialRecord,
        context: ProposalContext,
    ) -> Proposal:
        """The missing half on the other model, the worse one first: the prediction refers to it."""
        model = question.other_model
        spec = context.trial(missing[0].spec.kv, model) if missing[0].spec.layers is None else None
        if spec is None:
            raise SwarmError(f"{model} cannot run this configuration.")
        if not context.is_new(spec):
            raise SwarmError("its trial on the other model is under way.")
        prediction = None
        if missing == [better]:
            anchor = context.cells[model, config_key(worse.spec)].records[0].id
            factor = better.metrics["kld"].value / max(worse.metrics["kld"].value, 1e-9)
            if 0 < factor < 1 and question.expectation == "same":
                prediction = Prediction(metric="kld", comparator="<=", threshold=factor**CARRIED, reference=anchor)
            elif question.expectation == "opposite":
                prediction = Prediction(metric="kld", comparator=">=", threshold=1.0, reference=anchor)
        return Proposal(
            spec=spec, proposer=author(self.name), rationale=question.because[:MAX_REASON], prediction=prediction
        )

    def _finding(
        self, question: Question, better: TrialRecord, worse: TrialRecord, context: ProposalContext
    ) -> Finding:
        cells = by_token(context.cells)
        here, there = token(better.spec.model), token(question.other_model)
        keys = [config_key(r.spec) for r in (better, worse)]
        claim = Claim("contrast", "kld", (keys[0], keys[1]), (here, there))
        estimate = claim.estimate(cells)
        if estimate is None:
            raise SwarmError("the trials share no text windows.")
        if question.expectation == "same":
            raise SwarmError("both models are measured: the analysts judge what carries over.")
        if estimate.interval()[1] >= 0 or estimate.mean > -NEGLIGIBLE:
            raise SwarmError("the data does not bear it out: the models do not differ beyond the noise.")
        finding = contrast.state(claim, estimate, better.spec.model, question.other_model, context.cells)
        text = finding.statement + reason(question.because, context)
        return finding.model_copy(update={"statement": text, "author": author(self.name)})

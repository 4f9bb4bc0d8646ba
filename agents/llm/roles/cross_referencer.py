"""Cross-referencer: which differences seen on one model hold, or turn around, on another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel

from swarm.agents.analysis.analysts import contrast
from swarm.agents.analysis.claims import NEGLIGIBLE, Claim, by_token, token
from swarm.agents.analysis.results import config_key
from swarm.agents.generation.context import CARRIED, ProposalContext
from swarm.agents.llm import choices
from swarm.agents.llm.dialogue import Used
from swarm.agents.llm.roles.base import (
    CAUSES,
    MAX_REASON_CHARS,
    Comparable,
    Contribution,
    Role,
    Shape,
    WrongError,
    collect,
    comparable,
    pair,
    reason,
    rows,
)
from swarm.kernels.errors import SwarmError
from swarm.memory.records import Finding, Prediction, Proposal, TrialRecord

MAX_QUESTIONS = 5
EXPECTATIONS = ("same", "opposite")


class Question(Shape):
    """Trial `better_trial` beats trial `worse_trial`; `other_model` will show the same or the opposite."""

    better_trial: int
    worse_trial: int
    other_model: str
    expectation: Literal["same", "opposite"] = "same"
    cause: str = ""
    because: str = ""


class Questions(Shape):
    """The answer of the cross-referencer."""

    questions: list[Question]


class CrossReferencerRole(Role[Questions]):
    """Turns an expectation into a judged finding where both sides are measured, else into the trials that decide it."""

    name = "cross_referencer"
    reads = ("captures", "models", "findings", "reviews", "importances", "best", "credit")
    item_tokens = 110
    answer = Questions

    def task(self, context: ProposalContext) -> Mapping[str, Any]:
        """What to look for."""
        models = list(context.infos)
        return {"ask": MAX_QUESTIONS, "metric": "kld", "models": models, "trials": rows(context, _carried(context))}

    def choices(self, context: ProposalContext, most: int) -> type[BaseModel] | None:
        """Two trials of one model, another model, what is expected there, a cause, and words."""
        cause = choices.listed("Cause", CAUSES)
        found = [
            choices.shape(
                "Question",
                **trials,
                other_model=choices.one_of(name for name in context.infos if name != model),
                expectation=choices.one_of(EXPECTATIONS),
                cause=cause,
                because=choices.Words,
            )
            for model, trials in choices.pairs(_carried(context))
        ]
        return choices.comparisons("Questions", "questions", found, min(most, MAX_QUESTIONS))

    def use(self, answer: Questions, context: ProposalContext) -> Used[Contribution]:
        """Findings that the data bears out, and trials for what is not measured yet."""
        return collect(answer.questions, 2 * MAX_QUESTIONS, "question", lambda asked: self._answer(asked, context))

    def _answer(self, question: Question, context: ProposalContext) -> Finding | Proposal:
        better, worse = pair(question.better_trial, question.worse_trial, context)
        model = question.other_model
        if model not in context.infos:
            raise SwarmError(f"model {model[:80]!r} is not part of this campaign.")
        if model == better.spec.model:
            raise WrongError("the other model is the same model.")
        missing = [r for r in (worse, better) if (model, config_key(r.spec)) not in context.results]
        if not missing:
            return self._finding(question, better, worse, context)
        # The worse one first: the prediction refers to it.
        spec = context.trial(missing[0].spec.kv, model) if missing[0].spec.layers is None else None
        if spec is None:
            raise WrongError(f"{model} cannot run this configuration.")
        if not context.is_new(spec):
            raise WrongError("its trial on the other model is under way.")
        prediction = None
        if missing == [better]:
            anchor = context.results[model, config_key(worse.spec)].records[0].id
            factor = better.metrics["kld"].value / max(worse.metrics["kld"].value, 1e-9)
            if 0 < factor < 1 and question.expectation == "same":
                limit = factor**CARRIED
                prediction = Prediction(metric="kld", comparator="<=", threshold=limit, reference=anchor)
            elif question.expectation == "opposite":
                prediction = Prediction(metric="kld", comparator=">=", threshold=1.0, reference=anchor)
        why = question.because[:MAX_REASON_CHARS]
        return Proposal(spec=spec, proposer=self.author, rationale=why, prediction=prediction)

    def _finding(
        self, question: Question, better: TrialRecord, worse: TrialRecord, context: ProposalContext
    ) -> Finding:
        here, there = better.spec.model, question.other_model
        keys = (config_key(better.spec), config_key(worse.spec))
        claim = Claim("contrast", "kld", keys, (token(here), token(there)))
        estimate = claim.estimate(by_token(context.results))
        if estimate is None:
            raise WrongError("the trials share no text windows.")
        if question.expectation == "same":
            raise WrongError("both models are measured: the analysts judge what carries over.")
        if estimate.interval()[1] >= 0 or estimate.mean > -NEGLIGIBLE:
            raise WrongError("the data does not bear it out: the models do not differ beyond the noise.")
        finding = contrast.state(claim, estimate, here, there, context.results)
        text = finding.statement + reason(question.because, question.cause, context)
        return finding.model_copy(update={"statement": text, "author": self.author})


def _carried(context: ProposalContext) -> Comparable:
    """The latest comparable trials whose configuration some other model can run."""

    def elsewhere(record: TrialRecord) -> bool:
        others = (name for name in context.infos if name != record.spec.model)
        return record.spec.layers is None and any(context.trial(record.spec.kv, name) is not None for name in others)

    return comparable(context, elsewhere)

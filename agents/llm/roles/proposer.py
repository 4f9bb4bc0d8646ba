"""Proposer: configurations worth a trial, each with a rationale and a prediction that is registered before it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError

from swarm.agents.generation.context import ProposalContext
from swarm.agents.llm.dialogue import Used
from swarm.agents.llm.roles.base import MAX_REASON_CHARS, Contribution, Role, Shape, collect
from swarm.experiments.spec import TrialSpec
from swarm.kernels.errors import SwarmError
from swarm.kernels.spec import KVSpec
from swarm.memory.records import Prediction, Proposal

MAX_IDEAS = 6


class EndsIdea(Shape):
    """Other bits for so many layers at both ends; 16 means 16 bit, None as elsewhere."""

    first: int = Field(default=0, ge=0)
    last: int = Field(default=0, ge=0)
    key_bits: int | None = None
    value_bits: int | None = None


class Guess(Shape):
    """What the trial will show: the metric, or its ratio to a reference trial's."""

    metric: str = "kld"
    comparator: Literal["<=", ">="] = "<="
    threshold: float
    reference_trial: int | None = None


class Idea(Shape):
    """One configuration, as `KVSpec.parse` reads it."""

    model: str
    kv: str
    ends: EndsIdea | None = None
    rationale: str = ""
    prediction: Guess | None = None


class Ideas(Shape):
    """The answer of the proposer."""

    proposals: list[Idea]


class ProposerRole(Role[Ideas]):
    """Configurations with reasons; what is unlawful, outside the space or already tried is refused with its reason."""

    name = "proposer"
    urgency = 1
    answer = Ideas

    def task(self, context: ProposalContext) -> Mapping[str, Any]:
        """How many, for which models, and what counts as good."""
        settings = context.settings
        return {
            "propose": MAX_IDEAS,
            "models": list(context.infos),
            "goal": "lower kld at equal bits/value, or fewer bits/value at equal kld",
            "at_most": {"kld": settings.max_kld, "bits_per_value": settings.max_bits},
            "sink_tokens": list(context.space.settings.sink_tokens),
            "residual_window": list(context.space.settings.residual_window),
        }

    def use(self, answer: Ideas, context: ProposalContext) -> Used[Contribution]:
        """The lawful new ideas."""

        def proposal(idea: Idea) -> Proposal:
            spec = specification(idea, context)
            if not context.is_new(spec):
                raise SwarmError("this experiment has been proposed before.")
            return Proposal(
                spec=spec,
                proposer=self.author,
                rationale=idea.rationale[:MAX_REASON_CHARS],
                prediction=registered(idea.prediction, spec, context),
            )

        return collect(answer.proposals, 2 * MAX_IDEAS, "proposal", proposal)


def specification(idea: Idea, context: ProposalContext) -> TrialSpec:
    """The trial of an idea.

    Raises:
        SwarmError: an unknown model, or a configuration that is unlawful or outside the space.
    """
    if idea.model not in context.templates:
        raise SwarmError(f"model {idea.model[:80]!r} is not part of this campaign.")
    kv, n = KVSpec.parse(idea.kv), context.infos[idea.model].n_layers
    if kv.layers is not None and kv.layers[-1] >= n:
        raise SwarmError(f"layer {kv.layers[-1]} is not one of {idea.model}, which has 0 to {n - 1}.")
    spec = context.templates[idea.model].model_copy(update={"kv": kv.on(None) if kv.layers == tuple(range(n)) else kv})
    if idea.ends is not None:
        spec = context.space.with_edge_layers(spec, **idea.ends.model_dump())
    context.space.params(spec)
    return spec


def registered(guess: Guess | None, spec: TrialSpec, context: ProposalContext) -> Prediction | None:
    """The prediction as it is registered; one that could never be scored is left out."""
    if guess is None or not guess.threshold > 0:
        return None
    reference = None
    if guess.reference_trial is not None:
        known = next((r for r in context.history.completed if r.id == guess.reference_trial), None)
        if known is None or known.spec.model != spec.model or guess.metric not in known.metrics:
            return None
        reference = known.id
    try:
        return Prediction(
            metric=guess.metric, comparator=guess.comparator, threshold=guess.threshold, reference=reference
        )
    except ValidationError:
        return None

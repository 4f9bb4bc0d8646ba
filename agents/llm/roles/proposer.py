"""Proposer: configurations worth a trial, each with a rationale and a prediction that is registered before it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from swarm.agents.generation.context import ProposalContext, derive
from swarm.agents.llm import choices
from swarm.agents.llm.dialogue import Used
from swarm.agents.llm.roles.base import MAX_REASON_CHARS, Contribution, Role, Shape, WrongError, collect
from swarm.agents.llm.screening import dominated
from swarm.agents.samplers.local import LocalSampler
from swarm.agents.writing.references import shown
from swarm.experiments.identity import fingerprint
from swarm.experiments.space.layers import all_widths, most_protected
from swarm.experiments.spec import TrialSpec
from swarm.kernels.errors import SwarmError
from swarm.kernels.spec import KVSpec, ranges
from swarm.memory.records import Prediction, Proposal

MAX_IDEAS = 6
MAX_UNTRIED = 3
"""New configurations of a model that are told: a local model reads them anew at every question."""

UNTRIED_DRAWS = 12
"""Draws that they are found in."""

THRESHOLDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0)
"""What a prediction may be about where the answer is held to a schema: numbers can be endless."""


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
    reads = (
        "best",
        "models",
        "methods",
        "reviews",
        "findings",
        "densities",
        "importances",
        "trials",
        "credit",
    )
    item_tokens = 110
    seeks_front = True
    urgency = 1
    answer = Ideas

    def task(self, context: ProposalContext) -> Mapping[str, Any]:
        """How many, for which models, and what counts as good."""
        settings = context.settings
        return {
            "propose": MAX_IDEAS,
            "at_most": {"kld": settings.max_kld, "bits_per_value": settings.max_bits},
            "sink_tokens": list(context.space.settings.sink_tokens),
            "residual_window": list(context.space.settings.residual_window),
            "untried": {model: untried(context, model) for model in context.infos},
        }

    def choices(self, context: ProposalContext, most: int) -> type[BaseModel] | None:
        """Configurations of the space, each with a prediction about trials that were shown."""
        found = []
        for model, info in context.infos.items():
            most_ends = most_protected(len(context.space.edge_layers(info).layers))
            count = choices.one_of(range(most_ends + 1))
            bits = choices.one_of(all_widths())
            ends = choices.shape("Ends", first=count, last=count, key_bits=bits, value_bits=bits)
            may_differ = [ends, None] if most_ends else [None]
            known = [result.records[0].id for result in context.front(model)]
            guess = choices.shape(
                "Guess",
                comparator=choices.one_of(["<=", ">="]),
                threshold=choices.one_of(THRESHOLDS),
                reference_trial=choices.one_of([None, *known]),
            )
            fields = {"kv": choices.configuration(context.space, model), "ends": choices.either(may_differ)}
            fields |= {"rationale": choices.Words, "prediction": guess}
            found.append(choices.shape("Idea", model=choices.one_of([model]), **fields))
        return choices.shape("Ideas", proposals=choices.list_of(choices.either(found), min(most, MAX_IDEAS)))

    def use(self, answer: Ideas, context: ProposalContext) -> Used[Contribution]:
        """The lawful new ideas."""

        def proposal(idea: Idea) -> Proposal:
            spec = specification(idea, context)
            if not context.is_new(spec):
                raise WrongError(_known(spec, context))
            return Proposal(
                spec=spec,
                proposer=self.author,
                rationale=idea.rationale[:MAX_REASON_CHARS],
                prediction=registered(idea.prediction, spec, context),
            )

        return collect(answer.proposals, 2 * MAX_IDEAS, "proposal", proposal)


def untried(context: ProposalContext, model: str) -> list[str]:
    """A few new configurations, each one choice away from one of a model's best, that are not surely dominated.

    None needs layers or `ends`.
    """
    mine = replace(context, model=model, seed=derive(context.seed, "untried", model))
    found = (LocalSampler().propose(mine) for _ in range(UNTRIED_DRAWS))
    specs = [one.spec for one in found if one and one.spec.kv.layers is None and not one.spec.kv.overrides]
    hopeful = [spec for spec, why in zip(specs, dominated(specs, context), strict=True) if not why]
    return list(dict.fromkeys(spec.kv.label for spec in hopeful))[:MAX_UNTRIED]


def _known(spec: TrialSpec, context: ProposalContext) -> str:
    """What has become of an experiment that was proposed before."""
    known = next((r for r in context.history.completed if r.fingerprint == fingerprint(spec)), None)
    if known is None or "kld" not in known.metrics:
        return f"[{spec.kv.short_label}] on {spec.model} has been proposed before."
    kld = shown(known.metrics["kld"].value)
    return f"[{spec.kv.short_label}] on {spec.model} has been proposed before: trial {known.id}, kld {kld}."


def specification(idea: Idea, context: ProposalContext) -> TrialSpec:
    """The trial of an idea.

    Raises:
        SwarmError: an unknown model, or a configuration that is unlawful or outside the space.
    """
    if idea.model not in context.templates:
        raise SwarmError(f"model {idea.model[:80]!r} is not part of this campaign.")
    kv, kept = KVSpec.parse(idea.kv), context.infos[idea.model].kv_layers
    if unknown := sorted(set(kv.layers or ()) - set(kept)):
        raise SwarmError(f"layer {unknown[0]} is not one of {idea.model}, which has {ranges(kept)}.")
    spec = context.templates[idea.model].model_copy(update={"kv": kv.on(None) if kv.layers == kept else kv})
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

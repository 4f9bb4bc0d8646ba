"""Proposals are screened before they cost a trial: what a model of all results is certain of need not be measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from swarm.agents.generation.context import ProposalContext
from swarm.agents.samplers.gaussian_process import Known
from swarm.agents.writing.references import shown
from swarm.experiments.spec import TrialSpec

CERTAINTY = 3.0
"""Standard deviations between what a configuration is predicted to do and what a measured one does."""


def dominated(specs: Sequence[TrialSpec], context: ProposalContext) -> list[str]:
    """Why each configuration cannot reach the front, in a line; empty while it may, or while too little is known.

    It is dominated with certainty when a measured one costs no more bits and has a lower KLD than it is predicted to
    have, by so many standard deviations.
    """
    models = {spec.model for spec in specs if spec.protocol == "quality" and not spec.rung}
    known = {model: Known.of(replace(context, model=model)) for model in models}
    return [_reason(spec, known.get(spec.model)) for spec in specs]


def _reason(spec: TrialSpec, known: Known | None) -> str:
    if known is None or spec.protocol != "quality" or spec.rung:
        return ""
    mean, deviation, bits = (float(values[0]) for values in known.predict([spec.kv]))
    best = mean - CERTAINTY * deviation
    better = [(level, cost) for level, cost in known.points if cost <= bits and level < best]
    if not better:
        return ""
    level, cost = min(better)
    return (
        f"[{spec.kv.short_label}] is surely dominated: {shown(cost)} bits/value reach kld {shown(10**level)}, "
        f"and it is expected to have {shown(10**mean)} at {shown(bits)}."
    )

"""Proposals are screened before they cost a trial: what a model of all results is certain of need not be measured."""

from __future__ import annotations

from dataclasses import replace

from swarm.agents.generation.context import ProposalContext
from swarm.agents.samplers.gaussian_process import Known
from swarm.agents.writing.references import shown
from swarm.experiments.spec import TrialSpec

CERTAINTY = 3.0
"""Standard deviations between what a configuration is predicted to do and what a measured one does."""


def dominated(spec: TrialSpec, context: ProposalContext) -> str:
    """Why a configuration cannot reach the front, in one line; empty while it may, or while too little is known.

    It is dominated with certainty when a measured one costs no more bits and has a lower KLD than it is predicted to
    have, by so many standard deviations.
    """
    known = Known.of(replace(context, model=spec.model))
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

"""Proposes a configuration of the Pareto front with one parameter changed.

Two ends: it searches locally, and every such pair is a controlled comparison that analysts can read an effect from.
"""

from __future__ import annotations

import numpy as np

from swarm.agents.analysis import pareto
from swarm.agents.analysis.results import ConfigResult
from swarm.agents.generation.context import ProposalContext
from swarm.agents.samplers.base import Proposer
from swarm.experiments.spec import TrialSpec
from swarm.memory.records import Proposal

ATTEMPTS = 24
SWAP = ("swap",)


class Neighbour(Proposer):
    """One factor at a time around what is not dominated."""

    name = "neighbour"
    summary = "one parameter changed in a configuration of the Pareto front"

    def propose(self, model: str, context: ProposalContext) -> Proposal | None:
        """A new one-parameter neighbour of a random member of the front; None without one."""
        front = frontier(model, context)
        if not front:
            return None
        for _ in range(ATTEMPTS):
            start = front[int(context.rng.integers(len(front)))].records[0]
            other = context.space.random(context.rng, context.infos[model], "quality")
            found = crossed(start.spec, other, context)
            if found is not None:
                spec, changed = found
                return Proposal(
                    spec=spec, proposer=self.name, rationale=f"{changed} changed in trial {start.id}, all else equal."
                )
        return None


def frontier(model: str, context: ProposalContext) -> list[ConfigResult]:
    """The feasible whole-cache configurations of a model that nothing dominates beyond the noise."""
    settings = context.settings
    cells = [
        cell
        for (name, _), cell in context.cells.items()
        if name == model
        and cell.spec.rung == 0
        and cell.bits is not None
        and cell.bits <= settings.max_bits
        and cell.level <= np.log(settings.max_kld)
    ]
    return [cell for cell, rank in zip(cells, pareto.ranks(cells), strict=True) if rank == 0]


def crossed(start: TrialSpec, other: TrialSpec, context: ProposalContext) -> tuple[TrialSpec, str] | None:
    """`start` with one field of its cache taken from `other`: the new specification and the field's name."""
    fields: list[tuple[str, ...]] = [
        *(("key", name) for name in type(start.kv.key).model_fields),
        *(("value", name) for name in type(start.kv.value).model_fields),
        *((name,) for name in type(start.kv).model_fields if name not in ("key", "value")),
        SWAP,
    ]
    path = fields[int(context.rng.integers(len(fields)))]
    data, source = start.model_dump(), other.model_dump()
    if path == SWAP:
        data["kv"]["key"], data["kv"]["value"] = data["kv"]["value"], data["kv"]["key"]
        spec = checked(data, context)
        return (spec, "keys and values swapped:") if spec is not None else None
    here, there = data["kv"], source["kv"]
    for part in path[:-1]:
        here, there = here[part], there[part]
    if here[path[-1]] == there[path[-1]]:
        return None
    here[path[-1]] = there[path[-1]]
    spec = checked(data, context)
    return (spec, " ".join(path)) if spec is not None else None


def checked(data: dict[str, object], context: ProposalContext) -> TrialSpec | None:
    """The specification, if it is lawful, in the space of its model and new."""
    from pydantic import ValidationError

    from swarm.kernels.errors import SwarmError

    try:
        spec = TrialSpec.model_validate(data)
    except (ValidationError, SwarmError):
        return None
    return spec if context.expresses(spec) and context.is_new(spec) else None

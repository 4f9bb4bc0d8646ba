"""Proposes a configuration of the Pareto front with one parameter changed.

It searches locally, and every such pair is a controlled comparison that analysts can read an effect from.
"""

from __future__ import annotations

from swarm.agents.generation.context import ProposalContext
from swarm.agents.samplers.base import Sampler
from swarm.experiments.spec import TrialSpec
from swarm.memory.records import Proposal

ATTEMPTS = 24
SWAP = ("swap",)


class LocalSampler(Sampler):
    """One factor at a time around what is not dominated."""

    name = "neighbour"

    def propose(self, context: ProposalContext) -> Proposal | None:
        """A new one-parameter neighbour of a random member of the front; None without one."""
        front = context.front(context.model)
        for _ in range(ATTEMPTS if front else 0):
            start = front[int(context.rng.integers(len(front)))].records[0]
            other = context.space.random(context.rng, context.info, "quality")
            found = crossed(start.spec, other, context)
            if found is not None:
                spec, changed = found
                why = f"{changed} changed in trial {start.id}, all else equal."
                return Proposal(spec=spec, proposer=self.name, rationale=why)
        return None


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
        changed = "keys and values swapped:"
    else:
        here, there = data["kv"], source["kv"]
        for part in path[:-1]:
            here, there = here[part], there[part]
        if here[path[-1]] == there[path[-1]]:
            return None
        here[path[-1]] = there[path[-1]]
        changed = " ".join(path)
    spec = context.validated(data)
    return (spec, changed) if spec is not None else None

"""Proposes a configuration of the Pareto front with one parameter changed.

It searches locally, and every such pair is a controlled comparison that analysts can read an effect from.
"""

from __future__ import annotations

from swarm.agents.generation.context import ProposalContext
from swarm.agents.samplers.base import Sampler
from swarm.experiments.spec import TrialSpec
from swarm.memory.records import Proposal

ATTEMPTS = 24
"""Changes that are tried for one proposal."""


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
    data, source = start.model_dump(), other.kv.model_dump()
    kv = data["kv"]
    fields = [(kv[side], source[side], name, f"{side} {name}") for side in ("key", "value") for name in kv[side]]
    fields += [(kv, source, name, name) for name in kv if name not in ("key", "value")]
    place = int(context.rng.integers(len(fields) + 1))
    if place == len(fields):
        kv["key"], kv["value"] = kv["value"], kv["key"]
        changed = "keys and values swapped:"
    else:
        here, there, name, changed = fields[place]
        if here[name] == there[name]:
            return None
        here[name] = there[name]
    spec = context.validated(data)
    return (spec, changed) if spec is not None else None

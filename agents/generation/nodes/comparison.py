"""Comparisons of models by design, where the search on one of them stands still."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

from pydantic import ValidationError

from swarm.agents.generation.context import ProposalContext
from swarm.agents.generation.nodes.base import GenerationNode
from swarm.experiments.spec import TrialSpec
from swarm.kernels.errors import SwarmError
from swarm.kernels.spec import KVSpec, QuantSpec
from swarm.memory.records import Proposal, TrialRecord

MAX_CHANGES = 2
"""Choices of a configuration that are changed: every combination of them is measured on every model."""
REPLICATES = 2
"""Sets of text windows: the second confirms what the first shows."""
MAX_COMPARISONS = 3
"""Plateaus of a campaign that are followed up."""


class ComparisonNode(GenerationNode):
    """Asks of the configuration that is not beaten on one model whether its choices matter as much on the others.

    A factorial design around it: each of its choices as it is and changed at about the same cost, in every
    combination, on the model that stands still and on all others. The analysts read effects and differences from it.
    """

    name = "comparison"
    share = 0.12

    def propose(self, context: ProposalContext) -> Proposal | None:
        """The first missing trial of a comparison, on the context's model; None without a plateau."""
        begun: dict[str, TrialRecord] = {}
        for record in context.history.records:
            if record.proposer == self.name:
                begun.setdefault(record.rationale, record)
        for question, first in begun.items():
            cells, _ = _design(first.spec.kv, context)
            for replicate, kv in product(range(REPLICATES), cells):
                spec = self._trial(kv, replicate, context)
                if context.is_new(spec):
                    return Proposal(spec=spec, proposer=self.name, rationale=question, parents=first.parents)
        known = [first.spec.kv for first in begun.values()]
        return self._begin(known, context) if len(known) < MAX_COMPARISONS else None

    def _begin(self, known: Sequence[KVSpec], context: ProposalContext) -> Proposal | None:
        """A comparison's first trial, which has the configuration that stands: later trials are found from it."""
        for plateau in context.findings():
            if plateau.kind != "plateau" or plateau.status == "refuted":
                continue
            best = next((r.spec.kv for r in context.history.records if r.id == plateau.evidence[0]), None)
            cells, words = ([], "") if best is None or best in known else _design(best, context)
            others = " and ".join(name for name in context.infos if name != plateau.models[0])
            question = f"{plateau.statement} Does it owe that to {words}, and does that matter as much on {others}?"
            for replicate in range(REPLICATES) if cells and others else ():
                spec = self._trial(cells[0], replicate, context)
                if context.is_new(spec):
                    parents = (context.ids[plateau.key],) if plateau.key in context.ids else ()
                    return Proposal(spec=spec, proposer=self.name, rationale=question[:1_000], parents=parents)
        return None

    @staticmethod
    def _trial(kv: KVSpec, replicate: int, context: ProposalContext) -> TrialSpec:
        plain = context.templates[context.model]
        return plain.model_copy(update={"kv": kv, "replicate": replicate, "seed": plain.seed + replicate})


def _design(best: KVSpec, context: ProposalContext) -> tuple[list[KVSpec], str]:
    """A configuration with every combination of its first changes that all models can run, and these in words."""
    if best.layers is not None or best.overrides:
        return [], ""
    cells: list[KVSpec] = [best]
    chosen: list[str] = []
    for words, change in CHANGES.items():
        changed = [_changed(kv, change) for kv in cells]
        apart = [kv for kv in changed if kv is not None and kv not in cells]
        if len(apart) == len(cells) and all(context.trial(kv, name) for kv in apart for name in context.infos):
            cells, chosen = [*cells, *apart], [*chosen, words]
        if len(chosen) == MAX_CHANGES:
            break
    runs = bool(chosen) and all(context.trial(best, name) for name in context.infos)
    return (cells, " and ".join(chosen)) if runs else ([], "")


def _changed(kv: KVSpec, change: Callable[[KVSpec], Mapping[str, Any] | None]) -> KVSpec | None:
    """A configuration with one choice changed; None where it has not this choice."""
    try:
        fields = change(kv)
        return None if fields is None else kv.model_copy(update=dict(fields))
    except (ValidationError, SwarmError):
        return None


def _with(quant: QuantSpec, **fields: Any) -> QuantSpec:
    return QuantSpec.model_validate({**quant.model_dump(), **fields})


def _other_axis(kv: KVSpec) -> Mapping[str, Any]:
    return {"key": _with(kv.key, axis="token" if kv.key.axis == "channel" else "channel")}


def _turned_keys(kv: KVSpec) -> Mapping[str, Any]:
    return {"key": _with(kv.key, rotation="none" if kv.key.rotation != "none" else "hadamard")}


def _turned_values(kv: KVSpec) -> Mapping[str, Any]:
    return {"value": _with(kv.value, rotation="none" if kv.value.rotation != "none" else "hadamard")}


def _shifted_bits(kv: KVSpec) -> Mapping[str, Any] | None:
    """Bits of keys and values changed places; where they are the same, one goes from the values to the keys."""
    if kv.key.bits is None or kv.value.bits is None:
        return None
    same = kv.key.bits == kv.value.bits
    bits = (kv.key.bits + 1, kv.value.bits - 1) if same else (kv.value.bits, kv.key.bits)
    return {"key": _with(kv.key, bits=bits[0]), "value": _with(kv.value, bits=bits[1])}


def _other_sinks(kv: KVSpec) -> Mapping[str, Any]:
    return {"sink_tokens": 0 if kv.sink_tokens else 4}


CHANGES: Mapping[str, Callable[[KVSpec], Mapping[str, Any] | None]] = {
    "keys per channel or per token": _other_axis,
    "plain or rotated keys": _turned_keys,
    "bits of keys and values": _shifted_bits,
    "plain or rotated values": _turned_values,
    "first tokens in 16 bit": _other_sinks,
}
"""Choices at about the same cost, by what they are called; the first that a configuration has are changed."""

"""Comparisons of models by design, where the search on one of them stands still."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from swarm.agents.generation.context import ProposalContext
from swarm.agents.generation.nodes.base import GenerationNode
from swarm.kernels.errors import SwarmError
from swarm.kernels.spec import KVSpec, QuantSpec
from swarm.memory.records import Finding, Proposal

MAX_CHANGES = 2
"""Choices of a configuration that are changed: every combination of them is measured on every model."""
REPLICATES = 2
"""Sets of text windows: the second confirms what the first shows."""
MAX_PLATEAUS = 2
"""Plateaus per model that are followed up."""


class ComparisonNode(GenerationNode):
    """Asks of the configuration that is not beaten on one model whether its choices matter as much on the others.

    A factorial design around it: each of its choices as it is and changed at about the same cost, in every
    combination, on the model that stands still and on all others. The analysts read effects and differences from it.
    """

    name = "comparison"
    share = 0.12

    def propose(self, context: ProposalContext) -> Proposal | None:
        """The first missing trial of a plateau's comparison, on the context's model; None without a plateau."""
        for plateau in _plateaus(context):
            cells, words = _design(plateau, context)
            wanted = [name for name in context.infos if all(context.trial(kv, name) for kv in cells)]
            if len(wanted) < 2 or plateau.models[0] not in wanted or context.model not in wanted:
                continue
            question = f"{plateau.statement} Does it owe that to {words}, and does that matter as much on "
            question += f"{' and '.join(name for name in wanted if name != plateau.models[0])}?"
            # It begins with the configuration that stands, so that later trials know which it was.
            begun = _standing(plateau, context) is not None
            order = [(kv, n) for n in range(REPLICATES) for kv in cells] if begun else [(cells[0], n) for n in (0, 1)]
            for kv, replicate in order:
                spec = context.templates[context.model].model_copy(update={"kv": kv, "replicate": replicate})
                spec = spec.model_copy(update={"seed": spec.seed + replicate})
                if context.is_new(spec):
                    why = question[:1_000]
                    return Proposal(spec=spec, proposer=self.name, rationale=why, parents=(context.ids[plateau.key],))
        return None


def _standing(plateau: Finding, context: ProposalContext) -> KVSpec | None:
    """The configuration with which a plateau's comparison began; None before it did."""
    known = context.ids.get(plateau.key)
    begun = (r for r in context.history.records if r.proposer == ComparisonNode.name and known in r.parents)
    return next((record.spec.kv for record in begun), None)


def _plateaus(context: ProposalContext) -> Iterator[Finding]:
    """Plateaus that led to a comparison, also when they are over; then those that last, of the models in turns."""
    begun = {parent for r in context.history.records if r.proposer == ComparisonNode.name for parent in r.parents}
    known = {record.finding.key: record for record in context.history.findings if record.finding.kind == "plateau"}
    followed = [record.finding for record in known.values() if record.id in begun]
    yield from followed
    lasting = {f.key for f in context.findings() if f.kind == "plateau" and f.status != "refuted"}
    fresh = [known[key].finding for key in sorted(lasting & known.keys()) if known[key].id not in begun]
    for turn in range(MAX_PLATEAUS):
        for name in context.infos:
            of_model = [found for found in fresh if found.models[0] == name]
            if turn < len(of_model) and turn < MAX_PLATEAUS - sum(f.models[0] == name for f in followed):
                yield of_model[turn]


def _design(plateau: Finding, context: ProposalContext) -> tuple[list[KVSpec], str]:
    """The configuration that stands, with every combination of its first changes, and these in words."""
    found = (r.spec.kv for r in context.history.records if r.id == plateau.evidence[0])
    best = _standing(plateau, context) or next(found, None)
    if best is None or best.layers is not None or best.overrides:
        return [], ""
    kept = []
    for words, change in CHANGES.items():
        other = _changed(best, change)
        if other is not None and other != best and context.trial(other, plateau.models[0]) is not None:
            kept.append((words, change))
    cells: list[KVSpec | None] = [best]
    for _, change in kept[:MAX_CHANGES]:
        cells += [None if kv is None else _changed(kv, change) for kv in cells]
    whole = [kv for kv in cells if kv is not None]
    chosen = " and ".join(words for words, _ in kept[:MAX_CHANGES])
    return (whole, chosen) if len(whole) == len(cells) > 1 else ([], "")


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

"""Long contexts: what survived the full measurement is tried where low bits are said to do their damage."""

from __future__ import annotations

from swarm.agents.analysis import pareto, results
from swarm.agents.generation.context import ProposalContext
from swarm.agents.generation.nodes.base import GenerationNode
from swarm.experiments.protocols.base import protocol
from swarm.memory.records import Proposal

SHARE = 0.08
"""Of the agents' arm, when a campaign asks for long contexts."""
FINALISTS_BY = "kld"
"""What finalists are best in, of what a full measurement says (less is better): `kld`, `kld_p99` or `rms_dp`.

The study of docs/benchmarks/correlation.md, section "What finalists are chosen by", says how well each tells what is
lost in retrieval and generation, and when another takes the place of this one.
"""


def usable(name: str, tokens: int) -> int:
    """So many tokens, or as many as trials of a protocol can use."""
    return min(tokens, protocol(name).most_context or tokens)


class LongContextNode(GenerationNode):
    """The third rung: the curve over the context, retrieval or what else is asked for, for the finalists of the model.

    Finalists are the Pareto front of the configurations that were measured with a quantized prefill.
    """

    name = "long"

    def propose(self, context: ProposalContext) -> Proposal | None:
        """The first missing trial of a finalist, both ends of the front first; None without a context or a finalist."""
        if context.settings.long is None:
            return None
        tokens = min(context.settings.long, context.info.max_context)
        if tokens <= context.templates[context.model].context:
            return None
        pooled = results.pool(context.history.select(model=context.model, protocol="quality"), FINALISTS_BY)
        found = [
            result
            for result in pooled.values()
            if result.spec.rung and result.bits is not None and result.is_quantized and not result.spec.edits
        ]
        front = [result for result, rank in zip(found, pareto.ranks(found), strict=True) if rank == 0]
        front.sort(key=lambda result: result.bits or 0.0)
        for result in (*front[:1], *front[-1:], *front[1:-1]):
            for name in context.settings.protocols:
                trial = result.records[0]
                length = usable(name, tokens)
                changes = {"protocol": name, "rung": 0, "context": length, "replicate": 0}
                spec = trial.spec.model_copy(update=changes)
                if context.is_new(spec):
                    why = f"Finalist of {context.model} (trial {trial.id}) at {length} tokens."
                    return Proposal(spec=spec, proposer=self.name, rationale=why)
        return None

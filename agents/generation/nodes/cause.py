"""Trials that test causes: effects once more on the model without what may cause them."""

from __future__ import annotations

from collections.abc import Iterator

from swarm.agents.analysis import causes
from swarm.agents.analysis.claims import Claim, by_token, token
from swarm.agents.analysis.judge import weight
from swarm.agents.analysis.results import compare, config_key
from swarm.agents.generation.context import ProposalContext
from swarm.agents.generation.nodes.base import GenerationNode
from swarm.experiments.spec import TrialSpec
from swarm.kernels.spec import KVSpec, QuantSpec
from swarm.memory.records import Finding, Proposal

Pair = tuple[TrialSpec, TrialSpec]
"""The configuration that does better, and the other one."""

MAX_EFFECTS = 2
"""Effects per model and suspect that are tested: each costs four trials or more, replications included."""


class CauseNode(GenerationNode):
    """Edits a suspect out of the model and measures both configurations of a clear effect again.

    First the default 4-bit cache against the same with the suspect's side rotated, which is known to help against
    outliers; then the clearest effects that were found.
    """

    name = "cause"
    share = 0.08

    def propose(self, context: ProposalContext) -> Proposal | None:
        """The first missing trial of the first effect; None while captures show no suspect or there is no effect."""
        for suspect, size, shown in causes.seen(context.history, context.model):
            question = f"Are {suspect.words} ({size:.1f} times the median, trial {shown}) the cause?"
            pairs: list[tuple[Finding | None, Pair]] = [(None, pair) for pair in self._rotated(context, suspect)]
            pairs += [(f, pair) for f, pair in self._found(context) if causes.may_explain(suspect, *_kvs(pair))]
            for finding, pair in pairs[:MAX_EFFECTS]:
                for spec in (*pair, *(causes.edited(spec, suspect) for spec in pair)):
                    if context.is_new(spec):
                        statement = finding.statement if finding else f"Does rotation help [{pair[1].kv.short_label}]?"
                        known = finding is not None and finding.key in context.ids
                        return Proposal(
                            spec=spec,
                            proposer=self.name,
                            rationale=f"{question} {statement}"[:1_000],
                            parents=(context.ids[finding.key],) if finding and known else (),
                        )
        return None

    @staticmethod
    def _rotated(context: ProposalContext, suspect: causes.Suspect) -> Iterator[Pair]:
        """The default 4-bit cache with the side rotated, and as it is; not when rotation is known to change nothing."""
        kv = next(spec.kv for spec in context.space.defaults(context.info) if spec.kv != KVSpec())
        quant = kv.key if suspect.side == "key" else kv.value
        turned: dict[str, QuantSpec] = {suspect.side: quant.model_copy(update={"rotation": "hadamard"})}
        pair = [context.trial(one, context.model) for one in (kv.model_copy(update=turned), kv)]
        if pair[0] is None or pair[1] is None:
            return
        known = [context.results.get((context.model, config_key(spec))) for spec in pair if spec is not None]
        effect = compare(known[0], known[1]) if known[0] is not None and known[1] is not None else None
        if effect is None or effect.interval()[1] < 0:
            yield pair[0], pair[1]

    @staticmethod
    def _found(context: ProposalContext) -> Iterator[tuple[Finding, Pair]]:
        """Open or confirmed effects on the model with their two first trials, confirmed ones and the clearest first."""
        measured = by_token(context.results)
        found = [f for f in context.findings() if f.status != "refuted" and f.kind in ("sensitivity", "contrast")]
        for finding in sorted(found, key=lambda f: (f.status != "confirmed", -weight(f.effect), f.key)):
            claim = Claim.parse(finding.key)
            # Of a contrast the model that it leads with: there the advantage is.
            if claim is None or claim.models[0] != token(context.model):
                continue
            pair = [measured.get((claim.models[0], key)) for key in claim.configurations]
            if all(result is not None and not result.spec.rung and result.spec.layers is None for result in pair):
                first, second = (result.records[0].spec for result in pair if result is not None)
                yield finding, (first, second)


def _kvs(pair: Pair) -> tuple[KVSpec, KVSpec]:
    return pair[0].kv, pair[1].kv

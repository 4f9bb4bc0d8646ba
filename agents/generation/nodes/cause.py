"""Trials that test causes: errors, and effects, with what may cause them and without it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from swarm.agents.analysis import causes
from swarm.agents.analysis.causes import Suspicion
from swarm.agents.analysis.claims import NEGLIGIBLE, Claim, by_token, token
from swarm.agents.analysis.judge import MAX_REPLICATES, weight
from swarm.agents.analysis.pairs import costs_the_same
from swarm.agents.analysis.removals import EditedWeights
from swarm.agents.analysis.results import compare, config_key
from swarm.agents.analysis.statistics import ALPHA
from swarm.agents.generation.context import ProposalContext
from swarm.agents.generation.nodes.base import GenerationNode
from swarm.experiments.spec import TrialSpec
from swarm.kernels.spec import KVSpec, QuantSpec
from swarm.memory.records import Finding, Proposal

Pair = tuple[TrialSpec, TrialSpec]
"""The configuration that does better, and the other one."""

MAX_SUSPICIONS = 5
"""Suspicions per model that are tested: each costs two trials or more, replications included."""
TESTS = 10
"""So many tests are made together about: one is clear when it is so among them."""
MAX_EFFECTS = 2
"""Effects per suspect that are tested: each costs four trials or more."""


class CauseNode(GenerationNode):
    """Takes a suspect out of a model and measures again.

    First what captures show: the layers and sides where a model has more of a suspect than another one, then what it
    has in all layers, then layers that stand out among its own. Each is tested on one set of text windows, and on
    further ones when errors fall; where another model has less of it, there as well. Then whether suspects that do
    cause errors are why one configuration beats another.
    """

    name = "cause"
    share = 0.4

    def propose(self, context: ProposalContext) -> Proposal | None:
        """The first missing trial, on the context's model if there is one; None when nothing is left to be tested."""
        wanted = [(spec, why) for spec, why in self._wanted(context) if context.is_new(spec)]
        here = [(spec, why) for spec, why in wanted if spec.model == context.model]
        for spec, why in (here or wanted)[:1]:
            return Proposal(spec=spec, proposer=self.name, rationale=why[:1_000])
        return self._explanation(context)

    @staticmethod
    def _wanted(context: ProposalContext) -> Iterator[tuple[TrialSpec, str]]:
        """Trials that show suspects, then those that test them, in the order in which they matter."""
        for model, info in context.infos.items():
            look = context.templates[model].model_copy(update={"kv": _default(context), "protocol": "attention"})
            if info.shown_layers:
                yield look, "Shows what may cause errors in the attention of every layer."
        found = [
            (not suspicion.against, turn, suspicion)
            for model in context.infos
            for turn, suspicion in enumerate(causes.suspicions(context.history, context.infos, model)[:MAX_SUSPICIONS])
        ]
        for _, _, suspicion in sorted(found, key=lambda entry: entry[:2]):  # differences between models first
            yield from _tests(context, suspicion)

    def _explanation(self, context: ProposalContext) -> Proposal | None:
        """A trial of an effect on the model without a suspect; None while nothing is known to cause errors there."""
        for suspicion in causes.suspicions(context.history, context.infos, context.model):
            suspect, removal = suspicion.suspect, suspicion.suspect.removal
            if suspicion.layers is not None or not isinstance(removal, EditedWeights) or not _falls(context, suspicion):
                continue
            pairs: list[tuple[Finding | None, Pair]] = [(None, pair) for pair in self._rotated(context, suspicion)]
            pairs += [(f, pair) for f, pair in self._found(context) if causes.may_explain(suspect, *_kvs(pair))]
            for finding, pair in pairs[:MAX_EFFECTS]:
                for spec in (*pair, *(removal.without(spec) for spec in pair)):
                    if context.is_new(spec):
                        statement = finding.statement if finding else f"Does rotation help [{pair[1].kv.short_label}]?"
                        known = finding is not None and finding.key in context.ids
                        return Proposal(
                            spec=spec,
                            proposer=self.name,
                            rationale=f"Are {suspect.words} the cause? {statement}"[:1_000],
                            parents=(context.ids[finding.key],) if finding and known else (),
                        )
        return None

    @staticmethod
    def _rotated(context: ProposalContext, suspicion: Suspicion) -> Iterator[Pair]:
        """The default 4-bit cache with the side rotated, and as it is; not when rotation is known to change nothing."""
        kv, side = _default(context), suspicion.suspect.side
        if side is None:
            return
        turned: dict[str, QuantSpec] = {side: getattr(kv, side).model_copy(update={"rotation": "hadamard"})}
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


def _default(context: ProposalContext) -> KVSpec:
    """The default 4-bit cache of the context's model."""
    return next(spec.kv for spec in context.space.defaults(context.info) if spec.kv != KVSpec())


def _kvs(pair: Pair) -> tuple[KVSpec, KVSpec]:
    return pair[0].kv, pair[1].kv


def _tests(context: ProposalContext, suspicion: Suspicion) -> Iterator[tuple[TrialSpec, str]]:
    """Trials of a suspicion: on the first text windows, and on more of them until what they show is decided."""
    compared = [suspicion, *([replace(suspicion, model=suspicion.against)] if suspicion.against else [])]
    pairs = [causes.trials(one, context.templates[one.model], _default(context)) for one in compared]
    why = f"Do {suspicion.words} cause errors on {suspicion.model}? (Typically {suspicion.size:.2f}, "
    why += f"trial {suspicion.shown}{f', more than on {suspicion.against}' if suspicion.against else ''}.)"
    measured = context.history.measured
    keys = (config_key(pairs[0][0]), config_key(pairs[0][1]))
    models = tuple(token(one.model) for one in compared)
    claim = Claim("difference" if suspicion.against else "intervention", "kld", keys, models)
    for replicate in range(MAX_REPLICATES + 1):
        for spec in (spec for pair in pairs for spec in pair):
            yield spec.model_copy(update={"replicate": replicate, "seed": spec.seed + replicate}), why
        if claim.estimate(measured, [replicate]) is None:
            return  # the results are not known yet
        pooled, fresh = claim.estimate(measured), claim.estimate(measured, range(1, MAX_REPLICATES + 1))
        is_fair = costs_the_same(*(measured[models[0], key].bits for key in keys))
        is_new_text = fresh is not None and fresh.below(0.0) < ALPHA
        is_decided = is_new_text and pooled is not None and pooled.p < ALPHA / TESTS
        if not is_fair or pooled is None or pooled.mean > -NEGLIGIBLE or is_decided:
            return


def _falls(context: ProposalContext, suspicion: Suspicion) -> bool:
    """Whether errors are known to be smaller without the suspect."""
    pair = causes.trials(suspicion, context.templates[suspicion.model], _default(context))
    claim = Claim("intervention", "kld", (config_key(pair[0]), config_key(pair[1])), (token(suspicion.model),))
    effect = claim.estimate(context.history.measured)
    return effect is not None and causes.is_worth_it(effect)

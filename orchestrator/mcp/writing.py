"""What an agent outside may add: proposals, predictions and findings, under the rules that hold for the LLM's roles.

Everything is checked by the roles' own code against the store as it is now; nothing that an agent says is believed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from swarm.agents.llm.roles.base import MAX_REASON_CHARS
from swarm.agents.llm.roles.cross_referencer import CrossReferencerRole, Question, Questions
from swarm.agents.llm.roles.proposer import Guess, Idea, Ideas, ProposerRole
from swarm.agents.llm.roles.scout import Observation, Observations, ScoutRole
from swarm.kernels.errors import SwarmError, UsageError
from swarm.memory.records import Finding, Proposal
from swarm.memory.store import Store
from swarm.orchestrator.views.source import Source

if TYPE_CHECKING:
    from swarm.agents.generation.context import ProposalContext
    from swarm.agents.generation.strategy import GenerationStrategy
    from swarm.agents.llm.roles.base import Contribution

DEFAULT_SHARE = 0.1
"""Of a campaign's trials, that one agent may use unless it is told otherwise."""

Trial = Annotated[int, Field(ge=1, description="Id of a finished trial.")]
Configuration = Annotated[
    str,
    Field(
        max_length=1000,
        description="The cache in one line, as `configuration` of trials shows it: "
        "K affine4/g64 V kivi2/g32+hadamard sink4 recent32 layers 0-11.",
    ),
]
Why = Annotated[str, Field(max_length=MAX_REASON_CHARS, description="Why, in a sentence.")]


class Contributor:
    """One agent outside, by the name that it signs with: `mcp:NAME`. Its tools raise errors that say what to correct.

    Args:
        url: the store.
        campaign: name of the campaign; None for the latest one.
        name: who this is.
        trials: trials of the campaign that it may use; None for a tenth of the budget.
    """

    def __init__(self, url: str, campaign: str | None, name: str, trials: int | None = None) -> None:
        self._url = url
        self._campaign = campaign
        self._trials = trials
        self._strategies: dict[int, GenerationStrategy] = {}
        self.role = f"mcp:{name}"

    def propose(
        self,
        model: str,
        kv: Configuration,
        rationale: Why,
        prediction: Annotated[Guess | None, Field(description="What the trial will show.")] = None,
    ) -> dict[str, Any]:
        """Propose a configuration of the KV cache; it becomes a trial of the campaign. Uses one of your trials."""
        idea = Idea(model=model, kv=kv, rationale=rationale, prediction=prediction)
        return self._recorded(idea.model_dump_json(), lambda source: self._offer(source, idea))

    def predict(
        self,
        model: str,
        kv: Configuration,
        prediction: Guess,
        rationale: Why = "",
    ) -> dict[str, Any]:
        """Register a prediction before its trial runs; the trial is proposed with it. Uses one of your trials."""
        return self.propose(model, kv, rationale, prediction)

    def post_finding(
        self,
        better_trial: Trial,
        worse_trial: Trial,
        because: Why = "",
        other_model: Annotated[
            str | None, Field(description="State a contrast with this model, or have it measured there.")
        ] = None,
        expectation: Literal["same", "opposite"] = "same",
    ) -> dict[str, Any]:
        """State that one trial's configuration has a lower KLD than another's; kept if the measurements bear it out."""

        def state(source: Source) -> dict[str, Any]:
            context = self._context(source)
            if other_model is None:
                seen = Observation(better_trial=better_trial, worse_trial=worse_trial, because=because)
                used = ScoutRole().use(Observations(observations=[seen]), context)
            else:
                asked = Question(
                    better_trial=better_trial,
                    worse_trial=worse_trial,
                    because=because,
                    other_model=other_model,
                    expectation=expectation,
                )
                used = CrossReferencerRole().use(Questions(questions=[asked]), context)
            return self._kept(source, used.kept, used.reasons)

        return self._recorded(f"{better_trial} {worse_trial} {because} {other_model} {expectation}", state)

    def offers(self) -> list[dict[str, Any]]:
        """What you have proposed, and which trial each became."""
        with Store.open(self._url) as store:
            mine = store.external_proposals.list(store.campaigns.get(self._campaign).id)
        return [
            {
                "offer": offer.id,
                "model": offer.proposal.spec.model,
                "configuration": offer.proposal.spec.label,
                "state": "waiting" if offer.trial_id is None else f"trial {offer.trial_id}",
                "trial": offer.trial_id,
            }
            for offer in mine
            if offer.proposal.proposer == self.role
        ]

    def _offer(self, source: Source, idea: Idea) -> dict[str, Any]:
        used = ProposerRole().use(Ideas(proposals=[idea]), self._context(source))
        if used.kept is None:
            raise UsageError(_first(used.reasons), "Correct it; `views` and `trials` show what there is.")
        (proposal,) = used.kept.proposals
        if idea.prediction is not None and proposal.prediction is None:
            raise UsageError(
                "the prediction could never be scored.",
                "Give a positive threshold and, as reference, a finished trial of the same model with that metric.",
            )
        return self._leave(source, proposal)

    def _kept(self, source: Source, kept: Contribution | None, reasons: tuple[str, ...]) -> dict[str, Any]:
        if kept is None:
            raise UsageError(_first(reasons), "Only what the stored trials carry is kept.")
        for finding in kept.findings:
            return self._state(source, finding)
        return self._leave(source, kept.proposals[0])

    def _state(self, source: Source, finding: Finding) -> dict[str, Any]:
        known = next((r for r in source.findings if r.finding.key == finding.key), None)
        if known is not None:
            return {"finding": known.id, "known": True, **known.finding.model_dump(mode="json")}
        signed = finding.model_copy(update={"author": self.role, "status": "hypothesis"})
        stored = source.store.findings.upsert(source.campaign.id, signed)
        return {"finding": stored.id, "known": False, **signed.model_dump(mode="json")}

    def _leave(self, source: Source, proposal: Proposal) -> dict[str, Any]:
        store, campaign = source.store, source.campaign
        self._cap(source)
        signed = proposal.model_copy(update={"proposer": self.role, "arm": "agents"})
        spec = proposal.spec
        prediction = proposal.prediction.model_dump(mode="json") if proposal.prediction else None
        return {
            "offer": store.external_proposals.add(campaign.id, signed).id,
            "model": spec.model,
            "configuration": spec.label,
            "layers": spec.layers,
            "prediction": prediction,
            "next": "The campaign takes it up on the next turn of its agents; `offers` tells which trial it became.",
        }

    def _cap(self, source: Source) -> None:
        """Open this agent's account of trials; what it was told before stays, unless it is told something new."""
        store, campaign = source.store, source.campaign
        accounts = store.ledger.accounts(campaign.id)
        known = any(a.kind == "trials" and a.role == self.role and a.cap is not None for a in accounts)
        if self._trials is not None or not known:
            share = max(1, round(DEFAULT_SHARE * campaign.budget.trials))
            store.ledger.limit(campaign.id, "trials", self.role, share if self._trials is None else self._trials)

    def _recorded(self, given: str, act: Callable[[Source], dict[str, Any]]) -> dict[str, Any]:
        """Act, and keep a row of it whatever comes out."""
        what = {"role": self.role, "sha256": hashlib.sha256(given.encode()).hexdigest()}
        with Store.open(self._url) as store:
            source = Source(store, store.campaigns.get(self._campaign))
            try:
                done = act(source)
            except SwarmError as error:
                store.events.add(source.campaign.id, "mcp.refused", f"{self.role}: {error.problem}"[:1_000], what)
                raise
            store.events.add(source.campaign.id, "mcp.kept", self.role, what)
            return done

    def _context(self, source: Source) -> ProposalContext:
        """What lies before whoever proposes now, results of all finished trials included."""
        return self._strategy(source).context(source.total, source.history)

    def _strategy(self, source: Source) -> GenerationStrategy:
        """The campaign's agents as they were told what there is; no model has to be on this machine."""
        from swarm.orchestrator.launching import make_strategy
        from swarm.orchestrator.settings import restore
        from swarm.orchestrator.workload import Workload

        campaign = source.campaign
        told = campaign.settings
        if told.get("rehearsal") is not None or "identity" not in told:
            raise UsageError(f"campaign {campaign.name!r} has no agents.", "Name another --campaign.")
        if campaign.id not in self._strategies:
            workload = Workload.stored(source.store, campaign)
            self._strategies[campaign.id] = make_strategy(restore(told, self._url), workload)
        return self._strategies[campaign.id]


def _first(reasons: tuple[str, ...]) -> str:
    """The first reason without the place in a list that it came from."""
    text = reasons[0] if reasons else "nothing of it could be kept."
    head, _, rest = text.partition(": ")
    return rest if rest and head.split(" ")[0] in ("proposal", "observation", "question") else text

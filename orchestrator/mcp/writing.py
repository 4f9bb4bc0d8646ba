"""What an agent outside may add: proposals, predictions and findings, under the rules that hold for LLM minds.

Everything is checked by the roles' own code against the store as it is now; nothing that an agent says is believed.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from swarm.agents.llm.roles.cross_referencer import CrossReferencer, Question, Questions
from swarm.agents.llm.roles.proposer import (
    Guess,
    Idea,
    Ideas,
    Proposer,
)
from swarm.agents.llm.roles.scout import Observation, Observations, Scout
from swarm.kernels.errors import SwarmError, UsageError
from swarm.memory.records import Finding, Proposal

if TYPE_CHECKING:
    from swarm.agents.generation.context import Desk
    from swarm.agents.generation.strategy import Council
    from swarm.agents.llm.roles.base import Contribution
    from swarm.memory.records import CampaignRecord
    from swarm.memory.store import Store

SHARE = 0.1
"""Of a campaign's trials, that one agent may use unless it is told otherwise."""


class Contributor:
    """One agent outside, by the name that it signs with: `mcp:NAME`.

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
        self._councils: dict[int, Council] = {}
        self.role = f"mcp:{name}"

    def propose(self, idea: Idea) -> dict[str, Any]:
        """Leave a configuration for the campaign, with the prediction if there is one.

        Raises:
            SwarmError: the configuration is unlawful, outside the space or known; the prediction could never be
                scored; the agent's trials are used up; or the campaign is over.
        """
        with self._open() as store:
            campaign = store.campaigns.get(self._campaign)
            return self._recorded(store, campaign, idea.model_dump_json(), lambda: self._offer(store, campaign, idea))

    def predict(self, idea: Idea, guess: Guess) -> dict[str, Any]:
        """Register a prediction: the trial that decides it is proposed together with it, before it runs."""
        return self.propose(idea.model_copy(update={"prediction": guess}))

    def post_finding(
        self, better_trial: int, worse_trial: int, because: str, other_model: str | None, expectation: Any
    ) -> dict[str, Any]:
        """State that one trial's configuration beats another's; kept as a hypothesis when the data bears it out."""
        given = f"{better_trial} {worse_trial} {because} {other_model} {expectation}"
        with self._open() as store:
            campaign = store.campaigns.get(self._campaign)

            def state() -> dict[str, Any]:
                desk = self._desk(store, campaign)
                if other_model is None:
                    seen = Observation(better_trial=better_trial, worse_trial=worse_trial, because=because)
                    used = Scout().use(Observations(observations=[seen]), desk)
                else:
                    asked = Question(
                        better_trial=better_trial,
                        worse_trial=worse_trial,
                        because=because,
                        other_model=other_model,
                        expectation=expectation,
                    )
                    used = CrossReferencer().use(Questions(questions=[asked]), desk)
                return self._kept(store, campaign, used.kept, used.reasons)

            return self._recorded(store, campaign, given, state)

    def offers(self) -> list[dict[str, Any]]:
        """What this agent has proposed, with the trial that each became."""
        with self._open() as store:
            mine = store.offers.list(store.campaigns.get(self._campaign).id)
        return [
            {
                "offer": offer.id,
                "model": offer.proposal.spec.model,
                "configuration": offer.proposal.spec.kv.label,
                "state": "waiting" if offer.trial_id is None else f"trial {offer.trial_id}",
                "trial": offer.trial_id,
            }
            for offer in mine
            if offer.proposal.proposer == self.role
        ]

    def _offer(self, store: Store, campaign: CampaignRecord, idea: Idea) -> dict[str, Any]:
        used = Proposer().use(Ideas(proposals=[idea]), self._desk(store, campaign))
        if used.kept is None:
            raise UsageError(_first(used.reasons), "Correct it; `views` and `trials` show what there is.")
        (proposal,) = used.kept.proposals
        if idea.prediction is not None and proposal.prediction is None:
            raise UsageError(
                "the prediction could never be scored.",
                "Give a positive threshold and, as reference, a finished trial of the same model with that metric.",
            )
        return self._leave(store, campaign, proposal)

    def _kept(
        self, store: Store, campaign: CampaignRecord, kept: Contribution | None, reasons: tuple[str, ...]
    ) -> dict[str, Any]:
        if kept is None:
            raise UsageError(_first(reasons), "Only what the stored trials carry is kept.")
        for finding in kept.findings:
            return self._state(store, campaign, finding)
        return self._leave(store, campaign, kept.proposals[0])

    def _state(self, store: Store, campaign: CampaignRecord, finding: Finding) -> dict[str, Any]:
        known = next((r for r in store.findings.list(campaign.id) if r.finding.key == finding.key), None)
        if known is not None:
            return {"finding": known.id, "known": True, **known.finding.model_dump(mode="json")}
        signed = finding.model_copy(update={"author": self.role, "status": "hypothesis"})
        identity = store.findings.upsert(campaign.id, signed)
        return {"finding": identity, "known": False, **signed.model_dump(mode="json")}

    def _leave(self, store: Store, campaign: CampaignRecord, proposal: Proposal) -> dict[str, Any]:
        self._cap(store, campaign)
        offer = store.offers.add(campaign.id, proposal.model_copy(update={"proposer": self.role, "arm": "agents"}))
        spec = proposal.spec
        prediction = proposal.prediction.model_dump(mode="json") if proposal.prediction else None
        return {
            "offer": offer.id,
            "model": spec.model,
            "configuration": spec.kv.label,
            "layers": spec.layers,
            "prediction": prediction,
            "next": "The campaign takes it up on the next turn of its agents; `offers` tells which trial it became.",
        }

    def _cap(self, store: Store, campaign: CampaignRecord) -> None:
        """Open this agent's account of trials; what it was told before stays, unless it is told something new."""
        accounts = store.ledger.accounts(campaign.id)
        known = any(a.kind == "trials" and a.role == self.role and a.cap is not None for a in accounts)
        if self._trials is not None or not known:
            share = max(1, round(SHARE * campaign.budget.trials))
            store.ledger.limit(campaign.id, "trials", self.role, share if self._trials is None else self._trials)

    def _recorded(self, store: Store, campaign: CampaignRecord, given: str, act: Any) -> dict[str, Any]:
        """Act, and keep a row of it whatever comes out."""
        what = {"role": self.role, "sha256": hashlib.sha256(given.encode()).hexdigest()}
        try:
            done: dict[str, Any] = act()
        except SwarmError as error:
            store.events.add(campaign.id, "mcp.refused", f"{self.role}: {error.problem}"[:1_000], what)
            raise
        store.events.add(campaign.id, "mcp.kept", self.role, what)
        return done

    def _desk(self, store: Store, campaign: CampaignRecord) -> Desk:
        """What lies before whoever proposes now, results of all finished trials included."""
        from swarm.agents.history import History

        records = store.trials.list(campaign.id)
        findings, summaries = store.findings.list(campaign.id), store.summaries.list(campaign.id)
        history = History.before(campaign.budget.trials, records, 0, findings, summaries)
        return self._council(store, campaign).desk(len(records), history)

    def _council(self, store: Store, campaign: CampaignRecord) -> Council:
        """The campaign's agents as they were told what there is; no model has to be on this machine."""
        from swarm.agents.generation.strategy import Council
        from swarm.agents.settings import AgentSettings
        from swarm.experiments.models.base import ModelInfo
        from swarm.experiments.space.search_space import Space, SpaceSettings

        told = campaign.settings
        if told.get("rehearsal") is not None or "identity" not in told:
            raise UsageError(f"campaign {campaign.name!r} has no agents.", "Name another --campaign.")
        if campaign.id not in self._councils:
            known = {info["name"]: info for info in store.models.list()}
            infos = [ModelInfo.model_validate(known[name]) for name in told["models"]]
            identity = told["identity"]
            space = Space(
                infos,
                SpaceSettings(context=told["context"]),
                corpus_digest=identity["corpus"],
                device=identity["device"],
            )
            shared = {key: value for key, value in told.items() if key in AgentSettings.model_fields}
            self._councils[campaign.id] = Council(space, infos, AgentSettings.model_validate(shared), campaign.seed)
        return self._councils[campaign.id]

    def _open(self) -> Store:
        from swarm.memory.store import Store

        return Store.open(self._url)


def _first(reasons: tuple[str, ...]) -> str:
    """The first reason without the place in a list that it came from."""
    text = reasons[0] if reasons else "nothing of it could be kept."
    head, _, rest = text.partition(": ")
    return rest if rest and head.split(" ")[0] in ("proposal", "observation", "question") else text

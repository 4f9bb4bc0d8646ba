"""What the shared memory holds, as value types."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field, FiniteFloat

from swarm.experiments.spec import Environment, Metric, TrialSpec
from swarm.kernels.spec import FrozenModel

TrialState = Literal["waiting", "running", "complete", "failed", "pruned", "quarantined"]
Arm = Literal["agents", "control", "defaults"]
Comparator = Literal["<=", ">="]
FindingKind = Literal["plateau", "contrast", "transfer", "failure", "sensitivity", "cause"]
FindingStatus = Literal["hypothesis", "confirmed", "refuted"]
Verdict = Literal["open", "confirmed", "refuted", "inconclusive"]
CampaignState = Literal["running", "interrupted", "complete", "failed"]
ReviewState = Literal["pending", "accepted", "rejected"]

UNFINISHED: tuple[TrialState, ...] = ("waiting", "running")
MAX_TEXT = 4_000


class Prediction(FrozenModel):
    """A claim about a trial that has not run: `metric comparator threshold`.

    With `reference` (a trial id) the threshold is a factor on that trial's metric: "at most 0.8 of trial 12".
    """

    metric: str = Field(max_length=64)
    comparator: Comparator
    threshold: FiniteFloat
    reference: int | None = None


class Proposal(FrozenModel):
    """A trial that somebody wants, and why. `arm` is the pool it is counted in: `agents` or `control`."""

    spec: TrialSpec
    proposer: str = Field(max_length=64)
    arm: Arm = "agents"
    rationale: str = Field(default="", max_length=MAX_TEXT)
    prediction: Prediction | None = None
    parents: tuple[int, ...] = ()
    """Finding ids that led to this proposal."""


class TrialRecord(FrozenModel):
    """A trial as the store knows it: what was proposed, and what came out once it is finished.

    `number` counts the trials of the campaign from 0, in the order of proposal; `id` is unique in the store.
    `outcome` is empty while the trial runs, `ok` when it completed, else the kind of failure. `outdated` says that its
    protocol or a method yields other results by now: such a trial is shown, and no evidence for anything new.
    """

    id: int
    number: int = Field(ge=0)
    campaign_id: int
    fingerprint: str
    spec: TrialSpec
    arm: Arm
    proposer: str
    rationale: str = ""
    state: TrialState = "waiting"
    outcome: str = ""
    metrics: dict[str, Metric] = Field(default_factory=dict)
    arrays: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    prediction: Prediction | None = None
    verdict: Verdict | None = None
    parents: tuple[int, ...] = ()
    seconds: float = 0.0
    proposal_id: int | None = None
    message: str = ""
    notes: str = ""
    attempts: int = 0
    environment: Environment | None = None
    outdated: bool = False
    owner: str = ""
    created_at: datetime | None = None
    finished_at: datetime | None = None


class Lease(FrozenModel):
    """The right to write a trial's result, or (without a `trial_id`) to propose trial `number` of a campaign.

    It is good until `expires` (database clock) and while `token` is the newest.
    """

    trial_id: int = 0
    campaign_id: int
    number: int
    owner: str
    token: int
    ttl: float
    expires: float


class Effect(FrozenModel):
    """A measured effect with its confidence interval.

    In the unit `ratio` no effect is 1, in all others it is 0: the judge reads from it which side an effect lies on.
    """

    name: str
    value: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat
    unit: str = ""


class Finding(FrozenModel):
    """A typed claim with its evidence. `key` identifies the claim: the same key again updates the finding."""

    kind: FindingKind
    key: str = Field(max_length=200)
    statement: str = Field(max_length=MAX_TEXT)
    models: tuple[str, ...]
    effect: Effect | None = None
    evidence: tuple[int, ...]
    status: FindingStatus = "hypothesis"
    author: str = Field(max_length=64)


class FindingRecord(FrozenModel):
    """A finding as the store knows it."""

    id: int
    campaign_id: int
    finding: Finding
    revision: int = 1
    created_at: datetime | None = None
    updated_at: datetime | None = None


class Summary(FrozenModel):
    """Text for people. Every number in it is a reference such as `{trial:12:kld}` that is resolved when shown."""

    title: str = Field(max_length=200)
    text: str
    evidence: tuple[int, ...]
    author: str = Field(max_length=64)
    state: ReviewState = "pending"


class SummaryRecord(FrozenModel):
    """A summary as the store knows it, with the note of the person who reviewed it."""

    id: int
    campaign_id: int
    summary: Summary
    note: str = ""
    reviewer: str = ""
    created_at: datetime | None = None
    reviewed_at: datetime | None = None


class AgentCall(FrozenModel):
    """One call of an LLM: what it cost and whether its answer could be used."""

    role: str = Field(max_length=64)
    prompt_hash: str = Field(max_length=64)
    model: str = Field(max_length=200)
    tokens_in: int = Field(default=0, ge=0)
    tokens_out: int = Field(default=0, ge=0)
    usd: float = Field(default=0.0, ge=0)
    seconds: float = Field(default=0.0, ge=0)
    outcome: str = Field(max_length=64)
    message: str = Field(default="", max_length=MAX_TEXT)


class Budget(FrozenModel):
    """Limits of a campaign; None means no limit."""

    trials: int = Field(ge=1)
    seconds: float | None = Field(default=None, gt=0)
    tokens: int | None = Field(default=None, ge=0)
    usd: float | None = Field(default=None, ge=0)


class CampaignRecord(FrozenModel):
    """A campaign as the store knows it; `next_number` trials have been proposed so far."""

    id: int
    name: str
    settings: dict[str, Any]
    seed: int
    budget: Budget
    state: CampaignState
    next_number: int = 0
    created_at: datetime
    finished_at: datetime | None = None


class Reservation(FrozenModel):
    """A part of the budget that is set aside until it is settled or released."""

    id: int
    campaign_id: int
    kind: str
    role: str
    amount: float


class Account(FrozenModel):
    """What of a budget is used: `role` is empty for the whole campaign, `cap` None when there is no limit."""

    kind: str
    role: str
    cap: float | None
    reserved: float
    spent: float


class ProposalRecord(FrozenModel):
    """A stored proposal; without a `trial_id` it was not run, and `refused` says why."""

    id: int
    campaign_id: int
    trial_id: int | None
    number: int
    proposer: str
    arm: Arm
    rationale: str
    refused: str = ""
    parents: tuple[int, ...] = ()
    created_at: datetime


class Score(FrozenModel):
    """How a registered prediction came out: `observed` is what the threshold bounds, with its interval."""

    verdict: Verdict
    observed: float | None = None
    low: float | None = None
    high: float | None = None


class PredictionRecord(Score):
    """A registered prediction and how it was scored."""

    trial_id: int
    campaign_id: int
    proposer: str
    prediction: Prediction
    scored_by: str = ""


class ExternalProposal(FrozenModel):
    """A proposal from outside a campaign, as the store keeps it; with a `trial_id` the campaign has taken it up."""

    id: int
    campaign_id: int
    proposal: Proposal
    fingerprint: str
    trial_id: int | None = None


class Event(FrozenModel):
    """Something that happened: a lease taken over, a write refused, a crash, a change of a finding."""

    id: int
    campaign_id: int | None
    trial_id: int | None
    kind: str
    message: str
    data: dict[str, Any]
    created_at: datetime

"""What agents write into the shared memory, as value types. Knows no database."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, FiniteFloat

from swarm.experiments.spec import TrialSpec
from swarm.kernels.spec import FrozenModel

TrialState = Literal["waiting", "running", "complete", "failed", "pruned", "quarantined"]
Comparator = Literal["<=", ">="]
FindingKind = Literal["plateau", "contrast", "transfer", "failure", "sensitivity"]
FindingStatus = Literal["hypothesis", "confirmed", "refuted"]
Verdict = Literal["open", "confirmed", "refuted", "inconclusive"]
ReviewState = Literal["pending", "accepted", "rejected"]

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
    arm: Literal["agents", "control", "defaults"] = "agents"
    rationale: str = Field(default="", max_length=MAX_TEXT)
    prediction: Prediction | None = None
    parents: tuple[int, ...] = ()
    """Finding ids that led to this proposal."""


class Effect(FrozenModel):
    """A measured effect with its confidence interval."""

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


class Summary(FrozenModel):
    """Text for people. Every number in it is a reference such as `{trial:12:kld}` that is resolved when shown."""

    title: str = Field(max_length=200)
    text: str
    evidence: tuple[int, ...]
    author: str = Field(max_length=64)
    state: ReviewState = "pending"


class Budget(FrozenModel):
    """Limits of a campaign; None means no limit."""

    trials: int = Field(ge=1)
    seconds: float | None = Field(default=None, gt=0)
    tokens: int | None = Field(default=None, ge=0)
    usd: float | None = Field(default=None, ge=0)

"""Scout: which single differences matter on a model. Every observation is a comparison that the data must carry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field

from swarm.agents.analysis import results
from swarm.agents.analysis.claims import (
    NEGLIGIBLE,
    Claim,
    by_token,
    token,
)
from swarm.agents.analysis.results import config_key
from swarm.agents.generation.context import ProposalContext
from swarm.agents.llm.dialogue import Used
from swarm.agents.llm.roles.base import (
    MAX_REASON,
    Contribution,
    Role,
    Shape,
    author,
)
from swarm.agents.writing.checks import is_guess
from swarm.agents.writing.references import Resolver
from swarm.kernels.errors import SwarmError
from swarm.memory.records import Finding, TrialRecord

MOST = 5
MOST_IDS = 12


class Observation(Shape):
    """Trial `better_trial` beats trial `worse_trial` of the same model, and why."""

    better_trial: int
    worse_trial: int
    because: str = Field(default="")


class Observations(Shape):
    """The answer of the scout."""

    observations: list[Observation]


class Scout(Role[Observations]):
    """Comparisons within a model; invented trials and effects that the data does not show are refused."""

    name = "scout"
    job = "point at differences that matter, and say why"
    answer = Observations

    def task(self, context: ProposalContext) -> Mapping[str, Any]:
        """What to look for."""
        known = [f.statement for f in context.findings()][:MOST]
        return {"observe": MOST, "metric": "kld", "trials": comparable(context), "known": known}

    def use(self, answer: Observations, context: ProposalContext) -> Used[Contribution]:
        """The observations that the paired windows bear out."""
        kept: dict[str, Finding] = {}
        reasons = []
        for number, seen in enumerate(answer.observations[: 2 * MOST]):
            try:
                better, worse = pair(seen.better_trial, seen.worse_trial, context)
                finding = self._finding(better, worse, seen.because, context)
                kept.setdefault(finding.key, finding)
            except SwarmError as error:
                reasons.append(f"observation {number}: {error.problem}")
        if not answer.observations:
            reasons.append("the list of observations is empty")
        return Used(Contribution(findings=tuple(kept.values())) if kept else None, tuple(reasons))

    def _finding(self, better: TrialRecord, worse: TrialRecord, because: str, context: ProposalContext) -> Finding:
        keys = [config_key(r.spec) for r in (better, worse)]
        claim = Claim("pair", "kld", (keys[0], keys[1]), (token(better.spec.model),))
        cells = by_token(context.cells)
        estimate = claim.estimate(cells)
        if estimate is None:
            raise SwarmError("the two trials share no text windows.")
        if estimate.interval()[1] >= 0 or estimate.mean > -NEGLIGIBLE:
            raise SwarmError("the data does not bear it out: the interval of the ratio includes no effect.")
        labels = [cells[place].label for place in claim.needs]
        return Finding(
            kind="sensitivity",
            key=claim.key,
            statement=f"On {better.spec.model} [{labels[0]}] beats [{labels[1]}]." + reason(because, context),
            models=(better.spec.model,),
            effect=results.ratio("KLD ratio", estimate),
            evidence=tuple(i for place in claim.needs for i in cells[place].ids),
            author=author(self.name),
        )


def comparable(context: ProposalContext) -> dict[str, list[int]]:
    """Ids of the latest trials of each model that may be set against each other."""
    trials = {name: context.history.select(model=name, protocol="quality") for name in context.infos}
    return {name: [r.id for r in records if "kld" in r.metrics][-MOST_IDS:] for name, records in trials.items()}


def pair(better: int, worse: int, context: ProposalContext) -> tuple[TrialRecord, TrialRecord]:
    """Two finished quality trials of one model.

    Raises:
        SwarmError: an id that does not exist, has no such measurement, or another model.
    """
    found = list(_records((better, worse), context))
    if found[0].spec.model != found[1].spec.model:
        models = " and ".join(f"trial {r.id} is of {r.spec.model}" for r in found)
        raise SwarmError(f"the two trials are of different models: {models}.")
    configurations = [config_key(r.spec) for r in found]
    if configurations[0] == configurations[1]:
        raise SwarmError("the two trials have the same configuration.")
    return found[0], found[1]


def _records(ids: tuple[int, ...], context: ProposalContext) -> Iterator[TrialRecord]:
    known = {r.id: r for r in context.history.completed}
    for identity in ids:
        record = known.get(identity)
        if record is None:
            lists = (f"{', '.join(map(str, some))} of {model}" for model, some in comparable(context).items() if some)
            raise SwarmError(f"there is no finished trial {identity}; there are {'; '.join(lists) or 'none'}.")
        if record.spec.protocol != "quality" or "kld" not in record.metrics:
            raise SwarmError(f"trial {identity} is no quality trial.")
        yield record


def reason(because: str, context: ProposalContext) -> str:
    """A reason as it may stand in a finding: marked as a guess, and only when it asserts nothing."""
    text = " ".join(because.split())[:MAX_REASON]
    if not text or not is_guess(text, Resolver(context.history, context.settings)):
        return ""
    return f" Suggested reason: {text}"

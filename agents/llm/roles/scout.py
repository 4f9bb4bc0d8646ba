"""Scout: which single differences matter on a model. Every observation is a comparison that the data must carry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from swarm.agents.analysis import results
from swarm.agents.analysis.claims import NEGLIGIBLE, Claim, by_token, token
from swarm.agents.analysis.results import config_key
from swarm.agents.generation.context import ProposalContext
from swarm.agents.llm import choices
from swarm.agents.llm.dialogue import Used
from swarm.agents.llm.roles.base import (
    CAUSES,
    Contribution,
    Role,
    Shape,
    WrongError,
    collect,
    comparable,
    pair,
    reason,
    rows,
)
from swarm.memory.records import Finding

MAX_OBSERVATIONS = 5


class Observation(Shape):
    """Trial `better_trial` beats trial `worse_trial` of the same model; `cause` is one of `CAUSES`."""

    better_trial: int
    worse_trial: int
    cause: str = ""
    because: str = ""


class Observations(Shape):
    """The answer of the scout."""

    observations: list[Observation]


class ScoutRole(Role[Observations]):
    """Comparisons within a model; invented trials and effects that the data does not show are refused."""

    name = "scout"
    reads = ("captures", "findings", "reviews", "importances", "models", "densities", "best", "credit")
    item_tokens = 100
    answer = Observations

    def task(self, context: ProposalContext) -> Mapping[str, Any]:
        """What to look for."""
        return {"observe": MAX_OBSERVATIONS, "metric": "kld", "trials": rows(context, comparable(context))}

    def choices(self, context: ProposalContext, most: int) -> type[BaseModel] | None:
        """Two trials of one model, a cause, and words."""
        cause = choices.listed("Cause", CAUSES)
        found = [
            choices.shape("Observation", **trials, cause=cause, because=choices.Words)
            for _, trials in choices.pairs(comparable(context))
        ]
        return choices.comparisons("Observations", "observations", found, min(most, MAX_OBSERVATIONS))

    def use(self, answer: Observations, context: ProposalContext) -> Used[Contribution]:
        """The observations that the paired windows bear out."""

        def finding(seen: Observation) -> Finding:
            better, worse = pair(seen.better_trial, seen.worse_trial, context)
            model = better.spec.model
            claim = Claim("pair", "kld", (config_key(better.spec), config_key(worse.spec)), (token(model),))
            found = by_token(context.results)
            estimate = claim.estimate(found)
            if estimate is None:
                raise WrongError("the two trials share no text windows.")
            if estimate.interval()[1] >= 0 or estimate.mean > -NEGLIGIBLE:
                raise WrongError("the data does not bear it out: the interval of the ratio includes no effect.")
            labels = [found[place].label for place in claim.needs]
            text = f"On {model} [{labels[0]}] beats [{labels[1]}]." + reason(seen.because, seen.cause, context)
            return claim.finding(found, text, results.ratio("KLD ratio", estimate), self.author)

        return collect(answer.observations, 2 * MAX_OBSERVATIONS, "observation", finding)

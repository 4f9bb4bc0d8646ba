"""What every LLM role is: what is asked, in which shape, and what of the answer stands up to the data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import exp
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from swarm.agents.analysis.causes import SUSPECTS
from swarm.agents.analysis.claims import NEGLIGIBLE
from swarm.agents.analysis.pairs import costs_the_same
from swarm.agents.analysis.results import config_key
from swarm.agents.generation.context import ProposalContext
from swarm.agents.llm.dialect import Schema, strict_schema
from swarm.agents.llm.dialogue import Used
from swarm.agents.writing.checks import is_guess
from swarm.agents.writing.references import Resolver, shown
from swarm.experiments.identity import fingerprint
from swarm.kernels import plugins
from swarm.kernels.errors import SwarmError
from swarm.memory.records import Finding, Proposal, TrialRecord

PACKAGE = "swarm.agents.llm.roles"
MAX_REASON_CHARS = 600
MAX_IDS = 4
"""Trials of a model that a role is told it may compare: a local model reads them anew at every question."""

Comparable = Mapping[str, Mapping[int, Sequence[int]]]
"""Trials of each model, each with those that it beats at about the same cost: those that it may be set against."""


CAUSES = (
    *(suspect.name for suspect in SUSPECTS),
    "attention scale",
    "sliding windows",
    "head size",
    "shared key heads",
    "spread of norms",
    "position of the layers",
    "other",
)
"""What may be named as the cause of a difference: what captures show and trials can take out, and what else models
differ in."""


class Shape(BaseModel):
    """Base of all answers: what is not asked for is passed over."""

    model_config = ConfigDict(extra="ignore")


class WrongError(SwarmError):
    """A part of an answer that was understood and judged: the data are against it, or it adds nothing."""


Answer = TypeVar("Answer", bound=Shape)
Item = TypeVar("Item", bound=Shape)


@dataclass(frozen=True)
class Contribution:
    """What stood up to the data."""

    proposals: tuple[Proposal, ...] = ()
    findings: tuple[Finding, ...] = ()
    text: str = ""


class Role(ABC, Generic[Answer]):
    """One job of the swarm, done by an LLM. `name` is the module's and the prompt file's."""

    name: ClassVar[str]
    answer: type[Answer]
    reads: ClassVar[tuple[str, ...]]
    """Sections of the briefing that it is told, the most useful first."""
    item_tokens: ClassVar[int]
    """Tokens that one item of its answer takes, about."""
    seeks_front: ClassVar[bool] = False
    """Whether its proposals are meant for the front; others test what was expected."""
    urgency: ClassVar[int] = 0
    """Who is asked first of those that were asked equally often: the highest. A slow LLM gets to few of them."""

    @property
    def author(self) -> str:
        """How the role signs."""
        return f"llm:{self.name}"

    @abstractmethod
    def task(self, context: ProposalContext) -> Mapping[str, Any]:
        """What this role is asked now, as data."""

    def schema(self, context: ProposalContext, tokens: int) -> Schema | None:
        """The JSON schema of what may be answered now in so many tokens; None when there is nothing to ask about."""
        kind = self.choices(context, max(1, tokens // self.item_tokens))
        return None if kind is None else strict_schema(kind)

    @abstractmethod
    def choices(self, context: ProposalContext, most: int) -> type[BaseModel] | None:
        """The type of what may be answered now, with at most so many items; None when there is nothing to ask about."""

    @abstractmethod
    def use(self, answer: Answer, context: ProposalContext) -> Used[Contribution]:
        """Keep what the data carries; say why the rest is refused. The LLM never has the last word on a number."""


def roles() -> dict[str, Role[Any]]:
    """One of each role by name."""
    found = plugins.load_all(PACKAGE, Role)  # type: ignore[type-abstract]
    return {name: kind() for name, kind in found.items()}


def collect(items: Sequence[Item], limit: int, noun: str, accept: Callable[[Item], Finding | Proposal]) -> Used[Any]:
    """What becomes of the first `limit` items of an answer; each is called `noun` in the reasons.

    `accept` makes the finding or proposal of an item; a SwarmError or ValidationError says why there is none.
    """
    findings: dict[str, Finding] = {}
    proposals: dict[str, Proposal] = {}
    reasons, judged = [], False
    for number, item in enumerate(items[:limit]):
        try:
            found = accept(item)
            if isinstance(found, Finding):
                findings.setdefault(found.key, found)
            elif proposals.setdefault(fingerprint(found.spec), found) is not found:
                raise WrongError("it is in the list twice.")
            judged = True
        except SwarmError as error:
            judged |= isinstance(error, WrongError)
            reasons.append(f"{noun} {number}: {error.problem}")
        except ValidationError as error:
            reasons.append(f"{noun} {number}: {error.errors(include_url=False)[0]['msg']}")
    if not items:
        reasons.append(f"the list of {noun}s is empty")
    kept = Contribution(tuple(proposals.values()), tuple(findings.values()))
    return Used(kept if findings or proposals else None, tuple(reasons), judged)


def comparable(context: ProposalContext, fit: Callable[[TrialRecord], bool] = lambda _: True) -> Comparable:
    """The latest trials of each model, of those that are fit, that beat or are beaten by another at the same cost."""
    found = {}
    for name in context.infos:
        records = [r for r in context.history.select(model=name, protocol="quality") if is_measured(r) and fit(r)]
        latest: dict[int, TrialRecord] = {}
        for place, record in reversed(list(enumerate(records))):
            if len(latest) == MAX_IDS:
                break
            other = next((r for r in reversed(records[:place]) if beats(r, record) or beats(record, r)), None)
            if other is not None and len(latest | {record.id: record, other.id: other}) <= MAX_IDS:
                latest |= {record.id: record, other.id: other}
        found[name] = {
            identity: [i for i, other in latest.items() if beats(record, other)]
            for identity, record in sorted(latest.items())
        }
    return found


def is_measured(record: TrialRecord) -> bool:
    """Whether a trial has what a comparison needs."""
    return {"kld", "bits_per_value"} <= record.metrics.keys()


def beats(better: TrialRecord, worse: TrialRecord) -> bool:
    """Whether a trial has a lower KLD than another that costs about the same, by more than is negligible."""
    low, high = (record.metrics["kld"].value for record in (better, worse))
    return costs_the_same(_bits(better), _bits(worse)) and low * exp(NEGLIGIBLE) < high


def _bits(record: TrialRecord) -> float:
    return record.metrics["bits_per_value"].value


def rows(context: ProposalContext, trials: Comparable) -> dict[str, list[list[Any]]]:
    """Trials of each model as a role is shown them: id, configuration, bits per value, KLD."""
    known = {record.id: record for record in context.history.completed}

    def row(identity: int) -> list[Any]:
        record = known[identity]
        bits, kld = (float(shown(record.metrics[name].value)) for name in ("bits_per_value", "kld"))
        return [identity, record.spec.kv.short_label, bits, kld]

    return {model: [row(identity) for identity in some] for model, some in trials.items()}


def pair(better: int, worse: int, context: ProposalContext) -> tuple[TrialRecord, TrialRecord]:
    """Two finished quality trials of one model that cost about the same.

    Raises:
        SwarmError: an id that does not exist, has no such measurement, or another model.
        WrongError: the trials have one configuration, or do not cost the same.
    """
    first, second = _records((better, worse), context)
    if first.spec.model != second.spec.model:
        models = " and ".join(f"trial {r.id} is of {r.spec.model}" for r in (first, second))
        raise SwarmError(f"the two trials are of different models: {models}.")
    if config_key(first.spec) == config_key(second.spec):
        raise WrongError("the two trials have the same configuration.")
    if not costs_the_same(_bits(first), _bits(second)):
        bits = " and ".join(shown(_bits(r)) for r in (first, second))
        raise WrongError(f"the two trials do not cost the same: {bits} bits per value.")
    return first, second


def _records(ids: tuple[int, ...], context: ProposalContext) -> Iterator[TrialRecord]:
    known = {r.id: r for r in context.history.completed}
    for identity in ids:
        record = known.get(identity)
        if record is None:
            lists = (f"{', '.join(map(str, some))} of {model}" for model, some in comparable(context).items() if some)
            raise SwarmError(f"there is no finished trial {identity}; there are {'; '.join(lists) or 'none'}.")
        if record.spec.protocol != "quality" or not is_measured(record):
            raise SwarmError(f"trial {identity} is no quality trial.")
        yield record


def reason(because: str, cause: str, context: ProposalContext) -> str:
    """A reason as it may stand in a finding: marked as a guess, and only when it asserts nothing."""
    named = f" Suggested cause: {cause}." if cause in CAUSES[:-1] else ""
    text = " ".join(because.split())[:MAX_REASON_CHARS]
    if not text or not is_guess(text, Resolver(context.history, context.settings)):
        return named
    return f"{named} Suggested reason: {text}"

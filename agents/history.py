"""What agents see and what they are: the history, the settings, and the seam of all analysts.

Knows records and findings; knows no optimizer, no LLM and no database.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from swarm.agents.analysis import results
from swarm.agents.analysis.results import Cell
from swarm.kernels import plugins
from swarm.kernels.spec import FrozenModel
from swarm.memory.records import Finding, FindingRecord, SummaryRecord, TrialRecord

if TYPE_CHECKING:
    from swarm.experiments.models.base import ModelInfo

PACKAGE = "swarm.agents.analysis.analysts"
FINISHED = frozenset({"complete", "failed", "pruned", "quarantined"})


class AgentSettings(FrozenModel):
    """How a campaign's trials are shared out and what counts as a useful result.

    `control_share` of all trials after the defaults is the control arm; `shares` overrides the weights of the kinds
    of trial in the agents' arm (`agents.slots`, normalised). A configuration is feasible when its KLD is at most
    `max_kld` nats and its cost at most `max_bits` bits per value. `analyse_every` and `summarise_every` count trials
    between two looks of the analysts and between two summaries.
    """

    control_share: float = Field(default=0.2, ge=0, le=1)
    shares: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(default_factory=dict)
    max_kld: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    max_bits: float = Field(default=9.0, gt=0, le=16)
    analyse_every: int = Field(default=10, ge=1)
    summarise_every: int = Field(default=110, ge=1)


@dataclass(frozen=True)
class History:
    """What a proposal may know: all earlier trials in order, the late ones without their results.

    `records` are the trials 0 .. number-1 in order of number; those that the fixed lag hides (or that really run)
    have state `running` and no metrics, so that everybody knows the same, whichever worker finishes first.
    """

    records: tuple[TrialRecord, ...]
    lag: int = 0
    findings: tuple[FindingRecord, ...] = ()
    summaries: tuple[SummaryRecord, ...] = ()
    _cells: dict[tuple[str, str], dict[tuple[str, str], Cell]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def before(
        cls,
        number: int,
        records: Iterable[TrialRecord],
        lag: int,
        findings: Iterable[FindingRecord] = (),
        summaries: Iterable[SummaryRecord] = (),
    ) -> History:
        """What proposal `number` may know, with the results of its last `lag` predecessors hidden.

        Args:
            number: number of the proposal; later records are left out.
            records: trials of one campaign, in any order.
            lag: how many of the latest trials are taken as running; 0 hides nothing.
            findings: findings stored so far.
            summaries: summaries with their reviews.
        """
        known = sorted((r for r in records if r.number < number), key=lambda r: r.number)
        horizon = number - lag
        seen = (r if r.number < horizon and r.state in FINISHED else hide(r) for r in known)
        return cls(tuple(seen), lag, tuple(findings), tuple(summaries))

    def cells(self, metric: str = "kld", protocol: str = "quality") -> dict[tuple[str, str], Cell]:
        """Completed trials of a protocol pooled by model and key of their configuration; not to be changed."""
        if (metric, protocol) not in self._cells:
            self._cells[metric, protocol] = results.cells(self.completed, metric, protocol)
        return self._cells[metric, protocol]

    def at(self, number: int) -> History:
        """The history as it was before proposal `number`, under the same lag."""
        if not self.records or self.records[-1].number < number:
            return self  # all of it was known; what the lag hid stays hidden
        known = History.before(number, self.records, self.lag)
        return replace(self, records=known.records, _cells={})

    @cached_property
    def completed(self) -> tuple[TrialRecord, ...]:
        """Trials with a visible measurement, in order."""
        return tuple(r for r in self.records if r.state == "complete")

    @cached_property
    def failed(self) -> tuple[TrialRecord, ...]:
        """Trials that visibly ended without a measurement, in order."""
        return tuple(r for r in self.records if r.state == "failed")

    @cached_property
    def fingerprints(self) -> frozenset[str]:
        """Fingerprints of all earlier trials, running ones included."""
        return frozenset(r.fingerprint for r in self.records)

    def select(self, *, model: str | None = None, protocol: str | None = None) -> tuple[TrialRecord, ...]:
        """The completed trials of a model and a protocol; None means any."""
        return tuple(r for r in self.completed if model in (None, r.spec.model) and protocol in (None, r.spec.protocol))


def hide(record: TrialRecord) -> TrialRecord:
    """The record as it looked before its result came in."""
    blank: dict[str, object] = {
        "state": "running",
        "outcome": "",
        "metrics": {},
        "arrays": {},
        "verdict": None,
        "seconds": 0.0,
    }
    return record.model_copy(update=blank)


class Analyst(ABC):
    """Looks for one kind of pattern. One file in `agents/analysis/analysts` is one analyst, named like its file.

    A pure function of its arguments: the same history gives the same findings. An analyst states hypotheses; the
    referee alone confirms or refutes them.
    """

    name: ClassVar[str]
    summary: ClassVar[str]

    @abstractmethod
    def analyse(self, history: History, infos: Mapping[str, ModelInfo]) -> list[Finding]:
        """The patterns in the completed trials, each with an effect, its interval and its evidence.

        Args:
            history: what is known; trials without a result are to be left out.
            infos: facts about the models by name.
        """


def analysts() -> dict[str, type[Analyst]]:
    """Every analyst by name."""
    return plugins.load_all(PACKAGE, Analyst)  # type: ignore[type-abstract]

"""The seam of all tests: which trials a claim needs, and what effect they show."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from swarm.agents.analysis import results
from swarm.agents.analysis.results import ConfigResult, config_key
from swarm.agents.published_claims.schema import AgendaError, Claim, selected
from swarm.experiments.spec import TrialSpec
from swarm.kernels import plugins
from swarm.memory.records import Effect, FindingKind, TrialRecord

if TYPE_CHECKING:
    from swarm.experiments.models.base import ModelInfo

PACKAGE = "swarm.agents.published_claims.kinds"


@dataclass(frozen=True)
class Case:
    """One application of a claim: to a model, or to a pair of models. `specs` are named by their part in the test."""

    models: tuple[str, ...]
    specs: Mapping[str, TrialSpec]


class Kind(ABC):
    """One kind of test. One file in `agents/published_claims/kinds` is one test, named like its file."""

    name: ClassVar[str]
    summary: ClassVar[str]
    finding: ClassVar[FindingKind] = "sensitivity"
    needs: ClassVar[tuple[str, ...]] = ()
    """Fields of a claim that must be given."""

    def check(self, claim: Claim) -> None:
        """Refuse a claim that this test cannot decide.

        Raises:
            AgendaError: with the field that is missing.
        """
        for field in self.needs:
            if not getattr(claim, field):
                raise AgendaError(f"claim {claim.id}: the test {self.name} needs `{field}`.", "Add it.")

    def cases(self, claim: Claim, infos: Mapping[str, ModelInfo]) -> list[tuple[str, ...]]:
        """The models, or pairs of models, that the claim is applied to."""
        return [(model,) for model in selected(claim.on, infos)]

    @abstractmethod
    def specs(
        self, claim: Claim, models: Sequence[str], templates: Mapping[str, TrialSpec], infos: Mapping[str, ModelInfo]
    ) -> dict[str, TrialSpec]:
        """The trials of one case, without their replicates; references before what refers to them.

        Raises:
            SpecError: a model cannot run one.
        """

    def metric(self, claim: Claim) -> str:
        """The metric whose measurements `effect` is given."""
        return claim.metric

    @abstractmethod
    def effect(self, claim: Claim, cells: Mapping[str, ConfigResult]) -> Effect | None:
        """What the measurements of a case show, by the names of `specs`; None when it cannot be told."""


def kind(name: str) -> Kind:
    """The test of a name.

    Raises:
        UnknownNameError: with the list of known tests.
    """
    return plugins.load(PACKAGE, Kind, name)()  # type: ignore[type-abstract]


def gather(records: Sequence[TrialRecord], specs: Mapping[str, TrialSpec], metric: str) -> dict[str, ConfigResult]:
    """The measured cells of a case by name."""
    found = {}
    for name, spec in specs.items():
        wanted = (spec.model, config_key(spec))
        pooled = results.pool(records, metric, spec.protocol)
        if wanted in pooled:
            found[name] = pooled[wanted]
    return found

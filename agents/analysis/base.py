"""What every analyst is: something that reads patterns out of a history."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from functools import cache
from typing import ClassVar

from swarm.agents.analysis.claims import token
from swarm.agents.history import History
from swarm.experiments.models.base import ModelInfo
from swarm.kernels import plugins
from swarm.memory.records import Effect, Finding, FindingKind

PACKAGE = "swarm.agents.analysis.analysts"


class Analyst(ABC):
    """Looks for one kind of pattern. One file in `agents/analysis/analysts` is one analyst.

    A pure function of its arguments: the same history gives the same findings. An analyst states hypotheses; the
    judge alone confirms or refutes them. `name` signs the findings, and stores hold it.
    """

    name: ClassVar[str]

    @abstractmethod
    def analyse(self, history: History, infos: Mapping[str, ModelInfo]) -> list[Finding]:
        """The patterns in the completed trials, each with an effect, its interval and its evidence.

        Args:
            history: what is known; trials without a result are to be left out.
            infos: facts about the models by name.
        """

    def finding(
        self,
        kind: FindingKind,
        key: str,
        models: tuple[str, ...],
        statement: str,
        effect: Effect,
        evidence: Iterable[int],
    ) -> Finding:
        """A hypothesis as a finding of this analyst; `key` says what is claimed, the models are added to it."""
        return Finding(
            kind=kind,
            key=":".join((key, *map(token, models)))[:200],
            statement=statement,
            models=models,
            effect=effect,
            evidence=tuple(evidence),
            author=self.name,
        )


@cache
def analysts() -> dict[str, type[Analyst]]:
    """Every analyst by name, in the order in which they are asked."""
    return plugins.load_named(PACKAGE, Analyst)  # type: ignore[type-abstract]


def analyse(history: History, infos: Mapping[str, ModelInfo]) -> list[Finding]:
    """What all analysts find, one finding per key."""
    found = [finding for kind in analysts().values() for finding in kind().analyse(history, infos)]
    return list({finding.key: finding for finding in found}.values())

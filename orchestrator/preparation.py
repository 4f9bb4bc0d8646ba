"""What trials share on a node (16-bit runs, learned factors): what is there, and what is made before a trial comes."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from swarm.experiments.protocols import base as protocols
from swarm.experiments.spec import Failure, Measurement, TrialSpec


def needs(spec: TrialSpec) -> str:
    """Names what a trial shares with others on its node; empty when nothing."""
    return protocols.protocol(spec.protocol).needs(spec)


class Preparations:
    """What was made on which node, and the trials that will come."""

    def __init__(self) -> None:
        self._made: set[tuple[str, str]] = set()
        self._ahead: list[TrialSpec] = []

    def expect(self, specs: Sequence[TrialSpec]) -> None:
        """Trials like these will come."""
        self._ahead = list(specs)

    @property
    def expecting(self) -> bool:
        """Whether trials will come that something can be made for."""
        return bool(self._ahead)

    def missing(self, node: str, spec: TrialSpec) -> str:
        """What a node may lack of what a trial shares; empty when nothing."""
        name = needs(spec)
        return "" if (node, name) in self._made else name

    def made(self, node: str, name: str) -> None:
        """It is there now, or could not be made; then the trials say why."""
        self._made.add((node, name))

    def ahead(self, node: str, in_the_making: Collection[str]) -> TrialSpec | None:
        """A trial that will come, of which a node lacks something that nobody makes there."""
        missing = ((spec, self.missing(node, spec)) for spec in self._ahead)
        return next((spec for spec, name in missing if name and name not in in_the_making), None)

    def give_up(self, name: str) -> None:
        """Make this ahead of no trial any more: it ended the worker."""
        self._ahead = [spec for spec in self._ahead if needs(spec) != name]


def with_preparation(answer: Measurement | Failure, seconds: float) -> Measurement | Failure:
    """What came of a trial, with the seconds in which its worker made before what others share."""
    if not seconds:
        return answer
    if isinstance(answer, Failure):
        return answer.model_copy(update={"seconds": answer.seconds + seconds})
    taken = {part: answer.seconds.get(part, 0.0) + seconds for part in ("prepare", "total")}
    return answer.model_copy(update={"seconds": {**answer.seconds, **taken}})

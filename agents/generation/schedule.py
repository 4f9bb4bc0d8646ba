"""Which kind of trial each number is: a deterministic low-discrepancy plan. Knows nothing of results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from swarm.memory.records import Arm


@dataclass(frozen=True)
class Slot:
    """The plan for one trial: `index` counts the earlier slots of the same kind on the same model."""

    number: int
    arm: Arm
    kind: str
    model: str
    index: int


@dataclass
class Stride:
    """Shares turns out by weight, so that after any number of turns no count is off by one or more.

    Stride scheduling: the stream that is furthest behind its share is next; ties go to the first.
    """

    weights: Mapping[str, float]
    counts: dict[str, int] = field(default_factory=dict)
    turns: int = 0

    def next(self) -> str:
        """The stream whose turn it is."""
        total = sum(self.weights.values())
        self.turns += 1
        streams = [name for name, weight in self.weights.items() if weight > 0]
        chosen = max(streams, key=lambda name: self._behind(name, total))
        self.counts[chosen] = self.counts.get(chosen, 0) + 1
        return chosen

    def _behind(self, name: str, total: float) -> float:
        # Rounded, so that sums of shares that are equal on paper tie on every machine.
        return round(self.turns * self.weights[name] / total - self.counts.get(name, 0), 9)


class Schedule:
    """Assigns arm, kind and model to every trial number.

    First the default configurations, model by model in turns; then arms by share; in an arm the kinds by weight;
    in a kind the models in turns. A pure function of the number: `slot(n)` is the same in whichever order it is
    asked for.

    Args:
        defaults: how many default configurations each model has.
        kinds: weights of the kinds of trial, by arm.
        control_share: share of the control arm in the trials after the defaults.
    """

    def __init__(
        self, defaults: Mapping[str, int], kinds: Mapping[Arm, Mapping[str, float]], control_share: float
    ) -> None:
        self.models = tuple(defaults)
        self._defaults = [
            (model, index)
            for index in range(max(defaults.values(), default=0))
            for model, count in defaults.items()
            if index < count
        ]
        self._arms = Stride({"agents": 1 - control_share, "control": control_share})
        self._kinds = {arm: Stride(weights) for arm, weights in kinds.items()}
        self._turns: dict[str, int] = {}
        self._slots: list[Slot] = []

    def slot(self, number: int) -> Slot:
        """The plan for trial `number`."""
        while len(self._slots) <= number:
            self._slots.append(self._extend(len(self._slots)))
        return self._slots[number]

    def _extend(self, number: int) -> Slot:
        if number < len(self._defaults):
            model, index = self._defaults[number]
            return Slot(number, "defaults", "default", model, index)
        arm: Arm = "agents" if self._arms.next() == "agents" else "control"
        kind = self._kinds[arm].next()
        turn = self._turns.get(kind, 0)
        self._turns[kind] = turn + 1
        index, place = divmod(turn, len(self.models))
        return Slot(number, arm, kind, self.models[place], index)

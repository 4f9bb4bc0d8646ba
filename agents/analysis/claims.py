"""Testable claims and their keys: what a finding says, in a form that code can evaluate again on other data.

A key is readable and can be parsed back; configurations are named by the digits of `Configuration.key`, models by
their names (long ones by digits).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from math import log
from typing import Literal

from swarm.agents.analysis import results
from swarm.agents.analysis.results import Cells
from swarm.agents.analysis.statistics import Estimate
from swarm.memory.records import FindingKind

Relation = Literal["pair", "contrast", "transfer"]
KINDS: dict[Relation, FindingKind] = {"pair": "sensitivity", "contrast": "contrast", "transfer": "transfer"}

LONGEST_NAME = 48


def token(model: str) -> str:
    """A model's name as it stands in keys."""
    if len(model) <= LONGEST_NAME and ":" not in model:
        return model
    return hashlib.sha256(model.encode()).hexdigest()[:10]


@dataclass(frozen=True)
class Claim:
    """A comparison of configuration `better` with configuration `worse` by a metric.

    - pair: on `models[0]`, `better` has the lower metric.
    - transfer: that it does on `models[0]` holds on `models[1]` as well.
    - contrast: the ratio better / worse is lower on `models[0]` than on `models[1]`.

    `models` are tokens, configurations are keys.
    """

    relation: Relation
    metric: str
    better: str
    worse: str
    models: tuple[str, ...]

    @property
    def key(self) -> str:
        """The key of the finding."""
        return ":".join((self.relation, self.metric, self.better, self.worse, *self.models))

    @property
    def kind(self) -> FindingKind:
        """The kind of finding that states it."""
        return KINDS[self.relation]

    @classmethod
    def parse(cls, key: str) -> Claim | None:
        """The claim of a key; None when the key states something else."""
        relation, *rest = key.split(":")
        if relation not in KINDS or len(rest) != (4 if relation == "pair" else 5):
            return None
        metric, better, worse, *models = rest
        return cls(relation, metric, better, worse, tuple(models))

    @property
    def tested(self) -> tuple[str, ...]:
        """The models whose measurements decide."""
        return self.models[1:] if self.relation == "transfer" else self.models

    def needs(self) -> list[tuple[str, str]]:
        """The cells (model token, configuration key) that must be measured to decide it."""
        return [(model, key) for model in self.tested for key in (self.better, self.worse)]

    def estimate(self, cells: Cells, replicates: Iterable[int] | None = None) -> Estimate | None:
        """The effect on the logarithmic scale; negative when the claim is right. None while data is missing.

        Args:
            cells: measurements of the metric, keyed by model token and configuration key.
            replicates: text windows to use; None for all.
        """
        differences = []
        for model in self.tested:
            a, b = cells.get((model, self.better)), cells.get((model, self.worse))
            found = None if a is None or b is None else results.compare(a, b, replicates)
            if found is None:
                return None
            differences.append(found)
        return differences[0] - differences[1] if self.relation == "contrast" else differences[0]


def tokened(cells: Cells) -> Cells:
    """The same cells keyed by model token."""
    return {(token(model), key): cell for (model, key), cell in cells.items()}


NEGLIGIBLE = log(1.1)
"""Effects smaller than this ratio are not worth a claim."""

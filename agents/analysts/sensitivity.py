"""Sensitivities: what one change does to a model, from pairs of configurations that differ in nothing else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import TYPE_CHECKING

from swarm.agents import evidence, statistics
from swarm.agents.base import Analyst, History
from swarm.agents.claims import NEGLIGIBLE, Claim, token
from swarm.agents.evidence import Cell, Configuration
from swarm.agents.statistics import Estimate
from swarm.memory.records import Finding

if TYPE_CHECKING:
    from swarm.experiments.models.base import ModelInfo

SIDES = ("key", "value")
SIMILAR = 0.3
"""Bits per value within which a change counts as free; dearer changes are expected to help."""

MOST = 8
"""Findings per model, the clearest first."""


class Sensitivity(Analyst):
    """Paired tests of every controlled comparison of a model, at a family-wise error of 5% (Holm).

    Controlled are two configurations that differ in one field of keys or values or of the cache, or in that keys
    and values have changed places. Only changes that cost about the same bits are tested.
    """

    name = "sensitivity"
    summary = "effect of a single change, all else equal"

    def analyse(self, history: History, infos: Mapping[str, ModelInfo]) -> list[Finding]:
        """The clearest effects on every model."""
        pooled = evidence.cells(history.completed)
        found = []
        for model in infos:
            cells = [cell for (name, _), cell in pooled.items() if name == model and cell.configuration.layers is None]
            found += self._of_model(model, cells)
        return found

    def _of_model(self, model: str, cells: list[Cell]) -> list[Finding]:
        tested: list[tuple[str, Cell, Cell, Estimate]] = []
        for a, b, change in controlled(cells):
            estimate = evidence.compare(a, b)
            if estimate is not None:
                tested.append((change, a, b, estimate))
        kept = statistics.holm([entry[3].p for entry in tested])
        clear = [e for e, keep in zip(tested, kept, strict=True) if keep and abs(e[3].mean) > NEGLIGIBLE]
        clear.sort(key=lambda e: (e[3].p, -abs(e[3].mean)))
        best: dict[str, tuple[str, Cell, Cell, Estimate]] = {}
        for entry in clear:
            best.setdefault(entry[0], entry)
        return [self._finding(model, *entry) for entry in list(best.values())[:MOST]]

    def _finding(self, model: str, change: str, a: Cell, b: Cell, estimate: Estimate) -> Finding:
        if estimate.mean > 0:
            a, b = b, a
            estimate = Estimate(-estimate.mean, estimate.stderr, estimate.df, estimate.n)
        claim = Claim("pair", "kld", a.configuration.key, b.configuration.key, (token(model),))
        return Finding(
            kind="sensitivity",
            key=claim.key,
            statement=(
                f"On {model} [{a.configuration.label}] has a lower KLD than [{b.configuration.label}] "
                f"at about the same cost; they differ in: {change}."
            ),
            models=(model,),
            effect=evidence.ratio("KLD ratio", estimate),
            evidence=(*a.ids, *b.ids),
            author=self.name,
        )


def controlled(cells: list[Cell]) -> Iterator[tuple[Cell, Cell, str]]:
    """Pairs of similar cost that differ in one thing only, with its name."""
    groups: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        for name, rest in _without_one(cell.configuration):
            groups[name, rest].append(cell)
    for (name, _), members in groups.items():
        for a, b in combinations(members, 2):
            if a.bits is None or b.bits is None or abs(a.bits - b.bits) > SIMILAR:
                continue
            if name.startswith("method") and _methods(a, name) == _methods(b, name):
                continue
            yield a, b, name


def _methods(cell: Cell, name: str) -> str:
    kv = cell.configuration.kv
    return kv.key.method if name.endswith("keys") else kv.value.method


def _without_one(configuration: Configuration) -> Iterator[tuple[str, str]]:
    """Each field's name with the configuration as text without that field: equal texts differ in the field only."""
    data = configuration.model_dump(mode="json")
    kv = data["kv"]
    for side in SIDES:
        for name in kv[side]:
            yield f"{name} of the {side}s", repr({**data, "kv": {**kv, side: {**kv[side], name: None}}})
        yield f"method of the {side}s", repr({**data, "kv": {**kv, side: None}})
    for name in kv:
        if name not in SIDES:
            yield name.replace("_", " "), repr({**data, "kv": {**kv, name: None}})
    ends = sorted(repr(kv[side]) for side in SIDES)
    yield "what keys and what values get", repr({**data, "kv": {**kv, "key": ends, "value": None}})

"""Depth: how the error grows with the number of quantized layers, and which single layer is the most sensitive."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from math import log
from typing import TYPE_CHECKING

from swarm.agents.analysis import results, statistics
from swarm.agents.analysis.base import Analyst
from swarm.agents.analysis.claims import NEGLIGIBLE, token
from swarm.agents.analysis.results import Cell, Configuration
from swarm.agents.analysis.statistics import Estimate
from swarm.agents.history import History
from swarm.memory.records import Effect, Finding

if TYPE_CHECKING:
    from swarm.experiments.models.base import ModelInfo

LEAST = 3
"""Depths that a slope is fitted through, at least."""


class Depth(Analyst):
    """Reads the depth trials of each configuration; text windows are the independent samples."""

    name = "depth"
    summary = "growth of the error with depth, and the most sensitive layer"

    def analyse(self, history: History, infos: Mapping[str, ModelInfo]) -> list[Finding]:
        """Growth exponents, and layers that are worse than the others."""
        ladders: dict[tuple[str, str], list[Cell]] = defaultdict(list)
        for (model, _), cell in history.cells(protocol="depth").items():
            whole = cell.configuration.model_copy(update={"layers": None})
            ladders[model, whole.key].append(cell)
        findings: list[Finding] = []
        singles: list[tuple[str, Cell, Estimate, list[Cell]]] = []
        for (model, _), cells in ladders.items():
            if model in infos:
                findings += self._growth(model, cells, infos[model].n_layers)
                singles += [(model, *found) for found in _worst_layer(cells)]
        # Each was picked as the worst of several (Bonferroni), on each of several ladders (Holm).
        kept = statistics.holm([estimate.p * (len(others) + 1) for _, _, estimate, others in singles])
        findings += [self._sensitive(*entry) for entry, keep in zip(singles, kept, strict=True) if keep]
        return findings

    def _growth(self, model: str, cells: Sequence[Cell], n_layers: int) -> Iterator[Finding]:
        upto = {_depth(cell, n_layers): cell for cell in cells if _is_upto(cell)}
        if len(upto) < LEAST:
            return
        estimate = _slope(upto)
        if estimate is None:
            return
        low, high = estimate.interval()
        if low <= 0 <= high:
            return
        pattern = "faster than" if low > 1 else "slower than" if high < 1 else "about"
        example = next(iter(upto.values())).configuration.model_copy(update={"layers": None})
        direction = "grows" if low > 0 else "shrinks"
        yield Finding(
            kind="sensitivity",
            key=f"depth:kld:{example.key}:{token(model)}",
            statement=(
                f"On {model} the KLD of [{example.label}] {direction} with the number of quantized layers, "
                f"{pattern} in proportion to it."
            ),
            models=(model,),
            effect=Effect(name="exponent of depth", value=estimate.mean, low=low, high=high, unit="exponent"),
            evidence=tuple(i for _, cell in sorted(upto.items()) for i in cell.ids),
            author=self.name,
        )

    def _sensitive(self, model: str, worst: Cell, estimate: Estimate, others: Sequence[Cell]) -> Finding:
        configuration = worst.configuration
        layer = (configuration.layers or (0,))[0]
        return Finding(
            kind="sensitivity",
            key=f"layer:kld:{_ladder(configuration).key}:{token(model)}",
            statement=(
                f"On {model} layer {layer} alone costs [{_ladder(configuration).label}] more KLD than the other "
                f"{len(others)} layers that were measured alone."
            ),
            models=(model,),
            effect=results.ratio("layer / mean of the others", estimate),
            evidence=tuple(i for cell in (worst, *others) for i in cell.ids),
            author=self.name,
        )


def _ladder(configuration: Configuration) -> Configuration:
    return configuration.model_copy(update={"layers": None})


def _depth(cell: Cell, n_layers: int) -> int:
    layers = cell.configuration.layers
    return n_layers if layers is None else len(layers)


def _is_upto(cell: Cell) -> bool:
    layers = cell.configuration.layers
    return layers is None or layers[0] == 0


def _slope(upto: Mapping[int, Cell]) -> Estimate | None:
    """Exponent of depth: one slope per window, or one through the means where windows are too few."""
    depths = sorted(upto)
    samples = [upto[depth].samples() for depth in depths]
    shared = sorted(set.intersection(*(set(s) for s in samples)))
    x = [log(depth) for depth in depths]
    slopes = [statistics.slope(x, [s[window] for s in samples]) for window in shared]
    over_windows = statistics.mean([s.mean for s in slopes if s is not None])
    over_depths = statistics.slope(x, [upto[depth].level for depth in depths])
    if over_windows is None or over_depths is None:
        return over_depths
    # Both the text and the shape of the curve leave doubt: the larger one counts.
    return max(over_windows, over_depths, key=lambda e: e.interval()[1] - e.interval()[0])


def _worst_layer(cells: Sequence[Cell]) -> Iterator[tuple[Cell, Estimate, list[Cell]]]:
    alone = [cell for cell in cells if cell.configuration.layers is not None and len(cell.configuration.layers) == 1]
    if len(alone) < LEAST:
        return
    worst = max(alone, key=lambda cell: cell.level)
    others = [cell for cell in alone if cell is not worst]
    shared = sorted(set.intersection(*(set(cell.samples()) for cell in alone)))
    excess = [
        worst.samples()[window] - sum(cell.samples()[window] for cell in others) / len(others) for window in shared
    ]
    estimate = statistics.mean(excess)
    if estimate is not None and estimate.mean > NEGLIGIBLE:
        yield worst, estimate, others

"""Depth: how the error grows with the number of quantized layers, and which single layer is the most sensitive."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from math import log

from swarm.agents.analysis import results, statistics
from swarm.agents.analysis.base import Analyst
from swarm.agents.analysis.claims import NEGLIGIBLE
from swarm.agents.analysis.results import ConfigResult, config_key, config_label
from swarm.agents.analysis.statistics import Estimate
from swarm.agents.history import History
from swarm.experiments.models.base import ModelInfo
from swarm.experiments.spec import TrialSpec
from swarm.memory.records import Finding

MIN_DEPTHS = 3
"""Depths that a slope is fitted through, at least."""


class DepthAnalyst(Analyst):
    """Reads the depth trials of each configuration; text windows are the independent samples."""

    name = "depth"

    def analyse(self, history: History, infos: Mapping[str, ModelInfo]) -> list[Finding]:
        """Growth exponents, and layers that are worse than the others."""
        by_configuration: dict[tuple[str, str], list[ConfigResult]] = defaultdict(list)
        for (model, _), result in history.results(protocol="depth").items():
            by_configuration[model, config_key(_whole(result.spec))].append(result)
        findings: list[Finding] = []
        singles: list[tuple[str, ConfigResult, Estimate, list[ConfigResult]]] = []
        for (model, _), found in by_configuration.items():
            if model in infos:
                findings += self._growth(model, found, infos[model].kv_layers)
                singles += [(model, *entry) for entry in _worst_layer(found)]
        # Each was picked as the worst of several (Bonferroni), for each of several configurations (Holm).
        kept = statistics.holm([estimate.p * (len(others) + 1) for _, _, estimate, others in singles])
        return findings + [
            self._sensitive(infos[entry[0]], *entry[1:]) for entry, keep in zip(singles, kept, strict=True) if keep
        ]

    def _growth(self, model: str, found: Sequence[ConfigResult], kept: Sequence[int]) -> Iterator[Finding]:
        by_depth = {len(r.spec.layers or kept): r for r in found if (r.spec.layers or kept)[0] == kept[0]}
        estimate = _slope(by_depth) if len(by_depth) >= MIN_DEPTHS else None
        if estimate is None:
            return
        low, high = estimate.interval()
        if low <= 0 <= high:
            return
        pattern = "faster than" if low > 1 else "slower than" if high < 1 else "about"
        example = _whole(next(iter(by_depth.values())).spec)
        direction = "grows" if low > 0 else "shrinks"
        text = f"On {model} the KLD of [{config_label(example)}] {direction} with the number of quantized layers, "
        text += f"{pattern} in proportion to it."
        effect = results.effect("exponent of depth", estimate, "exponent")
        ids = (i for _, result in sorted(by_depth.items()) for i in result.ids)
        yield self.finding("sensitivity", f"depth:kld:{config_key(example)}", (model,), text, effect, ids)

    def _sensitive(
        self, info: ModelInfo, worst: ConfigResult, estimate: Estimate, others: Sequence[ConfigResult]
    ) -> Finding:
        whole = _whole(worst.spec)
        layer = info.layer_name((worst.spec.layers or (0,))[0])
        text = f"On {info.name} {layer} alone costs [{config_label(whole)}] more KLD than the other "
        text += f"{len(others)} layers that were measured alone."
        effect = results.ratio("layer / mean of the others", estimate)
        ids = (i for result in (worst, *others) for i in result.ids)
        return self.finding("sensitivity", f"layer:kld:{config_key(whole)}", (info.name,), text, effect, ids)


def _whole(spec: TrialSpec) -> TrialSpec:
    return spec.model_copy(update={"kv": spec.kv.on(None)})


def _slope(by_depth: Mapping[int, ConfigResult]) -> Estimate | None:
    """Exponent of depth: one slope per window, or one through the means where windows are too few."""
    depths = sorted(by_depth)
    curve = [(dict.fromkeys(y, log(depth)), y) for depth in depths for y in (by_depth[depth].samples(),)]
    over_windows = results.exponent(curve)
    over_depths = statistics.slope([log(depth) for depth in depths], [by_depth[depth].level for depth in depths])
    if over_windows is None or over_depths is None:
        return over_depths
    # Both the text and the shape of the curve leave doubt: the larger one counts.
    return max(over_windows, over_depths, key=lambda e: e.width)


def _worst_layer(found: Sequence[ConfigResult]) -> Iterator[tuple[ConfigResult, Estimate, list[ConfigResult]]]:
    alone = [result for result in found if len(result.spec.layers or ()) == 1]
    if len(alone) < MIN_DEPTHS:
        return
    worst = max(alone, key=lambda result: result.level)
    others = [result for result in alone if result is not worst]
    shared = sorted(set.intersection(*(set(result.samples()) for result in alone)))
    excess = [worst.samples()[w] - sum(result.samples()[w] for result in others) / len(others) for w in shared]
    estimate = statistics.mean(excess)
    if estimate is not None and estimate.mean > NEGLIGIBLE:
        yield worst, estimate, others

"""Recommendations for models that were not measured, replayed on the table of measured configurations (`_table`).

What a campaign would know is a random part of the table on the other models; what the choice really loses, and the best
choice there is, stand in the table of the model in question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import log
from statistics import fmean

import numpy as np
from benchmarks import _frame, _grid, _table
from benchmarks._recommendation_data import CAMPAIGN, Measured, Twin

from swarm.agents.analysis.comparable import AskedModel, ComparableResults
from swarm.agents.analysis.recommend import recommend
from swarm.agents.analysis.recommendation import CostLimits, NothingToRecommendError
from swarm.experiments.models import registry
from swarm.kernels.spec import KVSpec
from swarm.memory.records import TrialRecord

SITUATION = "not measured, replayed"
KNOWN = 80
"""Configurations that are known of each other model."""
SEEDS = 10
NOTHING = ("none", "none")


@dataclass(frozen=True)
class Question:
    """Which model is asked about, and which part of the others is known."""

    model: str
    seed: int


def questions(short: bool) -> list[Question]:
    """All questions; in the short form one."""
    return [Question(model, seed) for model in _grid.MODELS for seed in range(SEEDS)][: 1 if short else None]


@cache
def _losses() -> dict[str, dict[KVSpec, tuple[float, tuple[float, ...]]]]:
    """Bits per value and KLD per window of every quantized configuration of all layers that could be measured."""
    return {
        model: {
            kv: (row.metrics["bits_per_value"], row.windows)
            for kv, row in rows.items()
            if row.outcome == "ok" and kv.layers is None and (kv.key.method, kv.value.method) != NOTHING
        }
        for model, rows in _table.load().items()
    }


def _records(asked: Question) -> list[TrialRecord]:
    rng = np.random.default_rng([asked.seed, _grid.MODELS.index(asked.model)])
    found: list[TrialRecord] = []
    for model in _grid.MODELS:
        if model != asked.model:
            pool = list(_losses()[model].items())
            for place in rng.choice(len(pool), KNOWN, replace=False):
                kv, (bits, windows) = pool[int(place)]
                found.append(Measured(CAMPAIGN, asked.seed, len(found), Twin(model), kv, 0, bits, windows).record())
    return found


def rows(limits: Sequence[float], default: KVSpec, asked: Question) -> list[_frame.Results]:
    """One row of the record per limit."""
    infos = {model: registry.describe(model) for model in _grid.MODELS}
    info, losses = infos[asked.model], _losses()[asked.model]
    subject = AskedModel(info.name, info.layers, info.key_bias)
    known = ComparableResults(subject, _records(asked), {name: one.layers for name, one in infos.items()})
    found = []
    for limit in limits:
        try:
            answer = recommend(known, CostLimits(bits=limit), trials=0)
        except NothingToRecommendError:
            continue
        if answer.choice.kv not in losses:
            continue
        best = min(fmean(windows) for bits, windows in losses.values() if bits <= limit)
        windows = losses[answer.choice.kv][1]
        loss = answer.choice.loss
        row: _frame.Results = {
            "situation": SITUATION,
            "seed": asked.seed,
            "model": asked.model,
            "trials": KNOWN * (len(_grid.MODELS) - 1),
            "limit": limit,
            "choice": answer.choice.configuration,
            "loss": loss.value,
            "low": loss.low,
            "high": loss.high,
            "real": fmean(windows),
            "windows": len(windows),
            "regret": log(fmean(windows) / best),
        }
        inside = known.pool(known.bits, limit)
        seen = [r for r in known.results if r.spec.kv in inside and r.spec.kv in losses]
        observed = min(seen, key=lambda r: fmean(r.values), default=None)
        if observed is not None:
            row["observed_regret"] = log(fmean(losses[observed.spec.kv][1]) / best)
        if default in losses and losses[default][0] <= limit:
            row["default_regret"] = log(fmean(losses[default][1]) / best)
        found.append(row)
    return found

"""How much results of a model vary from one text window to another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log

import numpy as np

from swarm.agents.analysis.posterior import Spread
from swarm.agents.analysis.results import ConfigResult

FLOOR = log(1e-7)
"""Logarithm of a KLD below which no measurement can tell differences."""
SWEEPS = 30
"""Rounds of the least squares of configurations and windows."""
WINDOW_PRIOR = (0.15, 2.0)
"""Variance of what windows have in common that is assumed before anything is measured, and how many windows that is
worth."""
REST_PRIOR = (0.12, 2.0)
"""The same of what is left of single results."""
MOST_BORROWED_DF = 3.0
"""Of the windows of other models."""


def spreads(results: Sequence[ConfigResult], models: Mapping[str, int]) -> dict[str, Spread]:
    """Per model the variances over windows, each drawn towards those of the other models and what is assumed."""
    names = dict.fromkeys((*models, *(r.model for r in results)))
    found = {name: _variances([r for r in results if r.model == name]) for name in names}
    made = {}
    for name, own in found.items():
        others = [parts for other, parts in found.items() if other != name]
        drawn = []
        for k, (assumed, worth) in enumerate((WINDOW_PRIOR, REST_PRIOR)):
            borrowed = [(variance, min(df, MOST_BORROWED_DF)) for variance, df in (parts[k] for parts in others)]
            total = worth + sum(df for _, df in borrowed)
            expected = (worth * assumed + sum(df * variance for variance, df in borrowed)) / total
            variance, df = own[k]
            drawn.append(((worth * expected + df * variance) / (worth + df), worth + df))
        made[name] = Spread(drawn[0][0], drawn[1][0], drawn[0][1])
    return made


def _variances(results: Sequence[ConfigResult]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Variance and degrees of freedom of the windows' effects, and of what is left, of one model's results."""
    several = [r.samples() for r in results if len(r.samples()) > 1]
    windows = sorted({window for samples in several for window in samples})
    if not several:
        return (0.0, 0.0), (0.0, 0.0)
    table = np.array([[max(s[w], FLOOR) if w in s else np.nan for w in windows] for s in several])
    rows, columns = np.zeros((len(table), 1)), np.zeros((1, len(windows)))
    for _ in range(SWEEPS):  # least squares of row + column, where some are missing
        rows = np.nanmean(table - columns, axis=1, keepdims=True)
        columns = np.nanmean(table - rows, axis=0, keepdims=True)
    left = table - rows - columns
    seen = np.isfinite(table)
    df = int(seen.sum()) - len(table) - len(windows) + 1
    rest = float(np.nansum(left**2)) / df if df > 0 else 0.0
    raw = float(columns.var(ddof=1)) - rest * float((1 / seen.sum(axis=0)).mean())
    return (max(raw, 0.0), float(len(windows) - 1)), (rest, float(max(df, 0)))

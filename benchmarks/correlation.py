"""Does the cheap number tell? Rank correlation of cheap measures with what configurations lose on tasks.

The rows were made by `_correlation_rows`. Correlations are taken model by model, and their mean over the models is what
counts; intervals are bootstraps over the configurations, which are resampled within each model.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from benchmarks import _correlation_page, _correlation_rows, _frame
from benchmarks._rows import Row
from numpy.typing import NDArray

from swarm.agents.generation.nodes.long_context import FINALISTS_BY

Floats = NDArray[np.float64]

MEASURES = {
    "kld_512": "KLD at 512 tokens, one trial",
    "kld_512_all": "KLD at 512 tokens, eight trials",
    "kld_512_p99.9": "99.9th percentile at 512 tokens, eight trials",
    "flips_512_all": "share of other likeliest tokens at 512 tokens, eight trials",
    "full_kld": "KLD at 512 tokens, quantized prefill",
    "full_kld_p99": "99th percentile at 512 tokens, quantized prefill",
    "full_rms_dp": "RMS change of the true token's probability, quantized prefill",
    "kld_2k": "KLD at 2K",
    "kld_8k": "KLD at 8K",
    "attention": "error of the attention output",
    "attention_kl": "KL of the attention weights",
    "g": "G",
    "bits": "bits per value, turned round",
}
"""What is cheap to measure, and what costs nothing to know."""
LOSSES = {
    "retrieval": "retrieval: probability of the right answer that is lost",
    "retrieval_kept": "retrieval: share of answers lost",
    "retrieval_nats": "retrieval: nats by which right answers are less likely",
    "generation": "generation: share of answers behind the parting",
    "generation_kld": "generation: KLD along answers",
}
SCOPES = {"all": "all configurations", "contenders": "the better half at 512 tokens"}
INCUMBENT = "kld_512"
"""What a campaign's cheap trial says."""
FULL = {name: f"full_{name}" for name in _correlation_rows.FULL}
"""What a campaign may choose its finalists by, of what a full measurement says."""
RESAMPLES = 1_000
KENDALL_EVERY = 5
"""Kendall's tau takes long: every fifth resample has to do."""
LEAST_ROWS = 10
"""Of a model that has fewer with a loss, nothing is said about it."""
DISPLACED = 1 / 3
"""Share of the configurations by which a rank at 8K, or in retrieval, is worse than at 512 tokens: misleading."""
MOST_NAMED = 4

Table = Mapping[str, Floats]
"""One array per measure and loss, with a value per configuration; NaN where there is none."""


def measure(short: bool, tell: _frame.Tell) -> _frame.Results:
    """Correlate what the shipped rows hold."""
    found = _correlation_rows.STUDY.load()
    models: dict[str, list[Row]] = {}
    for row in found["rows"]:
        models.setdefault(row["model"], []).append(row)
    tables = {model: columns(rows) for model, rows in models.items()}
    resamples = 20 if short else RESAMPLES
    results: _frame.Results = {
        "made": found["made"],
        "configurations": {model: len(rows) for model, rows in models.items()},
        "failed": sum(bool(row["failed"]) for row in found["rows"]),
        "able": {model: _mean(rows, "retrieval_answered_16bit") for model, rows in models.items()},
        "repeatable": {scope: {loss: _repeatable(models, tables, scope, loss) for loss in LOSSES} for scope in SCOPES},
        "scopes": {},
        "finalists_by": FINALISTS_BY,
        "misleading": {model: misleading(rows, tables[model]) for model, rows in models.items()},
    }
    for scope in SCOPES:
        results["scopes"][scope] = {loss: correlations(within(tables, scope, loss), loss, resamples) for loss in LOSSES}
        tell(f"{scope}: done")
    results["full"] = {
        loss: leads(within(tables, "contenders", loss), loss, FULL[FINALISTS_BY], resamples) for loss in LOSSES
    }
    return results


def leads(tables: Mapping[str, Table], loss: str, than: str, resamples: int) -> dict[str, dict[str, float]]:
    """By how much each number of a full measurement correlates better with a loss than the one that is in use."""
    found = correlations(tables, loss, resamples, than)
    return {name: found[column]["lead"] for name, column in FULL.items()} if found else {}


def columns(rows: Sequence[Row]) -> Table:
    """Measures and losses of a model's rows; more is worse in every column."""
    nan = float("nan")
    found = {name: np.array([row.get(name, nan) for row in rows], np.float64) for name in MEASURES}
    found["bits"] = -found["bits"]
    for loss in LOSSES:
        found[loss] = np.array([np.mean(losses(row, loss) or [nan]) for row in rows])
    return found


def losses(row: Row, loss: str) -> list[float]:
    """One loss of a row per text, prompt or replicate; none where it failed or 16 bit answers nothing."""
    source = {"retrieval": "retrieval_lost_p", "retrieval_nats": "retrieval_delta_nll"}
    if loss == "generation":
        lengths = row.get("generation_answer_tokens_16bit", ())
        return [1 - a / b for a, b in zip(row.get("generation_tokens_until_parting", ()), lengths, strict=True)]
    values = [value for value in row.get(source.get(loss, loss), ()) if value is not None]
    return [1 - value for value in values] if loss == "retrieval_kept" else values


def within(tables: Mapping[str, Table], scope: str, loss: str) -> dict[str, Table]:
    """The rows of a scope that have every measure and the loss, of the models that have enough."""
    kept = {model: _kept(table, scope, loss) for model, table in tables.items()}
    return {
        model: {name: column[kept[model]] for name, column in table.items()}
        for model, table in tables.items()
        if kept[model].sum() >= LEAST_ROWS
    }


def _kept(table: Table, scope: str, loss: str) -> NDArray[np.bool_]:
    """Which rows of a model belong to a scope and have every measure and the loss."""
    kept = _whole(table, loss)
    if scope == "contenders" and kept.any():
        kept &= table[INCUMBENT] <= np.median(table[INCUMBENT][kept])
    return kept


def _whole(table: Table, *losses: str) -> NDArray[np.bool_]:
    return np.asarray(np.all([np.isfinite(table[name]) for name in (*MEASURES, *losses)], axis=0), np.bool_)


def correlations(tables: Mapping[str, Table], loss: str, resamples: int, than: str = INCUMBENT) -> dict[str, Any]:
    """Per measure its rank correlations with a loss, with intervals, and its lead over one of them."""
    if not tables:
        return {}
    names = list(MEASURES)
    arrays = [np.stack([table[name] for name in (*names, loss)], axis=1) for table in tables.values()]
    rng = np.random.default_rng(0)
    drawn = [[array[rng.integers(len(array), size=len(array))] for array in arrays] for _ in range(resamples)]
    found: dict[str, Any] = {name: {} for name in names}
    for kind, statistic, every in (("spearman", spearman, 1), ("kendall", kendall, KENDALL_EVERY)):
        each = np.array([statistic(array) for array in arrays])
        many = np.array([np.mean([statistic(array) for array in sample], axis=0) for sample in drawn[::every]])
        lead = many - many[:, [names.index(than)]]
        for place, name in enumerate(names):
            found[name][kind] = {"mean": float(each[:, place].mean()), **_interval(many[:, place])}
            if kind == "spearman":
                found[name]["models"] = dict(zip(tables, each[:, place].tolist(), strict=True))
                difference = each[:, place] - each[:, names.index(than)]
                found[name]["lead"] = {"mean": float(difference.mean()), **_interval(lead[:, place])}
    return found


def spearman(array: Floats) -> Floats:
    """Spearman's correlation of every column with the last one."""
    from scipy.stats import rankdata

    ranks = rankdata(array, axis=0)
    ranks -= ranks.mean(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = ranks[:, :-1].T @ ranks[:, -1] / np.sqrt((ranks[:, :-1] ** 2).sum(0) * (ranks[:, -1] ** 2).sum())
    return np.asarray(np.nan_to_num(found), np.float64)


def kendall(array: Floats) -> Floats:
    """Kendall's tau-b of every column with the last one."""
    from scipy.stats import kendalltau

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # columns of one value
        found = [kendalltau(column, array[:, -1]).statistic for column in array[:, :-1].T]
    return np.asarray(np.nan_to_num(found), np.float64)


def _interval(values: Floats) -> dict[str, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return {"low": float(low), "high": float(high)}


def _repeatable(models: Mapping[str, Sequence[Row]], tables: Mapping[str, Table], scope: str, loss: str) -> float:
    """Correlation of a loss on half of its texts, prompts or replicates with that on the others.

    No measure can reach far beyond it.
    """
    found = []
    for model, rows in models.items():
        kept = _kept(tables[model], scope, loss)
        halves = [(losses(rows[i], loss)[::2], losses(rows[i], loss)[1::2]) for i in np.flatnonzero(kept)]
        pairs = np.array([[np.mean(a), np.mean(b)] for a, b in halves if a and b])
        if len(pairs) >= LEAST_ROWS:
            found.append(float(spearman(pairs)[0]))
    return float(np.mean(found)) if found else 0.0


def misleading(rows: Sequence[Row], table: Table) -> dict[str, list[dict[str, Any]]]:
    """Configurations of the better half at 512 tokens that are much worse at 8K or in retrieval, the worst first."""
    from scipy.stats import rankdata

    found: dict[str, list[dict[str, Any]]] = {}
    for later in ("kld_8k", "retrieval"):
        whole = _whole(table, later)
        short, long = (
            rankdata(np.where(whole, table[name], np.inf)) / max(whole.sum(), 1) for name in (INCUMBENT, later)
        )
        fall = np.where(whole & (short <= 0.5), long - short, 0)
        places = [int(place) for place in np.argsort(-fall) if fall[place] > DISPLACED]
        found[later] = [
            {
                "kv": rows[place]["kv"],
                **{name: _known(table[name][place]) for name in (INCUMBENT, "kld_8k", "retrieval")},
                "rank": float(short[place]),
                "later": float(long[place]),
            }
            for place in places[:MOST_NAMED]
        ]
    return found


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _mean(rows: Sequence[Row], name: str) -> float:
    values = [value for row in rows for value in row.get(name, ()) if value is not None]
    return float(np.mean(values)) if values else 0.0


BENCHMARK = _frame.Benchmark(
    "correlation", measure, lambda record: _correlation_page.page(record, MEASURES, LOSSES, SCOPES)
)

if __name__ == "__main__":
    raise SystemExit(BENCHMARK.main())

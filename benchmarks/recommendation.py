"""Do recommendations keep what they promise? On fresh text windows, for models measured and not, against simple rules.

Works on recorded campaigns (`_recommendation_runs`): what each would have recommended, by how much the chosen
configurations really differ from 16 bit on windows that no campaign read, and how often the 90% interval holds that.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import exp, hypot, log
from multiprocessing import get_context
from statistics import fmean, median
from typing import Any, TypeVar

import numpy as np
from benchmarks import _frame, _recommendation_table
from benchmarks._recommendation_data import FILE, Data, Twin

from swarm.agents.analysis.comparable import ComparableResults
from swarm.agents.analysis.recommend import CONFIDENCE, recommend
from swarm.agents.analysis.recommendation import CostLimits, NothingToRecommendError, Recommendation
from swarm.agents.analysis.results import ConfigResult
from swarm.agents.analysis.statistics import Estimate, proportion
from swarm.kernels.spec import KVSpec

T = TypeVar("T")
R = TypeVar("R")

LIMITS = (3.3, 4.6, 6.0)
"""Bits per value that a configuration may cost."""
STAGES = (40, 80)
"""Trials of a campaign after which it is asked; all its models share them. One that ended early is asked then."""
RUN = 3
"""Trials that are run for a model that was not measured, before it is asked again."""
LEAST_WINDOWS = 12
"""Fresh windows without which a loss is not taken as known."""
Z90 = 1.645
"""Standard errors to either side that hold 90% of a normal distribution."""
DEFAULT = KVSpec.parse("affine4/g64")
MEASURED, TRANSFERRED, DECIDED = "measured", "not measured", f"after the {RUN} trials that decide most"
SITUATIONS = (MEASURED, TRANSFERRED, DECIDED, _recommendation_table.SITUATION)


@dataclass(frozen=True)
class Case:
    """One question to one campaign, and its answer. `observed` is what the best observed configuration showed."""

    situation: str
    seed: int
    twin: Twin
    trials: int
    limit: float
    answer: Recommendation
    observed: ConfigResult | None


def cases(data: Data, seed: int) -> list[Case]:
    """Everything that is asked of one campaign."""
    return [*_of_measured(data, seed), *(_of_others(data, seed) if data.about.get("unmeasured") else ())]


def _of_measured(data: Data, seed: int) -> Iterator[Case]:
    records = data.campaigns[seed]
    for stage in sorted({min(stage, records[-1].number + 1) for stage in STAGES}):
        early = [record for record in records if record.number < stage]
        for model in data.models:
            known = data.known(model, early)
            for limit in LIMITS:
                found = _asked(known, limit)
                if found is not None and found.choice.trials:
                    yield Case(MEASURED, seed, Twin(model), stage, limit, found, _observed(known, model, limit))


def _of_others(data: Data, seed: int) -> Iterator[Case]:
    for twin in data.twins:
        others = [r for r in data.campaigns[seed] if r.spec.model != twin.model]
        if not others:
            continue
        known = data.known(twin.model, others)
        for limit in LIMITS:
            found = _asked(known, limit)
            if found is None:
                continue
            yield Case(TRANSFERRED, seed, twin, max(STAGES), limit, found, _observed(known, None, limit))
            told = [data.decisive.get((seed, twin, one.spec.kv, one.spec.replicate)) for one in found.decisive]
            tried = [record for record in told if record is not None]
            if len(tried) == RUN:
                more = data.known(twin.model, [*others, *tried])
                again = _asked(more, limit)
                if again is not None:
                    yield Case(DECIDED, seed, twin, max(STAGES), limit, again, _observed(more, twin.model, limit))


def _asked(known: ComparableResults, limit: float) -> Recommendation | None:
    try:
        return recommend(known, CostLimits(bits=limit), trials=RUN)
    except NothingToRecommendError:
        return None


def _observed(known: ComparableResults, model: str | None, limit: float) -> ConfigResult | None:
    """The configuration with the smallest observed KLD on the model, or on any (`best-vs-default` of release 0.1)."""
    inside = known.pool(known.bits, limit)
    found = [r for r in known.results if r.spec.kv in inside and model in (None, r.model)]
    return min(found, key=lambda r: float(np.mean(r.values)), default=None)


def wanted(found: Iterable[Case]) -> dict[tuple[Twin, KVSpec], None]:
    """The configurations whose loss on fresh windows decides who was right, each once."""
    pairs: dict[tuple[Twin, KVSpec], None] = {}
    for case in found:
        pairs[case.twin, case.answer.choice.kv] = None
        if case.observed is not None:
            pairs[case.twin, case.observed.spec.kv] = None
        pairs[case.twin, DEFAULT] = None
    return pairs


def scored(case: Case, data: Data) -> _frame.Results | None:
    """One row of the record; None where the loss on fresh windows is not known well enough."""
    truth = data.fresh.get((case.twin, case.answer.choice.kv), ())
    if len(truth) < LEAST_WINDOWS:
        return None
    real, loss = fmean(truth), case.answer.choice.loss
    inside = [
        fmean(values)
        for (twin, kv), values in data.fresh.items()
        if twin == case.twin and len(values) >= LEAST_WINDOWS and data.bits(twin.model, kv) <= case.limit + 1e-6
    ]
    row: _frame.Results = {
        "situation": case.situation,
        "seed": case.seed,
        "model": case.twin.name,
        "trials": case.trials,
        "limit": case.limit,
        "choice": case.answer.choice.configuration,
        "loss": loss.value,
        "low": loss.low,
        "high": loss.high,
        "real": real,
        "real_error": float(np.std(truth, ddof=1)) / len(truth) ** 0.5,
        "windows": len(truth),
        "regret": log(real / min(inside)),
    }
    if case.observed is not None:
        theirs = data.fresh.get((case.twin, case.observed.spec.kv), ())
        if len(theirs) >= LEAST_WINDOWS:
            estimate = _plain(case.observed)
            row |= {"observed_regret": log(fmean(theirs) / min(inside)), "observed_real": fmean(theirs)}
            row |= dict(zip(("observed_low", "observed_high"), estimate, strict=True))
    default = data.fresh.get((case.twin, DEFAULT), ())
    if len(default) >= LEAST_WINDOWS and data.bits(case.twin.model, DEFAULT) <= case.limit:
        row["default_regret"] = log(fmean(default) / min(inside))
    return row


def _plain(result: ConfigResult) -> tuple[float, float]:
    """The interval that the windows of a configuration alone give."""
    values = result.values
    if len(values) < 2:
        return values[0], values[0]
    estimate = Estimate(fmean(values), float(np.std(values, ddof=1)) / len(values) ** 0.5, len(values) - 1, len(values))
    return estimate.interval(CONFIDENCE)


def measure(short: bool, tell: _frame.Tell) -> _frame.Results:
    """Ask every recorded campaign, and the table; in the short form once each."""
    data = Data.read() if FILE.is_file() else Data((), {})
    seeds = sorted(data.campaigns)[: 1 if short else None]
    found = [case for part in side_by_side(partial(cases, data), seeds) for case in part]
    rows = [row for case in found if (row := scored(case, data))]
    tell(f"{len(rows)} answers of {len(seeds)} campaigns")
    replayed = partial(_recommendation_table.rows, LIMITS, DEFAULT)
    rows += [row for part in side_by_side(replayed, _recommendation_table.questions(short)) for row in part]
    return {"about": dict(data.about), "rows": rows}


def side_by_side(work: Callable[[T], R], things: Sequence[T]) -> list[R]:
    """What a function makes of each thing, in order, in as many processes as there are cores for this one."""
    if len(things) < 2:
        return [work(thing) for thing in things]
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=get_context("spawn")) as pool:
        return list(pool.map(work, things))


def page(record: _frame.Results) -> str:
    """Coverage and regret by situation, and what misses."""
    results = record["results"]
    rows, about = results["rows"], results["about"]
    by_situation: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_situation[row["situation"]].append(row)
    tables = [(name, by_situation[name]) for name in SITUATIONS if by_situation[name]]
    columns = ("the model was", "answers", "holds", "with error", "95% interval", "width, times", "too low", "too high")
    coverage = [(name, *_coverage(found)) for name, found in tables]
    regrets = [(name, *_regrets(found)) for name, found in tables]
    kinds = sorted({(row["model"], row["situation"]) for row in rows})
    per_model = [
        (f"{model}, {name}", *_coverage([row for row in rows if (row["model"], row["situation"]) == (model, name)]))
        for model, name in kinds
    ]
    return "\n".join(
        (
            _frame.heading(record, "Recommendations"),
            f"Questions are for the best configuration within {', '.join(f'{limit:g}' for limit in LIMITS)} bits per "
            f"value. {_of_campaigns(about)}{_of_table()}Many answers share windows, models and campaigns, so that they "
            "are not independent.\n",
            "## Does the 90% interval hold what the choice really loses?\n",
            _frame.table(columns, coverage),
            "Holds: what fresh windows show lies in the interval. They are a sample too: with error counts intervals "
            "widened by the 90% error of the mean over these windows, as one for what so many windows show has to be, "
            "with its 95% interval beside it; too low are those that the real loss lies above. "
            f"The peer, the interval of the best observed configuration's own windows, holds {_peer_coverage(rows)}.\n",
            _frame.table(("by model", *columns[1:]), per_model),
            "## Is the choice a good one?\n",
            "KLD of the choice over that of the best configuration in hindsight: of all in the table, or of all within "
            "the limit that were measured on fresh windows. The median, and the mean of the logarithm. Best observed: "
            "the smallest observed KLD on the model, or on any other where it was not measured.\n",
            _frame.table(("the model was", "recommended", "best observed", "affine4/g64, where it fits"), regrets),
            _verdict(tables),
        )
    )


UNMEASURED = (
    "Models that count as not measured are answered from trials on the others; twins are models whose weights were "
    "edited so that some channels of keys are eight times as large. "
)


def _of_campaigns(about: dict[str, Any]) -> str:
    if not about:
        return "Campaigns with fresh windows: not measured yet. "
    return (
        f"{about['campaigns']} campaigns of {about['trials']} trials ({', '.join(about['models'])}; recorded "
        f"{about['date']} on {about['device']}, revision {about['git_revision'][:7]}), each on text windows of its "
        f"own, are asked after {' and '.join(map(str, STAGES))} trials. What the chosen ones really lose was measured "
        f"on up to {about['windows']} windows that no campaign read. {UNMEASURED if about.get('unmeasured') else ''}"
    )


def _of_table() -> str:
    return (
        f"Replayed are questions to {_recommendation_table.KNOWN} random configurations of each other model in the "
        f"table of `swarm bench search`, {_recommendation_table.SEEDS} times per model, with the losses that the table "
        "has. "
    )


def _misses(row: dict[str, Any], *, with_error: bool = False) -> float:
    """By what logarithm the real loss lies above the interval (below: negative), 0 where the interval holds it."""
    low, high, real = (log(row[name]) for name in ("low", "high", "real"))
    error, half = Z90 * row.get("real_error", 0.0) / row["real"] * with_error, (high - low) / 2
    more = hypot(half, error) - half
    return max(real - high - more, 0.0) + min(real - low + more, 0.0)


def _coverage(rows: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    held = sum(_misses(row) == 0 for row in rows)
    fair = [_misses(row, with_error=True) for row in rows]
    low, high = proportion(fair.count(0), len(rows))
    width = exp(median(log(row["high"] / row["low"]) for row in rows))
    return (
        str(len(rows)),
        f"{held / len(rows):.0%}",
        f"{fair.count(0) / len(rows):.0%}",
        f"{low:.0%} to {high:.0%}",
        f"{width:.3g}",
        f"{sum(miss > 0 for miss in fair) / len(rows):.0%}",
        f"{sum(miss < 0 for miss in fair) / len(rows):.0%}",
    )


def _peer_coverage(rows: Sequence[dict[str, Any]]) -> str:
    known = [row for row in rows if "observed_low" in row and row["situation"] != TRANSFERRED]
    held = sum(row["observed_low"] <= row["observed_real"] <= row["observed_high"] for row in known)
    return f"{held / len(known):.0%} of {len(known)}" if known else "nothing that was recorded"


def _regrets(rows: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    shown = []
    for name in ("regret", "observed_regret", "default_regret"):
        values = [row[name] for row in rows if name in row]
        shown.append(f"{exp(median(values)):.2f}x ({fmean(values):.2f}), {len(values)}" if values else "-")
    return tuple(shown)


def _verdict(tables: Sequence[tuple[str, Sequence[dict[str, Any]]]]) -> str:
    lines = []
    for name, rows in tables:
        share = sum(_misses(row, with_error=True) == 0 for row in rows) / len(rows)
        lines.append(_frame.said(f"90% intervals hold 85% to 95%: {name}", 0.85 <= share <= 0.95, f"{share:.0%}"))
    return "## The goals\n\n" + "\n".join(lines) + "\n"


BENCHMARK = _frame.Benchmark("recommendation", measure, page)

if __name__ == "__main__":
    raise SystemExit(BENCHMARK.main())

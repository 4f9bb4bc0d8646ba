"""Does a sequential test decide "at most one point lost" with 5% error and half the items of a fixed sample? Simulated.

Each row is a configuration that loses a known number of points on a task whose items it answers differently from 16 bit
at a known rate. The peer is the smallest sample, fixed beforehand, whose one-sided t test gives as many right verdicts
at the same error rate, as if somebody had told the experimenter the truth of that row.
"""

from __future__ import annotations

import os
import statistics
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice
from multiprocessing import get_context

import numpy as np
from benchmarks import _frame
from numpy.typing import NDArray

from swarm.agents.analysis.statistics import proportion
from swarm.experiments.measurement.decision import Decision, decide

MARGIN = 0.01
ALPHA = 0.05
ITEMS = 20_000
"""Items that there are at most."""
RUNS = 1_000
FIXED_RUNS = 4_000
CHUNK = 512
HIGHEST_POWER = 0.99
"""More right verdicts than this are not asked of the fixed sample, as `RUNS` could not tell them apart."""

Row = tuple[str, float, float]
"""How items are scored, the true loss per item, and the share of items that are answered differently."""

ROWS: tuple[Row, ...] = (
    ("exact match", -0.01, 0.05),
    ("exact match", 0.0, 0.01),
    ("exact match", 0.0, 0.03),
    ("exact match", 0.0, 0.10),
    ("partial credit", 0.0, 0.10),
    ("exact match", 0.003, 0.03),
    ("exact match", 0.01, 0.02),
    ("exact match", 0.01, 0.10),
    ("partial credit", 0.01, 0.10),
    ("exact match", 0.02, 0.05),
    ("exact match", 0.03, 0.05),
    ("exact match", 0.05, 0.10),
    ("partial credit", 0.05, 0.20),
    ("exact match", 0.10, 0.15),
)


def draw(row: Row, size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Paired losses of some items: 0 where the answers agree, else up to 1 either way, with the mean of the row."""
    scored, loss, discordant = row
    amount = rng.uniform(0, 1, size) if scored == "partial credit" else np.ones(size)
    worse = 0.5 + loss / discordant / (1 if scored == "exact match" else 0.5) / 2
    sign = np.where(rng.random(size) < worse, 1.0, -1.0)
    return np.where(rng.random(size) < discordant, sign * amount, 0.0)


def run(row: Row, seed: int) -> Decision:
    """One sequential test of one configuration."""
    rng = np.random.default_rng([seed, 1])
    stream = (float(loss) for _ in range(-(-ITEMS // CHUNK)) for loss in draw(row, CHUNK, rng))
    return decide(islice(stream, ITEMS), MARGIN, ALPHA)


def measure(short: bool, tell: _frame.Tell) -> _frame.Results:
    """Simulate every row."""
    runs = 20 if short else RUNS
    rows = []
    with ProcessPoolExecutor(1 if short else os.cpu_count(), mp_context=get_context("forkserver")) as pool:
        for row in ROWS[:: 4 if short else 1]:
            found = list(pool.map(partial(run, row), range(runs), chunksize=10))
            rows.append(_summary(row, found))
            tell(str(rows[-1]))
    return {"margin": MARGIN, "alpha": ALPHA, "runs": runs, "most": ITEMS, "rows": rows}


def _summary(row: Row, found: list[Decision]) -> _frame.Results:
    scored, loss, discordant = row
    right = None if loss == MARGIN else "safe" if loss < MARGIN else "harmful"
    shares = {name: sum(d.outcome == name for d in found) / len(found) for name in ("safe", "harmful", "undecided")}
    items = [d.items for d in found]
    power = None if right is None else min(shares[right], HIGHEST_POWER)
    return {
        "scored": scored,
        "loss": loss,
        "discordant": discordant,
        "right": right,
        **shares,
        "mean": statistics.mean(items),
        "p90": float(np.quantile(items, 0.9)),
        "fixed": None if power is None else fixed_sample(row, power),
    }


def fixed_sample(row: Row, power: float) -> int | None:
    """The smallest sample with which a one-sided t test at `ALPHA` is right with this power; None if it is too large.

    Found by bisection over simulated tests; sizes of a row share their random numbers.
    """
    low, high = 8, 64
    while high < 64 * ITEMS and _power(row, high) < power:
        low, high = high, 2 * high
    if high >= 64 * ITEMS:
        return None
    while high - low > max(1, high // 200):
        middle = (low + high) // 2
        low, high = (low, middle) if _power(row, middle) >= power else (middle, high)
    return high


def _power(row: Row, size: int) -> float:
    """Share of fixed samples whose test gives the right verdict."""
    from scipy.special import stdtr

    scored, loss, _ = row
    rng = np.random.default_rng(2)
    if scored == "exact match":
        worse, better, _ = rng.multinomial(size, _odds(row), FIXED_RUNS).T
        means, squares = (worse - better) / size, (worse + better) / size
    else:
        samples = [draw(row, size, rng) for _ in range(FIXED_RUNS // 8)]
        means, squares = (np.array([np.mean(x**k) for x in samples]) for k in (1, 2))
    error = np.sqrt(np.maximum(squares - means**2, 1e-12) / (size - 1))
    distance = (MARGIN - means) / error * (1 if loss < MARGIN else -1)
    return float(np.mean(stdtr(size - 1, -distance) <= ALPHA))


def _odds(row: Row) -> tuple[float, float, float]:
    _, loss, discordant = row
    return (discordant + loss) / 2, (discordant - loss) / 2, 1 - discordant


def page(record: _frame.Results) -> str:
    """The page: shares of verdicts, items, and the fixed sample beside them."""
    results = record["results"]
    rows = []
    for one in results["rows"]:
        share = "" if one["fixed"] is None else f"{one['mean'] / one['fixed']:.2f}"
        verdicts = (f"{one[name]:.1%}" for name in ("safe", "harmful", "undecided"))
        points = f"{100 * one['loss']:g} points, {one['discordant']:.0%} differ, {one['scored']}"
        rows.append((points, *verdicts, f"{one['mean']:.0f}", f"{one['p90']:.0f}", one["fixed"] or "", share))
    columns = ("true loss", "safe", "harmful", "undecided", "items, mean", "items, 90%", "fixed sample", "share")
    return "\n".join(
        (
            _frame.heading(record, "Decisions"),
            f"`swarm.decide` with a margin of {100 * MARGIN:g} point and an error rate of {ALPHA:.0%}, "
            f"{results['runs']:,} simulated tests a row, {results['most']:,} items at most. The fixed sample is the "
            "smallest whose one-sided t test at the same error rate is right as often (99% at most), chosen with the "
            "truth of its row in hand; somebody without it has to take the largest that may be needed.\n",
            _frame.table(columns, rows),
            _verdict(results),
        )
    )


def _verdict(results: _frame.Results) -> str:
    wrong = [_wrong(one) for one in results["rows"]]
    chance = proportion(round(max(wrong) * results["runs"]), results["runs"])
    shares = [one["mean"] / one["fixed"] for one in results["rows"] if one["fixed"]]
    half = sum(share <= 0.5 for share in shares)
    lines = [
        _frame.said(
            f"wrong verdicts of either kind at most {ALPHA:.0%}, as far as {results['runs']:,} tests can tell",
            chance[0] <= ALPHA,
            f"{max(wrong):.1%} [{chance[0]:.1%}, {chance[1]:.1%}] in the worst row",
        ),
        _frame.said(
            "half of the fixed sample at equal errors, in the median row",
            statistics.median(shares) <= 0.5,
            f"{statistics.median(shares):.2f}; in {half} of {len(shares)} rows, {max(shares):.2f} at worst",
        ),
    ]
    return "## The goals\n\n" + "\n".join(lines) + "\n"


def _wrong(one: _frame.Results) -> float:
    """Share of wrong verdicts; at the margin itself each verdict by its own is wrong."""
    return max(one[name] for name in ("safe", "harmful") if name != one["right"])


BENCHMARK = _frame.Benchmark("decisions", measure, page)

if __name__ == "__main__":
    raise SystemExit(BENCHMARK.main())

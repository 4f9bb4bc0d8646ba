"""Does the swarm find good configurations in fewer trials than random search, TPE and NSGA-II? Replayed on a table.

The table holds every configuration of a part of the search space, measured on the bundled models (`_grid`, `_table`);
a strategy that asks for a trial gets its row. Regret is the share of the feasible box that the best front dominates
and the strategy's does not yet.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import numpy as np
from benchmarks import _frame, _replay, _table
from numpy.typing import NDArray

if TYPE_CHECKING:
    from swarm.memory.front import Point
    from swarm.memory.records import TrialRecord

BUDGET = 330
SEEDS = 30
BITS = 4.6
SHOWN = (20, 40, 80, 165, 330)
PEER = "TPE"
TOGETHER = "agents, all models together"
ALPHA = 0.01
ROUNDS = 2_000


def measure(short: bool, tell: _frame.Tell) -> _frame.Results:
    """Replay every strategy on every model."""
    seeds, budget, jobs = (2, 8, 1) if short else (SEEDS, BUDGET, os.cpu_count() or 1)
    models = list(_table.load())[: 1 if short else None]
    wanted = [
        (name, model, seed, _budget(name, budget))
        for name in _replay.STRATEGIES
        for model in models
        for seed in range(seeds)
    ]
    if len(models) > 1:
        wanted += [(TOGETHER, "", seed, _budget(TOGETHER, budget)) for seed in range(seeds)]
    wanted.sort(key=lambda job: job[2])  # all strategies advance together, so that what is told is a fair preview
    curves: dict[str, dict[str, list[Any]]] = {model: {} for model in models}
    # Forked from a clean server: nothing of this process, threads of BLAS included, is carried over.
    with ProcessPoolExecutor(jobs, mp_context=get_context("forkserver")) as pool:
        for done, (job, found) in enumerate(zip(wanted, pool.map(replay, wanted), strict=True), 1):
            for model, curve in found.items():
                curves[model].setdefault(job[0], []).append(curve)
            if done % 20 == 0:
                tell(f"{done} of {len(wanted)} replays")
    return {
        "seeds": seeds,
        "budget": budget,
        "shown": [n for n in SHOWN if n <= budget] or [budget],
        "models": {model: _summary(model, named, budget) for model, named in curves.items()},
    }


def _budget(strategy: str, budget: int) -> int:
    """Trials per model: agents get half of what their peers get."""
    return budget // 2 if strategy in ("agents", TOGETHER) else budget


@cache
def _ground(models: tuple[str, ...]) -> _replay.Ground:
    from swarm.experiments.models import registry

    table = _table.load()
    return _replay.Ground([registry.describe(name) for name in models or tuple(table)], table)


def replay(job: tuple[str, str, int, int]) -> dict[str, dict[str, list[float]]]:
    """One search: regret and best KLD after every trial, by model."""
    name, model, seed, budget = job
    ground = _ground((model,) if model else ())
    strategy = _replay.STRATEGIES[name](ground, seed) if model else _replay.Swarm(ground, seed)
    records = strategy.run(budget * len(ground.infos))
    return {
        info.name: curve_of([record for record in records if record.spec.model == info.name], budget, info.name)
        for info in ground.infos
    }


def curve_of(records: Sequence[TrialRecord], budget: int, model: str) -> dict[str, list[float]]:
    """Simple regret of the dominated share, and the lowest KLD at the target, after each trial of a run on a model."""
    from swarm.agents.analysis.pareto import box, hypervolume
    from swarm.memory.front import pareto_front

    reference, area = box(_replay.SETTINGS)
    best = hypervolume(_optimum(model), reference)
    points: list[Point] = []
    regret, kld = [], []
    for record in records[:budget]:
        points.append(_point(record))
        points = [points[i] for i in pareto_front(points)]
        regret.append((best - hypervolume(points, reference)) / area)
        kld.append(min((10**value for value, bits in points if bits <= BITS), default=float("nan")))
    # The models take turns, so one may have a trial fewer: nothing was gained by the missing one.
    missing = budget - len(regret)
    return {"regret": regret + regret[-1:] * missing, "kld": kld + kld[-1:] * missing}


@cache
def _optimum(model: str) -> tuple[Point, ...]:
    ground = _ground((model,))
    template = ground.grid.defaults(ground.infos[0])[0]
    specs = (template.model_copy(update={"kv": kv}) for kv in ground.table[model])
    return tuple(_point(ground.record(number, spec, "")) for number, spec in enumerate(specs))


def _point(record: TrialRecord) -> Point:
    from swarm.agents.analysis.pareto import LOWEST, objectives

    found = objectives(record)
    return (float("inf"),) * 2 if found is None else (max(found[0], LOWEST), found[1])


def _summary(model: str, named: Mapping[str, list[dict[str, list[float]]]], budget: int) -> _frame.Results:
    regret, kld = (
        {name: np.array([curve[what] for curve in curves]) for name, curves in named.items()}
        for what in ("regret", "kld")
    )
    goal = float(np.median(regret[PEER][:, -1]))
    optimum = [10**value for value, bits in _optimum(model) if bits <= BITS]
    return {
        "configurations": len(_optimum(model)),
        "optimum_kld": min(optimum),
        "strategies": {
            name: {
                "regret": _at(regret[name]),
                "kld": _at(kld[name]),
                "trials_to_goal": [_first(curve, goal) for curve in regret[name]],
            }
            for name in regret
        },
        "tests": {
            name: paired_test(regret[name][:, budget // 2 - 1], regret[PEER][:, -1]) for name in regret if name != PEER
        },
    }


def _at(curves: NDArray[np.float64]) -> dict[str, list[float]]:
    """Values of all seeds after some numbers of trials."""
    length = curves.shape[1]
    shown = sorted({n for n in SHOWN if n <= length} | {length})
    return {str(n): [float(f"{value:.5g}") for value in curves[:, n - 1]] for n in shown}


def _first(curve: NDArray[np.float64], goal: float) -> int | None:
    """Trials until the regret is no more than a goal."""
    reached = np.flatnonzero(curve <= goal)
    return int(reached[0]) + 1 if len(reached) else None


def paired_test(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> dict[str, float]:
    """Whether ours is lower, paired by seed: one-sided Wilcoxon test, bootstrap interval of the mean difference."""
    from scipy import stats

    difference = ours - theirs
    p = 1.0 if not difference.any() else float(stats.wilcoxon(difference, alternative="less").pvalue)
    draws = np.random.default_rng(0).choice(difference, (ROUNDS, len(difference))).mean(axis=1)
    low, high = np.quantile(draws, (0.025, 0.975))
    return {"difference": float(difference.mean()), "low": float(low), "high": float(high), "p": p}


def page(record: _frame.Results) -> str:
    """The page of a record."""
    results = record["results"]
    half, budget = results["budget"] // 2, results["budget"]
    parts = [
        _frame.heading(record, "Search: how many trials until good configurations are found"),
        (__doc__ or "").partition("\n\n")[2].strip() + "\n",
        f"Trials are rung 0 of the quality protocol over four windows of {_table.CONTEXT} tokens, the last "
        f"{_table.TAIL} of each decoded and scored. The table is `benchmarks/data/search.parquet`, made by "
        "`python -m benchmarks._table --folder FOLDER` (it goes on where it stopped). Every strategy but plain random "
        "search begins with the campaign's default configurations; none is given a configuration twice. A sampler "
        "that repeats itself is asked again up to eight times. TPE and NSGA-II are Optuna's with their defaults, with "
        "the same feasible region as the agents. The agents run without control arm, promotion and replication: "
        "new configurations only.\n",
        f"{results['seeds']} seeds. Regret in percent of the feasible box, median (quartiles).\n",
    ]
    for model, found in results["models"].items():
        parts.append(f"## {model}: {found['configurations']} configurations\n")
        parts.append(_regrets(found, results["shown"]))
        parts.append(
            f"Best KLD at no more than {BITS} bits/value (the table's best is {found['optimum_kld']:.4f}), median:\n"
        )
        parts.append(_klds(found, results["shown"]))
        parts.append(f"After {half} trials against {PEER} after {budget}, paired by seed:\n")
        parts.append(_tests(found))
    return "\n".join((*parts, _verdict(results)))


def _regrets(found: _frame.Results, shown: Sequence[int]) -> str:
    def cell(values: list[float] | None) -> str:
        if values is None:
            return ""
        low, middle, high = np.quantile(values, (0.25, 0.5, 0.75)) * 100
        return f"{middle:.2f} ({low:.2f}-{high:.2f})"

    rows = [
        (name, *(cell(one["regret"].get(str(n))) for n in shown), _trials(one["trials_to_goal"]))
        for name, one in found["strategies"].items()
    ]
    return _frame.table(("strategy", *(f"{n} trials" for n in shown), f"trials to {PEER}'s final median"), rows)


def _trials(counts: Sequence[int | None]) -> str:
    """Median trials to the goal, where most seeds got there."""
    middle = float(np.median([float("inf") if count is None else count for count in counts]))
    return f"{middle:.0f}" if np.isfinite(middle) else "not reached"


def _klds(found: _frame.Results, shown: Sequence[int]) -> str:
    rows = [
        (name, *(f"{np.nanmedian(one['kld'][str(n)]):.4f}" if str(n) in one["kld"] else "" for n in shown))
        for name, one in found["strategies"].items()
    ]
    return _frame.table(("strategy", *(f"{n} trials" for n in shown)), rows)


def _tests(found: _frame.Results) -> str:
    rows = [
        (name, f"{100 * t['difference']:+.2f}", f"{100 * t['low']:+.2f} to {100 * t['high']:+.2f}", f"{t['p']:.2g}")
        for name, t in found["tests"].items()
    ]
    return _frame.table(("strategy", "mean difference, % of the box", "95% interval", "p (Wilcoxon, lower)"), rows)


def _verdict(results: _frame.Results) -> str:
    half, lines = results["budget"] // 2, []
    for model, found in results["models"].items():
        for name in ("agents", TOGETHER):
            test = found["tests"].get(name)
            if test is not None:
                met = "is met" if test["p"] < ALPHA and test["difference"] <= 0 else "is not met"
                lines.append(f"- {model}, {name}: {met} (p = {test['p']:.2g}).")
    return f"## The goal: {PEER}'s final regret in {half} trials, p < {ALPHA}\n\n" + "\n".join(lines) + "\n"


BENCHMARK = _frame.Benchmark("search", measure, page, packages=("pyarrow",))

if __name__ == "__main__":
    raise SystemExit(BENCHMARK.main())

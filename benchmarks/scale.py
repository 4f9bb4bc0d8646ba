"""How cost grows: with trials, models, layers, drivers on one store and nodes of a cluster; fitted exponents.

Campaigns of trials that sleep are driven as real ones are; what the agents cost is timed over simulated measurements.
The peer is the floor: Optuna's sampler alone, in memory, asked and told in turns.
"""

from __future__ import annotations

import math
import random
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import _frame, _scale_agents, _scale_page, _scale_runs, _store_rates, _store_trials
from benchmarks._scale_runs import Work

from swarm.kernels import blas


@dataclass(frozen=True)
class Sizes:
    """How much of everything: `trials` are rounds by size; the rest are sizes, and `rounds` of each."""

    trials: dict[int, int]
    bounds: tuple[int, ...]
    patience: float
    models: tuple[int, ...]
    layers: tuple[int, ...]
    proposals: int
    nodes: tuple[int, ...]
    drivers: tuple[int, ...]
    shared: int
    stored: int
    rounds: int


FULL = Sizes(
    trials={330: 3, 3_300: 1, 33_000: 1},
    bounds=(0, 100, 330, 1_000, 3_300, 10_000, 33_000),
    patience=120.0,
    models=(1, 2, 4, 8),
    layers=(8, 32, 128),
    proposals=120,
    nodes=(1, 2, 4),
    drivers=(1, 2, 4),
    shared=330,
    stored=2_000,
    rounds=2,
)
SHORT = Sizes(
    trials={6: 1},
    bounds=(0, 3, 6),
    patience=20.0,
    models=(1, 2),
    layers=(2, 4),
    proposals=12,
    nodes=(1,),
    drivers=(),
    shared=4,
    stored=20,
    rounds=1,
)
MILLISECONDS, ON_NODES = 2, 50
"""How long trials sleep: where the driver is what counts, and where the workers of a cluster are to be kept busy."""


def measure(short: bool, tell: _frame.Tell) -> _frame.Results:
    """Everything, one after another."""
    blas.use_openblas(1)  # as drivers do
    sizes = SHORT if short else FULL
    results: dict[str, Any] = {
        "trial_ms": {"trials and drivers": MILLISECONDS, "nodes": ON_NODES},
        "patience": sizes.patience,
        "simulated_trials": sizes.proposals,
        "shared_trials": sizes.shared,
        "trials": _trials(sizes, tell),
        "models": _agents(sizes, sizes.models, _scale_agents.of_models, "models", tell),
        "layers": _agents(sizes, sizes.layers, _scale_agents.of_layers, "layers", tell),
        **_clusters(sizes, tell),
        "store": _store(sizes.stored),
        "bytes": _bytes(),
    }
    return results | {"fits": _fits(results)}


def _trials(sizes: Sizes, tell: _frame.Tell) -> dict[str, Any]:
    """Ours and the peer's, in turns: milliseconds per trial in consecutive parts of all rounds."""
    found: dict[str, Any] = {"ours": defaultdict(list), "peer": defaultdict(list), "runs": []}
    for size, rounds in sizes.trials.items():
        for seed in range(rounds):
            work = Work(size, MILLISECONDS, seed, sampled=True, patience=sizes.patience)
            for name, done in (
                ("ours", _scale_runs.run(work)),
                ("peer", _scale_runs.in_memory(size, seed, sizes.patience)),
            ):
                for part, cost in _scale_runs.parts(done, sizes.bounds, size).items():
                    found[name][part].append(cost)
                count = len(done.ends)
                each, cpu = 1e3 * done.ends[-1] / count, 1e3 * done.cpu / count
                found["runs"].append({"who": name, "asked": size, "done": count, "ms": each, "cpu_ms": cpu})
                tell(f"{name}: {count} of {size} trials, {each:.1f} ms each, {cpu:.1f} of CPU")
    return found


def _agents(
    sizes: Sizes,
    counts: Iterable[int],
    of: Callable[[int, int, int], _scale_agents.Costs],
    what: str,
    tell: _frame.Tell,
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for count in counts:
        costs = [of(count, sizes.proposals, seed) for seed in range(sizes.rounds)]
        found[str(count)] = {name: [cost[name] for cost in costs] for name in costs[0]}
        tell(f"{count} {what}: " + ", ".join(f"{name} {cost:.1f} ms" for name, cost in costs[-1].items()))
    return found


def _clusters(sizes: Sizes, tell: _frame.Tell) -> dict[str, Any]:
    """Nodes with one driver, then drivers on all nodes; every node has one worker."""
    nodes: dict[str, Any] = defaultdict(lambda: {"ms": [], "cpu_ms": []})
    drivers: dict[str, Any] = defaultdict(lambda: {"ms": [], "cpu_ms": []})

    def run(into: dict[str, list[float]], what: str, work: Work) -> None:
        done = _scale_runs.run(work)
        into["ms"].append(1e3 * done.ends[-1] / work.trials)
        into["cpu_ms"].append(1e3 * done.cpu / work.trials)
        tell(f"{what}: {into['ms'][-1]:.1f} ms per trial, {into['cpu_ms'][-1]:.1f} of CPU")

    with _scale_runs.cluster() as cluster:
        for count in sizes.nodes:
            _scale_runs.grow(cluster, count)
            for seed in range(sizes.rounds):
                work = Work(sizes.shared, ON_NODES, seed, 1, count, cluster.address)
                run(nodes[str(count)], f"{count} nodes", work)
        for count in sizes.drivers:
            for seed in range(sizes.rounds):
                workers = max(1, max(sizes.nodes) // count)
                work = Work(sizes.shared, MILLISECONDS, seed, count, workers, cluster.address)
                run(drivers[str(count)], f"{count} drivers", work)
    return {"nodes": nodes, "drivers": drivers}


def _store(trials: int) -> dict[str, float]:
    """Rates and CPU of the store's operations in batches."""
    from swarm.memory.store import Store

    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "swarm.db", create=True) as store:
        return _store_rates.batched(store, trials)


def _bytes() -> dict[str, int]:
    """What Ray carries for a trial: its specification there, and back a measurement with nine metrics and a series."""
    from ray import cloudpickle

    return {
        "specification": len(cloudpickle.dumps(_store_trials.proposal(0).spec)),
        "outcome": len(cloudpickle.dumps(_store_trials.measurement(random.Random(0)))),
    }


def _fits(results: dict[str, Any]) -> dict[str, Any]:
    """Exponents of everything that was measured at several sizes."""
    found = {}
    for who in ("ours", "peer"):
        points = [
            (math.sqrt(first * last), cost)
            for part, costs in results["trials"][who].items()
            for first, last in [map(int, part.split("-"))]
            for cost in costs
            if first > 0  # in the first part drivers load what they need
        ]
        found[f"trial, by trials before it: {who}"] = fit(points)
    for axis, costs in (("models", ("proposal", "analysis")), ("layers", ("proposal", "analysis"))):
        for cost in costs:
            found[f"{cost}, by {axis}"] = fit(_points(results[axis], cost))
    for axis in ("drivers", "nodes"):
        found[f"wall time per trial, by {axis}"] = fit(_points(results[axis], "ms"))
        found[f"CPU of all drivers per trial, by {axis}"] = fit(_points(results[axis], "cpu_ms"))
    return {name: one for name, one in found.items() if one is not None}


def _points(found: dict[str, Any], cost: str) -> list[tuple[float, float]]:
    return [(float(size), value) for size, costs in found.items() for value in costs[cost]]


def fit(points: list[tuple[float, float]]) -> dict[str, float] | None:
    """Slope of log cost on log size with its standard error; None for fewer than three points or one size."""
    from scipy.stats import linregress

    if len(points) < 3 or len({size for size, _ in points}) < 2:
        return None
    line = linregress([math.log(size) for size, _ in points], [math.log(cost) for _, cost in points])
    return {"exponent": float(line.slope), "stderr": float(line.stderr), "points": len(points)}


BENCHMARK = _frame.Benchmark("scale", measure, _scale_page.page)

if __name__ == "__main__":
    raise SystemExit(BENCHMARK.main())

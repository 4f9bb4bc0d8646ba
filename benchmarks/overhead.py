"""What a trial costs besides itself: our driver against Ray Tune, Optuna's storages and plain Ray tasks.

Every contestant runs the same search: six categorical parameters, two objectives, Optuna's TPE as sampler, trials that
sleep 2 ms, two workers. Starting Ray and its workers is not counted. The profile's lesson: half of a trial was TPE,
and nearly half of that sorting all earlier trials into good and bad, once for each parameter. Ours sorts once per trial
and gives the same answers (`agents/samplers/optuna_bridge/one_trial_tpe.py`); peers have Optuna's own.
"""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks import _frame, _overhead_peers, _six
from benchmarks._overhead_peers import WORKERS, Clock

from swarm.kernels.errors import SwarmError, UsageError

ROUNDS = {330: 2, 3_300: 1}
"""Rounds by number of trials."""
PATIENCE = 40.0
"""Seconds that one contestant gets for one size; what it has done by then is what counts."""
GOALS = {330: 0.015, 3_300: 0.030}
OURS = "swarm"
RAY_TUNE = "Ray Tune + OptunaSearch"
STORAGES = ("Optuna, SQLite", "Optuna, journal file")


def swarm(count: int, seed: int, folder: Path, clock: Clock) -> None:
    """A campaign of ours: store, leases, Ray actors, and the sampler behind the agents' interface."""
    from swarm.memory.store import Store
    from swarm.orchestrator import campaign_workers, launching, settings
    from swarm.orchestrator.rehearsal import MODELS
    from swarm.orchestrator.workload import Workload

    chosen = settings.load(budget=count, workers=WORKERS, rehearsal="2", seed=seed, store=str(folder / "swarm.db"))
    agents = _six.Sampling(2, {}, seed)
    workload = Workload(MODELS, {"rehearsal": "six parameters"})
    with (
        Store.open(chosen.store, create=True) as store,
        ExitStack() as workers,
    ):
        pool = workers.enter_context(campaign_workers.started(campaign_workers.make_pool(chosen)))
        while pool.up < WORKERS:
            pool.collect(0.1)
        record = launching.create(store, chosen, workload, pool.workers)
        agents.study.ask(0)  # reads what the sampler needs, as the others have before they start
        campaign = launching.assemble(store, record, chosen, workload, pool, workers, (agents, agents))
        clock.start()
        for _ in campaign:
            if campaign.state == "complete" and not clock.trials:  # its workers are still there
                clock.tick(count)
                clock.stop()
        done = sum(trial.state == "complete" for trial in store.trials.list(record.id))
        if done != count:
            raise SwarmError(f"{done} of {count} trials ended well.", "Look at the store of this run.")


CONTESTANTS: dict[str, Callable[[int, int, Path, Clock], None]] = {
    OURS: swarm,
    "plain Ray tasks, nothing stored": _overhead_peers.tasks,
    STORAGES[0]: _overhead_peers.sqlite,
    STORAGES[1]: _overhead_peers.journal,
    RAY_TUNE: _overhead_peers.ray_tune,
}


def contest(name: str, count: int, seed: int, patience: float, answers: Any) -> None:
    """Run a contestant in this process; sends trials done, wall and CPU seconds."""
    clock = Clock(patience)
    with tempfile.TemporaryDirectory() as folder:
        CONTESTANTS[name](count, seed, Path(folder), clock)
    answers.put((clock.trials, clock.wall, clock.cpu))


def measure(short: bool, tell: _frame.Tell) -> _frame.Results:
    """Time all contestants, in turns, each in a process of its own."""
    rounds, patience = ({6: 1}, 20.0) if short else (ROUNDS, PATIENCE)
    names = [OURS, *STORAGES] if short else list(CONTESTANTS)
    if RAY_TUNE in names and importlib.util.find_spec("tensorboardX") is None:
        raise UsageError("Ray Tune is not installed.", "Install the dependency group `bench`: `uv sync --group bench`.")
    found: dict[str, Any] = {}
    for size in rounds:
        for seed in range(rounds[size]):
            for name in names:
                done, wall, cpu = _run(name, size, seed, patience)
                tell(f"{name}: {done} of {size} trials, {1e3 * wall / done:.1f} ms each, {1e3 * cpu / done:.1f} of CPU")
                entry = found.setdefault(str(size), {}).setdefault(name, {"trials": [], "wall": [], "cpu": []})
                for key, value in (("trials", done), ("wall", wall / done), ("cpu", cpu / done)):
                    entry[key].append(value)
    return {"workers": WORKERS, "patience": patience, "sizes": found}


def _run(name: str, size: int, seed: int, patience: float) -> tuple[int, float, float]:
    context = get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=contest, args=(name, size, seed, patience, answers))
    process.start()
    process.join()
    if answers.empty():
        raise SwarmError(f"{name} ended without an answer.", "Run it alone; its own message is above.")
    done, wall, cpu = answers.get()
    if not done:
        raise SwarmError(f"{name} finished no trial in {patience:g} s.", "Give it a quieter machine.")
    return done, wall, cpu


def page(record: _frame.Results) -> str:
    """The page of a record."""
    results = record["results"]
    parts = [
        _frame.heading(record, "Overhead: what a trial costs besides itself"),
        (__doc__ or "").partition("\n\n")[2].strip() + "\n",
        "Median over the rounds, milliseconds per trial; `x ours` is the ratio of wall times with the extremes over "
        "all pairs of rounds. CPU counts the process and everything it started.\n",
    ]
    for size, named in results["sizes"].items():
        ours = named[OURS]
        rows = []
        for name, one in named.items():
            short = f" (first {statistics.median(one['trials']):.0f} trials)" * (min(one["trials"]) < int(size))
            ratio = "" if name == OURS else _frame.times(_frame.ratio(one["wall"], ours["wall"]))
            rows.append((name + short, *(f"{1e3 * statistics.median(one[key]):.1f}" for key in ("wall", "cpu")), ratio))
        parts += [f"## {size} trials\n", _frame.table(("", "wall, ms", "CPU, ms", "x ours"), rows)]
    return "\n".join((*parts, _verdict(results)))


def _verdict(results: _frame.Results) -> str:
    lines = []
    for size, named in results["sizes"].items():
        wall = {name: statistics.median(one["wall"]) for name, one in named.items()}
        goal = GOALS.get(int(size))
        if goal is not None:
            lines.append(
                _frame.said(
                    f"{size} trials: at most {1e3 * goal:.0f} ms", wall[OURS] <= goal, f"{1e3 * wall[OURS]:.1f} ms"
                )
            )
        if RAY_TUNE in wall:
            times = wall[RAY_TUNE] / wall[OURS]
            lines.append(_frame.said(f"{size} trials: 200 times under Ray Tune", times >= 200, f"{times:.0f} times"))
        best = min(wall[name] for name in STORAGES)
        lines.append(
            _frame.said(f"{size} trials: faster than every Optuna storage", wall[OURS] < best, f"{1e3 * best:.1f} ms")
        )
    return "## The goals\n\n" + "\n".join(lines) + "\n"


BENCHMARK = _frame.Benchmark("overhead", measure, page)

if __name__ == "__main__":
    raise SystemExit(BENCHMARK.main())

"""What a trial costs besides itself: our driver against Ray Tune, Optuna's storages and plain Ray tasks.

Every contestant runs the same search: six categorical parameters, two objectives, Optuna's TPE as sampler, trials that
sleep 2 ms, two workers. Starting Ray and its workers is not counted. The profile's lesson: half of a trial was TPE,
and nearly half of that sorting all earlier trials into good and bad, once for each parameter. Ours sorts once per trial
and gives the same answers (`agents/samplers/optuna_bridge/one_trial_tpe.py`); peers have Optuna's own.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks import _frame, _six

from swarm.kernels.errors import SwarmError, UsageError

ROUNDS = {330: 2, 3_300: 1}
"""Rounds by number of trials."""
WORKERS = 2
PATIENCE = 40.0
"""Seconds that one contestant gets for one size; what it has done by then is what counts."""
GOALS = {330: 0.015, 3_300: 0.030}
OURS = "swarm"
RAY_TUNE = "Ray Tune + OptunaSearch"
STORAGES = ("Optuna, SQLite", "Optuna, journal file")


class Clock:
    """Times one contestant: wall and CPU seconds from `start` to the last trial.

    Args:
        patience: seconds after which `tick` says no.
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self._cpu = self._began = self._last = 0.0
        self.trials = 0
        self.wall = self.cpu = 0.0

    def start(self) -> None:
        """Everything is up: trials begin."""
        self._cpu = _cpu_seconds()
        self._began = self._last = time.perf_counter()

    def tick(self, trials: int = 1) -> bool:
        """Some trials ended; false when time is up."""
        self.trials += trials
        self._last = time.perf_counter()
        return self._last - self._began < self.patience

    def stop(self) -> None:
        """All trials ended, and whatever ran them is still there."""
        self.wall = self._last - self._began
        self.cpu = _cpu_seconds() - self._cpu


def swarm(count: int, seed: int, folder: Path, clock: Clock) -> None:
    """A campaign of ours: store, leases, Ray actors, and the sampler behind the agents' interface."""
    from swarm.memory.store import Store
    from swarm.orchestrator import launching, settings
    from swarm.orchestrator.rehearsal import MODELS
    from swarm.orchestrator.workload import Workload

    chosen = settings.load(budget=count, workers=WORKERS, rehearsal="2", seed=seed, store=str(folder / "swarm.db"))
    agents = _six.Sampling(2, {}, seed)
    workload = Workload(MODELS, {"rehearsal": "six parameters"})
    with (
        Store.open(chosen.store, create=True) as store,
        ExitStack() as workers,
    ):
        pool = workers.enter_context(launching.started(launching.make_pool(chosen)))
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


def _optuna(storage: Any, count: int, seed: int, clock: Clock) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=["minimize"] * 2, storage=storage, sampler=_six.sampler(seed))
    clock.start()

    def after(study: Any, _: Any) -> None:
        if not clock.tick():
            study.stop()

    study.optimize(lambda trial: _six.outcome(_six.choose(trial)), count, n_jobs=WORKERS, callbacks=[after])
    clock.stop()


def sqlite(count: int, seed: int, folder: Path, clock: Clock) -> None:
    """`Study.optimize` in two threads on SQLite."""
    _optuna(f"sqlite:///{folder / 'optuna.db'}", count, seed, clock)


def journal(count: int, seed: int, folder: Path, clock: Clock) -> None:
    """`Study.optimize` in two threads on the journal."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    _optuna(JournalStorage(JournalFileBackend(str(folder / "journal.log"))), count, seed, clock)


def _start_ray(folder: Path) -> None:
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    import ray

    ray.init(
        num_cpus=WORKERS,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"working_dir": str(folder)},
    )


def tasks(count: int, seed: int, folder: Path, clock: Clock) -> None:
    """A Ray task per trial, and the sampler in memory: nothing is stored."""
    (folder / "empty").mkdir()
    _start_ray(folder / "empty")
    import optuna
    import ray

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=["minimize"] * 2, sampler=_six.sampler(seed))
    seconds = _six.SECONDS

    @ray.remote
    def task(params: dict[str, Any]) -> tuple[float, float]:
        time.sleep(seconds)
        bits = (params["key_bits"] + params["value_bits"]) / 2
        return 4.0**-bits, bits

    ray.get([task.remote({"key_bits": 4, "value_bits": 4}) for _ in range(4 * WORKERS)])
    clock.start()
    running: dict[Any, Any] = {}
    begun = 0
    going = True
    while running or (going and begun < count):
        while going and begun < count and len(running) < WORKERS:
            trial = study.ask()
            running[task.remote(_six.choose(trial))] = trial
            begun += 1
        for ready in ray.wait(list(running))[0]:
            study.tell(running.pop(ready), ray.get(ready))
            going = clock.tick()
    clock.stop()


def _space(trial: Any) -> None:
    """What Ray Tune searches; at the top of the module, as Ray Tune pickles it into its checkpoints."""
    _six.choose(trial)


def ray_tune(count: int, seed: int, folder: Path, clock: Clock) -> None:
    """Ray Tune with Optuna's sampler."""
    (folder / "empty").mkdir()
    _start_ray(folder / "empty")
    from ray import tune
    from ray.tune.search import ConcurrencyLimiter
    from ray.tune.search.optuna import OptunaSearch

    seconds = _six.SECONDS

    def trainable(params: dict[str, Any]) -> dict[str, float]:
        time.sleep(seconds)
        bits = (params["key_bits"] + params["value_bits"]) / 2
        return {"kld": 4.0**-bits, "bits": bits}

    class Ticking(tune.Callback):
        def on_trial_complete(self, *_: Any, **__: Any) -> None:
            clock.tick()

    search = OptunaSearch(space=_space, metric=["kld", "bits"], mode=["min", "min"], sampler=_six.sampler(seed))
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=ConcurrencyLimiter(search, max_concurrent=WORKERS),
            num_samples=count,
            time_budget_s=clock.patience,
        ),
        run_config=tune.RunConfig(storage_path=str(folder), verbose=0, callbacks=[Ticking()]),
    )
    clock.start()
    tuner.fit()
    clock.stop()


CONTESTANTS: dict[str, Callable[[int, int, Path, Clock], None]] = {
    OURS: swarm,
    "plain Ray tasks, nothing stored": tasks,
    STORAGES[0]: sqlite,
    STORAGES[1]: journal,
    RAY_TUNE: ray_tune,
}


def contest(name: str, count: int, seed: int, patience: float, answers: Any) -> None:
    """Run a contestant in this process; sends trials done, wall and CPU seconds."""
    clock = Clock(patience)
    with tempfile.TemporaryDirectory() as folder:
        CONTESTANTS[name](count, seed, Path(folder), clock)
    answers.put((clock.trials, clock.wall, clock.cpu))


def _cpu_seconds() -> float:
    """CPU time of this process and of all that descend from it and live, such as Ray's."""
    parents, used = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(folder.name)] = int(fields[1])
            used[int(folder.name)] = sum(map(int, fields[11:15]))
    family = {os.getpid()}
    while found := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= found
    return sum(used[pid] for pid in family) / os.sysconf("SC_CLK_TCK")


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

"""The peers of `benchmarks.overhead`: Optuna's storages, plain Ray tasks and Ray Tune, and the clock that times all."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from benchmarks import _six

WORKERS = 2


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

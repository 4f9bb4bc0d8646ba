"""Campaigns of trials that do nothing, to see how their cost grows with trials, drivers and nodes of a cluster."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks import _six

from swarm.kernels.errors import SwarmError

NAME = "scale"
UP_WITHIN = 240.0
"""Seconds that drivers wait for each other before they begin."""
NODE = {"object_store_memory": 80 << 20, "include_dashboard": False}


@dataclass(frozen=True)
class Work:
    """A campaign: so many trials of so many milliseconds; drivers with so many workers each, on a cluster or here.

    `sampled` trials are proposed by the sampler, others by the rehearsal alone. After `patience` seconds no trial is
    begun.
    """

    trials: int
    milliseconds: int
    seed: int = 0
    drivers: int = 1
    workers: int = 2
    address: str | None = None
    sampled: bool = False
    patience: float | None = None


@dataclass(frozen=True)
class Done:
    """How a campaign went: seconds after its begin at which trials ended, in order, and CPU seconds of all drivers."""

    ends: tuple[float, ...]
    cpu: float


def run(work: Work) -> Done:
    """Run a campaign; its drivers are up before it begins."""
    from swarm.memory.store import Store
    from swarm.orchestrator import launching

    context = get_context("spawn")
    ready, answers = context.Barrier(work.drivers), context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        place = str(Path(folder) / "swarm.db")
        with Store.open(place, create=True) as store:
            chosen = _settings(work, place)
            campaign = launching.create(store, chosen, _workload(work, chosen), work.workers * work.drivers)
            drivers = [context.Process(target=_drive, args=(work, place, ready, answers)) for _ in range(work.drivers)]
            for driver in drivers:
                driver.start()
            for driver in drivers:
                driver.join()
            if any(driver.exitcode for driver in drivers):
                raise SwarmError("a driver failed.", "Its own message is above.")
            reports = [answers.get() for _ in drivers]
            records = store.trials.list(campaign.id, arrays=False)
        begin = min(started for started, _ in reports)
        ends = [record.finished_at.timestamp() for record in records if record.finished_at is not None]
    if not ends:
        raise SwarmError("no trial ended in the time given.", "Give it a quieter machine.")
    return Done(tuple(end - begin for end in sorted(ends)), sum(cpu for _, cpu in reports))


def _drive(work: Work, place: str, ready: Any, answers: Any) -> None:
    """One driver, in a process of its own; sends when it began and the CPU seconds that it took."""
    from swarm.memory.store import Store
    from swarm.orchestrator import campaign_workers, launching

    chosen = _settings(work, place)
    with Store.open(place) as store, ExitStack() as workers:
        pool = workers.enter_context(campaign_workers.started(campaign_workers.make_pool(chosen)))
        while pool.up < work.workers:
            pool.collect(0.1)
        record = store.campaigns.get(NAME)
        sampling = _six.Sampling(work.milliseconds, {}, work.seed)
        agents = (sampling, sampling) if work.sampled else None
        campaign = launching.assemble(store, record, chosen, _workload(work, chosen), pool, workers, agents)
        ready.wait(UP_WITHIN)
        began, used = time.time(), time.process_time()
        for _ in campaign:
            pass
        answers.put((began, time.process_time() - used))


def _settings(work: Work, place: str) -> Any:
    from swarm.orchestrator import settings

    return settings.load(
        name=NAME,
        store=place,
        budget=work.trials,
        workers=work.workers,
        rehearsal=str(work.milliseconds),
        seed=work.seed,
        ray_address=work.address,
        time_limit=work.patience,
    )


def _workload(work: Work, chosen: Any) -> Any:
    from swarm.orchestrator import workload
    from swarm.orchestrator.rehearsal import MODELS

    if not work.sampled:
        return workload.make_workload(chosen)
    return workload.Workload(MODELS, {"rehearsal": "six parameters"})


def in_memory(trials: int, seed: int, patience: float) -> Done:
    """The peer: Optuna in memory with the same sampler, asked and told in turns; nothing runs, nothing is stored."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=["minimize"] * 2, sampler=_six.sampler(seed))
    ends: list[float] = []
    began, used = time.perf_counter(), time.process_time()
    while len(ends) < trials and (not ends or ends[-1] < patience):
        trial = study.ask()
        params = _six.choose(trial)
        bits = (params["key_bits"] + params["value_bits"]) / 2
        study.tell(trial, (4.0**-bits, bits))
        ends.append(time.perf_counter() - began)
    return Done(tuple(ends), time.process_time() - used)


def parts(done: Done, bounds: tuple[int, ...], asked: int) -> dict[str, float]:
    """Milliseconds per trial between consecutive bounds, e.g. `330-1000`; the last part may have been cut short."""
    at = (0.0, *done.ends)
    reached = [bound for bound in bounds if bound < len(at)]
    if reached[-1] < len(done.ends) < asked:
        reached.append(len(done.ends))
    return {f"{a}-{b}": 1e3 * (at[b] - at[a]) / (b - a) for a, b in pairwise(reached)}


@contextmanager
def cluster() -> Iterator[Any]:
    """A Ray cluster on this machine whose head runs no trials; nodes are added by `grow`."""
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0})
    try:
        yield made
    finally:
        made.shutdown()


def grow(made: Any, nodes: int) -> None:
    """Add nodes of one worker each until there are so many."""
    for _ in range(nodes - len(made.worker_nodes)):
        made.add_node(num_cpus=1, wait=False, **NODE)
    made.wait_for_nodes(timeout=120)

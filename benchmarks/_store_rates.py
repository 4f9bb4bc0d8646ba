"""Rates of the store and of its peer: trials created, results recorded, claims of many processes.

Knows both stores' operations; knows no page. All rates are per second.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import _six
from benchmarks._store_trials import METRICS, SERIES, measurement, proposal

from swarm.kernels.errors import SwarmError
from swarm.memory.records import Budget, TrialRecord
from swarm.memory.store import Store

if TYPE_CHECKING:
    import optuna

    from swarm.experiments.spec import Measurement

BATCH = 100
TTL = 3600.0
OBJECTIVES = ("kld", "bits_per_value")
Rates = dict[str, float]


def timed(action: Callable[[], object]) -> float:
    """Seconds that an action takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def chunks(count: int) -> Iterator[range]:
    """The numbers below `count` in batches."""
    return (range(start, min(start + BATCH, count)) for start in range(0, count, BATCH))


def batched(store: Store, count: int) -> Rates:
    """Add, claim and complete trials in batches, as a busy driver does; CPU of this process in microseconds each."""
    campaign = store.campaigns.create(None, {}, Budget(trials=count), seed=0)
    rng = random.Random(0)
    proposals = [proposal(n) for n in range(count)]
    results = [measurement(rng) for _ in range(count)]
    trials: list[TrialRecord] = []
    leases: list[Any] = []

    def add(chunk: range) -> None:
        with store.batch():
            trials.extend(store.propose(campaign.id, n, proposals[n]) for n in chunk)

    def claim(chunk: range) -> None:
        with store.batch():
            leases.extend(store.queue.claim(trials[n].id, "bench", ttl=TTL) for n in chunk)

    def complete(chunk: range) -> None:
        if None in store.record([(leases[n], trials[n], results[n]) for n in chunk]):
            raise SwarmError("the store refused a result under a good lease.", "Report this.")

    found, whole = {}, 0.0
    for name, step in (("proposals", add), ("claims", claim), ("results", complete)):
        used = time.process_time()
        seconds = sum(timed(lambda chunk=chunk, step=step: step(chunk)) for chunk in chunks(count))
        found |= {name: count / seconds, f"{name}, CPU us": (time.process_time() - used) / count * 1e6}
        whole += seconds
    return found | {"trials": count / whole, "read": count / timed(lambda: store.trials.list(campaign.id))}


def single(store: Store, count: int) -> Rates:
    """The same one by one: every operation is a transaction of its own."""
    campaign = store.campaigns.create(None, {}, Budget(trials=count), seed=0)
    rng = random.Random(1)
    create, record = 0.0, 0.0
    for n in range(count):
        offered, result = proposal(10_000_000 + n), measurement(rng)
        started = time.perf_counter()
        trial = store.propose(campaign.id, n, offered)
        lease = store.queue.claim(trial.id, "bench", ttl=TTL)
        create += time.perf_counter() - started
        if lease is None:
            raise SwarmError("a trial that nobody has could not be claimed.", "Report this.")
        record += timed(lambda done=(lease, trial, result): store.record([done]))
    return {"created": count / create, "results": count / record, "trials": count / (create + record)}


def optuna_single(folder: Path, count: int) -> Rates:
    """Optuna: ask with six parameters; what our trials have of metrics and series as user attributes; tell."""
    study, rng = _study(folder / "single.db"), random.Random(1)
    create, record = 0.0, 0.0
    for _ in range(count):
        objectives, attributes = _split(measurement(rng))
        started = time.perf_counter()
        trial = study.ask()
        _six.choose(trial)
        asked = time.perf_counter()
        for name, value in attributes.items():
            trial.set_user_attr(name, value)
        study.tell(trial, objectives)
        create += asked - started
        record += time.perf_counter() - asked
    return {"created": count / create, "results": count / record, "trials": count / (create + record)}


def optuna_whole(folder: Path, count: int) -> Rates:
    """Optuna: finished trials handed in by `add_trials`, the least that it does; then its Pareto front, in ms."""
    import optuna

    study, rng = _study(folder / "whole.db"), random.Random(1)
    asked = optuna.create_study(directions=["minimize"] * 2, sampler=optuna.samplers.RandomSampler(seed=0))
    trials = []
    for _ in range(count):
        objectives, attributes = _split(measurement(rng))
        trial = asked.ask()
        _six.choose(trial)
        parameters = {"params": trial.params, "distributions": trial.distributions}
        trials.append(optuna.trial.create_trial(values=objectives, user_attrs=attributes, **parameters))
    seconds = timed(lambda: study.add_trials(trials))
    fronts = [timed(lambda: _loaded(folder / "whole.db").best_trials) for _ in range(3)]
    return {"trials": count / seconds, "front, ms": 1e3 * statistics.median(fronts)}


def _study(path: Path) -> optuna.Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.RandomSampler(seed=0)
    storage = f"sqlite:///{path}"
    return optuna.create_study(study_name="s", directions=["minimize"] * 2, storage=storage, sampler=sampler)


def _loaded(path: Path) -> optuna.Study:
    import optuna

    return optuna.load_study(study_name="s", storage=f"sqlite:///{path}")


def _split(result: Measurement) -> tuple[list[float], dict[str, Any]]:
    found: dict[str, Any] = {metric.name: metric.value for metric in result.metrics}
    attributes = {name: found[name] for name in METRICS if name not in OBJECTIVES}
    return [found[name] for name in OBJECTIVES], attributes | {SERIES: list(result.arrays[SERIES])}


def _claim_all(place: str, campaign_id: int, ready: Any, claimed: Any) -> None:
    """Claim until nothing is left."""
    with Store.open(place) as store:
        ready.wait()
        count = 0
        while store.queue.claim_next(campaign_id, f"process {os.getpid()}", ttl=TTL) is not None:
            count += 1
        claimed.put(count)


def competing(store: Store, place: str, count: int, processes: int) -> Rates:
    """Several processes claim the same trials, every claim a transaction."""
    campaign = store.campaigns.create(None, {}, Budget(trials=count), seed=0)
    for chunk in chunks(count):
        with store.batch():
            for n in chunk:
                store.propose(campaign.id, n, proposal(20_000_000 + n))
    context = multiprocessing.get_context("spawn")
    ready, claimed = context.Barrier(processes + 1), context.Queue()
    workers = [context.Process(target=_claim_all, args=(place, campaign.id, ready, claimed)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    ready.wait()  # until all have opened the store
    started = time.perf_counter()
    made = [claimed.get() for _ in workers]
    seconds = time.perf_counter() - started
    for worker in workers:
        worker.join()
    return {
        "processes": processes,
        "offered": count,
        "claims": sum(made),
        "least": min(made),
        "most": max(made),
        "rate": count / seconds,
    }

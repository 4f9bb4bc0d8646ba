"""How fast the shared memory is: results and claims per second, and queries over many trials.

    python benchmarks/store.py --short                      # half a minute
    python benchmarks/store.py --trials 1000000             # the full table
    python benchmarks/store.py --store postgresql+psycopg://user@host/empty_database

Prints a table and, with --out, writes JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import random
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, text

from swarm.experiments.spec import Environment, Measurement, Metric, TrialSpec
from swarm.kernels.spec import KVSpec, QuantSpec
from swarm.memory import front, tables
from swarm.memory.records import Budget, CampaignRecord, Proposal
from swarm.memory.results import Ended
from swarm.memory.store import Store

BATCH = 100
METRICS = ("kld", "bits_per_value", "kld_p50", "kld_p90", "kld_p99", "kld_max", "same_top1", "rms_dp", "ln_ppl_ratio")
MODELS = ("smollm2-135m", "gemma3-270m", "qwen2.5-coder-0.5b")
ENVIRONMENT = Environment(device="cpu", platform="Linux", python=platform.python_version(), versions={"mlx": "0.32"})


def proposal(seed: int) -> Proposal:
    """A proposal that no other seed makes."""
    bits = (2, 3, 4, 5, 6, 8)[seed % 6]
    quant = QuantSpec(method="affine", bits=bits, group_size=64)
    spec = TrialSpec(model=MODELS[seed % 3], kv=KVSpec(key=quant, value=quant), seed=seed)
    return Proposal(spec=spec, proposer="tpe", rationale="for speed")


def measurement(rng: random.Random) -> Measurement:
    """A result as large as the quality protocol's."""
    values = {name: rng.lognormvariate(-2, 1) for name in METRICS} | {"bits_per_value": rng.uniform(2, 9)}
    metrics = tuple(Metric(name=name, value=value, n=8, stderr=0.01) for name, value in values.items())
    return Measurement(
        metrics=metrics,
        arrays={"window_kld": tuple(rng.random() for _ in range(8))},
        environment=ENVIRONMENT,
        seconds={"run": 1.0},
    )


def timed(action: Callable[[], object]) -> float:
    """Seconds that an action takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def chunks(count: int) -> Iterator[range]:
    """The numbers below `count` in batches."""
    return (range(start, min(start + BATCH, count)) for start in range(0, count, BATCH))


def life_of_trials(store: Store, count: int) -> dict[str, float]:
    """Add, claim and complete trials in batches, as a busy driver does."""
    campaign = store.campaigns.create(None, {}, Budget(trials=count), seed=0)
    rng = random.Random(0)
    proposals = [proposal(n) for n in range(count)]
    results = [measurement(rng) for _ in range(count)]
    ids: list[int] = []
    leases: list[Any] = []

    def add() -> None:
        for chunk in chunks(count):
            with store.batch():
                ids.extend(store.trials.add(campaign.id, n, proposals[n]).id for n in chunk)

    def claim() -> None:
        for chunk in chunks(count):
            with store.batch():
                leases.extend(store.trials.claim(ids[n], "bench", ttl=3600) for n in chunk)

    def complete() -> None:
        for chunk in chunks(count):
            if store.trials.complete_all([Ended(leases[n], results[n]) for n in chunk]):
                raise SystemExit("a result was refused")

    rates = {}
    for name, step in (("proposal", add), ("claim", claim), ("result", complete)):
        used = time.process_time()
        rates[f"{name}s/s, batches of {BATCH}"] = count / timed(step)
        rates[f"CPU per {name}, us"] = (time.process_time() - used) / count * 1e6
    rates["history of the campaign read, trials/s"] = count / timed(lambda: store.trials.list(campaign.id))
    return rates


def single_results(store: Store, count: int) -> dict[str, float]:
    """Complete trials one transaction each: what a commit costs on this disk."""
    campaign = store.campaigns.create(None, {}, Budget(trials=count), seed=0)
    rng = random.Random(1)
    with store.batch():
        trials = [store.trials.add(campaign.id, n, proposal(10_000_000 + n)) for n in range(count)]
        leases = [store.trials.claim(trial.id, "bench", ttl=3600) for trial in trials]

    def complete() -> None:
        for lease in filter(None, leases):
            store.trials.complete(lease, measurement(rng))

    seconds = timed(complete)
    return {"results/s, one by one": count / seconds}


def claimer(place: str, campaign_id: int, ready: Any, claimed: Any) -> None:
    """Claim until nothing is left."""
    with Store.open(place) as store:
        ready.wait()
        count = 0
        while store.trials.claim_next(campaign_id, f"process {os.getpid()}", ttl=3600) is not None:
            count += 1
        claimed.put(count)


def competing_claims(store: Store, place: str, count: int, processes: int) -> dict[str, float]:
    """Several processes claim the same trials, every claim a transaction."""
    campaign = store.campaigns.create(None, {}, Budget(trials=count), seed=0)
    with store.batch():
        for n in range(count):
            store.trials.add(campaign.id, n, proposal(20_000_000 + n))
    context = multiprocessing.get_context("spawn")
    ready, claimed = context.Barrier(processes + 1), context.Queue()
    workers = [context.Process(target=claimer, args=(place, campaign.id, ready, claimed)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    ready.wait()  # until all have opened the store
    started = time.perf_counter()
    for worker in workers:
        worker.join()
    seconds = time.perf_counter() - started
    total = sum(claimed.get() for _ in workers)
    if total != count:
        raise SystemExit(f"{processes} processes made {total} claims of {count} trials")
    return {f"claims/s, {processes} processes, one by one": count / seconds}


def fill(store: Store, count: int) -> CampaignRecord:
    """A campaign of many finished trials, written in bulk: the store's own operations would take an hour."""
    campaign = store.campaigns.create("large", {}, Budget(trials=count), seed=0)
    rng = random.Random(2)
    labels = [proposal(n) for n in range(6)]
    with store.database.write() as connection:
        first = connection.execute(text("SELECT coalesce(max(id), 0) + 1 FROM trials")).scalar_one()
        for start in range(0, count, 10_000):
            _fill(connection, campaign.id, rng, labels, first, range(start, min(start + 10_000, count)))
        columns = f"trial_id, {', '.join(front.GROUP)}, bits_per_value, kld"
        fronts = front.true_front(f"t.campaign_id = {campaign.id}")
        connection.execute(text(f"INSERT INTO front ({columns}) {fronts}"))
        connection.execute(text("ANALYZE"))
    return campaign


def _fill(
    connection: Connection, campaign: int, rng: random.Random, labels: list[Proposal], first: int, numbers: range
) -> None:
    rows, measured = [], []
    for number in numbers:
        spec = labels[number % 6].spec
        bits = rng.uniform(2, 9)
        values = {name: rng.lognormvariate(-bits, 1) for name in METRICS} | {"bits_per_value": bits}
        rows.append(
            {
                "id": first + number,
                "campaign_id": campaign,
                "number": number,
                "fingerprint": f"{number:064x}",
                "spec": spec.model_dump(mode="json"),
                "state": "complete",
                "outcome": "ok",
                "proposer": "tpe",
                "arm": "agents",
                "model": MODELS[number % 3],
                "protocol": ("quality", "quality", "attention", "depth")[number // 3 % 4],
                "rung": int(number % 10 == 0),
                "context": 512,
                "replicate": 0,
                "logit_gain": 1.0,
                "device": "cpu",
                "key_method": "affine",
                "key_bits": 4,
                "key_label": "affine4/g64",
                "value_method": "affine",
                "value_bits": 4,
                "value_label": "affine4/g64",
                "configuration": spec.kv.label,
                "configuration_id": f"{number // 3:032x}",
                "kld": values["kld"],
                "bits_per_value": bits,
                "seconds": 1.0,
            }
        )
        measured += [
            {"trial_id": first + number, "metric": n, "value": v, "n": 8, "stderr": 0.01} for n, v in values.items()
        ]
    connection.execute(insert(tables.trials), rows)
    connection.execute(insert(tables.measurements), measured)


QUESTIONS = {
    "best per model at 4.6 bits": (
        "SELECT model, configuration, kld FROM best_per_model WHERE limit_from <= 4.6 AND limit_below > 4.6"
    ),
    "Pareto front of a model": (
        "SELECT trial_id, bits_per_value, kld FROM pareto WHERE model = 'gemma3-270m' AND protocol = 'quality'"
    ),
    "all Pareto fronts": "SELECT * FROM pareto",
    "one trial, all metrics": "SELECT * FROM trial_metrics WHERE trial_id = 12345",
    "ledger": "SELECT * FROM spend",
}


def queries(store: Store, campaign: CampaignRecord) -> dict[str, float]:
    """Milliseconds per question, the median of seven, connection included."""
    times = {}
    for name, sql in QUESTIONS.items():
        rounds = [store.query(sql, seconds=600).seconds * 1000 for _ in range(7)]
        times[f"{name}, ms"] = statistics.median(rounds)
    best = [
        timed(lambda: store.trials.list(campaign.id, model=MODELS[0], protocol="quality", best="kld", limit=10))
        for _ in range(7)
    ]
    times["ten best trials of a model, ms"] = statistics.median(best) * 1000
    return times


def run(place: str, arguments: argparse.Namespace) -> dict[str, float]:
    """All figures of one store."""
    with Store.open(place, create=True) as store:
        figures = life_of_trials(store, arguments.results)
        figures |= single_results(store, arguments.results // 10)
        figures |= competing_claims(store, place, arguments.claims, arguments.processes)
        problems = store.check()
        if problems:
            raise SystemExit("\n".join(problems))
        seconds = timed(lambda: fill(store, arguments.trials))
        figures[f"filling {arguments.trials} trials, s"] = seconds
        if store.database.path:
            figures["bytes per trial"] = store.database.path.stat().st_size / arguments.trials
        figures |= queries(store, store.campaigns.get("large"))
    return figures


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help="small numbers, for continuous integration")
    parser.add_argument("--trials", type=int, default=1_000_000, help="trials to query over")
    parser.add_argument("--results", type=int, default=10_000, help="trials to add, claim and complete")
    parser.add_argument("--claims", type=int, default=10_000, help="trials that several processes claim")
    parser.add_argument("--processes", type=int, default=16)
    parser.add_argument("--store", help="PostgreSQL URL of an empty database; default is a new SQLite file")
    parser.add_argument("--folder", help="where the SQLite file goes (default: the temporary folder)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    if arguments.short:
        arguments.trials, arguments.results, arguments.claims, arguments.processes = 20_000, 1_000, 300, 3
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        figures = run(arguments.store or str(folder / "swarm.db"), arguments)
    finally:
        shutil.rmtree(folder)
    for name, figure in figures.items():
        print(f"{figure:14,.1f}  {name}")
    report = {
        "benchmark": "store",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "database": "postgresql" if arguments.store else f"sqlite {sqlite3.sqlite_version}",
        "trials": arguments.trials,
        "machine": {"platform": platform.platform(), "cpus": os.cpu_count(), "python": sys.version.split()[0]},
        "figures": figures,
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

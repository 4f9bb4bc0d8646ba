"""Trials as large as those of the quality protocol, for the store: one by one, and a million of them at once.

Knows the tables, so that a store can be filled in minutes with what its own operations would write in an hour.
"""

from __future__ import annotations

import platform
import random
from typing import Any

from sqlalchemy import Connection, insert, text, update

from swarm.experiments.spec import Environment, Measurement, Metric, TrialSpec
from swarm.kernels.spec import KVSpec, QuantSpec
from swarm.memory import ledger, tables, triggers
from swarm.memory.records import Budget, CampaignRecord, Proposal
from swarm.memory.store import Store
from swarm.memory.trials import columns

METRICS = ("kld", "bits_per_value", "kld_p50", "kld_p90", "kld_p99", "kld_max", "same_top1", "rms_dp", "ln_ppl_ratio")
SERIES, WINDOWS = "window_kld", 8
MODELS = ("smollm2-135m", "gemma3-270m", "qwen2.5-coder-0.5b")
PROTOCOLS = ("quality", "quality", "attention", "depth")
BITS = (2, 3, 4, 5, 6, 8)
ENVIRONMENT = Environment(device="cpu", platform="Linux", python=platform.python_version(), versions={"mlx": "0.32"})
PORTION = 10_000
"""Trials written by one transaction of `fill`."""
PROPOSER, RATIONALE = "tpe", "for speed"

_OF_TRIALS = (
    "INSERT INTO proposals (campaign_id, trial_id, number, proposer, arm, rationale, refused, created_at) "
    "SELECT campaign_id, id, number, proposer, arm, :rationale, '', created_at "
    "FROM trials WHERE campaign_id = :campaign",
    "INSERT INTO reservations (campaign_id, kind, role, amount, spent, state, trial_id, created_at, closed_at) "
    "SELECT campaign_id, 'trials', proposer, 1000000, 1000000, 'settled', id, created_at, created_at "
    "FROM trials WHERE campaign_id = :campaign",
)


def proposal(number: int) -> Proposal:
    """A proposal that no other number makes."""
    quant = QuantSpec(method="affine", bits=BITS[number % len(BITS)], group_size=64)
    spec = TrialSpec(model=MODELS[number % len(MODELS)], kv=KVSpec(key=quant, value=quant), seed=number)
    return Proposal(spec=spec, proposer=PROPOSER, rationale=RATIONALE)


def values(rng: random.Random) -> dict[str, float]:
    """Metrics of a trial; of more bits the error is smaller."""
    bits = rng.uniform(2, 9)
    return {name: rng.lognormvariate(-bits, 1) for name in METRICS} | {"bits_per_value": bits}


def measurement(rng: random.Random) -> Measurement:
    """A result with nine metrics and one series."""
    return Measurement(
        metrics=tuple(Metric(name=name, value=value, n=8, stderr=0.01) for name, value in values(rng).items()),
        arrays={SERIES: tuple(rng.random() for _ in range(WINDOWS))},
        environment=ENVIRONMENT,
        seconds={"run": 1.0},
    )


def fill(store: Store, count: int) -> CampaignRecord:
    """A campaign of many finished trials in an empty store, row for row as the store's operations leave them."""
    campaign = store.campaigns.create("large", {}, Budget(trials=count), seed=0)
    rng = random.Random(2)
    templates = [proposal(number).spec for number in range(len(BITS))]
    for start in range(0, count, PORTION):
        with store.database.write() as connection:
            _portion(connection, campaign.id, rng, templates, range(start, min(start + PORTION, count)))
    with store.database.write() as connection:
        for statement in _OF_TRIALS:
            connection.execute(text(statement), {"campaign": campaign.id, "rationale": RATIONALE})
        _accounts(connection, campaign.id, count)
        columns = f"trial_id, {', '.join(tables.GROUP)}, bits_per_value, kld"
        fronts = triggers.true_front(f"t.campaign_id = {campaign.id}")
        connection.execute(text(f"INSERT INTO front ({columns}) {fronts}"))
        connection.execute(text("ANALYZE"))
    return campaign


def _portion(
    connection: Connection, campaign: int, rng: random.Random, templates: list[TrialSpec], numbers: range
) -> None:
    documents = [columns(spec) for spec in templates]
    rows: list[dict[str, Any]] = []
    measured: list[dict[str, Any]] = []
    series: list[dict[str, Any]] = []
    for number in numbers:
        found, which = values(rng), number % len(templates)
        rows.append(_trial(campaign, number, documents[which], found))
        measured += [
            {"trial_id": number + 1, "metric": name, "value": value, "n": 8, "stderr": 0.01}
            for name, value in found.items()
        ]
        series.append({"trial_id": number + 1, "name": SERIES, "series": [rng.random() for _ in range(WINDOWS)]})
    for table, all_rows in ((tables.trials, rows), (tables.measurements, measured), (tables.arrays, series)):
        connection.execute(insert(table), all_rows)


def _trial(campaign: int, number: int, columns: dict[str, Any], found: dict[str, float]) -> dict[str, Any]:
    return {
        **columns,
        "id": number + 1,
        "campaign_id": campaign,
        "number": number,
        "fingerprint": f"{number:064x}",
        "state": "complete",
        "outcome": "ok",
        "proposer": PROPOSER,
        "arm": "agents",
        "protocol": PROTOCOLS[number // 3 % 4],
        "rung": int(number % 10 == 0),
        "configuration_id": f"{number // 3:032x}",
        "kld": found["kld"],
        "bits_per_value": found["bits_per_value"],
        "seconds": 1.0,
        "timings": {"run": 1.0},
        "attempts": 1,
    }


def _accounts(connection: Connection, campaign: int, count: int) -> None:
    """What the trials cost, and the number of the next one."""
    spent = {"trials": float(count), ledger.WORKER: float(count)}
    for kind, amount in spent.items():
        account = update(tables.budgets).where(tables.budgets.c.campaign_id == campaign, tables.budgets.c.kind == kind)
        connection.execute(account.values(spent=amount))
        connection.execute(insert(tables.budgets).values(campaign_id=campaign, kind=kind, role=PROPOSER, spent=amount))
    next_number = update(tables.campaigns).where(tables.campaigns.c.id == campaign).values(next_number=count)
    connection.execute(next_number)

"""Writes what came of trials, and settles what was reserved for them, in one transaction."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Double, Row, bindparam, insert, select, update

from swarm.experiments.spec import Environment, Failure, Measurement
from swarm.memory import front, ledger, text
from swarm.memory.claim_queue import NO_LEASE, refuse
from swarm.memory.database import Database
from swarm.memory.events import record
from swarm.memory.records import Lease, TrialRecord, TrialState
from swarm.memory.rows import portions, upsert
from swarm.memory.tables import GROUP, arrays, environments, measurements, trials
from swarm.memory.types import Document, epoch_now, utc_now

MAX_CRASHES = 2
"""So many workers may a configuration kill before it is quarantined."""

Done = tuple[Lease, TrialRecord, Measurement | Failure]
"""A lease, its trial as it was claimed, and what came of it."""

_KNOWN = select(environments.c.id).where(environments.c.digest == bindparam("b_digest"))
_SECONDS = trials.c.seconds + bindparam("b_seconds", type_=Double)
_COMPLETE = (
    update(trials)
    .where(trials.c.id == bindparam("b_trial"))
    .values(
        state="complete",
        outcome="ok",
        message="",
        notes=bindparam("b_notes"),
        seconds=_SECONDS,
        timings=bindparam("b_timings", type_=Document),
        environment_id=bindparam("b_environment"),
        kld=bindparam("b_kld"),
        bits_per_value=bindparam("b_bits"),
        finished_at=utc_now(),
        **NO_LEASE,
    )
)
_OURS = (
    select(
        *(
            trials.c[name]
            for name in ("id", "lease_token", "proposer", "logit_gain", "edits", "crashes", "seconds", *GROUP)
        )
    )
    .where(
        trials.c.id.in_(bindparam("b_trials", expanding=True)),
        trials.c.state == "running",
        trials.c.lease_expires > epoch_now(),
    )
    .with_for_update()
)
"""Those of the trials that run under a lease which is good, whoever has it."""

_INSERT_MEASUREMENTS = insert(measurements)
_INSERT_ARRAYS = insert(arrays)


class ResultWriter:
    """What `Store.record` does."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._environments: dict[tuple[int, str], int] = {}

    def record(self, done: Sequence[Done]) -> list[TrialRecord | None]:
        """Write what came of trials; see `Store.record`."""
        places = [self._environment(r.environment) if isinstance(r, Measurement) else 0 for _, _, r in done]
        found: list[TrialRecord | None] = []
        with self._database.write() as connection:
            for campaign_id in sorted({lease.campaign_id for lease, _, _ in done}):
                ledger.lock(connection, campaign_id)
            ours: dict[int, Row[Any]] = {}
            for portion in portions([lease.trial_id for lease, _, _ in done]):
                ours.update((row.id, row) for row in connection.execute(_OURS, {"b_trials": portion}))
            completed: list[tuple[Row[Any], Measurement]] = []
            values, costs = [], []
            for (lease, trial, result), place in zip(done, places, strict=True):
                row = ours.pop(lease.trial_id, None)  # a second result under the same lease comes too late
                if row is None or row.lease_token != lease.token:
                    refuse(connection, lease, "result" if isinstance(result, Measurement) else result.kind)
                    found.append(None)
                    continue
                took = _took(result)
                state: TrialState = "complete"
                if isinstance(result, Measurement):
                    completed.append((row, result))
                    values.append(_completed(row, result, place))
                else:
                    state = _fail(connection, lease, row, result, took)
                costs.append(ledger.TrialCost(row.campaign_id, row.id, row.proposer, took, is_over=state != "waiting"))
                found.append(_after(trial, result, state, row.seconds + took))
            if completed:
                connection.execute(_COMPLETE, values)
                _insert_results(connection, completed)
                points = zip((row for row, _ in completed), values, strict=True)
                # Interventions stand on no front.
                ranked = [
                    (row, v["b_bits"], v["b_kld"]) for row, v in points if row.logit_gain == 1.0 and not row.edits
                ]
                front.enter(connection, [entry for entry in ranked if None not in entry[1:]])
            ledger.settle_trials(connection, costs)
        return found

    def _environment(self, environment: Environment) -> int:
        """The row of an environment; made in a transaction of its own, as it is nobody's result."""
        digest = hashlib.sha256(environment.model_dump_json().encode()).hexdigest()
        known = self._environments.get((self._database.losses, digest))
        if known is None:
            row = {"digest": digest, "data": text.document(environment.model_dump(mode="json"))}
            with self._database.write() as connection:
                known = connection.execute(_KNOWN, {"b_digest": digest}).scalar_one_or_none()
                if known is None:
                    connection.execute(upsert(connection, environments).values(row).on_conflict_do_nothing())
                    known = int(connection.execute(_KNOWN, {"b_digest": digest}).scalar_one())
            self._environments[self._database.losses, digest] = known
        return known


def _took(result: Measurement | Failure) -> float:
    """Seconds of the worker, in whole millionths as the ledger counts them."""
    seconds = result.seconds
    return round(seconds.get("total", sum(seconds.values())) if isinstance(seconds, dict) else seconds, 6)


def _fail(connection: Connection, lease: Lease, row: Row[Any], failure: Failure, seconds: float) -> TrialState:
    """Write a failure; returns the state that the trial has now."""
    crashes = row.crashes + (failure.kind == "crash")
    state: TrialState = "pruned" if failure.kind == "pruned" else "failed"
    if failure.kind == "crash":
        state = "quarantined" if crashes >= MAX_CRASHES else "waiting"
    outcome, message = text.name(failure.kind, 32), text.clean(failure.message)
    values = {"state": state, "outcome": outcome, "message": message, "crashes": crashes, **NO_LEASE}
    finished = {} if state == "waiting" else {"finished_at": utc_now()}
    statement = update(trials).where(trials.c.id == row.id)
    connection.execute(statement.values(**values, **finished, seconds=row.seconds + seconds))
    event = f"trial.{state}" if state == "quarantined" else f"trial.{outcome}"
    data = {"owner": lease.owner, "state": state}
    record(connection, event, message, campaign_id=lease.campaign_id, trial_id=row.id, data=data)
    return state


def _after(trial: TrialRecord, result: Measurement | Failure, state: TrialState, seconds: float) -> TrialRecord:
    """The record as the store reads it back."""
    changed: dict[str, Any] = {"state": state, "seconds": seconds}
    if isinstance(result, Failure):
        changed |= {"outcome": text.name(result.kind, 32), "message": text.clean(result.message)}
    else:
        changed |= {
            "outcome": "ok",
            "message": "",
            "metrics": {metric.name: metric for metric in result.metrics},
            "arrays": result.arrays,
            "environment": result.environment,
            "notes": result.notes,
        }
    return trial.model_copy(update=changed)


def _completed(row: Row[Any], measured: Measurement, environment: int) -> dict[str, Any]:
    """The parameters of `_COMPLETE`."""
    values = {metric.name: metric.value for metric in measured.metrics}
    return {
        "b_trial": row.id,
        "b_notes": text.clean(measured.notes),
        "b_seconds": _took(measured),
        "b_timings": text.document(measured.seconds),
        "b_environment": environment,
        "b_kld": values.get("kld"),
        "b_bits": values.get("bits_per_value"),
    }


def _insert_results(connection: Connection, completed: Sequence[tuple[Row[Any], Measurement]]) -> None:
    rows = [
        {
            "trial_id": row.id,
            "metric": text.name(metric.name, 64),
            "value": metric.value,
            "unit": text.name(metric.unit, 32),
            "n": metric.n,
            "stderr": metric.stderr,
        }
        for row, measured in completed
        for metric in measured.metrics
    ]
    if rows:
        connection.execute(_INSERT_MEASUREMENTS, rows)
    series = [
        {
            "trial_id": row.id,
            "name": text.name(name, 64),
            "series": [x if math.isfinite(x) else None for x in values],
        }
        for row, measured in completed
        for name, values in measured.arrays.items()
    ]
    if series:
        connection.execute(_INSERT_ARRAYS, series)
